"""A prior on the variance ratios, shared by all features of a fit, learned from them.

Empirical Bayes by nonparametric maximum likelihood on a grid (Kiefer and Wolfowitz 1956;
Laird 1978), with a weak Dirichlet penalty, at knots of the rank of the mean response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

_KNOTS = 6
_PENALTY = 2.0
_UNIFORM = 0.002
_MAX_ITERATIONS = 500
_TOLERANCE = 1e-7
_SMOOTH_MORE = 300  # features below which the prior is smoothed more


@dataclass(frozen=True, slots=True, repr=False)
class Prior:
    """Weights of the grid's points at knots of mean response.

    Attributes
    ----------
    axes
        Grid of each term's variance ratio, relative to the residual variance.
    terms
        Names of the terms.
    weights
        Shape (knots, points). Prior probabilities, the last axis fastest.
    knots
        Shape (knots,). Ranks of the mean response, from 0 to 1.
    objective
        Penalised log-likelihood after every EM step, summed over knots.
    n_features
        Features that it was learned from.
    """

    axes: tuple[FloatArray, ...]
    terms: tuple[str, ...]
    weights: FloatArray
    knots: FloatArray
    objective: FloatArray
    n_features: int

    def at(self, rank: FloatArray) -> FloatArray:
        """Prior of features with mean-response ranks (G,), interpolated between knots: (G, points)."""
        return triangular(rank, self.knots) @ self.weights

    def __repr__(self) -> str:
        zero = ", ".join(f"{term} {share:.0%}" for term, share in zip(self.terms, self.at_zero(), strict=True))
        return f"Prior of variance ratios from {self.n_features:,} features; share at zero: {zero}"

    def at_zero(self) -> FloatArray:
        """Prior probability that each term's variance is zero, averaged over the knots."""
        shape = [a.size for a in self.axes]
        mean = self.weights.mean(axis=0).reshape(shape)
        return np.array([np.take(mean, 0, axis=i).sum() for i in range(len(shape))])


def fit_prior(loglik: FloatArray, rank: FloatArray, axes: list[FloatArray], terms: tuple[str, ...]) -> Prior:
    """Learn the prior from the grid log-likelihoods (G, points) of features with mean-response ranks (G,)."""
    likelihood = np.exp(loglik - loglik.max(axis=1, keepdims=True))
    knots = np.linspace(0, 1, _KNOTS)
    weights, objective = _em(likelihood, triangular(rank, knots))
    smooth = _smoothed(weights, [a.size for a in axes], passes=1 if rank.size >= _SMOOTH_MORE else 4)
    mixed = (1 - _UNIFORM) * smooth + _UNIFORM / smooth.shape[1]
    return Prior(tuple(axes), terms, mixed, knots, objective, rank.size)


def triangular(rank: FloatArray, knots: FloatArray) -> FloatArray:
    """Weights (G, knots) of linear interpolation between equally spaced knots; rows sum to 1."""
    step = knots[1] - knots[0]
    return np.clip(1 - np.abs(rank[:, None] - knots) / step, 0, None)


def _em(likelihood: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """EM at every knot: features count by their `share` (G, knots) in it.

    Returns
    -------
    (weights (knots, points), objective per step); the objective never falls.
    """
    points = likelihood.shape[1]
    penalty = _PENALTY / points
    weights = np.full((share.shape[1], points), 1 / points)
    objective: list[float] = []
    for _ in range(_MAX_ITERATIONS):
        marginal = likelihood @ weights.T
        objective.append(float((share * np.log(marginal)).sum() + penalty * np.log(weights).sum()))
        if len(objective) > 1 and objective[-1] - objective[-2] < _TOLERANCE * abs(objective[-1]):
            break
        counts = weights * ((share / marginal).T @ likelihood) + penalty
        weights = counts / counts.sum(axis=1, keepdims=True)
    return weights, np.array(objective)


def _smoothed(weights: FloatArray, shape: list[int], *, passes: int) -> FloatArray:
    """Smooth over neighbouring nonzero ratios along every axis; mass at zero stays at zero."""
    out = weights.reshape(-1, *shape)
    for axis in range(1, out.ndim):
        for _ in range(passes):
            moved = np.moveaxis(out, axis, -1)
            inner = np.pad(moved[..., 1:], [(0, 0)] * (moved.ndim - 1) + [(1, 1)], mode="edge")
            inner = 0.25 * inner[..., :-2] + 0.5 * inner[..., 1:-1] + 0.25 * inner[..., 2:]
            out = np.moveaxis(np.concatenate([moved[..., :1], inner], axis=-1), -1, axis)
    return out.reshape(weights.shape)
