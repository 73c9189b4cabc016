"""Separation: fixed effects whose estimates are infinite, and what is left of the model in the limit.

Rows that a direction delta of beta can only make more likely without bound (x'delta < 0 where there is no count, or no
success; x'delta > 0 where all trials succeed; x'delta = 0 elsewhere) reach probability one, whatever the random
effects. The likelihood's supremum is that of the other rows (Geyer 2009, Electron J Stat 3), on which the direction
says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import linprog, nnls

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray

_TOL = 1e-7
_RANK = 1e-9
_WEIGHT, _NEAR = 1e-6, 1e-4  # of a combination of rows: the cost of its weights, and the distance at which it is found


class Limit(NamedTuple):
    """Rows that decide (N,), a basis (p, r) of the coefficients that they know, and where the others go, (p,)."""

    rows: BoolArray
    basis: FloatArray
    direction: FloatArray


def find_limit(X: FloatArray, low: BoolArray, high: BoolArray) -> Limit:
    """What is left when every direction of separation is followed to its end.

    Parameters
    ----------
    X
        Shape (N, p). Fixed columns, of full rank.
    low, high
        Shape (N,). Rows with no count (or success), and with nothing but successes.
    """
    scale = np.abs(X).max(axis=0)
    scaled, rows = X / scale, np.ones(len(X), dtype=bool)
    basis, direction = np.eye(X.shape[1]), np.zeros(X.shape[1])
    while rows.any() and basis.shape[1]:
        own = scaled[rows] @ basis
        delta = _separate(own, low[rows], high[rows])
        if delta is None:
            break
        direction = np.where(direction != 0, direction, _clean(basis @ delta))
        rows[np.flatnonzero(rows)[np.abs(own @ delta) > _TOL]] = False
        _, values, Vt = np.linalg.svd(scaled[rows], full_matrices=False)
        basis = Vt[values > _TOL * max(values.max(initial=0), 1.0)].T
    turned, _ = np.linalg.qr(basis * scale[:, None]) if basis.shape[1] < X.shape[1] else (basis, None)
    return Limit(rows, turned, direction)


def open_contrasts(X: FloatArray, within: FloatArray, low: BoolArray, high: BoolArray, L: FloatArray) -> BoolArray:
    """Which contrasts of G features have no finite estimate, as rows are separated; (G, n).

    Rows that are neither low nor high know all but some directions. Within these, a contrast c'beta is bounded on both sides
    where c and -c are combinations, with weights that are not negative, of -x of the low rows and x of the high ones
    (Farkas' lemma).

    Parameters
    ----------
    X
        Shape (K, p). Fixed columns of the rows that all features have, of full rank.
    within
        Shape (m, p). Rows that are neither low nor high in any feature: covariates within the rows of X.
    low, high
        Shapes (G, K). As for :func:`find_limit`.
    L
        Shape (n, p).
    """
    inside = (~(low | high)).astype(np.float64)
    gram = np.einsum("gk,kp,kr->gpr", inside, X, X, optimize=True) + within.T @ within
    values, vectors = np.linalg.eigh(gram / np.trace(X.T @ X))
    unknown = np.where((values <= _RANK)[:, None, :], vectors, 0.0)
    out = np.linalg.norm(L @ unknown, axis=2) > np.sqrt(_RANK) * np.linalg.norm(L, axis=1)
    some = np.flatnonzero(out.any(axis=1))
    sign = high[some].astype(np.int8) - low[some]
    distinct, first, which = np.unique(sign, axis=0, return_index=True, return_inverse=True)
    for i, (own, basis) in enumerate(zip(distinct, unknown[some[first]], strict=True)):
        basis = basis[:, (basis != 0).any(axis=0)]
        rows = _directions((own[:, None] * X)[own != 0] @ basis)
        out[some[which.ravel() == i]] &= [
            not (_in_cone(rows, c) and _in_cone(rows, -c)) for c in _directions(L @ basis)
        ]
    return np.asarray(out)


def _directions(rows: FloatArray) -> FloatArray:
    """Rows of length one, or zero."""
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, size, out=np.zeros_like(rows), where=size > _TOL * size.max(initial=0.0))


def _in_cone(rows: FloatArray, c: FloatArray) -> bool:
    """Whether c (p,) is a combination of rows (K, p) with weights that are not negative.

    Large weights cost something: without, rows that are opposite but for rounding would make up anything.
    """
    K = len(rows)
    return bool(nnls(np.vstack([rows.T, _WEIGHT * np.eye(K)]), np.concatenate([c, np.zeros(K)]))[1] < _NEAR)


def _clean(values: FloatArray) -> FloatArray:
    return np.where(np.abs(values) > _TOL * np.abs(values).max(initial=0), values, 0.0)


def _separate(X: FloatArray, low: BoolArray, high: BoolArray) -> FloatArray | None:
    """A direction in which rows are separated, (p,), by linear programming (Konis 2007); None where there is none."""
    sign = high.astype(float) - low.astype(float)
    signed = np.unique(sign[:, None] * X, axis=0)
    fixed = np.unique(X[sign == 0], axis=0)
    if not fixed.size:
        fixed = np.zeros((1, X.shape[1]))
    if not (sign != 0).any():
        return None
    found = linprog(
        -signed.sum(axis=0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        A_eq=fixed,
        b_eq=np.zeros(len(fixed)),
        bounds=(-1, 1),
    )
    return np.asarray(found.x) if found.status == 0 and -found.fun > 1e-6 else None
