"""The fitted Gaussian mixed models of features that each have rows of their own, as a frozen record."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from donorwise._core.models.fixed_part import own_variances
from donorwise._core.models.law import (
    MOST_TOGETHER,
    STATUS_DTYPE,
)
from donorwise._core.models.lmm.evaluate import Derived, with_residual
from donorwise._core.models.lmm.from_estimates import FromEstimates
from donorwise._core.models.lmm.ragged import fit_ragged_rows
from donorwise._core.models.lmm.ragged_df_kernels import column_df_ragged
from donorwise._core.models.lmm.ragged_effects import ragged_effects
from donorwise._core.models.lmm.ragged_grid import RaggedGrid, nodes_of
from donorwise._core.models.lmm.ragged_piece_kernels import pieces_ragged
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.law import Part
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._core.models.lmm.ragged import RaggedEquations, RaggedEstimates
    from donorwise._core.models.lmm.ragged_effects import RaggedEffects
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_MOST_TERMS = 3  # that a grid carries
_ENOUGH = 4_000  # features to learn a prior of three variances from
_POINTS = {1: (63, 250), 2: (23, 40), 3: (13, 18)}  # of an axis, usually and at most, for so many terms
_NUISANCE = 11  # points of the axis of a term that no contrast hangs on
_LOWEST, _HIGHEST, _BEYOND = 0.02, 30.0, 10.0
_MOST = 1e4  # of a nuisance, beyond which its effects are as good as fixed
_FURTHEST = 1e14  # of any, which weights that are nearly nothing would go beyond
_TINY = 1e-9  # of a contrast, outside of what a feature has rows for


@dataclass(frozen=True)
class RaggedLMM(FromEstimates):
    """G features with rows of their own (see :class:`donorwise._core.models.law.Model`).

    Attributes
    ----------
    design
        The design of a feature that has all rows.
    features
        Shape (G,). Their positions in the fit.
    equations, estimates
        Of the G features.
    nuisance
        Shape (T,). Terms whose variance matters little for contrasts, as that of peptides.
    fold
        What takes an estimate to a log2 fold change; NaN where it is none.
    """

    design: Design
    features: IntArray
    equations: RaggedEquations
    estimates: RaggedEstimates
    nuisance: tuple[bool, ...]
    fold: float

    named: ClassVar[tuple[str, str]] = ("protein", "proteins")
    fallback: ClassVar[str] = "kenward-roger"
    most_together: ClassVar[int] = MOST_TOGETHER
    abundance: ClassVar[None] = None

    @property
    def n_obs(self) -> IntArray:
        """Rows of every feature, (G,)."""
        return self.equations.rows.n

    @property
    def mean(self) -> FloatArray:
        """Mean responses, (G,)."""
        return self.equations.mean

    @cached_property
    def usable(self) -> IntArray:
        """Positions, within the model, of the features that have estimates."""
        return np.flatnonzero(np.isin(self.estimates.status, FITTED))

    @property
    def unmoderated(self) -> str:
        """Why the variances cannot lie on a grid; empty where they can."""
        n = len(self.nuisance)
        if 1 <= n <= _MOST_TERMS:
            return ""
        return f"moderation covers one to three variances of random effects and the model has {n}"

    @property
    def most_learned_from(self) -> int:
        """Features that are enough to learn a prior from."""
        return sys.maxsize if len(self.nuisance) < _MOST_TERMS else _ENOUGH

    def status(self, L: FloatArray) -> StrArray:
        """Status of every feature and contrast (n, p), (G, n)."""
        status = np.repeat(self.estimates.status[:, None], len(L), axis=1)
        fitted = np.isin(status, FITTED)
        status = np.where(fitted & (self.between_within(L) < 1), "too_few_donors", status)
        return np.where(fitted & ~self.estimable(L), "not_estimable", status).astype(STATUS_DTYPE)

    def estimable(self, L: FloatArray) -> BoolArray:
        """Which contrasts (n, p) lie in the directions that a feature has rows for, (G, n)."""
        return self._estimable(self.turned(L)[None])

    def _estimable(self, turned: FloatArray) -> BoolArray:
        """The same, (G, n), of contrasts of the coefficients, (1, n, p) or (G, n, p)."""
        basis = self.equations.basis
        norms = np.sqrt((basis**2).sum(axis=1, keepdims=True))
        unit = basis / np.where(norms > 0, norms, 1.0)
        inside = (turned @ unit) @ np.swapaxes(unit, 1, 2)
        return np.asarray(np.abs(inside - turned).max(axis=2) <= _TINY * np.abs(turned).max(axis=2))

    @cached_property
    def _column_df(self) -> FloatArray:
        own = self.equations
        df = np.empty((own.rows.n_features, own.p))
        columns = np.ascontiguousarray(self.design.X)
        column_df_ragged(own.rows.start, own.rows.pattern, own.local, own.n_levels, own.grouped, columns, df)
        return df

    def between_within(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of contrasts (n, p) by the inner-outer rule, (G, n)."""
        return np.stack(
            [
                self._column_df[:, np.flatnonzero(row)].min(axis=1)
                if row.any()
                else np.full(len(self.features), np.nan)
                for row in L
            ],
            axis=1,
        )

    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Names of the terms, and one for each."""
        return tuple(term.label for term in self.design.random_terms), (1.0,) * len(self.nuisance)

    def largest(self) -> FloatArray:
        """Largest estimate of every variance ratio, (T,)."""
        return np.asarray(self.estimates.gamma[self.usable].max(axis=0, initial=0.0))

    def axes(self, largest: FloatArray) -> list[FloatArray]:
        """Grid of every variance ratio: zero, then geometric from 0.02 / (rows of a large level) to 30 or beyond.

        These are ratios to the residual variance of a typical row, whatever the units of weights and columns.
        """
        own = self.equations
        usual, most = _POINTS[len(self.nuisance)]
        axes = []
        for t, estimate in enumerate(largest * own.information):
            level = float(np.max(own.rows.n[self.usable] / own.n_levels[self.usable, t], initial=1.0))
            doublings = np.ceil(np.log2(max(_BEYOND * estimate / _HIGHEST, 1.0)) - 1e-6)  # whatever rounds the estimate
            low, top = _LOWEST / level, min(_HIGHEST * 2.0**doublings, _FURTHEST)
            if self.nuisance[t]:
                axes.append(np.concatenate([[0.0], np.geomspace(low, min(top, _MOST), _NUISANCE)]))
                continue
            step = np.log(_HIGHEST / low) / (usual - 1)
            n = min(most, usual + int(np.ceil(np.log(top / _HIGHEST) / step - 1e-6)))
            axes.append(np.concatenate([[0.0], np.geomspace(low, top, n)]))
        return [axis / unit for axis, unit in zip(axes, own.information, strict=True)]

    def on(self, points: FloatArray, L: FloatArray | None = None) -> RaggedGrid:
        """The model at ratios (K, T), for contrasts (n, p)."""
        turned = np.empty((0, self.equations.p)) if L is None else self.turned(L)
        impossible = None if L is None else ~self.estimable(L)
        return RaggedGrid(self.equations, points, *nodes_of(points), turned, impossible, self.fold)

    @property
    def of_terms(self) -> IntArray:
        """The random term whose variance each axis is."""
        return np.arange(len(self.nuisance))

    @property
    def n_variances(self) -> int:
        """Parameters of the variance, that of the residuals among them."""
        return len(self.nuisance) + 1

    @property
    def residual_df(self) -> IntArray:
        """Observations less fixed effects, (G,)."""
        return self.equations.nu(reml=True)

    @property
    def coefficients(self) -> FloatArray:
        """Fixed effects in the orthonormal basis, (G, p)."""
        return self.estimates.beta @ self.equations.factor.T

    @property
    def vcov_beta(self) -> FloatArray:
        """Covariance of the fixed effects, (G, p, p), in the basis of the formula."""
        inverse = self.equations.inverse
        return inverse @ self.vcov @ inverse.T

    @property
    def theta(self) -> FloatArray:
        """Relative standard deviations of the terms, (G, T); NaN for those that are left out."""
        return np.sqrt(self._known_gamma)

    @property
    def n_parameters(self) -> IntArray:
        """Fixed effects, variances and covariances that a feature can tell, (G, 3)."""
        own = self.equations
        return np.stack([own.rank, own.kept.sum(axis=1), np.zeros_like(own.rank)], axis=1)

    def effects(self, t: int) -> RaggedEffects:
        """Random effects of term `t`."""
        return ragged_effects(self.equations, self.estimates, t)

    @property
    def _known_gamma(self) -> FloatArray:
        fitted = np.isfinite(self.estimates.sigma2)[:, None]
        return np.where(self.equations.kept & fitted, self.estimates.gamma, np.nan)

    def turned(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients."""
        return L @ self.equations.inverse

    def log_fc(self, L: FloatArray) -> FloatArray:
        """Log2 fold changes of contrasts (n, p), (G, n)."""
        return np.where(self.estimable(L), self.estimates.beta @ L.T, np.nan) * self.fold

    def covariances(self) -> list[FloatArray]:
        """Variance of every term, (G, 1, 1) each; NaN where it is left out."""
        return [own[:, None, None] for own in (self._known_gamma * self.estimates.sigma2[:, None]).T]

    def variances(self) -> FloatArray:
        """Variance over the rows of the fixed part, of every term, and of what is left, (G, 1 + terms + 1).

        NaN for terms that are left out; what is left is that of a row of the feature's typical weight, so that shares are free
        of units, and of what other features there are.
        """
        own = self.equations
        rows, n = own.rows, np.maximum(own.rows.n, 1)
        fitted = np.einsum("mp,mp->m", own.X[rows.pattern], self.coefficients[rows.feature])
        mean = np.bincount(rows.feature, fitted, rows.n_features) / n
        fixed = np.bincount(rows.feature, (fitted - mean[rows.feature]) ** 2, rows.n_features) / n
        typical = np.exp(own.log_weight / n)
        return np.column_stack([fixed, self.term_variances(), self.estimates.sigma2 / typical])

    @cached_property
    def column_spread(self) -> FloatArray:
        """Covariance over a feature's rows of the columns of X, (G, p, p)."""
        own, p = self.equations.rows, self.equations.p
        n = np.maximum(own.n, 1)

        def mean(values: FloatArray) -> FloatArray:
            return np.asarray(np.bincount(own.feature, values, own.n_features) / n)

        X = self.design.X[own.pattern]
        X = X - np.stack([mean(column) for column in X.T], axis=1)[own.feature]
        out = np.empty((own.n_features, p, p))
        for a in range(p):
            for b in range(a + 1):
                out[:, a, b] = out[:, b, a] = mean(X[:, a] * X[:, b])
        return out

    def fixed_variances(self) -> FloatArray:
        """Variance over the rows of every fixed term's own part, (G, terms); NaN for those that a feature has no rows for."""
        out = own_variances(self.beta, self.column_spread, self.design.terms)
        for j, columns in enumerate(self.design.terms.values()):
            told = np.zeros((out.shape[0], len(columns), self.equations.p))
            told[:, :, columns] = self.column_spread[:, columns, :][:, :, columns]
            out[~self._estimable(self.turned(told)).all(axis=1), j] = np.nan
        return out

    def term_variances(self) -> FloatArray:
        """Mean over the rows of every term's variance, (G, T)."""
        return self._known_gamma * self.equations.mean_squares * self.estimates.sigma2[:, None]

    def pieces(self) -> Pieces:
        """What the variances say about the fixed effects: what Kenward-Roger and Satterthwaite need."""
        own, estimates = self.equations, self.estimates
        (G, T), p = own.n_levels.shape, own.p
        at = Derived(
            np.zeros((G, T, p, p)), np.zeros((G, T, T, p, p)), np.zeros((G, T)), np.zeros((G, T, T)), np.zeros((G, T)),
            np.zeros((G, T, T)),
        )  # fmt: skip
        XVX = np.zeros((G, p, p))
        pieces_ragged(
            own.data, own.kept, estimates.gamma, estimates.Phi, estimates.delta, at.P, at.Q, XVX, at.tr1, at.tr2,
            at.quad1, at.quad2,
        )  # fmt: skip
        total = estimates.sigma2 * own.nu(reml=estimates.reml)
        parameter = np.stack([np.arange(T), np.zeros(T, dtype=np.int64), np.zeros(T, dtype=np.int64)], axis=1)
        return with_residual(
            at, estimates.gamma, estimates.Phi, XVX, own.rows.n, estimates.sigma2, total, parameter,
            reml=estimates.reml,
        )  # fmt: skip

    def take(self, at: IntArray | BoolArray) -> RaggedLMM:
        """The model of some of its features."""
        index = np.arange(self.features.size)[at]
        return replace(
            self,
            features=self.features[index],
            equations=self.equations.take(index),
            estimates=self.estimates.take(index),
        )

    def fitted_by(self, *, reml: bool) -> RaggedLMM:
        """The same features by REML, or by maximum likelihood."""
        if reml == self.estimates.reml:
            return self
        return replace(self, estimates=fit_ragged_rows(self.equations, reml=reml))

    @property
    def parameters(self) -> IntArray:
        """Term, row and column of every variance, (T, 3)."""
        return np.outer(np.arange(len(self.nuisance)), [1, 0, 0])

    def tells(self, part: Part) -> BoolArray:
        """Which features have a random term, (G,)."""
        return self.equations.kept[:, part.term]

    def loglik_without(self, part: Part) -> FloatArray:
        """Restricted log-likelihoods without a random term, (G,)."""
        kept = self.equations.kept & (np.arange(len(self.nuisance)) != part.term)
        return fit_ragged_rows(replace(self.equations, kept=kept), reml=True).loglik
