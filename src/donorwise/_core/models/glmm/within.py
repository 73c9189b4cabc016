"""Designs in which covariates differ between the cells of a pattern: what a cell has of its pattern, and beside it.

Of every column, fixed or random, the mean of a pattern is set apart from what is within it. The latter has few
dimensions, those of the covariates of single cells, and everything else is done with patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.cells.nodes import Nodes, choose_nodes
from donorwise._core.models.glmm.axes import ratios
from donorwise._core.models.glmm.cell_kernels import Basis, Cells, Loadings, effects_of_cells, evaluate_cells, on_nodes
from donorwise._core.models.glmm.families import CLOGLOG, POISSON
from donorwise._core.models.lmm.components import cholesky_psd, relative_covariance, with_covariances

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.models.glmm.rows import Counts, SharedRows
    from donorwise._typing import FloatArray, IntArray

_ROUNDING = 1e-12  # of a covariate's variance, the part within patterns that is none


class Collapsed(NamedTuple):
    """Of one feature: counts (P,), counts and cells at the nodes (P, J), and the exposures there."""

    total: FloatArray
    own: FloatArray
    shared: FloatArray
    exposures: FloatArray


@dataclass(frozen=True)
class Within:
    """The columns of a design, cell by cell in the order of its rows.

    Attributes
    ----------
    rows
        The design's cells.
    cells, basis
        What the loops take.
    Z, within
        By random term, means of its columns in the patterns (P, r), and what is within them on `cells.U`, (m, r).
    """

    rows: SharedRows
    cells: Cells
    basis: Basis
    Z: tuple[FloatArray, ...]
    within: tuple[FloatArray, ...]

    def loadings(self, points: FloatArray) -> Loadings:
        """Lambda'z of patterns, and within them, at variances and correlations (T, parameters)."""
        rows, first = self.rows, self.cells.first[:-1]
        gamma, blocks = with_covariances(rows.equations, points), rows.equations.blocks
        T, P, m = len(points), first.size, len(self.cells.U)
        mean, within = np.zeros((T, P, rows.width)), np.zeros((T, P, m, rows.width))
        for t, (basis, Z, W) in enumerate(zip(rows.equations.terms, self.Z, self.within, strict=True)):
            factor = cholesky_psd(relative_covariance(t, blocks.parameter, gamma))
            at, loaded = rows.first_places[t][basis.term.codes[rows.order[first]]], W @ factor
            for i, column in enumerate(np.moveaxis(Z @ factor, 2, 0)):
                mean[:, np.arange(P), at + i] = column
                within[:, np.arange(P), :, at + i] = loaded[:, :, i]
        return Loadings(mean, within)

    def responses(self, counts: Counts, at: IntArray) -> FloatArray:
        """Responses of some features with the prior counts, (G, N)."""
        return np.ascontiguousarray(counts.responses(at)[:, self.rows.order] + self.rows.prior_counts)

    def evaluate(
        self, counts: Counts, at: IntArray, size: FloatArray, start: FloatArray, points: FloatArray, L: FloatArray,
        null: FloatArray,
    ) -> tuple[FloatArray, ...]:  # fmt: skip
        """Likelihood (G, T), and centre, scale and root (G, T, n) of contrasts L (n, p), zero on bases `null` (n, p, p - 1)."""
        loadings, T, n = self.loadings(points), len(points), len(L)
        loglik = np.empty((at.size, T))
        centre, scale, root = (np.empty((at.size, T, n)) for _ in range(3))
        nulls = Basis(*(np.ascontiguousarray(columns @ null) for columns in self.basis))
        evaluate_cells(
            self.cells, self.responses(counts, at), size, self.basis, nulls, loadings, _ratios(loadings), _orders(points),
            L, start, np.ascontiguousarray(start @ null), loglik, centre, scale, root,
        )  # fmt: skip
        return loglik, centre, scale, root

    def modes(
        self, counts: Counts, at: IntArray, size: FloatArray, start: FloatArray, points: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coefficients (G, p), standardised effects (G, C, q) and their covariances (G, C, q, q) at points (G, parameters)."""
        C, q = self.cells.starts.size - 1, self.rows.width
        out = np.empty_like(start), np.empty((at.size, C, q)), np.empty((at.size, C, q, q))
        effects_of_cells(self.cells, self.responses(counts, at), size, self.basis, self.loadings(points), start, *out)
        return out

    def collapsed(self, counts: Counts, at: IntArray, beta: FloatArray) -> Iterator[Collapsed]:
        """Negative binomial counts of each feature as sums over patterns, its covariates having these coefficients."""
        y, P = counts.responses(at)[:, self.rows.order], self.cells.first.size - 1
        for own, gamma in zip(y, beta @ self.basis.within.T, strict=True):
            log_exposure = np.log(self.cells.t) + gamma @ self.cells.U
            low, high = log_exposure.min(), log_exposure.max()
            width = float(np.ceil(high - low))
            nodes = _nodes(width)
            out = np.empty((2, P, nodes.at.size))
            places = nodes.at + (low + high) / 2
            on_nodes(self.cells, own, log_exposure, places, nodes.weight, *out)
            total = np.add.reduceat(own, self.cells.first[:-1])
            yield Collapsed(total, out[0], out[1], np.broadcast_to(np.exp(places), out[1].shape))


@cache
def _nodes(width: float) -> Nodes:
    """Nodes for a range of log exposure about zero."""
    return choose_nodes(-width / 2, width / 2, "nb")


def separate(rows: SharedRows) -> Within | None:
    """The parts of a design's columns; None where every row is a pattern."""
    pattern = rows.pattern[rows.order]
    first = np.flatnonzero(np.r_[True, pattern[1:] != pattern[:-1], True])
    if first.size == pattern.size + 1:
        return None
    columns = [rows.X, *(basis.columns.mean[rows.order] for basis in rows.equations.terms)]
    stacked = np.concatenate(columns, axis=1)
    mean = np.add.reduceat(stacked, first[:-1]) / np.diff(first)[:, None]
    U, within = _basis(stacked - np.repeat(mean, np.diff(first), axis=0), np.sqrt((stacked**2).sum(axis=0)))
    ends = np.cumsum([own.shape[1] for own in columns])[:-1]
    means, parts = ([np.ascontiguousarray(own) for own in np.split(a, ends, axis=1)] for a in (mean, within))
    kernel = rows.kernel
    shared, t = kernel.shared[:, 0], kernel.t[:, 0]
    cells = Cells(
        kernel.code, np.searchsorted(first, kernel.starts), first, U,
        shared * t if kernel.code == POISSON else t.copy(), shared + (2 * rows.prior_counts if kernel.code == CLOGLOG else 0),
    )  # fmt: skip
    return Within(rows, cells, Basis(means[0], parts[0]), tuple(means[1:]), tuple(parts[1:]))


def _basis(D: FloatArray, size: FloatArray) -> tuple[FloatArray, FloatArray]:
    """U (m, N), at most one in size, and W (m, columns) with D = U'W, of columns that have these lengths in all."""
    scaled = D / size
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    U = scaled @ vectors[:, values > _ROUNDING]
    largest = np.abs(U).max(axis=0)
    W = largest[:, None] * vectors[:, values > _ROUNDING].T * size
    return np.ascontiguousarray((U / largest).T), W


def _ratios(loadings: Loadings) -> FloatArray:
    """By which effects are carried over from point to point, (T, q)."""
    return ratios(np.sqrt((loadings.mean**2).sum(axis=1) + (loadings.within**2).sum(axis=(1, 2))))


def _orders(points: FloatArray) -> IntArray:
    """Degree of the polynomial in one variance's logarithm that leads through the points before to each, (T,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.diff(np.log(points), axis=0)
    change[np.diff(points, axis=0) == 0] = 0.0
    alike = np.isclose(change[1:], change[:-1], rtol=1e-6, atol=1e-9).all(axis=1)
    alike &= np.isfinite(change[1:]).all(axis=1) & ((change[1:] != 0).sum(axis=1) == 1)
    out = np.zeros(len(points), dtype=np.int64)
    for t in range(2, len(points)):
        out[t] = min(out[t - 1] + 1, 2) if alike[t - 2] else 0
    return out
