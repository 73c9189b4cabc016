"""Log-densities of single observations with all constants, as arrays, and the derivatives that exact fits need.

With mu = exp(eta) (eta holds the logarithm of the exposure), r the size, m the trials, p = 1 / (1 + exp(-eta)),
z = exp(eta) and rho = log r:

    poisson   y eta - mu - log y!
    nb        sum_{k<y} log(1 + k/r) + y eta - (y + r) log(1 + mu/r) - log y!
    logit     y eta - m log(1 + exp(eta)) + log C(m, y)
    cloglog   y log(1 - exp(-z)) - (m - y) z + log C(m, y)

The form of the negative binomial loses no digits as r grows, and is Poisson's at r = inf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from donorwise._core.models.glmm.families import CLOGLOG, LOGIT, NB, POISSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._typing import FloatArray

_HIGHEST = 300.0  # of eta: beyond it exponentials are as good as infinite
_SUMMED = 32  # terms that are added one by one


class Slopes(NamedTuple):
    """Value and derivatives in eta, of the shape of eta."""

    value: FloatArray
    first: FloatArray
    second: FloatArray
    third: FloatArray


class SizeSlopes(NamedTuple):
    """Derivatives in log r of the value, of the first and of the second derivative, of the shape of eta."""

    value: FloatArray
    first: FloatArray
    second: FloatArray


def log_constant(code: int, y: FloatArray, trials: FloatArray) -> FloatArray:
    """What does not depend on any parameter: -log y!, or log C(m, y)."""
    if code in (POISSON, NB):
        return np.asarray(-special.gammaln(y + 1))
    return np.asarray(special.gammaln(trials + 1) - special.gammaln(y + 1) - special.gammaln(trials - y + 1))


def slopes(code: int, y: FloatArray, trials: FloatArray, size: float, eta: FloatArray) -> Slopes:
    """Log-density of every observation, without :func:`log_constant`, and its derivatives in eta.

    Parameters
    ----------
    code
        The family.
    y, trials
        Counts or successes, and the trials (which counts do not use); they broadcast with `eta`.
    size
        r; infinite for a negative binomial that is Poisson's.
    eta
        Linear predictor, with the logarithm of the exposure.
    """
    return _SLOPES[code](y, trials, size, np.minimum(eta, _HIGHEST))


def _poisson(y: FloatArray, trials: FloatArray, size: float, eta: FloatArray) -> Slopes:
    mu = np.exp(eta)
    return Slopes(y * eta - mu, y - mu, -mu, -mu)


def _nb(y: FloatArray, trials: FloatArray, size: float, eta: FloatArray) -> Slopes:
    if size == np.inf:
        return _poisson(y, trials, size, eta)
    ratio = np.exp(eta) / size
    w = ratio / (1 + ratio)
    variance = (y + size) * w * (1 - w)
    value = _rising(y, size)[0] + y * eta - (y + size) * np.log1p(ratio)
    return Slopes(value, y - (y + size) * w, -variance, -variance * (1 - 2 * w))


def _logit(y: FloatArray, trials: FloatArray, size: float, eta: FloatArray) -> Slopes:
    p = special.expit(eta)
    variance = trials * p * (1 - p)
    return Slopes(y * eta - trials * np.logaddexp(0, eta), y - trials * p, -variance, -variance * (1 - 2 * p))


def _cloglog(y: FloatArray, trials: FloatArray, size: float, eta: FloatArray) -> Slopes:
    z, failures = np.exp(eta), trials - y
    with np.errstate(over="ignore"):
        odds = z / np.expm1(z)
    log_p = np.log(-np.expm1(-np.maximum(z, 1e-300)))
    rest = 1 - z - odds
    turn = odds * rest
    third = turn * rest - odds * (z + turn)
    return Slopes(y * log_p - failures * z, y * odds - failures * z, y * turn - failures * z, y * third - failures * z)


_SLOPES: dict[int, Callable[[FloatArray, FloatArray, float, FloatArray], Slopes]] = {
    POISSON: _poisson,
    NB: _nb,
    LOGIT: _logit,
    CLOGLOG: _cloglog,
}


def size_slopes(y: FloatArray, size: float, eta: FloatArray) -> SizeSlopes:
    """Derivatives in log r of the negative binomial; w = mu / (mu + r) has the derivative -w (1 - w)."""
    ratio = np.exp(np.minimum(eta, _HIGHEST)) / size
    w = ratio / (1 + ratio)
    spread = w * (1 - w)
    value = _rising(y, size)[1] + (y + size) * w - size * np.log1p(ratio)
    return SizeSlopes(value, (y + size) * spread - size * w, (y + size) * spread * (1 - 2 * w) - size * spread)


def _rising(y: FloatArray, size: float) -> tuple[FloatArray, FloatArray]:
    """sum_{k<y} log(1 + k/r) and its derivative in log r, which is -sum_{k<y} k / (r + k).

    The first terms one by one, the others by the formula of Euler and Maclaurin, which has 13 digits from there on and,
    unlike differences of log Gamma, keeps them where r is large.
    """
    low = np.minimum(y, _SUMMED).astype(np.int64)
    k = np.arange(_SUMMED)
    value = np.concatenate([[0.0], np.cumsum(np.log1p(k / size))])[low]
    slope = -np.concatenate([[0.0], np.cumsum(k / (size + k))])[low]
    high = y > _SUMMED
    if high.any():
        value[high] += _logs_to(y[high], size) - _logs_to(np.array([float(_SUMMED)]), size)
        slope[high] -= _shares_to(y[high], size) - _shares_to(np.array([float(_SUMMED)]), size)
    return value, slope


def _logs_to(x: FloatArray, size: float) -> FloatArray:
    """What sum_k log(1 + k/r) is the difference of between two ends."""
    f, a = np.log1p(x / size), size + x
    return np.asarray(a * f - x - f / 2 + 1 / (12 * a) - 1 / (360 * a**3) + 1 / (1260 * a**5))


def _shares_to(x: FloatArray, size: float) -> FloatArray:
    """What sum_k k / (r + k) is the difference of between two ends."""
    a = size + x
    whole = x - size * np.log1p(x / size)
    return np.asarray(whole - x / (2 * a) + size * (1 / (12 * a**2) - 1 / (120 * a**4) + 1 / (252 * a**6)))
