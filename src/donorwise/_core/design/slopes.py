"""Findings of an audit about random slopes: where their origin is, and terms that say the same twice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.names import quote, shown
from donorwise._core.design.replicates import in_span, spans_constant
from donorwise._core.design.terms import factor_variables, variables
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from formulaic.parser.types import Factor

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.design.formula import Bar
    from donorwise._core.design.replicates import Donors
    from donorwise._typing import FloatArray, IntArray

# Standard deviations within donors between the data and the origin of an uncorrelated slope. Visits 0 to 3 have 1.3, 1 to 4
# have 2.2, the codes 1 and 2 have 3; null genes of 12 donors with four visits had a type I error of .05 at 0, .06 at 1.3,
# .09 at 2.2, .12 at 3, .24 at 6, and .35 at 20.
_FAR = 2.0
_APART = 3.0  # the same between the donors' own means


def uncentred(design: Design) -> Iterator[str]:
    """Slopes that are not correlated with a level, on a number that is far from zero: they are levels themselves."""
    for term in design.random_terms:
        if spans_constant(term):
            continue
        names = [name for name in variables(term.bar.terms) if name in design.numeric_means]
        away = [_distances(*_by_level(design, term, j)) for j in range(len(term.columns))]
        off, apart = max(away, key=lambda pair: math.hypot(*pair), default=(0.0, 0.0))
        if not names or (off <= _FAR and apart <= _APART):
            continue
        yield (
            f"`{term.bar.text}` has no correlation with the level of `{term.group}`, so what it says depends on where "
            f"{listing(names)} is zero, and that is {math.hypot(off, apart):.2g} standard deviations (within `{term.group}`) from the data: it "
            "becomes a second level there and no slope, and a test of the slope takes it to be the same in all (type I error .09 "
            f"two standard deviations away, up to .39 farther out); {_centring(term.bar, names, term.group, apart=apart > _APART)}."
        )


def redundant(design: Design) -> Iterator[str]:
    """Random terms that say what another one says: a larger one of the same levels, or the same levels by another name.

    Effects with and without a kernel, or with two, are different ones.
    """
    terms = [term for term in design.random_terms if max(term.varying) < 0]
    for (i, small), (j, large) in permutations(enumerate(terms), 2):
        size = len(large.columns) - len(small.columns)
        if size < 0 or (size == 0 and i < j) or small.bar.cov != large.bar.cov:
            continue
        if not _same_levels(small, large) or not in_span(small.Z, large.Z):
            continue
        yield (
            f"`{small.bar.text}` says nothing that `{large.bar.text}` does not say, whose columns add up to it; "
            f"leave `{small.bar.text}` out."
            if small.group == large.group
            else f"`{small.bar.text}` says nothing that `{large.bar.text}` does not say: each level of `{small.group}` is one of "
            f"`{large.group}`, and how the variance is shared between them cannot be told; leave `{small.bar.text}` out."
        )


def _same_levels(one: RandomTerm, other: RandomTerm) -> bool:
    n = len(np.unique(np.column_stack([one.codes, other.codes]), axis=0))
    return one.group == other.group or n == len(one.levels) == len(other.levels)


def slope_of(design: Design, donors: Donors, name: str) -> str:
    """A number as the column of an uncorrelated slope: centred in the formula where its zero is far from the data."""
    rows = donors.rows
    values = design.frame[name].to_numpy(dtype=np.float64)[rows.pattern]
    far = _distances(values, rows.donor, rows.n.astype(np.float64))[0] > _FAR
    return f"center({quote(name)})" if far else quote(name)


def _centring(bar: Bar, names: list[str], group: str, *, apart: bool) -> str:
    if not apart:
        factors = dict.fromkeys(
            f for term in bar.terms for f in term.factors if set(names).intersection(factor_variables(f))
        )
        inside = " and ".join(f"`center({_written(factor)})`" for factor in factors)
        return f"write {inside} in that term"
    by = f"[{', '.join(map(repr, group.split(':')))}]" if ":" in group else repr(group)
    made = " and ".join(
        f'obs["{name}_own"] = obs["{name}"] - obs.groupby({by})["{name}"].transform("mean")' for name in names
    )
    return f"give that term the distance from the mean of each level: `{made}`"


def _written(factor: Factor) -> str:
    """A factor as a formula has it."""
    alone = factor.eval_method.name == "LOOKUP"
    return quote(factor_variables(factor)[0]) if alone else shown(factor.expr)


def _by_level(design: Design, term: RandomTerm, j: int) -> tuple[FloatArray, IntArray, FloatArray]:
    """Values of a column of a term, their levels, and how many rows have them."""
    used = design.codes >= 0
    k = term.varying[j]
    if k < 0:
        n = np.bincount(design.codes[used], minlength=design.n_patterns)
        return term.Z[:, j], term.codes, n.astype(np.float64)
    return design.covariates[used, k], term.codes[design.codes[used]], np.ones(int(used.sum()))


def _distances(values: FloatArray, level: IntArray, n: FloatArray) -> tuple[float, float]:
    """How far from zero the mean of the levels' means is, and they from it, in standard deviations within them."""
    total = np.bincount(level, weights=n)
    mean = np.bincount(level, weights=n * values) / np.where(total > 0, total, 1.0)
    squares = np.bincount(level, weights=n * (values - mean[level]) ** 2)
    shows = squares > 1e-24 * total * np.abs(values).max(initial=0.0) ** 2
    if not shows.any():
        return 0.0, 0.0
    within = np.sqrt(squares[shows].sum() / total[shows].sum())
    return float(abs(mean[shows].mean()) / within), float(mean[shows].std() / within)
