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
from donorwise._core.models.law import JointLaw, Law, joint_contrasts, joint_square, tensor
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
        """Bases of the coefficients at which each contrast is zero, (n, p, p - 1)."""
        p = self.model.rows.X.shape[1]
        return np.array([_null_space(c[None]) for c in self.L]).reshape(len(self.L), p, p - 1)

    @cached_property
    def _unit(self) -> FloatArray:
        """The shortest coefficients at which each contrast is one, (n, p)."""
        return np.asarray(self.L / (self.L**2).sum(axis=1, keepdims=True))

    def loglik(self, at: IntArray) -> FloatArray:
        """Restricted log-likelihood without its constant, (G, K)."""
        return self._carried(self._evaluate(at, self.L[:0], self._null[:0])[0])

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law of the contrasts; the likelihood comes with it."""
        loglik, centre, scale, root = self._evaluate(at, self.L, self._null)
        logarithm = self._carried(np.log(scale))
        return Law(self._carried(loglik), self._carried(centre), np.exp(logarithm), self._carried(root), np.inf)

    def joint(self, at: IntArray, loglik: FloatArray | None = None) -> JointLaw:
        """The law of all contrasts together: twice the log-likelihood, at given variances, that zeros in all of them cost."""
        loglik, centre, scale, root = self._evaluate(at, joint_contrasts(self.L), _null_space(self.L)[None])
        square, size = joint_square(np.moveaxis(centre, -1, 0), np.moveaxis(scale, -1, 0))
        F, wald = (np.maximum(self._carried(own), 0.0) / len(self.L) for own in (root[..., 0] ** 2, square))
        return JointLaw(self._carried(loglik), F, wald, np.exp(self._carried(np.log(size))), np.inf)

    def parts(self, at: IntArray, loglik: FloatArray) -> FloatArray:
        """Variance of every random term, and that of the latent response beside them, (G, K, T + 1)."""
        model, equations = self.model, self.model.rows.equations
        terms = mean_variances(equations, with_covariances(equations, self.points))
        out = np.empty((at.size, len(terms), terms.shape[1] + 1))
        out[:, :, :-1], out[:, :, -1] = terms, model.latent_variance[at, None]
        return out

    def root_at(self, at: IntArray, law: Law, null: float) -> FloatArray:
        """See :class:`donorwise._core.models.law.OnGrid`: the signed root of the likelihood ratio of this value."""
        return self._carried(self._evaluate(at, self.L, self._null, null)[3])

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """The estimates where they are logarithms of rates."""
        if not self.model.distribution.of_rates:
            return np.full((at.size, len(self.L)), np.nan)
        return np.einsum("gk,gkn->gn", weight, law.centre) / np.log(2)

    def _evaluate(self, at: IntArray, L: FloatArray, bases: FloatArray, null: float = 0.0) -> tuple[FloatArray, ...]:
        """Likelihood (G, T), centre and scale (G, T, n) of contrasts, and root (G, T, m) of m questions.

        The contrasts of a question are `null` at the sums of `null` times their unit and what is in its basis, of (m, p, p - r).
        """
        model, T, values = self.model, len(self._some), null * self._unit[: len(bases)]
        if model.rows.within is not None:
            return self._evaluate_cells(model.rows.within, at, L, bases, values, null)
        values_of_rows = model.rows.prepared(model.counts.block(at))
        loglik = np.empty((T, at.size))
        centre, scale, root = (np.empty((T, n, at.size)) for n in (len(L), len(L), len(bases)))
        start = np.ascontiguousarray(model.start[at].T)
        null_start = np.ascontiguousarray(np.swapaxes(bases, 1, 2) @ start)
        X = model.rows.X
        evaluate(
            model.rows.kernel, *values_of_rows, model.size[at], X, np.ascontiguousarray(X @ bases), values @ X.T, null,
            self._loadings, self._ratios, L, start, null_start, loglik, centre, scale, root,
        )  # fmt: skip
        loglik[:, ~np.isfinite(loglik).all(axis=0)] = 0.0  # their roots are missing; they say nothing of the prior
        return loglik.T, *(np.moveaxis(values, 2, 0) for values in (centre, scale, root))

    def _evaluate_cells(
        self, within: Within, at: IntArray, L: FloatArray, bases: FloatArray, values: FloatArray, null: float
    ) -> tuple[FloatArray, ...]:
        """The same from single cells, in blocks that fit into memory."""
        model = self.model
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


def _null_space(L: FloatArray) -> FloatArray:
    """An orthonormal basis (p, p - r) of the coefficients at which r independent contrasts (r, p) are zero."""
    return np.asarray(np.linalg.svd(L.T)[0][:, len(L) :])
