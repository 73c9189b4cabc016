"""Which units a kernel cannot tell apart: those whose labels may change places, alone or with their whole family.

Labels may be permuted where the joint distribution of all responses stays what it is: a permutation P of units with
P K P' = K for every kernel (Abney 2015, Genet Epidemiol 39:249, on why others are no null). Units of which each two can
be exchanged form sets, because (a c) = (a b)(b c)(a b); and families without covariance with each other can be exchanged
as wholes where they have the same covariances inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from donorwise._core.design.design import first_rows
from donorwise._core.design.terms import variables
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._typing import FloatArray, IntArray

_SAME = 1e-6  # of the largest entry of a kernel, that covariances which are equal may differ by

ADVICE = (
    "A permutation test of such a model would be no null. Draw responses from the fitted model and test those; the formula with "
    "(1 | {group}) in place of the kernel can be calibrated, which tells of everything but what relatives share."
)


def covariances(design: Design, unit: IntArray, variable: str) -> FloatArray:
    """Known covariances between U units, (kernels, U, U), each relative to its largest entry.

    `unit` (K,) are those of the patterns, and `variable` is whose labels will move.

    Raises
    ------
    DesignError
        A kernel is between levels that are parts of units, or on what the labels do to the levels.
    """
    first = first_rows(unit, int(unit.max()) + 1)
    terms = [(term, kernel) for term in design.random_terms if (kernel := term.kernel) is not None]
    found = [_between(term, kernel, unit, first, variable) for term, kernel in terms]
    return np.stack(found) if found else np.empty((0, first.size, first.size))


def _between(term: RandomTerm, kernel: FloatArray, unit: IntArray, first: IntArray, variable: str) -> FloatArray:
    level, group = term.codes[first], term.group
    if (level[unit] != term.codes).any():
        raise DesignError(
            f"`{term.bar.text}` is a covariance between levels of `{group}`, of which a unit that carries one label of "
            f"`{variable}` has several: they would have to move with it. {ADVICE.format(group=group)}"
        )
    between = kernel / np.abs(kernel).max()
    apart = np.abs(between - np.diag(np.diag(between))).max() > _SAME
    if variable in variables(term.bar.terms) and apart:
        raise DesignError(
            f"The slopes of `{term.bar.text}` are those of `{variable}`, and levels of `{group}` share them: labels that move in "
            f"one level alone take that away. {ADVICE.format(group=group)}"
        )
    return between[np.ix_(level, level)]


def alike(C: FloatArray) -> IntArray:
    """Sets of units of which each two can be exchanged, (U,), from their covariances (kernels, U, U)."""
    n = C.shape[1]
    found, sums = np.full(n, -1), C.sum(axis=2)
    for i in range(n):
        if found[i] >= 0:
            continue
        others = np.flatnonzero((found < 0) & (np.abs(sums - sums[:, i, None]).max(axis=0) <= n * _SAME))
        found[[j for j in others if _exchangeable(C, i, int(j))]] = found.max() + 1
    return found


def _exchangeable(C: FloatArray, i: int, j: int) -> bool:
    """Whether all covariances stay as they are when two units change places."""
    apart = np.abs(C[:, i] - C[:, j])
    apart[:, [i, j]] = np.abs(C[:, i, i] - C[:, j, j])[:, None]
    return bool(apart.max() <= _SAME)


def families(C: FloatArray) -> IntArray:
    """Units that are tied together by some covariance, (U,)."""
    tied = csr_array((np.abs(C) > _SAME).any(axis=0))
    return np.asarray(connected_components(tied, directed=False)[1], dtype=np.int64)


def same_structure(C: FloatArray, family: IntArray) -> IntArray:
    """Sets of families that have the same covariances inside, (families,).

    Members are compared in the order of their covariances, so that two families of which that does not show it, however
    equal they are, count as different.
    """
    inside = [_ordered(C, np.flatnonzero(family == f)) for f in range(int(family.max()) + 1)]
    found = np.full(len(inside), -1)
    for f, own in enumerate(inside):
        same = (g for g in range(f) if inside[g].shape == own.shape and np.abs(inside[g] - own).max() <= _SAME)
        found[f] = found[at] if (at := next(same, -1)) >= 0 else found.max() + 1
    return found


def _ordered(C: FloatArray, members: IntArray) -> FloatArray:
    own = C[:, members][:, :, members]
    rows = np.sort(own, axis=2).transpose(1, 0, 2).reshape(members.size, -1)
    variance = np.diagonal(own, axis1=1, axis2=2).T
    order = np.lexsort(np.round(np.hstack([rows, variance]), 5).T)
    return own[:, order][:, :, order]


def told_apart(design: Design, variable: str) -> str:
    """Why no labels can move that could without kernels."""
    terms = [term for term in design.random_terms if term.kernel is not None]
    return (
        f"Levels that carry different labels of `{variable}` are related differently to the others ({listing(t.bar.text for t in terms)}), so "
        f"that no two of them, and no two families of them, can change places. {ADVICE.format(group=terms[0].group)}"
    )
