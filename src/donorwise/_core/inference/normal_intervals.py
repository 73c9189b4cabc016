"""Intervals and tests for proportions of variance where three variances or more, or covariances, are estimated.

Null distributions of so many parameters are not simulated. With the standard error se(h) by the expected information, the
estimate of psi = integral of dh / se(h) is taken for normal about its true value with a variance of one, and cut off at the ends:
the interval holds the h whose likelihood ratio, (psi(x) - psi(h))² less that of the best h in [0, 1], is not beyond its own
quantile (Feldman and Cousins 1998, Phys Rev D 57:3873, their example of a bounded mean); it begins at zero where the test
does not reject that. What else varies keeps its shares of the rest. Standard errors depend on the design and the proportions
alone: they are worked out at some, and interpolated. The test is the restricted likelihood ratio against the model without the term, whose law is taken for an equal mixture of zero
and chi-squared (Self and Liang 1987), of several terms for chi-squared, which is an upper bound.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from donorwise._core.inference.judged import COVERAGE, Judged
from donorwise._core.inference.likelihood_ratio import Extra, p_value
from donorwise._core.inference.profile_kernels import interval_ends
from donorwise._core.inference.proportions import numerators, standard_errors, weights_of
from donorwise._core.models.lmm.curvature import expected_covariance
from donorwise._core.models.lmm.reduced import loglik_without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from donorwise._core.inference.proportions import Component
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._typing import BoolArray, FloatArray

_VALUES = np.linspace(0, 1, 101)
_ALMOST = 1e-6  # of a likelihood ratio that is none but for how optima were found
_SEED, _POINTS = 20_252, 240
_LEAST = 0.02  # of the residual where standard errors are worked out
_BLOCK = 500  # features at a time


def judge_by_normal_law(
    equations: Equations, estimates: Estimates, components: Sequence[Component], scales: Sequence[str]
) -> Judged:
    """Intervals and tests of fitted features."""
    out = Judged.empty(estimates.sigma2.size, len(components), scales)
    for k, component in enumerate(components):
        gone = np.isin(equations.blocks.parameter[:, 0], component.terms)
        ratio = 2 * (estimates.loglik - loglik_without(equations, estimates.responses, gone))
        out.statistic[:, k] = np.where(ratio < _ALMOST, 0.0, ratio)
        out.p_value[:, k] = p_value(out.statistic[:, k], _extra(equations, component))
    gamma = _some_ratios(equations)
    covariance = expected_covariance(equations, gamma)
    for scale in scales:
        weights = weights_of(equations, scale)
        numerator = numerators(equations, components, weights)
        se = standard_errors(gamma, covariance, numerator, weights)
        powers, own = _powers(_contributions(gamma, weights)), _contributions(estimates.gamma, weights)
        for k in range(len(components)):
            # a variance of balanced designs is a polynomial of degree four; errors count as shares of it
            variance = se[:, k, None] ** 2
            polynomial = np.linalg.lstsq(powers / variance, np.ones(len(powers)), rcond=None)[0]
            out.intervals[scale][:, k] = _intervals(own, numerator[k, weights > 0] > 0, polynomial, variance.min())
            out.intervals[scale][out.p_value[:, k] > 1 - COVERAGE, k, 0] = 0.0
    return out


def _extra(equations: Equations, component: Component) -> Extra:
    """Parameters that a component has."""
    term, row, column = equations.blocks.parameter.T
    own = np.isin(term, component.terms)
    return Extra(0, int((own & (row == column)).sum()), int((own & (row != column)).sum()))


def _some_ratios(equations: Equations) -> FloatArray:
    """Ratios (n, K) all over, without covariances."""
    rng, weights = np.random.default_rng(_SEED), weights_of(equations, "trace")
    variances = np.flatnonzero(weights > 0)
    # without some terms, or with little of the residual, as well as with all
    shares = rng.dirichlet(np.ones(variances.size + 1), _POINTS)
    shares[:, :-1] *= rng.random((_POINTS, variances.size)) < 0.7
    shares[:, -1] += 1 - shares.sum(axis=1)
    shares = _LEAST * np.eye(variances.size + 1)[-1] + (1 - _LEAST) * shares
    gamma = np.zeros((_POINTS, weights.size))
    gamma[:, variances] = shares[:, :-1] / shares[:, -1:] / weights[variances]
    return gamma


def _contributions(gamma: FloatArray, weights: FloatArray) -> FloatArray:
    """Proportions (n, variances) of the variances one by one."""
    own = (gamma * weights)[:, weights > 0]
    return np.asarray(own / (1 + own.sum(axis=1, keepdims=True)))


def _powers(h: FloatArray) -> FloatArray:
    """Terms of a polynomial of degree four, or less in many variables, (..., terms)."""
    n = h.shape[-1]
    degree = {1: 4, 2: 4, 3: 4, 4: 4, 5: 3, 6: 3}.get(n, 2)
    chosen = [own for d in range(1, degree + 1) for own in combinations_with_replacement(range(n), d)]
    return np.stack([np.ones(h.shape[:-1]), *(h[..., list(own)].prod(axis=-1) for own in chosen)], axis=-1)


def _intervals(h: FloatArray, own: BoolArray, polynomial: NDArray[Any], least: float) -> FloatArray:
    """Intervals (G, 2) of what the `own` (variances,) of proportions `h` (G, variances) have together.

    `polynomial` is that of the sampling variance, which is `least` at least.
    """
    x, out = h[:, own].sum(axis=1), np.full((len(h), 2), np.nan)
    found = np.flatnonzero(np.isfinite(x))
    for low in range(0, found.size, _BLOCK):
        at = found[low : low + _BLOCK]
        value = x[at, None]
        inside = np.where(value > 0, h[at][:, own] / np.where(value > 0, value, 1.0), 1 / own.sum())
        rest = np.where(value < 1, h[at][:, ~own] / np.where(value < 1, 1 - value, 1.0), 0.0)
        there = np.empty((at.size, _VALUES.size, own.size))
        there[:, :, own], there[:, :, ~own] = _VALUES[:, None] * inside[:, None], (1 - _VALUES[:, None]) * rest[:, None]
        se = np.sqrt(np.maximum(_powers(there) @ polynomial, least))
        psi = np.zeros(se.shape)
        psi[:, 1:] = np.cumsum(0.5 * np.diff(_VALUES) * (1 / se[:, 1:] + 1 / se[:, :-1]), axis=1)
        middle = np.array([np.interp(v, _VALUES, at_values) for v, at_values in zip(x[at], psi, strict=True)])
        cut = np.interp(np.minimum(psi, psi[:, -1:] - psi), *bounded_cut())
        ends = np.empty((at.size, 2))
        interval_ends(_VALUES, (psi - middle[:, None]) ** 2, cut, x[at], ends)
        out[at] = ends
    return out


@lru_cache(maxsize=1)
def bounded_cut() -> tuple[FloatArray, FloatArray]:
    """The quantile of the likelihood ratio of a normal mean that is some standard errors above its bound.

    For d of these the ratio of a deviation z is z² above -d, and -d² - 2dz below.
    """
    distance = np.concatenate([[1e-9], np.linspace(0.01, 2, 200)])
    cut = np.linspace(2, 4, 2001)[:, None]
    below = np.where(np.sqrt(cut) <= distance, -np.sqrt(cut), -(cut + distance**2) / (2 * distance))
    coverage = stats.norm.cdf(np.sqrt(cut)) - stats.norm.cdf(below)
    return distance, cut[np.argmax(coverage >= COVERAGE, axis=0), 0]
