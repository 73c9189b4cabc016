"""Findings of an audit about random slopes: where their origin is, and terms that say the same twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.names import quote
from donorwise._core.design.replicates import in_span, spans_constant
from donorwise._core.design.terms import variables
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.design.replicates import Donors
    from donorwise._typing import FloatArray, IntArray

# Standard deviations within donors between the data and the origin of an uncorrelated slope. Two visits, 1 and 2, have 3;
# null genes of 12 donors with four visits had a type I error of .05 at 0, .12 at 3, .24 at 6, and .35 at 20.
_FAR = 3.0


def uncentred(design: Design) -> Iterator[str]:
    """Slopes that are not correlated with a level, on a number that is far from zero: they are levels themselves."""
    for term in design.random_terms:
        if spans_constant(term):
            continue
        names = [name for name in variables(term.bar.terms) if name in design.numeric_means]
        away = [_distances(*_by_level(design, term, j)) for j in range(len(term.columns))]
        worst = max(away, default=(0.0, 0.0))
        if not names or worst[0] <= _FAR:
            continue
        yield (
            f"`{term.bar.text}` has no correlation with the level of `{term.group}`, so what it says depends on where "
            f"{listing(names)} is zero, and that is {worst[0]:.2g} standard deviations (within `{term.group}`) from the data: it "
            "becomes a second level there and no slope, and a test of the slope takes it to be the same in all (type I error up "
            f"to .39 at a nominal .05); {_centring(names, term.group, apart=worst[1] > _FAR)}."
        )


def redundant(design: Design) -> Iterator[str]:
    """Random terms that say what another one says: a larger one of the same levels, or the same levels by another name."""
    terms = [term for term in design.random_terms if max(term.varying) < 0]
    for (i, small), (j, large) in permutations(enumerate(terms), 2):
        size = len(large.columns) - len(small.columns)
        if size < 0 or (size == 0 and i < j) or not _same_levels(small, large) or not in_span(small.Z, large.Z):
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


def _centring(names: list[str], group: str, *, apart: bool) -> str:
    if not apart:
        inside = " and ".join(f"`center({quote(name)})`" for name in names)
        return f"write {inside} in that term"
    by = f"[{', '.join(map(repr, group.split(':')))}]" if ":" in group else repr(group)
    made = " and ".join(
        f'obs["{name}_own"] = obs["{name}"] - obs.groupby({by})["{name}"].transform("mean")' for name in names
    )
    return f"give that term the distance from the mean of each level: `{made}`"


def _by_level(design: Design, term: RandomTerm, j: int) -> tuple[FloatArray, IntArray, FloatArray]:
    """Values of a column of a term, their levels, and how many rows have them."""
    used = design.codes >= 0
    k = term.varying[j]
    if k < 0:
        n = np.bincount(design.codes[used], minlength=design.n_patterns)
        return term.Z[:, j], term.codes, n.astype(np.float64)
    return design.covariates[used, k], term.codes[design.codes[used]], np.ones(int(used.sum()))


def _distances(values: FloatArray, level: IntArray, n: FloatArray) -> tuple[float, float]:
    """How far from zero, and from each other, the means of the levels are, in standard deviations within them."""
    total = np.bincount(level, weights=n)
    mean = np.bincount(level, weights=n * values) / np.where(total > 0, total, 1.0)
    squares = np.bincount(level, weights=n * (values - mean[level]) ** 2)
    shows = squares > 1e-24 * total * np.abs(values).max(initial=0.0) ** 2
    if not shows.any():
        return 0.0, 0.0
    within = np.sqrt(squares[shows].sum() / total[shows].sum())
    return float(np.sqrt((mean[shows] ** 2).mean()) / within), float(mean[shows].std() / within)
