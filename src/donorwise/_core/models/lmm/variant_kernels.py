"""Loops over pairs of a variant and a feature whose one ratio is estimated again."""

from __future__ import annotations

import numpy as np
from numba import njit

from donorwise._core.models.lmm.algebra import entry, inner

ROUNDING = 1e-12
"""Share of a sum of squares that is none: what is left of a response that a variant explains altogether."""
TINY = 1e-150
"""An estimate of nothing, whose standard error is still its ratio to the statistic."""
_MAX_ITERATIONS = 100
_STEP = 1e-8  # convergence is quadratic: the step after one this small (in log gamma) would be rounding
_ZERO = 1e-10  # ratio, relative to what levels say on average, below which it is zero
_FIRST = 0.1  # ratio, relative to that, from which the search starts where the null model's is zero
_FAR = 1e8  # ratio, relative to that, at which there is no residual variance
_LONG = 5.0  # longest step in log gamma


# Sums in any order, so that a processor does several terms at once.
_of_sums = njit(  # type: ignore[call-overload]
    nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True, fastmath={"reassoc", "contract", "nsz"}
)


@_of_sums
def _sums(gamma, s, u, v):
    """With h = 1 / (1 + gamma s): sums of uu h, uv h, vv h, and their first and second derivatives in gamma; of log h, too."""
    a0, a1, a2, b0, b1, b2, c0, c1, c2, d1, d2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(s.size):
        h = 1.0 / (1.0 + gamma * s[i])
        k = s[i] * h
        hu, hv = h * u[i], h * v[i]
        uu, uv, vv = hu * u[i], hu * v[i], hv * v[i]
        a0 += uu
        b0 += uv
        c0 += vv
        a1 += uu * k
        b1 += uv * k
        c1 += vv * k
        a2 += uu * k * k
        b2 += uv * k * k
        c2 += vv * k * k
        d1 += k
        d2 += k * k
    return a0, -a1, 2.0 * a2, b0, -b1, 2.0 * b2, c0, -c1, 2.0 * c2, d1, -d2


@_of_sums
def _values(gamma, s, u, v):
    """Sums of uu h, uv h and vv h alone."""
    a, b, c = 0.0, 0.0, 0.0
    for i in range(s.size):
        h = 1.0 / (1.0 + gamma * s[i])
        a += h * u[i] * u[i]
        b += h * u[i] * v[i]
        c += h * v[i] * v[i]
    return a, b, c


@inner
def _slope(gamma, s, u, v, nu, floor):
    """First and second derivative in gamma of nu log(c - b²/a) + log a + sum log(1 + gamma s)."""
    a0, a1, a2, b0, b1, b2, c0, c1, c2, d1, d2 = _sums(gamma, s, u, v)
    c0 += floor
    r = b0 / a0
    r1 = (b1 - r * a1) / a0
    r2 = (b2 - 2.0 * r1 * a1 - r * a2) / a0
    Q = c0 - b0 * r
    Q1 = c1 - b1 * r - b0 * r1
    Q2 = c2 - b2 * r - 2.0 * b1 * r1 - b0 * r2
    first = nu * Q1 / Q + a1 / a0 + d1
    second = nu * (Q2 / Q - (Q1 / Q) ** 2) + a2 / a0 - (a1 / a0) ** 2 + d2
    return first, second


@inner
def _ratio(s, u, v, nu, floor, start, unit):
    """Safeguarded Newton in log gamma from the ratio of the null model; at most `_FAR`, where nothing changes any more."""
    lower, upper = 0.0, np.inf
    if start <= 0.0:
        if _slope(0.0, s, u, v, nu, floor)[0] >= 0.0:
            return 0.0
        start = _FIRST * unit
    gamma = start
    for _ in range(_MAX_ITERATIONS):
        first, second = _slope(gamma, s, u, v, nu, floor)
        if first > 0.0:
            upper = gamma
        else:
            lower = gamma
        curvature = first * gamma + second * gamma * gamma
        step = -first * gamma / curvature if curvature > 0.0 else np.inf
        if abs(step) <= _STEP:
            return gamma * np.exp(step)
        trial = gamma * np.exp(step) if abs(step) < _LONG else -1.0
        if not (lower < trial < upper):
            if upper == np.inf:
                trial = 10.0 * lower
            elif lower > 0.0:
                trial = np.sqrt(lower * upper)
            else:
                trial = 0.1 * upper
        gamma = trial
        if upper < _ZERO * unit:
            return 0.0
        if lower > _FAR * unit:
            return _FAR * unit
    return gamma if upper - lower <= 1e-9 * upper else np.nan


@entry
def one_ratio_pairs(s, u, v, floor, variants, features, start, nu, out):
    """Estimate, standard error and ratio (n, 3) of pairs of columns u (V, q) and features v (G, q) in the eigenbasis."""
    unit = 1.0 / s.mean()
    for i in range(variants.size):
        x, y = u[variants[i]], v[features[i]]
        f = floor[features[i]]
        gamma = _ratio(s, x, y, nu, f, start[features[i]], unit)
        a, b, c = _values(gamma, s, x, y)
        c += f
        out[i, 0] = b / a
        out[i, 1] = np.sqrt(max(c - b * b / a, ROUNDING * c) / (nu * a))
        out[i, 2] = gamma
