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
from donorwise._core.models.glmm.cell_kernels import Basis, Loadings, effects_of_cells, evaluate_cells, on_nodes
from donorwise._core.models.glmm.cell_sums import Cells
from donorwise._core.models.glmm.families import CLOGLOG, POISSON
from donorwise._core.models.lmm.components import cholesky_psd, relative_covariance, with_covariances

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.models.glmm.kernels import Rows
    from donorwise._core.models.lmm.equations import Equations
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
    order, prior_counts
        Shape (N,). Row of the design that stands at each place, and what is added to its counts.
    equations, places, width
        The bases of the random columns, of every term the place of each level's first column in its component, and the
        most columns of a component.
    cells, basis
        What the loops take.
    Z, within
        By random term, means of its columns in the patterns (P, r), and what is within them on `cells.U`, (m, r).
    """

    order: IntArray
    prior_counts: FloatArray
    equations: Equations
    places: tuple[IntArray, ...]
    width: int
    cells: Cells
    basis: Basis
    Z: tuple[FloatArray, ...]
    within: tuple[FloatArray, ...]

    def loadings(self, points: FloatArray) -> Loadings:
        """Lambda'z of patterns, and within them, at variances and correlations (T, parameters)."""
        equations, first = self.equations, self.cells.first[:-1]
        gamma, blocks = with_covariances(equations, points), equations.blocks
        T, P, m = len(points), first.size, len(self.cells.U)
        mean, within = np.zeros((T, P, self.width)), np.zeros((T, P, m, self.width))
        for t, (basis, Z, W) in enumerate(zip(equations.terms, self.Z, self.within, strict=True)):
            factor = cholesky_psd(relative_covariance(t, blocks.parameter, gamma))
            at, loaded = self.places[t][basis.term.codes[self.order[first]]], W @ factor
            for i, column in enumerate(np.moveaxis(Z @ factor, 2, 0)):
                mean[:, np.arange(P), at + i] = column
                within[:, np.arange(P), :, at + i] = loaded[:, :, i]
        return Loadings(mean, within)

    def _prepared(self, responses: FloatArray) -> FloatArray:
        """Responses (G, N) in order, with the prior counts."""
        return np.ascontiguousarray(responses[:, self.order] + self.prior_counts)

    def evaluate(
        self, responses: FloatArray, size: FloatArray, start: FloatArray, points: FloatArray, L: FloatArray,
        bases: FloatArray, values: FloatArray, null: float,
    ) -> tuple[FloatArray, ...]:  # fmt: skip
        """Likelihood (G, T), centre and scale (G, T, n) of contrasts L (n, p), and root (G, T, m), from responses (G, N).

        The roots are of m questions, the contrasts of each of which are `null`: so are they at the coefficients `values` (m, p),
        and at the sums of these and what is in `bases` (m, p, p - r).
        """
        loadings, T = self.loadings(points), len(points)
        loglik = np.empty((len(responses), T))
        centre, scale, root = (np.empty((len(responses), T, n)) for n in (len(L), len(L), len(bases)))
        fixed = self.basis
        nulls = Basis(*(np.ascontiguousarray(columns @ bases) for columns in (fixed.mean, fixed.within)),
                      *(values @ columns.T for columns in (fixed.mean, fixed.within)))  # fmt: skip
        evaluate_cells(
            self.cells, self._prepared(responses), size, fixed, nulls, null, loadings, _ratios(loadings),
            _orders(points), L, start, np.ascontiguousarray(start @ bases), loglik, centre, scale, root,
        )  # fmt: skip
        return loglik, centre, scale, root

    def modes(
        self, responses: FloatArray, size: FloatArray, start: FloatArray, points: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coefficients (G, p), standardised effects (G, C, q) and their covariances (G, C, q, q) at points (G, parameters)."""
        C, q = self.cells.starts.size - 1, self.width
        out = np.empty_like(start), np.empty((len(responses), C, q)), np.empty((len(responses), C, q, q))
        effects_of_cells(self.cells, self._prepared(responses), size, self.basis, self.loadings(points), start, *out)
        return out

    def collapsed(self, responses: FloatArray, beta: FloatArray) -> Iterator[Collapsed]:
        """Negative binomial counts of each feature as sums over patterns, its covariates having these coefficients."""
        y, P = responses[:, self.order], self.cells.first.size - 1
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


def separate(
    kernel: Rows, X: FloatArray, order: IntArray, pattern: IntArray, prior_counts: FloatArray, equations: Equations,
    places: tuple[IntArray, ...], width: int,
) -> Within | None:  # fmt: skip
    """The parts of a design's columns; None where every row is a pattern.

    `X`, `pattern` and `prior_counts` are in the order of the loops; for the others see :class:`Within`.
    """
    first = np.flatnonzero(np.r_[True, pattern[1:] != pattern[:-1], True])
    if first.size == pattern.size + 1:
        return None
    columns = [X, *(basis.columns.mean[order] for basis in equations.terms)]
    stacked = np.concatenate(columns, axis=1)
    mean = np.add.reduceat(stacked, first[:-1]) / np.diff(first)[:, None]
    U, within = _basis(stacked - np.repeat(mean, np.diff(first), axis=0), np.sqrt((stacked**2).sum(axis=0)))
    ends = np.cumsum([own.shape[1] for own in columns])[:-1]
    means, parts = ([np.ascontiguousarray(own) for own in np.split(a, ends, axis=1)] for a in (mean, within))
    cells = _cells(kernel, first, U, prior_counts)
    basis = Basis(means[0], parts[0], np.zeros(len(means[0])), np.zeros(len(parts[0])))
    return Within(order, prior_counts, equations, places, width, cells, basis, tuple(means[1:]), tuple(parts[1:]))


def _cells(kernel: Rows, first: IntArray, U: FloatArray, prior_counts: FloatArray) -> Cells:
    """Exposures and trials; as many failures as successes are added to yes/no data."""
    trials, t = kernel.shared[:, 0], kernel.t[:, 0]
    if kernel.code == POISSON:
        t = t * trials
    if kernel.code == CLOGLOG:
        trials = trials + 2 * prior_counts
    starts = np.searchsorted(first, kernel.starts)
    return Cells(kernel.code, starts, first, U, np.ascontiguousarray(t), np.ascontiguousarray(trials))


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
