"""Tails, quantiles and summaries of mixtures of t distributions, one mixture per feature.

Every mixture has weights q, centres m and scales s, arrays (G, points), and one number of degrees
of freedom nu; ``nu = inf`` makes it a mixture of normals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray

_TAILS = (0.05, 0.001)  # two-sided levels at which (se, df) match the mixture
_NEWTON = 40
_SCORE = 1e-5  # a Newton step from this error in normal scores leaves about its square
_NEGLIGIBLE = 1e-10  # weight of a point that no quantile reported here can feel
_HILL = 20.0  # degrees of freedom from which the normal score of t is exact to 1e-11


@dataclass(frozen=True, slots=True)
class Summary:
    """Summaries of G mixtures, every array (G,); (se, df) match their quantiles."""

    estimate: FloatArray
    se: FloatArray
    df: FloatArray
    p_value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


def summarise_mixture(q: FloatArray, m: FloatArray, s: FloatArray, nu: float, level: float) -> Summary:
    """Mean, two-sided p-value of zero, central interval, and the (se, df) of a t with the same quantiles.

    The t matches half of the distance between the mixture's quantiles at the two-sided levels .05
    and .001.
    """
    flat = _flatten(q, m, s, nu)
    half = {alpha: 0.5 * (_quantile(flat, 1 - alpha / 2) - _quantile(flat, alpha / 2)) for alpha in _TAILS}
    df = _df_of_ratio(half[_TAILS[1]] / half[_TAILS[0]])
    se = half[_TAILS[0]] / stdtrit(df, 1 - _TAILS[0] / 2)
    low, high = _quantile(flat, 0.5 - level / 2), _quantile(flat, 0.5 + level / 2)
    return Summary((q * m).sum(axis=1), se, df, two_sided(q, m, s, nu), low, high)


def two_sided(q: FloatArray, m: FloatArray, s: FloatArray, nu: float) -> FloatArray:
    """p = 2 min(F, 1 - F), F the mixture's distribution function at zero."""
    t = m / s
    # the side of zero where the mixture has little mass, so that small tails keep their digits
    t *= -np.sign((q * t).sum(axis=1, keepdims=True))
    tail = (q * stdtr(nu, t)).sum(axis=1)
    return np.asarray(2 * np.minimum(tail, 1 - tail))


@dataclass(frozen=True, slots=True)
class _Flat:
    """The points with weight, one mixture after another: `row` says whose, `first` where each begins."""

    q: FloatArray
    m: FloatArray
    s: FloatArray
    row: IntArray
    nu: float
    mean: FloatArray
    sd: FloatArray

    def take(self, rows: BoolArray) -> _Flat:
        """Some of the mixtures."""
        kept = rows[self.row]
        row = (np.cumsum(rows) - 1)[self.row[kept]]
        return _Flat(self.q[kept], self.m[kept], self.s[kept], row, self.nu, self.mean[rows], self.sd[rows])

    def total(self, values: FloatArray) -> FloatArray:
        """Sums of values per point over every mixture."""
        return np.asarray(np.bincount(self.row, weights=values, minlength=self.mean.size), dtype=np.float64)


def _flatten(q: FloatArray, m: FloatArray, s: FloatArray, nu: float) -> _Flat:
    kept = q > _NEGLIGIBLE
    mean = (q * m).sum(axis=1)
    sd = np.sqrt((q * (s**2 + (m - mean[:, None]) ** 2)).sum(axis=1))
    return _Flat(q[kept], m[kept], s[kept], np.nonzero(kept)[0], nu, mean, sd)


def _quantile(flat: _Flat, p: float) -> FloatArray:
    """Quantile of each mixture: Newton's method on normal scores, where a mixture of t is nearly straight."""
    target = ndtri(p)
    x = flat.mean + target * flat.sd
    active = np.arange(x.size)
    for _ in range(_NEWTON):
        u = (x[active][flat.row] - flat.m) / flat.s
        z = normal_score(u, flat.nu)
        score = ndtri(np.clip(flat.total(flat.q * ndtr(z)), 1e-300, 1 - 1e-16))
        density = flat.total(flat.q * _t_density(u, flat.nu) / flat.s)
        with np.errstate(divide="ignore"):
            step = (score - target) * np.exp(-0.5 * score**2) / (np.sqrt(2 * np.pi) * density)
        x[active] -= np.clip(step, -3 * flat.sd, 3 * flat.sd)
        moving = np.abs(score - target) > _SCORE
        if not moving.any():
            break
        active, flat = active[moving], flat.take(moving)
    return x


def normal_score(u: FloatArray, nu: float) -> FloatArray:
    """The normal quantile at the probability of a t value (Hill 1970, CACM 13(10), algorithm 395)."""
    if nu < _HILL:
        return np.asarray(ndtri(np.clip(stdtr(nu, u), 1e-300, 1 - 1e-16)))
    if np.isinf(nu):
        return u
    a = nu - 0.5
    b = 48 * a**2
    z2 = a * np.log1p(u**2 / nu)
    z = np.sqrt(z2)
    bend = (((4 * z2 + 33) * z2 + 240) * z2 + 855) * z / (10 * b * (b + 0.8 * z2**2 + 100))
    return np.copysign(z + (z2 + 3) * z / b - bend, u)


def _t_density(u: FloatArray, nu: float) -> FloatArray:
    """Density of t; the constant's error of order 1/nu³ only bends a Newton step."""
    if np.isinf(nu):
        return np.asarray(np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi))
    constant = -1 / (4 * nu) - 0.5 * np.log(2 * np.pi)
    return np.asarray(np.exp(constant - (nu + 1) / 2 * np.log1p(u**2 / nu)))


def _df_of_ratio(ratio: FloatArray) -> FloatArray:
    """Degrees of freedom of the t whose half-widths at the two levels have this ratio."""
    df = np.geomspace(1.0, 1e7, 400)
    table = stdtrit(df, 1 - _TAILS[1] / 2) / stdtrit(df, 1 - _TAILS[0] / 2)
    return np.asarray(np.exp(np.interp(-ratio, -table, np.log(df))))
