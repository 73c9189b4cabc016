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
from scipy.interpolate import make_interp_spline

from donorwise._core.models.glmm.law_kernels import evaluate
from donorwise._core.models.glmm.rows import feature_blocks
from donorwise._core.models.law import Law, tensor

if TYPE_CHECKING:
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray

_DEGREE = 5
_LARGEST_RATIO = 1e6  # of standard deviations at neighbouring points, where effects are carried over


@dataclass(frozen=True, slots=True)
class Axis:
    """Points of a variance or correlation: those that are worked out, and what carries them to all, (all, some)."""

    some: FloatArray
    carry: FloatArray


def thinned(points: FloatArray, most: int) -> Axis:
    """An axis that needs no more than `most` points above zero."""
    positive = points[points > 0]
    if points.min() < 0 or positive.size <= max(most, _DEGREE + 1):
        return Axis(points, np.eye(points.size))
    some = np.geomspace(positive[0], positive[-1], most)
    spline = make_interp_spline(np.log(some), np.eye(most), k=_DEGREE)
    carry = np.zeros((points.size, most + 1))
    carry[points == 0, 0] = 1.0
    carry[points > 0, 1:] = spline(np.log(positive))
    return Axis(np.concatenate([[0.0], some]), carry)


def axes_of(points: FloatArray) -> list[FloatArray] | None:
    """The axes whose combinations are these points (K, variances), in the order of `tensor`; None where there are none."""
    axes = [np.array(list(dict.fromkeys(column))) for column in points.T]
    if np.prod([axis.size for axis in axes]) != len(points) or not np.array_equal(tensor(axes), points):
        return None
    return axes


@dataclass(frozen=True)
class GLMMGrid:
    """A model at `points` (K, variances), for contrasts L (n, p) of the coefficients on X.

    Attributes
    ----------
    axes
        By variance; one of no points in all where the points are no grid.
    """

    model: GLMM
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
        size = np.sqrt((self._loadings**2).sum(axis=1))
        before = np.vstack([size[:1], size[:-1]])
        ratio = np.divide(before, size, out=np.zeros_like(size), where=size > 0)
        return np.where(ratio > _LARGEST_RATIO, 0.0, ratio)

    @cached_property
    def _constrained(self) -> FloatArray:
        """Columns for the coefficients at which each contrast is zero, (n, K, p - 1)."""
        X, p = self.model.rows.X, self.model.rows.X.shape[1]
        null = [np.linalg.svd(c[:, None])[0][:, 1:] for c in self.L]
        return np.ascontiguousarray([X @ N for N in null]).reshape(len(self.L), len(X), p - 1)

    def loglik(self, at: IntArray) -> FloatArray:
        """Restricted log-likelihood without its constant, (G, K)."""
        return self._carried(self._evaluate(at, self.L[:0])[0])

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law of the contrasts; the likelihood comes with it."""
        loglik, centre, scale, root = self._evaluate(at, self.L)
        logarithm = self._carried(np.log(scale))
        return Law(self._carried(loglik), self._carried(centre), np.exp(logarithm), self._carried(root), np.inf)

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """The estimates where they are logarithms of rates."""
        if not self.model.distribution.of_rates:
            return np.full((at.size, len(self.L)), np.nan)
        return np.einsum("gk,gkn->gn", weight, law.centre) / np.log(2)

    def _evaluate(self, at: IntArray, L: FloatArray) -> tuple[FloatArray, ...]:
        """Likelihood (G, T), and centre, scale and root (G, T, n)."""
        model, T, n = self.model, len(self._some), len(L)
        if model.rows.within is not None:
            return self._evaluate_cells(at, L)
        values = model.rows.prepared(model.counts.block(at))
        loglik = np.empty((at.size, T))
        centre, scale, root = (np.empty((at.size, T, n)) for _ in range(3))
        evaluate(
            model.rows.kernel, *values, model.size[at], model.rows.X, self._constrained[:n], self._loadings,
            self._ratios, L, model.start[at], loglik, centre, scale, root,
        )  # fmt: skip
        loglik[~np.isfinite(loglik).all(axis=1)] = 0.0  # their roots are missing; they say nothing of the prior
        return loglik, centre, scale, root

    def _evaluate_cells(self, at: IntArray, L: FloatArray) -> tuple[FloatArray, ...]:
        """The same from single cells, in blocks that fit into memory."""
        model, made = self.model, []
        null = np.array([np.linalg.svd(c[:, None])[0][:, 1:] for c in L]).reshape(len(L), L.shape[1], L.shape[1] - 1)
        for own in feature_blocks(model.counts, at):
            made.append(
                model.rows.within.evaluate(
                    model.counts, own, model.size[own], model.start[own], self._some, L, null
                )
            )
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
