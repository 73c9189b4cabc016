"""The law of generalised models on a grid of variances, from few of its points.

Every number of a law is a smooth function of the logarithm of a variance, so that it is worked out at some points of
each axis and carried to all others by splines of degree five. A variance of zero is a point of its own, and so are
all points of an axis of correlations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.glmm.axes import Axis, ratios
from donorwise._core.models.glmm.law_kernels import evaluate
from donorwise._core.models.glmm.rows import feature_blocks
from donorwise._core.models.law import Law, tensor
from donorwise._core.models.lmm.components import mean_variances, with_covariances

if TYPE_CHECKING:
    from donorwise._core.models.glmm.features import CountFeatures
    from donorwise._core.models.glmm.within import Within
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True)
class GLMMGrid:
    """A model at `points` (K, variances), for contrasts L (n, p) of the coefficients on X.

    Attributes
    ----------
    axes
        By variance; one of no points in all where the points are no grid.
    """

    model: CountFeatures
    points: FloatArray
    L: FloatArray
    axes: tuple[Axis, ...]

    @cached_property
    def _some(self) -> FloatArray:
        """Points that are worked out, (T, variances)."""
        return tensor([axis.some for axis in self.axes]) if self.axes else self.points

    @cached_property
    def _loadings(self) -> FloatArray:
        return self.model.rows.loadings(self._some)

    @cached_property
    def _ratios(self) -> FloatArray:
        """Standard deviations of the columns of a component at the point before, relative to those at each, (T, q)."""
        return ratios(np.sqrt((self._loadings**2).sum(axis=1)))

    @cached_property
    def _null(self) -> FloatArray:
        """Orthonormal bases of the coefficients at which each contrast is zero, (n, p, p - 1)."""
        p = self.model.rows.X.shape[1]
        return np.array([np.linalg.svd(c[:, None])[0][:, 1:] for c in self.L]).reshape(len(self.L), p, p - 1)

    @cached_property
    def _constrained(self) -> FloatArray:
        """Columns for these coefficients, (n, K, p - 1)."""
        return np.ascontiguousarray(self.model.rows.X @ self._null)

    @cached_property
    def _unit(self) -> FloatArray:
        """The shortest coefficients at which each contrast is one, (n, p)."""
        return np.asarray(self.L / (self.L**2).sum(axis=1, keepdims=True))

    def loglik(self, at: IntArray) -> FloatArray:
        """Restricted log-likelihood without its constant, (G, K)."""
        return self._carried(self._evaluate(at, self.L[:0])[0])

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law of the contrasts; the likelihood comes with it."""
        loglik, centre, scale, root = self._evaluate(at, self.L)
        logarithm = self._carried(np.log(scale))
        return Law(self._carried(loglik), self._carried(centre), np.exp(logarithm), self._carried(root), np.inf)

    def parts(self, at: IntArray, loglik: FloatArray) -> FloatArray:
        """Variance of every random term, and that of the latent response beside them, (G, K, T + 1)."""
        model, equations = self.model, self.model.rows.equations
        terms = mean_variances(equations, with_covariances(equations, self.points))
        out = np.empty((at.size, len(terms), terms.shape[1] + 1))
        out[:, :, :-1], out[:, :, -1] = terms, model.latent_variance[at, None]
        return out

    def root_at(self, at: IntArray, law: Law, null: float) -> FloatArray:
        """See :class:`donorwise._core.models.law.OnGrid`: the signed root of the likelihood ratio of this value."""
        return self._carried(self._evaluate(at, self.L, null)[3])

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """The estimates where they are logarithms of rates."""
        if not self.model.distribution.of_rates:
            return np.full((at.size, len(self.L)), np.nan)
        return np.einsum("gk,gkn->gn", weight, law.centre) / np.log(2)

    def _evaluate(self, at: IntArray, L: FloatArray, null: float = 0.0) -> tuple[FloatArray, ...]:
        """Likelihood (G, T), and centre, scale and root, of contrasts that are `null`, (G, T, n)."""
        model, T, n = self.model, len(self._some), len(L)
        if model.rows.within is not None:
            return self._evaluate_cells(model.rows.within, at, L, null)
        values = model.rows.prepared(model.counts.block(at))
        loglik = np.empty((T, at.size))
        centre, scale, root = (np.empty((T, n, at.size)) for _ in range(3))
        start = np.ascontiguousarray(model.start[at].T)
        null_start = np.ascontiguousarray(np.swapaxes(self._null[:n], 1, 2) @ start)
        offset = null * self._unit[:n] @ model.rows.X.T
        evaluate(
            model.rows.kernel, *values, model.size[at], model.rows.X, self._constrained[:n], offset, null,
            self._loadings, self._ratios, L, start, null_start, loglik, centre, scale, root,
        )  # fmt: skip
        loglik[:, ~np.isfinite(loglik).all(axis=0)] = 0.0  # their roots are missing; they say nothing of the prior
        return loglik.T, *(np.moveaxis(values, 2, 0) for values in (centre, scale, root))

    def _evaluate_cells(self, within: Within, at: IntArray, L: FloatArray, null: float) -> tuple[FloatArray, ...]:
        """The same from single cells, in blocks that fit into memory."""
        model, bases, values = self.model, self._null[: len(L)], null * self._unit[: len(L)]
        made = [
            within.evaluate(
                model.counts.responses(own), model.size[own], model.start[own], self._some, L, bases, values, null
            )
            for own in feature_blocks(model.counts, at)
        ]
        loglik, *rest = (np.concatenate(parts) for parts in zip(*made, strict=True))
        loglik[~np.isfinite(loglik).all(axis=1)] = 0.0
        return loglik, *rest

    def _carried(self, values: FloatArray) -> FloatArray:
        """From (G, T, ...) to (G, K, ...)."""
        if not self.axes:
            return values
        rest = values.shape[2:]
        values = values.reshape(len(values), *(axis.some.size for axis in self.axes), -1)
        for i, axis in enumerate(self.axes):
            values = np.moveaxis(np.tensordot(values, axis.carry, axes=(i + 1, 1)), -1, i + 1)
        return values.reshape(len(values), len(self.points), *rest)
