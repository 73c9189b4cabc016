"""Tails, quantiles and summaries of mixtures of t distributions, one mixture per feature.

Every mixture has weights q, centres m and scales s, arrays (G, points), and one number of degrees
of freedom nu; ``nu = inf`` makes it a mixture of normals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from donorwise._core.inference.kernels import distributions, tails_at_zero
from donorwise._core.inference.tails import tail_table

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

_TAILS = (0.05, 0.001)  # two-sided levels at which (se, df) match the mixture
_NEWTON = 40
_SCORE = 1e-5  # a Newton step from this error in normal scores leaves about its square
_TINY = 1e-280  # below it the table of tails comes to its end


@dataclass(frozen=True, slots=True)
class Summary:
    """Summaries of G mixtures, every array (G,); (se, df) match their quantiles."""

    estimate: FloatArray
    se: FloatArray
    df: FloatArray
    p_value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


def summarise_mixture(
    q: FloatArray, m: FloatArray, s: FloatArray, nu: float, level: float, root: FloatArray | None = None
) -> Summary:
    """Mean, two-sided p-value of zero, central interval, and the (se, df) of a t with the same quantiles.

    The t matches half of the distance between the mixture's quantiles at the two-sided levels .05
    and .001. The p-value is that of the statistics `root` (G, points), m / s if None.
    """
    q, m, s = (np.ascontiguousarray(a) for a in (q, m, s))
    mean = (q * m).sum(axis=1)
    sd = np.sqrt((q * (s**2 + (m - mean[:, None]) ** 2)).sum(axis=1))
    quantiles = {
        alpha: [_quantile(q, m, s, nu, p, mean, sd) for p in (alpha / 2, 1 - alpha / 2)]
        for alpha in {*_TAILS, _as_tail(level)}
    }
    half = [0.5 * (high - low) for low, high in (quantiles[alpha] for alpha in _TAILS)]
    df = _df_of_ratio(half[1] / half[0])
    se = half[0] / stdtrit(df, 1 - _TAILS[0] / 2)
    return Summary(
        mean,
        se,
        df,
        two_sided(q, *((m, s) if root is None else (root, np.ones_like(root))), nu),
        *quantiles[_as_tail(level)],
    )


def two_sided(q: FloatArray, m: FloatArray, s: FloatArray, nu: float) -> FloatArray:
    """p = 2 min(F, 1 - F), F the mixture's distribution function at zero."""
    # the side of zero where the mixture has little mass, so that small tails keep their digits
    tail = np.empty(len(q))
    tails_at_zero(np.ascontiguousarray(q), np.ascontiguousarray(m), np.ascontiguousarray(s), tail_table(nu), tail)
    tiny = tail < _TINY
    if tiny.any():
        tail[tiny] = (q[tiny] * stdtr(nu, -np.abs(m[tiny] / s[tiny]))).sum(axis=1)
    return np.asarray(2 * np.minimum(tail, 1 - tail))


def _as_tail(level: float) -> float:
    """The two-sided tail beyond an interval of this coverage, without the rounding error of 1 - level."""
    return round(1 - level, 12)


def _quantile(
    q: FloatArray, m: FloatArray, s: FloatArray, nu: float, p: float, mean: FloatArray, sd: FloatArray
) -> FloatArray:
    """Quantile of each mixture: Newton's method on normal scores, where a mixture of t is nearly straight."""
    target, table = ndtri(p), tail_table(nu)
    x = mean + target * sd
    active = np.arange(x.size)
    for _ in range(_NEWTON):
        cdf, density = np.empty((2, active.size))
        distributions(x, active, q, m, s, table, cdf, density)
        score = ndtri(np.clip(cdf, 1e-300, 1 - 1e-16))
        with np.errstate(divide="ignore"):
            step = (score - target) * np.exp(-0.5 * score**2) / (np.sqrt(2 * np.pi) * density)
        x[active] -= np.clip(step, -3 * sd[active], 3 * sd[active])
        active = active[np.abs(score - target) > _SCORE]
        if not active.size:
            break
    return x


def _df_of_ratio(ratio: FloatArray) -> FloatArray:
    """Degrees of freedom of the t whose half-widths at the two levels have this ratio."""
    df = np.geomspace(1.0, 1e7, 400)
    table = stdtrit(df, 1 - _TAILS[1] / 2) / stdtrit(df, 1 - _TAILS[0] / 2)
    return np.asarray(np.exp(np.interp(-ratio, -table, np.log(df))))
