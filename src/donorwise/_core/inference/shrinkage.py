"""Adaptive shrinkage of the estimates of many features (Stephens 2017, Biostatistics 18:275-294).

The effects of a contrast are taken to come from one distribution with its mode at zero,

    theta ~ pi_0 delta_0 + sum_k pi_k N(0, s_k²),

on a grid of s_k, and (b - theta) / se has t(df). Given the precision w ~ Gamma(df/2, rate df/2) of a t, an estimate is
N(theta, se²/w) and everything has a closed form; w is integrated out by a rule in log w. The shares maximise

    sum_g log(sum_k pi_k l_gk) + 9 log pi_0,

Stephens' penalty, which leans to the null. A feature's posterior gives its mean, and the local false sign rate: the
probability that the effect has not the sign that is more probable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtr, stdtr, stdtrit

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray

MIN_TESTS = 20
"""Tests that a distribution of effects can be learned from."""

_NULL_WEIGHT = 9.0  # of log pi_0, Stephens' 10 less one
_FACTOR = np.sqrt(2.0)  # between standard deviations of the grid
_NORMAL = 1e8  # degrees of freedom from which t is normal to the last digit
_FAR = 34.0  # -log of a weight that is left out
_WIDEST, _PER_SD = 0.33, 0.7  # steps of the rule in log w, and in its standard deviations
_BUDGET = 100_000  # doubles of an array
_NEARLY_ONE, _USUAL = 0.9, (0.01, 0.99)  # p-value, and quantiles of widths and df of the other tests
_MOST_LOST = 0.05  # what is left of a test's likelihood, at least, after a step
_STEPS, _GAP = 200, 1e-9  # of the optimiser of the shares; of the log-likelihood, what can be gained at most


@dataclass(frozen=True, slots=True)
class Effects:
    """The distribution that the effects of G tests come from, and what it makes of them.

    Attributes
    ----------
    mean, lfsr
        Shape (G,). Posterior means, and local false sign rates; NaN for what has no standard error.
    sd, share
        Shape (K + 1,). Standard deviations of the components, zero first, and their shares.
    """

    mean: FloatArray
    lfsr: FloatArray
    sd: FloatArray
    share: FloatArray


def shrink(estimate: FloatArray, se: FloatArray, df: FloatArray) -> Effects:
    """Shrink the estimates (G,) of one contrast, with their standard errors and degrees of freedom (inf for normal ones).

    Tests without a standard error above zero take no part; :data:`MIN_TESTS` others are needed.
    """
    known = informative(estimate, se, df)
    b, (se, df) = estimate[known], steadied(estimate[known], se[known], df[known])
    sd = grid(b, se)
    share = fit_shares(_likelihood(b, se, df, sd))
    mean, lfsr = np.full(estimate.size, np.nan), np.full(estimate.size, np.nan)
    mean[known], lfsr[known] = _posterior(b, se, df, sd, share)
    return Effects(mean, lfsr, sd, share)


def informative(estimate: FloatArray, se: FloatArray, df: FloatArray) -> BoolArray:
    """Which tests (G,) say something of their effects."""
    return np.asarray(np.isfinite(estimate) & np.isfinite(se) & (se > 0) & (df > 0))


def steadied(b: FloatArray, se: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Standard errors and degrees of freedom, of p-values near 1 with what the interval's width says of them.

    Those of a moderated test are matched to its p-value, which says nothing of them where the estimate is nearly zero:
    one that lies beside the mixture's median makes them arbitrarily large or small. There the width of the interval, which
    is matched as well, and the degrees of freedom are kept in the range of the other tests.
    """
    p = 2 * stdtr(df, -np.abs(b / se))
    odd = p > _NEARLY_ONE
    if odd.all():
        return se, df
    width = -stdtrit(df, 0.025) * se
    width[odd] = np.clip(width[odd], *np.quantile(width[~odd], _USUAL))
    own = np.where(odd, np.clip(df, *np.quantile(df[~odd], _USUAL, method="nearest")), df)
    return np.where(odd, width / -stdtrit(own, 0.025), se), own


def grid(b: FloatArray, se: FloatArray) -> FloatArray:
    """Standard deviations (K + 1,), zero first: from a tenth of the smallest error to twice the largest effect that there is.

    Those of Stephens' ashr, ``autoselect.mixsd``.
    """
    least, excess = se.min() / 10, float((b**2 - se**2).max())
    most = 2 * np.sqrt(excess) if excess > 0 else 8 * least
    n = int(np.ceil(np.log(most / least) / np.log(_FACTOR)))
    return np.concatenate([[0.0], most * _FACTOR ** np.arange(-n, 1)])


# ---------------------------------------------------------------- t as a mixture of normals


class Rule(NamedTuple):
    """Of G tests, nodes of the error variance se²/w and their weights, (G, J)."""

    variance: FloatArray
    weight: FloatArray


def rule(b: FloatArray, se: FloatArray, df: FloatArray) -> Rule:
    """A trapezoidal rule in u = log w, which takes in all that t's gamma distribution and a null estimate leave probable.

    The density of u is c exp(df/2 (u - e^u)), and given an effect of zero the posterior of w is Gamma((df + 1)/2, rate
    (df + t²)/2), which lies further left the larger t is. Both fall off to the left as powers of w.
    """
    half, left, right = _extent(b, se, df)
    n = int(_nodes(half, left, right).max())
    u = left[:, None] + ((right - left) / (n - 1))[:, None] * np.arange(n)
    weight = np.exp(half[:, None] * (u - np.expm1(u)))
    return Rule(se[:, None] ** 2 * np.exp(-u), weight / weight.sum(axis=1, keepdims=True))


def _extent(b: FloatArray, se: FloatArray, df: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Half the degrees of freedom, and the ends of the rule."""
    half = 0.5 * np.minimum(df, _NORMAL)
    spread = np.sqrt(2 * _FAR / half)  # where u - e^u is nearly a parabola
    left = -np.log1p((b / se) ** 2 / (2 * half)) - np.where(spread < 1, spread, 1 + _FAR / half)
    return half, left, np.minimum(spread, np.log1p(_FAR / half + spread))


def _nodes(half: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """How many nodes each test needs."""
    step = np.minimum(_WIDEST, _PER_SD / np.sqrt(half + 0.5))
    return np.ceil((right - left) / step) + 1


def _blocks(b: FloatArray, se: FloatArray, df: FloatArray, K: int) -> Iterator[tuple[IntArray, FloatArray, Rule]]:
    """Positions of tests that need about as many nodes, their estimates (G, 1, 1) and rules (G, 1, J).

    Arrays (G, K, J) fit into the caches of a processor.
    """
    needed = _nodes(*_extent(b, se, df))
    order = np.argsort(needed, kind="stable")
    size = max(1, int(_BUDGET // (needed.max(initial=1) * K)))
    for first in range(0, b.size, size):
        at = order[first : first + size]
        own = rule(b[at], se[at], df[at])
        yield at, b[at, None, None], Rule(own.variance[:, None], own.weight[:, None])


def _joint(b: FloatArray, own: Rule, sd: FloatArray) -> FloatArray:
    """Likelihood of every component and node, (G, K + 1, J)."""
    precision = 1 / (own.variance + (sd**2)[:, None])
    out = np.exp((-0.5 * b**2) * precision)
    out *= np.sqrt(precision, out=precision)
    out *= own.weight / np.sqrt(2 * np.pi)
    return np.asarray(out)


def _likelihood(b: FloatArray, se: FloatArray, df: FloatArray, sd: FloatArray) -> FloatArray:
    """Likelihood of every component, (G, K + 1)."""
    out = np.empty((b.size, sd.size))
    for at, own_b, own in _blocks(b, se, df, sd.size):
        out[at] = _joint(own_b, own, sd).sum(axis=2)
    return out


def _posterior(
    b: FloatArray, se: FloatArray, df: FloatArray, sd: FloatArray, share: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Posterior means and local false sign rates, (G,)."""
    mean, lfsr = np.empty(b.size), np.empty(b.size)
    used = np.flatnonzero(share > 0)
    sd, share = sd[used], share[used]
    for at, own_b, own in _blocks(b, se, df, sd.size):
        q = _joint(own_b, own, sd) * share[:, None]
        q /= q.sum(axis=(1, 2), keepdims=True)
        kept = (sd**2)[:, None] / ((sd**2)[:, None] + own.variance)  # of the estimate
        mean[at] = (q * kept * own_b).sum(axis=(1, 2))
        spread = np.sqrt(kept * own.variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            other = np.where(spread > 0, ndtr(-np.abs(own_b) * kept / spread), 1.0)  # all of zero is no sign
        lfsr[at] = (q * other).sum(axis=(1, 2))
    return mean, lfsr


# ---------------------------------------------------------------- shares


def fit_shares(likelihood: FloatArray) -> FloatArray:
    """The shares (K + 1,) that maximise the penalised likelihood, from likelihoods (G, K + 1), the null first.

    Sequential quadratic programming on -sum_i w_i log(A pi)_i / W + sum(pi), which has the same optimum on pi >= 0 as the
    likelihood on the simplex (Kim, Carbonetto, Stephens and Anitescu 2020, J Comput Graph Stat 29:261-273): the quadratic
    model is a problem of non-negative least squares. The penalty is one more row, of the null alone.
    """
    A = np.vstack([np.eye(likelihood.shape[1])[:1], likelihood / likelihood.max(axis=1, keepdims=True)])
    weight = np.concatenate([[_NULL_WEIGHT], np.ones(len(likelihood))])
    share, total = np.full(A.shape[1], 1 / A.shape[1]), weight.sum()
    for _ in range(_STEPS):
        per = A / (A @ share)[:, None]
        gradient = weight @ per  # its largest entry exceeds the total by no less than is to be gained
        if gradient.max() - total < _GAP:
            break
        H = (per * weight[:, None]).T @ per
        better = _line_search(A, weight, share, _quadratic(H, 2 * gradient - total))
        if better is share:  # to the last digit
            break
        share = better
    return np.asarray(share / share.sum())


def _quadratic(H: FloatArray, c: FloatArray) -> FloatArray:
    """Minimise x'Hx / 2 - c'x on x >= 0."""
    scale = 1 / np.sqrt(np.diag(H))
    values, vectors = np.linalg.eigh(scale[:, None] * H * scale)
    root = np.sqrt(np.maximum(values, 1e-15 * values[-1]))
    return np.asarray(scale * nnls(root[:, None] * vectors.T, (vectors.T @ (scale * c)) / root, maxiter=50 * c.size)[0])


def _line_search(A: FloatArray, weight: FloatArray, share: FloatArray, towards: FloatArray) -> FloatArray:
    """The furthest point on the way (halving it) that is better, scaled to a sum of one.

    No test loses more than most of its likelihood in a step: where that is nearly zero the quadratic model is of no use.
    """
    before, step = A @ share, 1.0
    while step > 1e-10:
        new = share + step * (towards - share)
        new /= new.sum()
        ratio = (A @ new) / before
        if ratio.min() > _MOST_LOST and weight @ np.log(ratio) > 0:
            return np.asarray(new)
        step /= 2
    return share
