"""A prior on the variance ratios, shared by all features of a fit, learned from them.

Empirical Bayes by nonparametric maximum likelihood on a grid (Kiefer and Wolfowitz 1956;
Laird 1978), with a weak Dirichlet penalty. The weights are learned at knots of the rank of the mean
response and are linear between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.inference.kernels import em_counts

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

_KNOTS = (2, 6)  # fewest and most
_PER_KNOT = 200  # features that it takes to learn one knot more
_PENALTY = 0.5  # pseudo-features in all; more of them, spread over a grid of two terms, would cost power
_UNIFORM = 0.002
_MAX_ROUNDS = 300
_TOLERANCE = 0.01  # log-likelihood units, of all features together, gained by a round of three steps
_FEW = _PER_KNOT * (_KNOTS[1] - 1)  # features below which the prior is smoothed more: about so far (sd),
_FAR, _FEWEST_PASSES = 0.5, 4  # in logarithms of the ratio, and by no fewer passes


@dataclass(frozen=True, slots=True, repr=False)
class Prior:
    """Weights of the grid's points at knots of mean response.

    Attributes
    ----------
    axes
        Grid of each term's variance ratio, relative to the residual variance.
    terms
        Names of the terms.
    scale
        What takes each axis to the variance of the term's column as the formula has it (1 for intercepts).
    weights
        Shape (knots, points). Prior probabilities, the last axis fastest.
    knots
        Shape (knots,). Ranks of the mean response, from 0 to 1.
    objective
        Penalised log-likelihood before every EM step; it never falls.
    n_features
        Features that it was learned from.
    """

    axes: tuple[FloatArray, ...]
    terms: tuple[str, ...]
    scale: tuple[float, ...]
    weights: FloatArray
    knots: FloatArray
    objective: FloatArray
    n_features: int

    def at(self, rank: FloatArray) -> FloatArray:
        """Prior of features with mean-response ranks (G,), interpolated between knots: (G, points)."""
        return triangular(rank, self.knots) @ self.weights

    def marginal(self, term: int) -> FloatArray:
        """Weights (knots, points of the term's axis) of one term's ratio."""
        joint = self.weights.reshape(-1, *(a.size for a in self.axes))
        return joint.sum(axis=tuple(i + 1 for i in range(len(self.axes)) if i != term))

    def __repr__(self) -> str:
        zero = ", ".join(f"{term} {share:.0%}" for term, share in zip(self.terms, self.at_zero(), strict=True))
        return f"Prior of variance ratios from {self.n_features:,} features; share at zero: {zero}"

    def at_zero(self) -> FloatArray:
        """Prior probability that each term's variance is zero, averaged over the knots."""
        return np.array([self.marginal(t)[:, 0].mean() for t in range(len(self.axes))])


def fit_prior(
    loglik: FloatArray,
    rank: FloatArray,
    axes: list[FloatArray],
    terms: tuple[str, ...],
    scale: tuple[float, ...] | None = None,
    start: FloatArray | None = None,
) -> Prior:
    """Learn the prior from the grid log-likelihoods (G, points) of features with mean-response ranks (G,).

    `start` are weights (knots, points) to begin with, where a similar prior is known.
    """
    likelihood = np.exp(loglik - loglik.max(axis=1, keepdims=True))
    knots = np.linspace(0, 1, int(np.clip(1 + rank.size // _PER_KNOT, *_KNOTS)))
    uniform = np.full((knots.size, likelihood.shape[1]), 1 / likelihood.shape[1])
    # a similar prior that was learned from fewer or more features has other knots
    first = uniform if start is None else triangular(knots, np.linspace(0, 1, len(start))) @ start
    weights, objective = _em(likelihood, rank, first)
    smooth = _smoothed(weights, [a.size for a in axes], [_passes(a, rank.size) for a in axes])
    mixed = (1 - _UNIFORM) * smooth + _UNIFORM / smooth.shape[1]
    return Prior(tuple(axes), terms, scale or (1.0,) * len(axes), mixed, knots, objective, rank.size)


def triangular(rank: FloatArray, knots: FloatArray) -> FloatArray:
    """Weights (G, knots) of linear interpolation between equally spaced knots; rows sum to 1."""
    step = knots[1] - knots[0]
    return np.clip(1 - np.abs(rank[:, None] - knots) / step, 0, None)


def _passes(axis: FloatArray, n_features: int) -> int:
    """How often the weights along an axis are smoothed; a pass has a variance of half a step."""
    if n_features >= _FEW:
        return 1
    step = np.log(axis[2] / axis[1])
    return max(_FEWEST_PASSES, round(2 * (_FAR / step) ** 2))


def _em(likelihood: FloatArray, rank: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weights at the knots by EM from those given: a feature's prior mixes those of the two knots beside its rank.

    Pairs of steps are extrapolated (Varadhan and Roland 2008, scheme S3) where that raises the
    objective, which is kept per step and never falls.
    """
    pieces = len(weights) - 1
    knot = np.minimum((rank * pieces).astype(np.int64), pieces - 1)
    step = partial(_em_step, likelihood=likelihood, knot=knot, share=rank * pieces - knot)
    objective: list[float] = []
    for _ in range(_MAX_ROUNDS):
        once, before = step(weights)
        twice, middle = step(once)
        leap, reached = step(_extrapolated(weights, once, twice))
        objective += [before, middle]
        weights = leap if reached > middle else twice
        if max(reached, middle) - before < _TOLERANCE:
            break
    return weights, np.array(objective)


def _em_step(
    weights: FloatArray, *, likelihood: FloatArray, knot: IntArray, share: FloatArray
) -> tuple[FloatArray, float]:
    """Weights after one EM step, and the objective before it."""
    penalty = _PENALTY / weights.shape[1]
    counts = np.zeros_like(weights)
    objective = em_counts(likelihood, knot, share, weights, counts) + float(penalty * np.log(weights).sum())
    counts = weights * counts + penalty
    return counts / counts.sum(axis=1, keepdims=True), objective


def _extrapolated(weights: FloatArray, once: FloatArray, twice: FloatArray) -> FloatArray:
    """Where the steps from `weights` to `once` to `twice` lead, knot by knot."""
    step = once - weights
    bend = (twice - once) - step
    norms = np.linalg.norm(step, axis=1, keepdims=True), np.linalg.norm(bend, axis=1, keepdims=True)
    length = np.maximum(1.0, norms[0] / np.maximum(norms[1], np.finfo(float).tiny))
    leap = weights + 2 * length * step + length**2 * bend
    leap = np.where((leap > 0).all(axis=1, keepdims=True), leap, np.maximum(leap, 0.1 * twice))
    return np.asarray(leap / leap.sum(axis=1, keepdims=True))


def _smoothed(weights: FloatArray, shape: list[int], passes: list[int]) -> FloatArray:
    """Smooth over neighbouring nonzero ratios along every axis, so often; mass at zero stays at zero."""
    out = weights.reshape(-1, *shape)
    for axis in range(1, out.ndim):
        for _ in range(passes[axis - 1]):
            moved = np.moveaxis(out, axis, -1)
            inner = np.pad(moved[..., 1:], [(0, 0)] * (moved.ndim - 1) + [(1, 1)], mode="edge")
            inner = 0.25 * inner[..., :-2] + 0.5 * inner[..., 1:-1] + 0.25 * inner[..., 2:]
            out = np.moveaxis(np.concatenate([moved[..., :1], inner], axis=-1), -1, axis)
    return out.reshape(weights.shape)
