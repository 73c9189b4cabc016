"""Features that each have rows of their own, such as the peptides of a protein: data, and how they are fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.ragged_design_kernels import explained_terms, kept_terms, least_squares, local_levels
from donorwise._core.models.lmm.ragged_fit_kernels import evaluate_ragged, fit_ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_CONSTANT = 1e-24  # sum of squares about the mean, relative to that about zero, of a feature that does not vary
_EXPLAINED = 1e-20  # that of residuals, relative to that about the mean, of a feature that the fixed effects explain
_SINGULAR = 1e-6  # variance, relative to what a level says of it, below which a fit is singular


@dataclass(frozen=True, slots=True)
class RaggedRows:
    """The rows of G features, one feature after another.

    Attributes
    ----------
    start
        Shape (G + 1,). Where the rows of a feature begin.
    pattern
        Shape (M,). Row of the design's X and Z that each measurement belongs to.
    y, w
        Shape (M,). Response and weight.
    codes
        Shape (M, T). Level of every random term.
    """

    start: IntArray
    pattern: IntArray
    y: FloatArray
    w: FloatArray
    codes: IntArray

    @property
    def n_features(self) -> int:
        """G."""
        return self.start.size - 1

    @property
    def n(self) -> IntArray:
        """Rows of every feature, (G,)."""
        return np.diff(self.start)

    @property
    def feature(self) -> IntArray:
        """Feature of every row, (M,)."""
        return np.repeat(np.arange(self.n_features), self.n)

    def alike(self, features: BoolArray) -> RaggedRows:
        """The same with the geometric mean of the weights for every row of some features (G,)."""
        total = np.bincount(self.feature, weights=np.log(self.w), minlength=self.n_features)
        mean = np.exp(total / np.maximum(self.n, 1))[self.feature]
        return replace(self, w=np.where(features[self.feature], mean, self.w))

    def take_rows(self, kept: BoolArray) -> RaggedRows:
        """The rows that are `kept` (M,)."""
        n = np.bincount(self.feature[kept], minlength=self.n_features)
        arrays = {name: getattr(self, name)[kept] for name in ("pattern", "y", "w", "codes")}
        return RaggedRows(np.concatenate([[0], np.cumsum(n)]), **arrays)

    def of(self, features: IntArray) -> tuple[IntArray, IntArray]:
        """Where rows of some features begin if there are no others, and which rows these are, in the order given."""
        n = self.n[features]
        start = np.concatenate([[0], np.cumsum(n)])
        return start, np.arange(int(start[-1])) + np.repeat(self.start[features] - start[:-1], n)

    def take_features(self, features: IntArray) -> RaggedRows:
        """The rows of some features, in the order given."""
        start, rows = self.of(features)
        arrays = {name: getattr(self, name)[rows] for name in ("pattern", "y", "w", "codes")}
        return RaggedRows(start, **arrays)


@dataclass(frozen=True)
class RaggedEquations:
    """What does not depend on the variances.

    Attributes
    ----------
    rows
        The rows.
    X
        Shape (K, p). Fixed-effects row of every pattern, in a basis in which X'X is one.
    factor
        Shape (p, p). R of X = QR: what takes coefficients of the formula to those of the basis.
    z
        Shape (K, T). Value of every random term's column.
    local, n_levels
        Shapes (M, T), (G, T). Levels, numbered feature by feature.
    grouped
        Shape (G, T). Terms that group a feature's rows, as neither each row by itself nor another term does.
    kept
        Shape (G, T). Those of them that a feature can tell: not explained by its fixed effects.
    basis, rank
        Shapes (G, p, p), (G,). Directions of X that a feature has rows for: the first `rank` columns.
    ols, residual
        Shapes (G, p), (M,). Weighted least squares.
    rss, spread, mean
        Shape (G,). Weighted sum of squares of the residuals, that about the mean, and the mean.
    log_weight
        Shape (G,). Sum of the logarithms of the weights.
    """

    rows: RaggedRows
    X: FloatArray
    factor: FloatArray
    z: FloatArray
    local: IntArray
    n_levels: IntArray
    grouped: BoolArray
    kept: BoolArray
    basis: FloatArray
    rank: IntArray
    ols: FloatArray
    residual: FloatArray
    rss: FloatArray
    spread: FloatArray
    mean: FloatArray
    log_weight: FloatArray

    @classmethod
    def of(cls, rows: RaggedRows, X: FloatArray, z: FloatArray, order: Sequence[int]) -> RaggedEquations:
        """Equations of the patterns' X (K, p), in the basis of the formula, and z (K, T).

        Of terms that cannot be told from one another that is kept which comes first in `order` (T,). Where one is left out
        since it cannot be told from the residual, as of donors with a row each, rows differ by more than their weights tell,
        and count alike: with the geometric mean of their weights.
        """
        Q, factor = np.linalg.qr(X)
        G, (M, T), p = rows.n_features, rows.codes.shape, X.shape[1]
        local, n_levels = np.zeros((M, T), dtype=np.int64), np.zeros((G, T), dtype=np.int64)
        local_levels(rows.start, rows.codes, int(rows.codes.max(initial=-1)) + 1, local, n_levels)
        grouped, explained = np.zeros((G, T), dtype=np.bool_), np.zeros((G, T), dtype=np.bool_)
        merged, looked = np.zeros(G, dtype=np.bool_), np.array(order, dtype=np.int64)
        kept_terms(
            rows.start, rows.pattern, local, n_levels, z, np.ascontiguousarray(Q), looked, grouped, merged
        )  # fmt: skip
        rows = rows.alike(merged)
        basis, rank, ols = np.zeros((G, p, p)), np.zeros(G, dtype=np.int64), np.zeros((G, p))
        residual, sums = np.zeros(M), np.zeros((G, 3))
        least_squares(rows.start, rows.pattern, rows.y, rows.w, Q, basis, rank, ols, residual, sums)
        explained_terms(rows.start, rows.pattern, local, n_levels, z, Q, basis, rank, grouped, explained)
        log_weight = np.asarray(np.bincount(rows.feature, weights=np.log(rows.w), minlength=G), dtype=np.float64)
        return cls(
            rows, np.ascontiguousarray(Q), factor, z, local, n_levels, grouped, grouped & ~explained, basis, rank, ols,
            residual, sums[:, 0], sums[:, 1], sums[:, 2], log_weight,
        )  # fmt: skip

    @cached_property
    def inverse(self) -> FloatArray:
        """What takes coefficients of the basis to those of the formula, (p, p)."""
        return np.asarray(np.linalg.inv(self.factor), dtype=np.float64)

    @property
    def p(self) -> int:
        """Number of fixed effects."""
        return self.X.shape[1]

    def nu(self, *, reml: bool) -> IntArray:
        """Denominators of sigma2, (G,)."""
        return self.rows.n - self.rank if reml else self.rows.n

    @property
    def data(self) -> tuple[np.ndarray, ...]:
        """What every kernel needs: start, pattern, residuals, weights, levels, columns of the terms, X."""
        own = self.rows
        return (own.start, own.pattern, self.residual, own.w, self.local, self.n_levels, self.z, self.X)

    @cached_property
    def typical_weight(self) -> float:
        """The geometric mean of all weights."""
        return float(np.exp(np.log(self.rows.w).mean())) if self.rows.w.size else 1.0

    @cached_property
    def information(self) -> FloatArray:
        """What a typical row says of a level of every term, in units of the residual variance, (T,): weight times column squared."""
        square = (self.z[self.rows.pattern] ** 2).mean(axis=0) if self.rows.w.size else np.ones(self.z.shape[1])
        return self.typical_weight * np.where(square > 0, square, 1.0)

    @cached_property
    def mean_squares(self) -> FloatArray:
        """Mean over a feature's rows of the square of every term's column, (G, T)."""
        rows = self.rows
        sums = [np.bincount(rows.feature, z[rows.pattern] ** 2, rows.n_features) for z in self.z.T]
        return np.stack(sums, axis=1).reshape(rows.n_features, -1) / np.maximum(rows.n, 1)[:, None]

    @property
    def reduced(self) -> BoolArray:
        """Features that lose a random term, (G,)."""
        return np.asarray(~self.kept.all(axis=1))

    @property
    def log_det_basis(self) -> FloatArray:
        """What takes log|X'V⁻¹X| of a feature's basis to that of the formula's columns, (G,)."""
        norms = np.sqrt((self.basis**2).sum(axis=1))
        columns = np.arange(self.p) < self.rank[:, None]
        own = -2 * np.log(np.where(columns, norms, 1.0)).sum(axis=1)
        return own + np.where(self.rank == self.p, 2 * np.linalg.slogdet(self.factor)[1], 0.0)

    @property
    def constant(self) -> BoolArray:
        """Features of which all rows have one value, (G,)."""
        square = self.spread + self.mean**2 * np.bincount(
            self.rows.feature, weights=self.rows.w, minlength=self.rows.n_features
        )
        return np.asarray((self.rows.n > 1) & (self.spread <= _CONSTANT * square))

    @property
    def explained(self) -> BoolArray:
        """Features that have no more rows than fixed effects, or that these explain, (G,)."""
        return np.asarray((self.nu(reml=True) < 1) | (self.rss <= _EXPLAINED * self.spread))

    def take(self, features: IntArray) -> RaggedEquations:
        """The equations of some features."""
        own, rows = self.rows, self.rows.of(features)[1]
        of_rows = {name: getattr(self, name)[rows] for name in ("local", "residual")}
        names = ("n_levels", "grouped", "kept", "basis", "rank", "ols", "rss", "spread", "mean", "log_weight")
        return replace(
            self, rows=own.take_features(features), **of_rows, **{name: getattr(self, name)[features] for name in names}
        )


@dataclass(frozen=True, slots=True)
class RaggedEstimates:
    """Estimates of G features, as :class:`~donorwise._core.models.lmm.equations.Estimates`.

    Phi is (X̃'V⁻¹X̃)⁻ in the basis, (G, p, p), of the directions that a feature has rows for; `delta` (G, p) the step from
    least squares, and `gamma` (G, T) is zero for terms that are left out.
    """

    reml: bool
    beta: FloatArray
    Phi: FloatArray
    delta: FloatArray
    gamma: FloatArray
    sigma2: FloatArray
    loglik: FloatArray
    status: StrArray
    n_iter: IntArray

    def take(self, features: IntArray | BoolArray) -> RaggedEstimates:
        """The estimates of some features."""
        names = ("beta", "Phi", "delta", "gamma", "sigma2", "loglik", "status", "n_iter")
        return RaggedEstimates(self.reml, **{name: getattr(self, name)[features] for name in names})


def fit_ragged_rows(equations: RaggedEquations, *, reml: bool) -> RaggedEstimates:
    """Fit every feature by itself."""
    G, T = equations.n_levels.shape
    usable = ~(equations.constant | equations.explained)
    gamma, n_iter, converged = np.zeros((G, T)), np.zeros(G, dtype=np.int64), np.zeros(G, dtype=np.bool_)
    shared = (equations.data, equations.basis, equations.rank, equations.kept)
    fit_ragged(*shared, usable, reml, gamma, n_iter, converged)
    info, likelihood = np.ones((G, T)), np.full((G, 4), np.nan)
    Phi, delta = np.zeros((G, equations.p, equations.p)), np.zeros((G, equations.p))
    evaluate_ragged(*shared, gamma, reml, info, likelihood, Phi, delta)
    return _estimates(equations, usable, gamma, n_iter, converged, info, likelihood, Phi, delta, reml=reml)


def _estimates(
    equations: RaggedEquations,
    usable: BoolArray,
    gamma: FloatArray,
    n_iter: IntArray,
    converged: BoolArray,
    info: FloatArray,
    likelihood: FloatArray,
    Phi: FloatArray,
    delta: FloatArray,
    *,
    reml: bool,
) -> RaggedEstimates:
    nu = equations.nu(reml=reml)
    _, R, logdet_V, logdet_X = likelihood.T
    found = usable & converged & np.isfinite(R) & np.isfinite(Phi).all(axis=(1, 2)) & np.isfinite(delta).all(axis=1)
    lost = np.where(found, 0.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        logdet = logdet_V + (logdet_X + equations.log_det_basis if reml else 0.0)
        loglik = -0.5 * (nu * (np.log(2 * np.pi * R / nu) + 1) + logdet - equations.log_weight)
        sigma2 = R / nu
    beta = (equations.ols + delta) @ equations.inverse.T
    singular = (equations.kept & (gamma * info < _SINGULAR)).any(axis=1)
    status = np.where(equations.reduced, "reduced", np.where(singular, "boundary", "ok"))
    status = np.where(found, status, "not_converged")
    status = np.where(usable, status, np.where(equations.constant, "constant", "not_estimable")).astype(STATUS_DTYPE)
    column = lost[:, None]
    return RaggedEstimates(
        reml, beta + column, Phi + lost[:, None, None], delta, gamma, sigma2 + lost, loglik + lost, status, n_iter
    )
