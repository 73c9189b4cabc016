"""Mixtures of t: their mean, p-value and quantiles, from tables of Student's t for very many values.

Every mixture has weights q, centres m and scales s, arrays (G, points), and one number of degrees of freedom nu;
``nu = inf`` makes it a mixture of normals.

With v = sqrt(nu) asinh(x / sqrt(nu)) the function log P(T > x) is smooth and nearly straight, far out too, so
polynomials on equal pieces of v hold it to 1e-12. For nu = inf, v = x and T is normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from donorwise._core.inference.kernels import distributions, t_density, tails_at_zero, tails_beyond
from donorwise._core.inference.matched import FAR, MIDDLE, match_t

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from donorwise._typing import FloatArray, IntArray

_DEGREE = 12
_WIDTH = 0.125  # of a piece, in v / sqrt(nu), up to these degrees of freedom; from there on the same in v
_WIDTH_UP_TO = 30.0
_LOG_FLOOR = 690.0  # the table ends where the density is exp(-690) of its height,
_STRAIGHT = 20.0  # or at this v / sqrt(nu), where log P is straight to the last digit
_NEAR, _PER = 12.0, 4.0  # end and pieces per unit of the table for values that are not far out
_HILL = 20.0  # degrees of freedom from which the normal score of t is exact to 1e-11
_ORDERS = np.arange(_DEGREE + 1)
_ANGLES = np.pi * (_ORDERS + 0.5) / (_DEGREE + 1)
_TO_CHEBYSHEV = np.where(_ORDERS > 0, 2.0, 1.0) * np.cos(np.outer(_ANGLES, _ORDERS)) / (_DEGREE + 1)
_TO_POWERS = np.array([np.pad(cheb2poly(row[: k + 1]), (0, _DEGREE - k)) for k, row in enumerate(np.eye(_DEGREE + 1))])


class TailTable(NamedTuple):
    """Polynomials for T with `nu` degrees of freedom, in -1 to 1 on every piece, the constant first.

    Attributes
    ----------
    nu, root
        Degrees of freedom and their square root.
    per, log_tail
        Pieces per unit of v, and shape (pieces, 13): log P(T > x) from zero.
    per_near, near
        Pieces per unit of x, and shape (pieces, 13, 2): P(T > x) and the density, for the middle of T.
    """

    nu: float
    root: float
    per: float
    log_tail: FloatArray
    per_near: float
    near: FloatArray


@lru_cache(maxsize=512)
def tail_table(nu: float) -> TailTable:
    """The table of `nu` degrees of freedom."""
    root = float(np.sqrt(nu))
    width = _WIDTH * min(root, float(np.sqrt(_WIDTH_UP_TO)))
    end = float(np.sqrt(2 * _LOG_FLOOR))
    if np.isfinite(nu):
        end = max(end, root * float(np.arccosh(np.exp(min(_LOG_FLOOR / (nu + 1), _STRAIGHT)))))
    v = _nodes(end, width)
    x = root * np.sinh(v / root) if np.isfinite(nu) else v
    near = _nodes(_NEAR, 1 / _PER)
    pair = np.stack([_polynomials(_middle(near, nu)), _polynomials(t_density(near, nu))], axis=2)
    with np.errstate(divide="ignore"):
        log_tail = np.log(stdtr(nu, -x))
    # the last piece goes beyond the end, with some degrees of freedom to where a tail is zero to the computer
    known = np.isfinite(log_tail).all(axis=1)
    return TailTable(nu, root, 1 / width, _polynomials(log_tail[known]), _PER, pair)


def _middle(x: FloatArray, nu: float) -> FloatArray:
    """P(T > x) for quantiles: by the normal score of t (Hill 1970, CACM 13(10), algorithm 395) from 20 df on."""
    if nu < _HILL or np.isinf(nu):
        return np.asarray(stdtr(nu, -x))
    a = nu - 0.5
    b = 48 * a**2
    z2 = a * np.log1p(x**2 / nu)
    z = np.sqrt(z2)
    bend = (((4 * z2 + 33) * z2 + 240) * z2 + 855) * z / (10 * b * (b + 0.8 * z2**2 + 100))
    return np.asarray(ndtr(-(z + (z2 + 3) * z / b - bend)))


def _nodes(end: float, width: float) -> FloatArray:
    """Chebyshev nodes on pieces of this width from zero to beyond `end`, (pieces, 13)."""
    middle = (np.arange(int(np.ceil(end / width))) + 0.5) * width
    return np.asarray(middle[:, None] + 0.5 * width * np.cos(_ANGLES))


def _polynomials(values: FloatArray) -> FloatArray:
    """Powers of the polynomials through values (pieces, 13) at the nodes; by Chebyshev's, to lose no digits."""
    return np.ascontiguousarray(values @ _TO_CHEBYSHEV @ _TO_POWERS)


_NEWTON = 40
_SCORE = 1e-5  # a Newton step from this error in normal scores leaves about its square
_TINY = 1e-280  # below it the table of tails comes to its end


@dataclass(frozen=True, slots=True)
class Summary:
    """Summaries of G mixtures, every array (G,): p is the mixture's, `statistic`, se, df and interval those of one t."""

    estimate: FloatArray
    se: FloatArray
    df: FloatArray
    statistic: FloatArray
    p_value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray


def summarise_mixture(
    q: FloatArray,
    m: FloatArray,
    s: FloatArray,
    nu: float | FloatArray,
    level: float,
    root: FloatArray | None = None,
) -> Summary:
    """Mean, two-sided p-value of zero, and the t with that p-value and the width of the mixture's 95% interval.

    See :mod:`donorwise._core.inference.matched`; the interval of `level` is that of the t. The p-value is that of
    the statistics `root` (G, points), m / s if None. `nu` may be an array (G,).
    """
    q, m, s = (np.ascontiguousarray(a) for a in (q, m, s))
    mean, half_width = _widths(q, m, s, nu)
    p_value = two_sided(q, *((m, s) if root is None else (root, np.ones_like(root))), nu)
    t = match_t(mean, p_value, half_width(MIDDLE, slice(None)), partial(half_width, FAR), nu)
    half = -stdtrit(t.df, 0.5 * _as_tail(level)) * t.se
    return Summary(mean, t.se, t.df, t.statistic, p_value, mean - half, mean + half)


def summarise_level(q: FloatArray, m: FloatArray, s: FloatArray, nu: float | FloatArray, level: float) -> Summary:
    """Mean, and the t with the widths of the mixture's 95% and 99.9% intervals: of a number that nobody compares with zero.

    A mean response is far from zero, or at no place of its own from there (a logarithm): where zero lies must not
    change what is said of it. The p-value is that of this t.
    """
    q, m, s = (np.ascontiguousarray(a) for a in (q, m, s))
    mean, half_width = _widths(q, m, s, nu)
    t = match_t(np.zeros_like(mean), np.ones_like(mean), half_width(MIDDLE, slice(None)), partial(half_width, FAR), nu)
    half = -stdtrit(t.df, 0.5 * _as_tail(level)) * t.se
    statistic = mean / t.se
    return Summary(mean, t.se, t.df, statistic, 2 * stdtr(t.df, -np.abs(statistic)), mean - half, mean + half)


def _widths(
    q: FloatArray, m: FloatArray, s: FloatArray, nu: float | FloatArray
) -> tuple[FloatArray, Callable[[float, IntArray | slice], FloatArray]]:
    """Means (G,) of mixtures, and what gives half the width of the central intervals of some of them beyond a tail."""
    mean = (q * m).sum(axis=1)
    sd = np.sqrt((q * (s**2 + (m - mean[:, None]) ** 2)).sum(axis=1))

    def half_width(alpha: float, at: IntArray | slice) -> FloatArray:
        own = nu[at] if isinstance(nu, np.ndarray) else nu
        low, high = (quantiles(q[at], m[at], s[at], own, p, mean[at], sd[at]) for p in (alpha / 2, 1 - alpha / 2))
        return 0.5 * (high - low)

    return mean, half_width


def _by_df(nu: FloatArray) -> Iterator[tuple[IntArray, float]]:
    """Mixtures that have the same degrees of freedom, and these."""
    if not nu.size:
        return
    values, group = np.unique(nu, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(group.ravel()[order], prepend=-1))
    yield from zip(np.split(order, starts[1:]), values.tolist(), strict=True)


def two_sided(q: FloatArray, m: FloatArray, s: FloatArray, nu: float | FloatArray) -> FloatArray:
    """p = 2 min(F, 1 - F), F the mixture's distribution function at zero; `nu` may be an array (G,)."""
    if isinstance(nu, np.ndarray):
        whole = np.empty(len(q))
        for at, own in _by_df(nu):
            whole[at] = two_sided(q[at], m[at], s[at], own)
        return whole
    # the side of zero where the mixture has little mass, so that small tails keep their digits
    tail = np.empty(len(q))
    tails_at_zero(np.ascontiguousarray(q), np.ascontiguousarray(m), np.ascontiguousarray(s), tail_table(nu), tail)
    tiny = tail < _TINY
    if tiny.any():
        tail[tiny] = (q[tiny] * stdtr(nu, -np.abs(m[tiny] / s[tiny]))).sum(axis=1)
    return np.asarray(2 * np.minimum(tail, 1 - tail))


def beyond(q: FloatArray, roots: FloatArray, nu: float | FloatArray) -> FloatArray:
    """p of the null hypothesis that an effect is at most delta in size, of G mixtures.

    With F(x) = sum_k q_k T_nu(-root_k(x)), the posterior probability of an effect below x, p is the smaller of F(delta) +
    F(-delta) and its complement to 2: the tails of both ends, on the side where there is little. At delta = 0 that is
    2 min(F, 1 - F), and of one t it is the p-value of McCarthy and Smyth (2009, Bioinformatics 25:765-771).

    Parameters
    ----------
    q
        Shape (G, K). Weights.
    roots
        Shape (2, G, K). Statistics of the values delta and -delta.
    nu
        Degrees of freedom, which may be an array (G,).
    """
    if isinstance(nu, np.ndarray):
        whole = np.empty(len(q))
        for at, own in _by_df(nu):
            whole[at] = beyond(q[at], roots[:, at], own)
        return whole
    side, tail = -np.sign((q * roots).sum(axis=(0, 2))), np.empty(roots.shape[:2])
    tails_beyond(side, np.ascontiguousarray(q), np.ascontiguousarray(roots), tail_table(nu), tail)
    tiny = (tail < _TINY).any(axis=0)
    if tiny.any():
        tail[:, tiny] = (q[tiny] * stdtr(nu, side[tiny, None] * roots[:, tiny])).sum(axis=2)
    p = tail.sum(axis=0)
    return np.asarray(np.minimum(p, 2 - p))


def _as_tail(level: float) -> float:
    """The two-sided tail beyond an interval of this coverage, without the rounding error of 1 - level."""
    return round(1 - level, 12)


def quantiles(
    q: FloatArray, m: FloatArray, s: FloatArray, nu: float | FloatArray, p: float, mean: FloatArray, sd: FloatArray
) -> FloatArray:
    """Quantile of each mixture: Newton's method on normal scores, where a mixture of t is nearly straight."""
    if isinstance(nu, np.ndarray):
        whole = np.empty(len(q))
        for at, own in _by_df(nu):
            whole[at] = quantiles(q[at], m[at], s[at], own, p, mean[at], sd[at])
        return whole
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
