"""Random effects of single observations: which effects each has, and its columns at given standard deviations.

The effects are u = Lambda b with b ~ N(0, I); Lambda repeats for every level of a term its lower triangle T, whose
entries theta, column by column, are the parameters (T T' is the covariance; for a single column theta is the sd).
A row of A = Z Lambda has as many entries as the terms have columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from donorwise._core.design.design import RandomTerm
    from donorwise._typing import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Effects:
    """Random effects of N rows.

    Attributes
    ----------
    index
        Shape (N, R). Position in b of the effects of every row.
    Z
        Shape (N, R). Their columns.
    row, column
        Shape (n_theta,). Columns of Z that an entry of T belongs to: T[row, column], row >= column.
    starts
        Length terms + 1. First effect of each term; the last one is their number.
    widths
        Columns of each term.
    """

    index: IntArray
    Z: FloatArray
    row: IntArray
    column: IntArray
    starts: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, terms: tuple[RandomTerm, ...], n: int) -> Effects:
        """The effects of a design whose patterns are the n rows."""
        widths = tuple(len(t.columns) for t in terms)
        starts = np.cumsum([0, *(len(t.levels) * r for t, r in zip(terms, widths, strict=True))])
        index, Z = [np.zeros((n, 0), dtype=np.int64)], [np.zeros((n, 0))]
        pairs, base = [], 0
        for term, r, start in zip(terms, widths, starts[:-1], strict=True):
            index.append(start + term.codes[:, None] * r + np.arange(r))
            Z.append(term.Z)
            pairs += [(base + i, base + j) for j in range(r) for i in range(j, r)]
            base += r
        row, column = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(np.hstack(index), np.hstack(Z), row, column, tuple(map(int, starts)), widths)

    @property
    def q(self) -> int:
        """Number of effects."""
        return self.starts[-1]

    @property
    def diagonal(self) -> BoolArray:
        """Which of theta stand on the diagonal of a T."""
        return np.asarray(self.row == self.column)

    @property
    def spread(self) -> FloatArray:
        """Root mean square of the column of each row of T, (n_theta,): what takes theta to the linear predictor."""
        return np.asarray(np.sqrt((self.Z**2).mean(axis=0)))[self.row]

    def levels_in_use(self, term: int) -> int:
        """Levels of a term that have rows."""
        column = sum(self.widths[:term])
        return int(np.unique(self.index[:, column]).size)

    def columns(self, theta: FloatArray) -> FloatArray:
        """A = Z Lambda, the R entries of every row."""
        A = np.zeros_like(self.Z)
        for i, j, value in zip(self.row, self.column, theta, strict=True):
            A[:, j] += value * self.Z[:, i]
        return A

    def triangles(self, theta: FloatArray) -> list[FloatArray]:
        """T of every term, (r, r)."""
        whole = np.zeros((self.Z.shape[1],) * 2)
        whole[self.row, self.column] = theta
        ends = np.cumsum([0, *self.widths])
        return [whole[a:b, a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def take(self, rows: BoolArray) -> Effects:
        """The same effects, whether they have rows or not, of some rows."""
        return Effects(self.index[rows], self.Z[rows], self.row, self.column, self.starts, self.widths)


@njit(nogil=True, cache=True)
def cross(index: IntArray, D: FloatArray, weight: FloatArray, n: int) -> FloatArray:
    """D'WD, (n, n), of rows with entries D at the columns `index`."""
    out = np.zeros((n, n))
    for k in range(D.shape[0]):
        for i in range(D.shape[1]):
            wd = weight[k] * D[k, i]
            for j in range(D.shape[1]):
                out[index[k, i], index[k, j]] += wd * D[k, j]
    return out


@njit(nogil=True, cache=True)
def gather(index: IntArray, D: FloatArray, values: FloatArray, n: int) -> FloatArray:
    """D'v, (n,)."""
    out = np.zeros(n)
    for k in range(D.shape[0]):
        for i in range(D.shape[1]):
            out[index[k, i]] += D[k, i] * values[k]
    return out


@njit(nogil=True, cache=True)
def images(index: IntArray, D: FloatArray, inverse: FloatArray) -> FloatArray:
    """H^-1 d of every row, at the row's own columns, of a dense H^-1."""
    out = np.zeros_like(D)
    for k in range(D.shape[0]):
        for i in range(D.shape[1]):
            for j in range(D.shape[1]):
                out[k, i] += inverse[index[k, i], index[k, j]] * D[k, j]
    return out
