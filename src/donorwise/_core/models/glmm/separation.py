"""Separation: fixed effects whose estimates are infinite, and what is left of the model in the limit.

Rows that a direction delta of beta can only make more likely without bound (x'delta < 0 where there is no count, or no
success; x'delta > 0 where all trials succeed; x'delta = 0 elsewhere) reach probability one, whatever the random
effects. The likelihood's supremum is that of the other rows (Geyer 2009, Electron J Stat 3), on which the direction
says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import linprog

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray

_TOL = 1e-7


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
