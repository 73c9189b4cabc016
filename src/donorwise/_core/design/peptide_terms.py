"""Findings about a formula for peptides: what it takes for replicates, and what it leaves to the residual."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from donorwise._core.design.findings import looks_technical
from donorwise._core.design.names import quote
from donorwise._core.design.peptide_names import PEPTIDE
from donorwise._core.design.replicates import looks_like_replicate, replicate
from donorwise._core.design.terms import column_terms, variables
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from donorwise._core.design.formula import Bar, ParsedFormula

_RUN = '`(1 | run)`, after `adata.obs["run"] = adata.obs_names`'


def formula_warnings(
    parsed: ParsedFormula, obs: pd.DataFrame, of_var: Collection[str], *, several: bool, donor: str = ""
) -> tuple[str, ...]:
    """What deserves a second look in a formula for peptides.

    Parameters
    ----------
    parsed
        The formula.
    obs
        N rows, one for each run.
    of_var
        Names of the formula that are columns of var, or the peptides themselves.
    several
        Whether any protein has several peptides, without which none of this matters.
    donor
        Column that is declared to be the donor, if any.
    """
    if not several:
        return ()
    bars = [bar for bar in parsed.bars if not set(bar.group) & set(of_var)]
    asked = [name for name in variables(parsed.terms) if name not in of_var]
    held = [name for name in asked if name == donor or (looks_like_replicate((name,)) and _is_label(obs[name]))]
    factors = [bar.group for bar in bars if _has_level(bar, obs)] + [(name,) for name in held]
    asked = [name for name in asked if name not in held]
    if not factors:
        return (*_peptides_as_replicates(parsed, obs, asked, donor), *_without_peptides(parsed, of_var))
    return (
        *_runs_for_donors(obs, factors, asked, donor),
        *_runs_as_replicates(obs, bars, factors, asked, donor),
        *_without_peptides(parsed, of_var),
    )


def _peptides_as_replicates(parsed: ParsedFormula, obs: pd.DataFrame, asked: list[str], donor: str) -> Iterator[str]:
    """No term of the donors, samples or runs, so that a run has as many replicates as it has peptides."""
    if not asked:
        return
    name = donor or _donors_of(obs)
    term = f"`(1 | {quote(name)})`" if name else f"{_RUN}, or a term of the donors where these have several runs"
    runs = ", and a term of the runs, which are several for each" if name and _several_runs(obs, name) else ""
    yield (
        f"`{parsed.source}` has no term of the donors, samples or runs, so the peptides of a protein count as replicates of "
        f"{listing(asked)}, and p-values are far too small: peptides of one run rise and fall together. Add {term}{runs}."
    )


def _runs_for_donors(obs: pd.DataFrame, factors: list[tuple[str, ...]], asked: list[str], donor: str) -> Iterator[str]:
    """Donors of several runs each, which no term holds together."""
    name = donor or _donors_of(obs)
    if not name or not _several_runs(obs, name) or any(_same(obs, (name,), factor) for factor in factors):
        return
    between = [own for own in asked if not _varies(obs, own, (name,))]
    if between:
        yield (
            f"Several runs belong to one level of `{name}`, which is no term of the formula: they count as replicates of {listing(between)}. Add "
            f"`(1 | {quote(name)})`."
        )


def _runs_as_replicates(
    obs: pd.DataFrame, bars: list[Bar], factors: list[tuple[str, ...]], asked: list[str], donor: str
) -> Iterator[str]:
    """Comparisons between runs of a donor without a term that tells these runs apart."""
    group = replicate(factors, donor)
    open_ = [
        name
        for name in asked
        if name not in group
        and not looks_technical(name)
        and _varies(obs, name, group)
        and not any(_covers(bar, obs, name) for bar in bars)
    ]
    if open_:
        name, own = listing([":".join(group)]), ":".join(map(quote, [*group, *open_]))
        yield (
            f"{listing(open_)} {'differs' if len(open_) == 1 else 'differ'} between the runs of one level of {name}, and no random term "
            f"tells these runs apart: the peptides of a run count as its replicates. Add `(1 | {own})`, or a term of the runs: {_RUN}."
        )


def _without_peptides(parsed: ParsedFormula, of_var: Collection[str]) -> Iterator[str]:
    """No term of the peptides, which differ more than anything else does."""
    if PEPTIDE in parsed.variables or any(set(bar.group) & set(of_var) for bar in parsed.bars):
        return
    yield (
        f"`{parsed.source}` has no term of the peptides, whose differences are then part of the residual: tests see little, and "
        "where values are missing an estimate compares different peptides. Add `(1 | peptide)`."
    )


def _has_level(bar: Bar, obs: pd.DataFrame) -> bool:
    """Whether a random term gives each of its levels a level of the response."""
    slopes = [name for name in variables(bar.terms) if name in obs.columns]
    return "1" in column_terms(bar.terms) or any(_is_label(obs[name]) for name in slopes)


def _donors_of(obs: pd.DataFrame) -> str:
    """The column with the name of donors, if there is one that tells runs apart."""
    named = (str(c) for c in obs.columns if looks_like_replicate((str(c),)))
    return next((name for name in named if obs[name].nunique() > 1), "")


def _several_runs(obs: pd.DataFrame, name: str) -> bool:
    return bool(obs[name].nunique() < obs[name].notna().sum())


def _same(obs: pd.DataFrame, one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two factors divide the runs alike."""
    codes = [obs.groupby(list(own), observed=True, sort=False).ngroup() for own in (one, other)]
    return len(pd.concat(codes, axis=1).drop_duplicates()) == codes[0].nunique() == codes[1].nunique()


def _is_label(column: pd.Series) -> bool:
    """Whether a formula reads a column as labels."""
    return not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _varies(obs: pd.DataFrame, name: str, group: tuple[str, ...]) -> bool:
    """Whether a column has several values within levels of a factor."""
    return bool((obs.groupby(list(group), observed=True)[name].nunique() > 1).any())


def _covers(bar: Bar, obs: pd.DataFrame, name: str) -> bool:
    """Whether a random term lets what a column does differ between its levels, or has levels within which it is constant."""
    return name in variables(bar.terms) or (_has_level(bar, obs) and not _varies(obs, name, bar.group))
