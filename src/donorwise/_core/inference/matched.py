"""The t distribution that stands for a posterior mixture in a table: statistic, se and df that agree with its p-value.

Given the two-sided p of zero, the mean and half the width w_alpha of the mixture's central interval, find (se, df) with

    P(|T_df| > |mean| / se) = p,   se t_df(1 - alpha/2) = w_alpha,   alpha = .05,

so that df solves P(|T_df| > t_df(1 - alpha/2) |mean| / w_alpha) = p, whose left side is monotone in df. The first
equation holds to rounding, whatever df is. Where no df from 1 to the mixture's own solves the second, the nearest
end is taken. Where p is near alpha every df solves both, and alpha = .001 takes the place of .05 by and by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from donorwise._core.inference.student import t_of_p

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._typing import FloatArray, IntArray

MIDDLE, FAR = 0.05, 0.001  # two-sided levels of the widths
_BLUR = 3.0  # p within this factor of .05 is near it
_FEWEST, _MOST = 1.0, 1e6  # degrees of freedom; more of them are those of the normal, and infinity has no mean
_INVERSE = np.linspace(0, 1, 4001)  # 1 / df
_STEPS = 40
_CLOSE = 1e-10  # of log p, where the search for df ends
_FURTHEST = 1e3  # log p, beyond the smallest number


class Matched(NamedTuple):
    """Arrays (G,): P(|T_df| > |statistic|) is the p-value, and statistic = estimate / se."""

    statistic: FloatArray
    se: FloatArray
    df: FloatArray


def match_t(
    estimate: FloatArray, p: FloatArray, half: FloatArray, far: Callable[[IntArray], FloatArray], nu: float | FloatArray
) -> Matched:
    """The t of every mixture from its mean, p-value and half-width at .05, (G,); `far` gives those of some at .001.

    `nu` are the degrees of freedom of what is mixed, of all or of each (G,).

    An estimate of zero and p = 1 have the statistic 0, and p = 0 has no quantile: their se is that of the width.
    """
    nu = np.broadcast_to(np.minimum(nu, _MOST), p.shape)
    none = (estimate == 0) | (p == 1)
    by_width = none | (p == 0)
    size, tail = np.where(by_width, half, np.abs(estimate)), np.where(by_width, MIDDLE, p)
    with np.errstate(all="ignore"):
        inverse = _inverse_df(size / half, tail, MIDDLE, nu)
        weight = _smooth(np.abs(np.log(tail / MIDDLE)) / np.log(_BLUR))
        near = np.flatnonzero(weight < 1)
        other = _inverse_df(size[near] / far(near), tail[near], FAR, nu[near])
        inverse[near] = weight[near] * inverse[near] + (1 - weight[near]) * other
        inverse[p == 0] = 1 / nu[p == 0]
        df = 1 / inverse
        se = size / t_of_p(tail, df)
        return Matched(np.where(none, 0.0, estimate / se), se, df)


def _smooth(x: FloatArray) -> FloatArray:
    """From 0 at 0 to 1 at 1 and beyond, flat at both ends."""
    x = np.minimum(x, 1.0)
    return np.asarray(x * x * (3 - 2 * x))


def _inverse_df(ratio: FloatArray, p: FloatArray, alpha: float, nu: FloatArray) -> FloatArray:
    """1 / df, from 1 / nu to 1, where P(|T_df| > t_df(1 - alpha/2) ratio) is p: regula falsi (Illinois), all at once."""
    at_alpha, sign = np.log(-stdtrit(1 / _INVERSE, alpha / 2)), np.where(p < alpha, 1.0, -1.0)

    def excess(inverse: FloatArray, at: IntArray) -> FloatArray:
        x = np.exp(np.interp(inverse, _INVERSE, at_alpha)) * ratio[at]
        value = sign[at] * np.log(2 * stdtr(1 / inverse, -x) / p[at])
        return np.clip(value, -_FURTHEST, _FURTHEST)

    at = np.arange(p.size)
    a, b = 1 / nu, 1 / np.minimum(_FEWEST, nu)
    fa, fb = excess(a, at), excess(b, at)
    out = np.where(fa >= 0, a, b)
    left = (fa < 0) & (fb > 0)
    for _ in range(_STEPS):
        at = at[left]
        a, b, fa, fb = (values[left] for values in (a, b, fa, fb))
        if not at.size:
            break
        new = b - fb * (b - a) / (fb - fa)
        value = excess(new, at)
        crossed = value * fb < 0
        a, fa = np.where(crossed, b, a), np.where(crossed, fb, 0.5 * fa)
        out[at], b, fb = new, new, value
        left = np.abs(value) > _CLOSE
    return out
