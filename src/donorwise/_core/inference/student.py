"""Two-sided p-values of Student's t and their logarithms, which do not underflow, and the t that has a p-value.

With a = df / 2, x = df / (df + t²) and y = 1 - x the p-value is the incomplete beta function I_x(a, 1/2). In the middle
1 - p is summed, out in the tails a continued fraction of p is taken (Didonato and Morris 1992, ACM Trans Math Softw 18:360;
NIST Digital Library of Mathematical Functions, 8.17.8 and 8.17.22). Written with 1 / a both have a limit at df = inf, which
is the normal distribution, and the factor of both is the density,

    c x^(a + 1/2),   c = 2 Gamma(a + 1/2) / (Gamma(a) sqrt(pi df)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri_exp

from donorwise._core.models.lmm.algebra import entry, inner

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from donorwise._typing import FloatArray, IntArray

_FEW, _HALF = 6.5, 0.5  # t²x / 2 and y up to which the series has the fewer terms
_LAST = 1e-15  # relative, of a sum
_MOST = 500  # terms, never reached
_HUGE = 1e8  # t / sqrt(df) from which on 1 + t²/df is t²/df
_ASYMPTOTIC = 10.0  # a from which on the ratio of gamma functions is an asymptotic series to 1e-14
_INVERSE = 1.0 / (1.5 + np.arange(_MOST))
_LOG_2 = float(np.log(2.0))
_PER_TAIL = float(np.sqrt(np.pi / 2))  # t is at least this times 1 - p, for any df
_STEPS, _EXACT, _LONGEST = 60, 1e-13, 1.0  # of Newton's method: most, error that ends it and longest, in log x
_FURTHEST = 700.0  # log x


def log_two_sided(t: ArrayLike, df: ArrayLike) -> FloatArray:
    """Natural logarithm of the two-sided p-value of Student's t, for any size of it.

    Parameters
    ----------
    t
        Statistics, of any shape.
    df
        Degrees of freedom, above zero and not necessarily whole; inf is the normal distribution. `t` and `df`
        are broadcast.

    Returns
    -------
    FloatArray
        ``log P(|T| > |t|)``, to 1e-11 relative; NaN where `t` or `df` are NaN or df is not above zero.

    Examples
    --------
    >>> log_two_sided([0.0, 2.0, 1e4], 30.0).round(4)
    array([   0.    ,   -2.9073, -227.227 ])
    """
    t, df = np.broadcast_arrays(np.asarray(t, dtype=float), np.asarray(df, dtype=float))
    out = np.empty(t.shape)
    _log_tails(t.ravel(), df.ravel(), out.reshape(-1), np.empty(0))
    return out


def two_sided(t: ArrayLike, df: ArrayLike) -> FloatArray:
    """Two-sided p-value of Student's t, down to the smallest number; see :func:`log_two_sided`."""
    return np.asarray(np.exp(log_two_sided(t, df)))


def t_of_p(p: ArrayLike, df: ArrayLike) -> FloatArray:
    """The size of t that has the two-sided p-value `p`; see :func:`t_of_log_p`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return t_of_log_p(np.log(np.asarray(p, dtype=float)), df)


def t_of_log_p(log_p: ArrayLike, df: ArrayLike) -> FloatArray:
    """The size of t that has a two-sided p-value: the inverse of :func:`log_two_sided`.

    Parameters
    ----------
    log_p
        Natural logarithms of p-values, of any shape.
    df
        Degrees of freedom, above zero; inf is the normal distribution. Broadcast against `log_p`.

    Returns
    -------
    FloatArray
        Statistics, 0 for p = 1 and inf for p = 0 and beyond 1e304; NaN where `log_p` is above zero or NaN.

    Examples
    --------
    >>> t_of_log_p(np.log([1.0, 0.05, 1e-300]), 30.0).round(4)
    array([0.0000000e+00, 2.0423000e+00, 5.1351444e+10])
    """
    target, df = np.broadcast_arrays(np.asarray(log_p, dtype=float), np.asarray(df, dtype=float))
    shape, target, df = target.shape, target.ravel(), df.ravel()
    out = np.where(target == 0, 0.0, np.where(target == -np.inf, np.inf, np.nan))
    known = np.flatnonzero((target < 0) & (target > -np.inf) & (df > 0))
    target, df = target[known], df[known]

    def tail(log_t: FloatArray, at: IntArray) -> tuple[FloatArray, FloatArray]:
        log_tail, log_mass = np.empty((2, at.size))
        _log_tails(np.exp(log_t), df[at], log_tail, log_mass)
        return log_tail, -np.exp(log_mass - log_tail)

    log_t = solve_log(target, _normal_start(target, df), tail)
    out[known] = np.where(log_t < _FURTHEST, np.exp(log_t), np.inf)
    return out.reshape(shape)


def solve_log(
    target: FloatArray, log_x: FloatArray, tail: Callable[[FloatArray, IntArray], tuple[FloatArray, FloatArray]]
) -> FloatArray:
    """log x where the logarithm of a tail is `target`: Newton's method, since it is concave in log x.

    ``tail(log_x, at)`` gives log P and its slope in log x for some positions `at` of the targets.
    """
    log_x = np.clip(log_x, -_FURTHEST, _FURTHEST)
    at = np.arange(target.size)
    for _ in range(_STEPS):
        if not at.size:
            break
        log_tail, slope = tail(log_x[at], at)
        step = np.clip((target[at] - log_tail) / slope, -_LONGEST, _LONGEST)
        log_x[at] = np.minimum(log_x[at] + step, _FURTHEST)
        at = at[(np.abs(step) > _EXACT) & (log_x[at] < _FURTHEST)]
    return log_x


def _normal_start(log_p: FloatArray, df: FloatArray) -> FloatArray:
    """log t, nearly: df log(1 + t²/df) is nearly the square of the normal quantile."""
    square = ndtri_exp(log_p - _LOG_2) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        each = square / df
        log_t = 0.5 * np.where(df < np.inf, np.log(df) + each + np.log(-np.expm1(-each)), np.log(square))
        return np.asarray(np.maximum(log_t, np.log(_PER_TAIL * -np.expm1(log_p))))


@entry
def _log_tails(t: FloatArray, df: FloatArray, log_tail: FloatArray, log_mass: FloatArray) -> None:
    """log P(|T| > |t|) of arrays (n,), and, where `log_mass` is (n,) too, log(t f), f the density of |T| at t."""
    last, density = np.nan, np.nan
    for i in range(t.size):
        if df[i] != last:
            last, density = df[i], _density_at_zero(df[i])
        log_tail[i], mass = _log_tail(abs(t[i]), df[i], density)
        if log_mass.size:
            log_mass[i] = mass


@inner
def _density_at_zero(df: float) -> float:
    """c, the density of |T| at zero: a^(1/2) Gamma(a) / Gamma(a + 1/2) by its asymptotic series, from a below by steps."""
    if not df > 0.0:
        return np.nan
    if df == np.inf:
        return np.sqrt(2.0 / np.pi)
    a, factor = 0.5 * df, 1.0
    while a < _ASYMPTOTIC:
        factor *= a / (a + 0.5)
        a += 1.0
    e = 1.0 / a
    e2 = e * e
    series = e * (-1.0 / 8.0 + e2 * (1.0 / 192.0 + e2 * (-1.0 / 640.0 + e2 * (17.0 / 14336.0 - e2 * 31.0 / 18432.0))))
    return 2.0 * factor * np.exp(series) * np.sqrt(a / (np.pi * df))


@inner
def _log_tail(t: float, df: float, density: float) -> tuple[float, float]:
    """log P(|T| > t) and log(t f); NaN for NaN."""
    root = t / np.sqrt(df)
    if root < _HUGE:
        ratio = root * root
        x, y, log_x = 1.0 / (1.0 + ratio), ratio / (1.0 + ratio), -np.log1p(ratio)
        size = 0.5 * t * t * x  # a y
        height = 0.5 * (df + 1.0) * log_x if df < np.inf else -size
    else:  # t is NaN, too
        x, y, size = 1.0 / (root * root), 1.0, 0.5 * df
        height = -(df + 1.0) * np.log(root)
    if not density > 0.0:  # nor are there degrees of freedom
        return np.nan, np.nan
    if height == -np.inf:
        return -np.inf, -np.inf
    if size < _FEW and y < _HALF:
        middle = density * t * np.exp(height)
        return np.log1p(0.0 - middle * _middle_sum(size, y)), np.log(middle)
    mass = np.log(density * t) + height
    return mass + np.log(0.5 * _fraction(size, x, y, 2.0 / df)), mass


@inner
def _middle_sum(size: float, y: float) -> float:
    """F(a + 1/2, 1; 3/2; y), with which (1 - p) = c t x^(a + 1/2) F."""
    term, total = 1.0, 1.0
    for k in range(_INVERSE.size):
        term *= (size + (k + 0.5) * y) * _INVERSE[k]
        total += term
        if term < _LAST * total:
            break
    return total


@inner
def _fraction(size: float, x: float, y: float, e: float) -> float:
    """I_x(a, 1/2) over x^a y^(1/2) / B(a, 1/2), e = 1 / a: the continued fraction by Steed's method."""
    least = size - 0.5 * x + 1.0
    r = 1.0 / (1.0 + e)
    d = 1.0 / (least * r)
    term = total = d
    for n in range(1, _MOST):
        alpha = n * (n - 0.5) * (1.0 + (n - 1.0) * e) * (1.0 + (n - 0.5) * e) * (x * r) ** 2
        beta = n - n * (n - 0.5) * x * e * r
        r = 1.0 / (1.0 + (2.0 * n + 1.0) * e)
        beta += (1.0 + n * e) * r * (least + n * (1.0 + y))
        d = 1.0 / (beta - alpha * d)
        term *= beta * d - 1.0
        total += term
        if term < _LAST * total:
            break
    return total
