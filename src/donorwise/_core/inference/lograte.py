"""Tests of contrasts in the model of log rates: the variances integrated over their posterior.

At a grid point k of the variances c'beta is N(m_k, s_k^2). With posterior weights q_k, from the
restricted likelihood and the prior that the genes of a fit share, the lower tail at zero is

    F = sum_k q_k Phi(-m_k / s_k),   p = 2 min(F, 1 - F).

Too few genes to learn a prior from: the variances at their REML estimate, and t with the degrees
of freedom that the design leaves (inner-outer rule).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from donorwise._core.inference import between_within
from donorwise._core.inference.grid import tensor
from donorwise._core.inference.mixture import Summary, summarise_mixture
from donorwise._core.inference.moderation import MIN_FEATURES
from donorwise._core.inference.prior import Prior, fit_prior
from donorwise._core.models.lograte.model import grid_law

if TYPE_CHECKING:
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._core.models.lograte.units import LogRates
    from donorwise._typing import FloatArray, IntArray

# Points of the axes of one variance, or of two (units, random term): with a shared prior, and without, where the
# best point is the estimate.
_POINTS = ((64,), (32, 10))
_FINE_POINTS = ((400,), (80, 40))
_PRIOR_GENES = 6_000  # more, evenly spaced in expression, make the prior no better


@dataclass(frozen=True, slots=True)
class LogRateTests:
    """Inference for n contrasts of G genes.

    Attributes
    ----------
    contrasts
        One summary per contrast, arrays (G,).
    variances
        Shape (G, 1 or 2). Posterior means (or REML estimates) of the variances.
    """

    contrasts: tuple[Summary, ...]
    variances: FloatArray


def grid(model: LogRateModel, n_genes: int) -> list[FloatArray]:
    """Axes of the variances: finer where too few genes share a prior."""
    points = _POINTS if n_genes >= MIN_FEATURES else _FINE_POINTS
    return model.axes(points[bool(model.group)])


def expression_rank(expression: FloatArray) -> FloatArray:
    """Ranks (G,) from 0 to 1; equal expression has equal rank."""
    return np.asarray((rankdata(expression) - 1) / max(expression.size - 1, 1))


def prior_genes(rank: FloatArray) -> IntArray:
    """The genes to learn a prior from: all, or many evenly spaced in expression; none where there are too few."""
    if rank.size < MIN_FEATURES:
        return np.empty(0, dtype=np.int64)
    even = np.linspace(0, rank.size - 1, min(rank.size, _PRIOR_GENES)).round().astype(np.int64)
    return np.argsort(rank, kind="stable")[even]


def learn_prior(model: LogRateModel, loglik: FloatArray, rank: FloatArray, n_genes: int) -> Prior:
    """The prior that `n_genes` share, from log-likelihoods (genes, K) and expression ranks of some of them."""
    names = ("unit", model.group)[: 1 + bool(model.group)]
    return fit_prior(loglik, rank, grid(model, n_genes), names)


def log_rate_tests(
    model: LogRateModel,
    rates: LogRates,
    axes: list[FloatArray],
    log_prior: FloatArray | None,
    L: FloatArray,
    level: float,
) -> LogRateTests:
    """Test the rows of L (n, p), given in the basis of the formula.

    Parameters
    ----------
    model, rates
        The units' design and the log rates of G genes in them.
    axes
        Grid of the variances.
    log_prior
        Shape (G, K); None to take the variances at their REML estimates.
    L
        Contrasts.
    level
        Coverage of the intervals.
    """
    points = tensor(axes)
    law = grid_law(model, rates, points, model.rows(L))
    df = np.full(len(L), np.inf)
    if log_prior is None:
        df = between_within.contrast_df(model.design, model.order.size, L)
        q = np.zeros_like(law.loglik)
        q[np.arange(len(q)), law.loglik.argmax(axis=1)] = 1.0
    else:
        q = law.loglik + log_prior
        q = np.exp(q - q.max(axis=1, keepdims=True))
        q /= q.sum(axis=1, keepdims=True)
    found = [
        summarise_mixture(q, law.centre[:, :, i].copy(), law.scale[:, :, i].copy(), nu, level)
        for i, nu in enumerate(df)
    ]
    return LogRateTests(tuple(found), q @ points)
