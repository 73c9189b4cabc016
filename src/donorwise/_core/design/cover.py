"""Which random terms let what is tested within donors differ from donor to donor, so that the donors are its replicates.

A term with levels inside donors does so only where each donor has one level at each value of what is tested. Several
(three samples of a donor in one condition) share the donor's response, and would be taken for replicates of it: with
r the part of the column that the other fixed effects leave, the variance of the response counts (sum of r)² times for
each donor and value, and that of the levels sum of r² times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import changing, combine, constant, first_rows
from donorwise._core.design.replicates import constant_within, in_span, is_fixed, random_levels, spans_constant
from donorwise._core.design.rivals import gives_own
from donorwise._core.design.terms import variables

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.design.replicates import Donors, Tally
    from donorwise._typing import FloatArray, IntArray

_REPEATED = 1.2  # times a donor's response counts for each time that a term counts it, above which it is repeated


def cover(
    design: Design, donors: Donors, j: int, column: FloatArray, within: tuple[str, ...], seen: Tally
) -> tuple[bool, str]:
    """Whether a random term takes up how column `j` differs between donors, and a term of units inside donors.

    Parameters
    ----------
    column
        Shape (U,). Values of the column in the entries of `seen`.
    within
        The variables of the column that vary within donors.

    Returns
    -------
    Whether it is covered; and the label of the first random intercept with levels inside donors in which the column is
    constant, empty for none.
    """
    inside = [t for t in units_inside(design, donors) if constant(column, t.codes[seen.pattern], len(t.levels))]
    covered = bool(within) and (
        _has_slopes(design, donors, column, within, seen)
        or any(_one_each(design, donors, j, within, term) for term in inside)
    )
    return covered, inside[0].label if inside else ""


def units_inside(design: Design, donors: Donors) -> list[RandomTerm]:
    """Random intercepts, other than the donors' own, whose levels lie inside donors."""
    return [
        term
        for term in design.random_terms
        if term.group != donors.name and spans_constant(term) and _inside(term, donors) and gives_own(term)
    ]


def remainder(X: FloatArray, j: int) -> FloatArray:
    """What the other columns of X (n, p) leave of column `j`, (n,)."""
    others = np.delete(X, j, axis=1)
    others = others[:, np.abs(others).max(axis=0, initial=0.0) > 0]
    return X[:, j] - others @ np.linalg.lstsq(others, X[:, j], rcond=None)[0] if others.size else X[:, j]


def _inside(term: RandomTerm, donors: Donors) -> bool:
    return constant(donors.rows.donor, term.codes[donors.rows.pattern], len(term.levels))


def _has_slopes(design: Design, donors: Donors, column: FloatArray, within: tuple[str, ...], seen: Tally) -> bool:
    """Whether donors have slopes of what varies; those of several units of a donor are no replicates of it."""
    n_donors = int(changing(column, seen.donor, len(donors.levels)).sum())
    for term in design.random_terms:
        read = variables(term.bar.terms)
        if _inside(term, donors) and all(name in read or _moves_with(design, term, name) for name in within):
            n_levels = int(changing(column, term.codes[seen.pattern], len(term.levels)).sum())
            if n_donors <= _REPEATED * n_levels <= _REPEATED**2 * n_donors:
                return True
    return False


def _moves_with(design: Design, term: RandomTerm, name: str) -> bool:
    """Whether a number is, in each level of a term, a constant and the same combination of the term's columns."""
    if name not in design.numeric_means or max(term.varying) >= 0:
        return False
    x = design.frame[name].to_numpy(dtype=np.float64)[:, None]
    x, Z = x - _means(x, term.codes)[term.codes], term.Z - _means(term.Z, term.codes)[term.codes]
    return bool(x.any()) and in_span(x, Z)


def _one_each(design: Design, donors: Donors, j: int, within: tuple[str, ...], term: RandomTerm) -> bool:
    """Whether each donor has, in the main, one level of a term at each value of column `j`.

    Visits do not take up how donors differ in a slope over three values of a number or more.
    """
    donor = np.zeros(len(term.levels), dtype=np.int64)
    donor[term.codes[donors.rows.pattern]] = donors.rows.donor
    first = first_rows(term.codes, len(term.levels))
    numeric = any(name in design.numeric_means for name in within)
    values = [design.X[:, j]] if numeric else [design.frame[name] for name in within]
    codes = [pd.factorize(own)[0][first] for own in values]
    if numeric and most_values(codes[0], donor) > 2:
        return False
    group, n_groups = combine([(own, int(own.max()) + 1) for own in (donor, *codes)], donor.size)
    kept = np.flatnonzero((np.array(design.varying) < 0) & constant_within(design.X, term.codes))
    X = design.X[first][:, kept]
    if random_levels(design, donors) or is_fixed(design, donors):
        X = X - _means(X, donor)[donor]
    rest = remainder(X, int(np.searchsorted(kept, j)))
    response = np.bincount(group, weights=rest, minlength=n_groups)
    return bool(response @ response <= _REPEATED * (rest @ rest))


def most_values(codes: IntArray, donor: IntArray) -> int:
    """The largest number of different codes that a donor has."""
    pairs, n = combine([(donor, int(donor.max()) + 1), (codes, int(codes.max()) + 1)], donor.size)
    return int(np.bincount(donor[first_rows(pairs, n)]).max())


def _means(X: FloatArray, donor: IntArray) -> FloatArray:
    sums = np.stack([np.bincount(donor, weights=x) for x in X.T], axis=1)
    return np.asarray(sums / np.maximum(np.bincount(donor), 1)[:, None])
