"""Moderated tests: the variance ratio integrated over its posterior.

Given the ratios, a flat prior on beta and 1/sigma makes the posterior of c'beta a t with
N - p degrees of freedom, whose tails are exact (a location-scale family under its right-Haar
prior). Averaged over the posterior of the ratios, with the prior that the features share, the
one-sided tail is

    F = sum_k q_k T_nu(t_k),   t_k = c'beta_k / sqrt(sigma2_k c'Phi_k c),   p = 2 min(F, 1 - F).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, ndtri, stdtr, stdtrit

from donorwise.inference.grid import evaluate_grid, ratio_axes, tensor
from donorwise.inference.prior import Prior, fit_prior

if TYPE_CHECKING:
    from donorwise._typing import FloatArray
    from donorwise.lmm.crossproducts import Responses
    from donorwise.lmm.fit import Model

MIN_FEATURES = 100
_TAILS = (0.05, 0.001)  # two-sided levels at which (se, df) match the mixture
_NEWTON = 30
_SCORE = 1e-9  # accuracy of a quantile in normal scores


@dataclass(frozen=True, slots=True)
class Moderated:
    """Moderated inference for n contrasts of G features, every array (G, n)."""

    estimate: FloatArray
    se: FloatArray
    df: FloatArray
    p_value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


def refusal(model: Model, n_features: int) -> str:
    """Why moderation does not apply to a model and number of features; empty where it does."""
    if not 1 <= len(model.terms) <= 2:
        return f"the model has {len(model.terms)} random terms; moderation covers one or two"
    if any(len(t.term.columns) > 1 for t in model.terms):
        return "the model has correlated random slopes"
    if n_features < MIN_FEATURES:
        return f"{n_features} features are too few to learn a prior from ({MIN_FEATURES} are needed)"
    return ""


def grid_loglik(model: Model, response: Responses, axes: list[FloatArray]) -> FloatArray:
    """REML log-likelihood of G features on the grid, (G, points)."""
    return np.stack([point.loglik for point in evaluate_grid(model, response, tensor(axes))], axis=1)


def learn_prior(model: Model, response: Responses) -> tuple[Prior, FloatArray]:
    """The prior shared by the features, and the rank of each one's mean response."""
    axes = ratio_axes(model)
    rank = np.argsort(np.argsort(response.mean, kind="stable"), kind="stable") / max(response.mean.size - 1, 1)
    names = tuple(t.term.group for t in model.terms)
    return fit_prior(grid_loglik(model, response, axes), rank, axes, names), rank


def moderated_tests(
    model: Model, response: Responses, prior: Prior, rank: FloatArray, rows: FloatArray, level: float
) -> Moderated:
    """Test one-row contrasts `rows` (n, p) in the orthonormal basis, for features of one model."""
    nu = float(model.nu(reml=True))
    centre, scale, loglik = [], [], []
    for point in evaluate_grid(model, response, tensor(list(prior.axes))):
        variance = np.einsum("np,pr,nr->n", rows, point.Phi, rows)
        centre.append((response.ols + point.delta) @ rows.T)
        scale.append(np.sqrt(np.outer(point.R / nu, variance)))
        loglik.append(point.loglik)
    log_posterior = np.stack(loglik, axis=1) + np.log(prior.at(rank))
    posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    out = [
        _mixture(posterior, np.stack([c[:, i] for c in centre], 1), np.stack([s[:, i] for s in scale], 1), nu, level)
        for i in range(rows.shape[0])
    ]
    return Moderated(*(np.stack(column, axis=1) for column in zip(*out, strict=True)))


def _mixture(q: FloatArray, m: FloatArray, s: FloatArray, nu: float, level: float) -> tuple[FloatArray, ...]:
    """Summaries of the mixtures of t_nu at centres m with scales s and weights q, all (G, points)."""
    estimate = (q * m).sum(axis=1)
    lower, upper = _cdf(np.zeros(len(q)), q, m, s, nu), (q * stdtr(nu, m / s)).sum(axis=1)
    p_value = np.minimum(1.0, 2 * np.minimum(lower, upper))
    half = {alpha: _half_width(q, m, s, nu, alpha) for alpha in _TAILS}
    low, high = _quantile(q, m, s, nu, 0.5 - level / 2), _quantile(q, m, s, nu, 0.5 + level / 2)
    df = _df_of_ratio(half[_TAILS[1]] / half[_TAILS[0]])
    se = half[_TAILS[0]] / stdtrit(df, 1 - _TAILS[0] / 2)
    return estimate, se, df, p_value, low, high


def _cdf(x: FloatArray, q: FloatArray, m: FloatArray, s: FloatArray, nu: float) -> FloatArray:
    return np.asarray((q * stdtr(nu, (x[:, None] - m) / s)).sum(axis=1))


def _half_width(q: FloatArray, m: FloatArray, s: FloatArray, nu: float, alpha: float) -> FloatArray:
    return 0.5 * (_quantile(q, m, s, nu, 1 - alpha / 2) - _quantile(q, m, s, nu, alpha / 2))


def _quantile(q: FloatArray, m: FloatArray, s: FloatArray, nu: float, p: float) -> FloatArray:
    """Quantile of each mixture: Newton's method on normal scores, where a mixture of t is nearly straight."""
    target = ndtri(p)
    mean = (q * m).sum(axis=1)
    sd = np.sqrt((q * (s**2 + (m - mean[:, None]) ** 2)).sum(axis=1))
    x = mean + target * sd
    active = np.arange(x.size)
    for _ in range(_NEWTON):
        w, u = q[active], (x[active, None] - m[active]) / s[active]
        score = ndtri(np.clip((w * stdtr(nu, u)).sum(axis=1), 1e-300, 1 - 1e-16))
        density = (w * _t_density(u, nu) / s[active]).sum(axis=1)
        with np.errstate(divide="ignore"):
            step = (score - target) * np.exp(-0.5 * score**2) / (np.sqrt(2 * np.pi) * density)
        x[active] -= np.clip(step, -3 * sd[active], 3 * sd[active])
        active = active[np.abs(score - target) > _SCORE]
        if active.size == 0:
            break
    return x


def _t_density(u: FloatArray, nu: float) -> FloatArray:
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)
    return np.asarray(np.exp(constant - (nu + 1) / 2 * np.log1p(u**2 / nu)))


def _df_of_ratio(ratio: FloatArray) -> FloatArray:
    """Degrees of freedom of the t whose half-widths at the two levels have this ratio."""
    df = np.geomspace(1.0, 1e7, 400)
    table = stdtrit(df, 1 - _TAILS[1] / 2) / stdtrit(df, 1 - _TAILS[0] / 2)
    return np.asarray(np.exp(np.interp(-ratio, -table, np.log(df))))
