"""Which columns of a matrix the others give, to rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray

# Columns are centred and scaled to length 1 first, so this is the share of a column that the others
# do not explain: rounding leaves 1e-13 or so of an aliased one, a year beside an intercept keeps all, and the
# interaction of an arm with a number of mean 1e9 and spread .1 keeps 1e-10.
_TOLERANCE = 1e-11
_ROUNDING = 1e-13  # of a column's own length before it is centred, which is what its digits are good for


def split_columns(X: FloatArray, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Split columns, from left to right, into independent ones and ones the columns before them give.

    Rounding of a column that is large beside its spread is followed into what it is subtracted from.
    """
    scaled, kept = _scale(X, names.index("Intercept") if "Intercept" in names else None)
    if _orthogonal(scaled, kept) is not None:  # as nearly always, and faster than column by column
        return list(range(X.shape[1])), []
    basis, rounding = np.empty_like(scaled), np.zeros(X.shape[1])
    independent: list[int] = []
    aliased: list[int] = []
    for j in range(X.shape[1]):
        q = basis[:, : len(independent)]
        weights = q.T @ scaled[:, j]
        rest = scaled[:, j] - q @ weights
        rest -= q @ (q.T @ rest)  # once more: one pass of Gram-Schmidt leaves rounding behind
        length = float(np.linalg.norm(rest))
        error = _ROUNDING / kept[j] + float(np.abs(weights) @ rounding[: len(independent)])
        if length <= max(_TOLERANCE, error):
            aliased.append(j)
            continue
        rounding[len(independent)] = error / length
        basis[:, len(independent)] = rest / length
        independent.append(j)
    return independent, aliased


def _orthogonal(scaled: FloatArray, kept: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """An orthonormal basis (n, p) of independent columns and its rounding (p,), as `split_columns` has them; else None."""
    n, p = scaled.shape
    if n < p:
        return None
    Q, R = np.linalg.qr(scaled)
    rounding = np.zeros(p)
    for j in range(p):
        length, error = abs(R[j, j]), _ROUNDING / kept[j] + float(np.abs(R[:j, j]) @ rounding[:j])
        if length <= max(_TOLERANCE, error):
            return None
        rounding[j] = error / length
    return Q, rounding


def _scale(X: FloatArray, intercept: int | None) -> tuple[FloatArray, FloatArray]:
    """Take the intercept out of the other columns, and scale all to length 1 (to 0 where only rounding is left).

    Also the share of each column's length that is kept without the intercept, (p,).
    """
    largest = np.abs(X).max(axis=0, initial=0.0)
    unit = X / np.where(largest > 0, largest, 1.0)
    before = np.linalg.norm(unit, axis=0)
    if intercept is not None:
        one = unit[:, intercept].copy()
        unit = unit - np.outer(one, one @ unit / (one @ one))
        unit[:, intercept] = one
    length = np.linalg.norm(unit, axis=0)
    seen = length > 1e-14 * np.sqrt(len(X))
    return unit / np.where(seen, length, np.inf), np.where(seen, length / np.where(seen, before, 1.0), 1.0)


def are_spanned(X: FloatArray, others: FloatArray, names: Sequence[str]) -> bool:
    """Whether the columns of X, which are independent, give all other columns."""
    p = X.shape[1]
    scaled, kept = _scale(np.hstack([X, others]), names.index("Intercept") if "Intercept" in names else None)
    found = _orthogonal(scaled[:, :p], kept[:p])
    if found is None:
        return False
    basis, rounding = found
    weights = basis.T @ scaled[:, p:]
    rest = scaled[:, p:] - basis @ weights
    rest -= basis @ (basis.T @ rest)
    error = _ROUNDING / kept[p:] + rounding @ np.abs(weights)
    return bool((np.linalg.norm(rest, axis=0) <= np.maximum(_TOLERANCE, error)).all())
