"""Intervals and tests for proportions of variance where three variances or more, or covariances, are estimated.

Null distributions of so many parameters are not simulated. An estimate is taken for normal about the true proportion with its
standard error, and cut off at zero and one: the interval holds the proportions h whose likelihood ratio, ((x - h)² less that
of the best h in [0, 1]) / se², is not beyond its own quantile (Feldman and Cousins 1998, Phys Rev D 57:3873, their example of a
bounded mean). A variance at zero has the standard error of the expected information there. The test is the restricted
likelihood ratio against the model without the term, whose law is taken for an equal mixture of zero and chi-squared (Self and
Liang 1987), of several terms for chi-squared, which is an upper bound.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from donorwise._core.inference.judged import COVERAGE, Judged
from donorwise._core.inference.likelihood_ratio import Extra, p_value
from donorwise._core.inference.profile_kernels import interval_ends
from donorwise._core.inference.proportions import numerators, proportions, standard_errors, weights_of
from donorwise._core.models.lmm.curvature import expected_covariance, free, ratio_covariance
from donorwise._core.models.lmm.reduced import loglik_without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.inference.proportions import Component
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._typing import FloatArray

_VALUES = np.linspace(0, 1, 401)
_ALMOST = 1e-6  # of a likelihood ratio that is none but for how optima were found


def judge_by_normal_law(
    equations: Equations, estimates: Estimates, components: Sequence[Component], scales: Sequence[str]
) -> Judged:
    """Intervals and tests of fitted features."""
    out = Judged.empty(estimates.sigma2.size, len(components), scales)
    for k, component in enumerate(components):
        ratio = 2 * (estimates.loglik - loglik_without(equations, estimates.responses, component.terms))
        out.statistic[:, k] = np.where(ratio < _ALMOST, 0.0, ratio)
        out.p_value[:, k] = p_value(out.statistic[:, k], _extra(equations, component))
    covariance = _covariance(equations, estimates)
    for scale in scales:
        weights = weights_of(equations, scale)
        numerator = numerators(equations, components, weights)
        x = proportions(estimates.gamma, numerator, weights)
        se = standard_errors(estimates.gamma, covariance, numerator, weights)
        for k in range(len(components)):
            out.intervals[scale][:, k] = bounded_interval(x[:, k], se[:, k])
    return out


def _covariance(equations: Equations, estimates: Estimates) -> FloatArray:
    """Covariance of the ratios (G, K, K); by the expected information of all of them where one is at zero."""
    out = np.empty((*estimates.gamma.shape, estimates.gamma.shape[1]))
    inside = free(equations, estimates.gamma).all(axis=1)
    for at, covariance in ((np.flatnonzero(inside), ratio_covariance), (np.flatnonzero(~inside), expected_covariance)):
        out[at] = covariance(equations, estimates.take(at))
    return out


def _extra(equations: Equations, component: Component) -> Extra:
    """Parameters that a component has."""
    term, row, column = equations.blocks.parameter.T
    own = np.isin(term, component.terms)
    return Extra(0, int((own & (row == column)).sum()), int((own & (row != column)).sum()))


def bounded_interval(x: FloatArray, se: FloatArray) -> FloatArray:
    """Intervals (G, 2) of proportions with normal estimates `x` and standard errors `se` (G,)."""
    ends = np.full((x.size, 2), np.nan)
    at = np.flatnonzero(np.isfinite(x) & (se > 0))
    own, sd = x[at, None], se[at, None]
    ratio = ((own - _VALUES) / sd) ** 2
    distance = np.minimum(_VALUES, 1 - _VALUES) / sd
    found = np.empty((at.size, 2))
    interval_ends(_VALUES, ratio, np.interp(distance, *_bounded_cut()), own[:, 0], found)
    ends[at] = found
    return ends


@lru_cache(maxsize=1)
def _bounded_cut() -> tuple[FloatArray, FloatArray]:
    """The quantile of the likelihood ratio of a normal mean that is some standard errors above its bound.

    For d of these the ratio of a deviation z is z² above -d, and -d² - 2dz below.
    """
    distance = np.concatenate([[1e-9], np.linspace(0.01, 2, 200)])
    cut = np.linspace(2, 4, 2001)[:, None]
    below = np.where(np.sqrt(cut) <= distance, -np.sqrt(cut), -(cut + distance**2) / (2 * distance))
    coverage = stats.norm.cdf(np.sqrt(cut)) - stats.norm.cdf(below)
    return distance, cut[np.argmax(coverage >= COVERAGE, axis=0), 0]
