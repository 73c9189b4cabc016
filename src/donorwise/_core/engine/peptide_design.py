"""What a formula reads of runs and of peptides, laid out as the rows of one protein that has everything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.formula import parse
from donorwise._core.design.peptide_names import PEPTIDE
from donorwise._core.design.terms import column_terms, read_column, term_variables, variables
from donorwise._core.engine.peptide_rows import Grouping
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.design.peptide_names import Names
    from donorwise._typing import IntArray

_MOST_ROWS = 20_000_000  # of a design, of some hundred bytes each
_COPIES = 2  # peptides of every kind that the protein has, so that a random effect of peptides has levels


@dataclass(frozen=True, slots=True)
class Layout:
    """Runs x kinds of peptides.

    Attributes
    ----------
    table
        The columns that a formula (and others) read, kind under kind: rows ``kind * N`` to ``kind * N + N - 1`` are the runs.
    kind
        Shape (P,). First kind of every peptide.
    groupings
        Of every grouping factor.
    """

    table: pd.DataFrame
    kind: IntArray
    groupings: Mapping[tuple[str, ...], Grouping]


def of_runs(parsed: ParsedFormula, obs: pd.DataFrame) -> ParsedFormula:
    """The formula with its terms of runs alone, fixed and random."""
    there = set(obs.columns)
    bars = [bar for bar in parsed.bars if there.issuperset((*bar.group, *variables(bar.terms)))]
    if there.issuperset(variables(parsed.terms)):
        return parsed.keep(bars)
    terms = zip(column_terms(parsed.terms), parsed.terms, strict=True)
    kept = [text for text, term in terms if there.issuperset(term_variables(term))]
    return replace(parse(f"~ {' + '.join(kept if '1' in kept else ['0', *kept])}"), bars=tuple(bars)).keep(bars)


def lay_out(parsed: ParsedFormula, obs: pd.DataFrame, var: pd.DataFrame, names: Names) -> Layout:
    """The rows of a protein with every run and, of every kind, some peptides.

    Peptides are of one kind where the fixed effects and slopes read the same of them.

    Parameters
    ----------
    parsed
        The formula.
    obs
        N runs.
    var
        P peptides, by name.
    names
        Which columns of the formula are in which of the two.
    """
    for name in names.of_runs:
        if len(obs) and obs[name].isna().all():
            raise DesignError(
                f"`{name}` is missing in each of the {len(obs):,} runs. Where it was joined to obs, the names of the runs were others."
            )
    frame = var if PEPTIDE in var.columns else var.assign(**{PEPTIDE: var.index.astype(str)})
    read = [name for name in names.of_peptides if name in parsed.variables]
    kind, example = _kinds(frame, read)
    if len(obs) * example.size * _COPIES > _MOST_ROWS:
        listed = ", ".join(f"`{name}`" for name in read)
        raise DesignError(
            f"{listed} makes {example.size:,} kinds of peptides, for {len(obs):,} runs: too many for a design. Round or bin the numbers, "
            "or leave them out; a random effect of the peptides takes what they differ by."
        )
    kinds = [(k, copy) for k in range(example.size) for copy in range(_COPIES)]
    parts = []
    for k, copy in kinds:
        own = obs.reset_index(drop=True)
        for name in read:
            own[name] = frame[name].iloc[np.repeat(example[k], len(obs))].array
        for name in set(names.of_peptides) - set(read):
            own[name] = f"{name} {k + 1}.{copy + 1}"
        parts.append(own)
    table = pd.concat(parts, ignore_index=True)
    for name in set(names.of_peptides) - set(read):
        table[name] = table[name].astype("category")
    groups = dict.fromkeys(bar.group for bar in parsed.bars)
    return Layout(table, kind * _COPIES, {group: _grouping(group, obs, frame, names) for group in groups})


def _kinds(var: pd.DataFrame, read: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Kind of every peptide, and the first peptide of every kind."""
    if not read:
        return np.zeros(len(var), dtype=np.int64), np.zeros(1, dtype=np.int64)
    codes = var.groupby(list(read), dropna=False, observed=True, sort=False).ngroup().to_numpy(dtype=np.int64)
    return codes, np.unique(codes, return_index=True)[1]


def _grouping(group: tuple[str, ...], obs: pd.DataFrame, var: pd.DataFrame, names: Names) -> Grouping:
    """The levels of a grouping factor."""
    of_run, run_levels = _labels(obs, [name for name in group if name in names.of_runs])
    of_peptide, peptide_levels = _labels(var, [name for name in group if name in names.of_peptides])
    return Grouping(of_run, run_levels, of_peptide, peptide_levels)


def _labels(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[IntArray, tuple[str, ...]]:
    """Codes of the rows by some columns together, -1 where one is missing, and names of the levels."""
    codes, levels = np.zeros(len(frame), dtype=np.int64), [""]
    for name in columns:
        column = read_column(frame[name], name, categorical=True)
        own = column.cat.codes.to_numpy(dtype=np.int64)
        if len(columns) == 1:
            return own, tuple(column.cat.categories.astype(str).tolist())
        joint = np.where((codes < 0) | (own < 0), -1, codes * len(column.cat.categories) + own)
        found, where = np.unique(joint[joint >= 0], return_inverse=True)
        before, after = np.divmod(found, len(column.cat.categories))
        labels = column.cat.categories.astype(str)
        levels = [":".join(filter(None, (levels[b], labels[a]))) for b, a in zip(before, after, strict=True)]
        codes = joint
        codes[joint >= 0] = where.ravel()
    return codes, tuple(levels)
