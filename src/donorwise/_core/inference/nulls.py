"""Null distributions of likelihood ratios for proportions of variance, simulated once for all features of a design.

The likelihood ratio of a proportion does not depend on the fixed effects or the residual variance, so that for given rows,
covariates and kernels its distribution depends on the true proportions alone (Crainiceanu and Ruppert 2004, J R Stat Soc B
66:165). Random responses are drawn at some points of the grid, near the boundaries where distributions change within a
standard error at smaller steps, and all of them say something about every point: a response with deviances D has there the
density exp(-D / 2) of its direction, so that its weight is that over the mean of the densities of the points that it could have
been drawn at (Owen and Zhou 2000, J Am Stat Assoc 95:135). That gives tails of the test that a component is zero far beyond
what plain draws resolve, too: components that are not zero draw large ratios, which count little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from donorwise._core.inference.profiles import FIRST, SECOND, TOTAL, Profiler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.inference.profiles import Profile
    from donorwise._core.models.lmm.surface import Surface
    from donorwise._typing import BoolArray, FloatArray, IntArray

_SEED = 20_251
_SHARES = (0, 2, 4, 7, 10, 13, 16, 18, 20)  # of 21, at which responses are drawn
_NEAR = (0.0, 0.7, 1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 18.0)  # standard errors from no variance at all
_FAR, _FURTHER = 6.0, 12  # standard errors between totals further out, and most of these
_KERNEL = (6.0, 4.0, 1.0)  # weights of totals one and two further, far from any boundary
_DRAWS = {1: 1_000, 2: 150}  # at every point, by the number of variances
_LITTLE, _NOTHING = 1e-6, 1e-20  # weights, relative to the largest, that no quantile feels, and no tail
_RESOLVED = 30.0  # effective draws beyond a ratio of which the tail is known


@dataclass(frozen=True, slots=True)
class Nulls:
    """What is known of the likelihood ratios of each part of the variance.

    Attributes
    ----------
    shares, totals
        Places of the points, among the shares (l,) and the totals (j,) of the surface.
    quantiles
        By part, (l, j): that of the ratio of the true proportion at each point.
    tails
        By part, one (ratios, log p) for each of the totals (a single one of the total's) where the part is zero.
    """

    shares: IntArray
    totals: IntArray
    quantiles: dict[str, FloatArray]
    tails: dict[str, tuple[tuple[FloatArray, FloatArray], ...]]

    def cut(self, part: str, profile: Profile) -> FloatArray:
        """The quantile at the constrained optima of a profile, (G, H)."""
        table = self.quantiles[part]
        i, u = _between(self.shares, profile.share)
        j, v = _between(self.totals, profile.total)
        up = np.minimum(i + 1, len(self.shares) - 1)
        low, high = (table[k, j] * (1 - v) + table[k, j + 1] * v for k in (i, up))
        return np.asarray(low * (1 - u) + high * u)

    def p_value(self, part: str, profile: Profile) -> FloatArray:
        """p-values (G,) of the part being zero."""
        x, tails = profile.ratio[:, 0], self.tails[part]
        if len(tails) == 1:
            return np.exp(_log_tail(tails[0], x))
        j, v = _between(self.totals, profile.total[:, 0])
        out = np.zeros(x.size)
        for k, tail in enumerate(tails):
            weight = np.where(j == k, 1 - v, np.where(j + 1 == k, v, 0.0))
            at = weight > 0
            out[at] += weight[at] * _log_tail(tail, x[at])
        return np.exp(out)


def _between(places: IntArray, at: FloatArray) -> tuple[IntArray, FloatArray]:
    """The place below each of some, and how far they are from it to the next."""
    where = np.interp(at, places, np.arange(places.size))
    low = np.clip(where.astype(np.int64), 0, max(places.size - 2, 0))
    return low, where - low


def _log_tail(tail: tuple[FloatArray, FloatArray], x: FloatArray) -> FloatArray:
    """Log P(ratio >= x): beyond what was drawn that of chi-squared with one degree of freedom, brought to the last known."""
    ratios, log_p = tail
    inside = np.interp(x, ratios, log_p)
    beyond = stats.chi2.logsf(x, 1) - stats.chi2.logsf(ratios[-1], 1) + log_p[-1]
    return np.where(x <= 0, 0.0, np.where(x <= ratios[-1], inside, beyond))


def simulate_nulls(profiler: Profiler, parts: Sequence[str], coverage: float) -> Nulls:
    """Draw responses and take quantiles for intervals with a `coverage`, and tails."""
    surface = profiler.surface
    shares, totals, far = _points(surface)
    points = [(l, j) for l in shares for j in totals]
    log_density, ratios = _draws(profiler, points, tuple(parts))
    weights = np.exp(log_density - np.logaddexp.reduce(log_density, axis=1)[:, None])
    weights /= weights.sum(axis=0)
    quantiles, tails = {}, {}
    for part in parts:
        cuts = [_quantile(*_pooled(ratios[part], weights, k, far, _LITTLE), coverage) for k in range(len(points))]
        quantiles[part] = np.reshape(cuts, (len(shares), len(totals)))
        zero = [k for k, (l, j) in enumerate(points) if _is_zero(part, l, j, len(surface.lines))]
        tails[part] = tuple(_tail(*_pooled(ratios[part], weights, k, far, _NOTHING)) for k in zero)
    return Nulls(shares, totals, quantiles, tails)


def _points(surface: Surface) -> tuple[IntArray, IntArray, BoolArray]:
    """Places of shares and of totals at which responses are drawn, and which totals are far from any boundary."""
    last, step = surface.totals.size - 1, surface.errors
    shares = np.array(_SHARES) if len(surface.lines) > 1 else np.zeros(1, dtype=np.int64)
    near = np.array(_NEAR) / step
    n = int(np.clip((last - near[-1]) * step / _FAR, 3, _FURTHER))
    if last < 2 * near[-1]:
        close, further = np.concatenate([near, last - near, np.arange(0, last, _FAR / step)]), near[:0]
    else:
        close, further = np.concatenate([near, last - near[:3]]), np.linspace(near[-1], last - near[3], n + 2)[1:-1]
    close, further = np.clip(close, 0, last).round(), further.round()
    totals = np.unique(np.concatenate([close, further])).astype(np.int64)
    return shares.astype(np.int64), totals, np.isin(totals, further) & ~np.isin(totals, close)


def _pooled(
    ratio: FloatArray, weight: FloatArray, k: int, far: BoolArray, least: float
) -> tuple[FloatArray, FloatArray]:
    """Ratios at a point with their weights; far from a boundary, where laws change slowly, those of its neighbours as well."""
    l, j = divmod(k, far.size)
    at = [j + i for i in range(-2, 3) if far[j] and 0 <= j + i < far.size and far[j + i]] or [j]
    ratios, weights = [], []
    for i in at:
        own = weight[:, l * far.size + i]
        counted = own > least * own.max()
        ratios.append(ratio[counted, l * far.size + i])
        weights.append(own[counted] * _KERNEL[abs(i - j)])
    return np.concatenate(ratios), np.concatenate(weights)


def _is_zero(part: str, l: int, j: int, n_shares: int) -> bool:
    """Whether a part has no variance at a point; of the total only one such point counts."""
    return {TOTAL: j == 0 and l == 0, FIRST: l == 0, SECOND: l == n_shares - 1}[part]


def _draws(
    profiler: Profiler, points: Sequence[tuple[int, int]], parts: tuple[str, ...]
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Log densities (n, points) of random responses, and by part the ratios (n, points) of the proportions there."""
    surface, rng = profiler.surface, np.random.default_rng(_SEED)
    l, j = (np.array(own) for own in zip(*points, strict=True))
    each = _DRAWS[min(len(surface.lines), 2)]
    density = np.empty((each * len(points), len(points)))
    ratios: dict[str, FloatArray] = {part: np.empty_like(density) for part in parts}
    truth = {part: profiler.proportion(part, l.astype(np.float64), j.astype(np.float64)) for part in parts}
    for k, (share, total) in enumerate(points):
        at = slice(k * each, (k + 1) * each)
        D = surface.deviance(*surface.draw(share, total, each, rng))
        density[at] = -0.5 * D[:, l, j]
        for part, profile in profiler.of_deviance(D, parts).items():
            ratios[part][at] = ratio_at(profiler, profile, truth[part])
    return density, ratios


def ratio_at(profiler: Profiler, profile: Profile, h: FloatArray) -> FloatArray:
    """Likelihood ratios (G, n) of proportions `h` (n,): their signed roots are nearly straight between values."""
    values = profiler.values
    root = np.sqrt(profile.ratio) * np.sign(values - profile.estimate[:, None])
    low = np.clip(np.searchsorted(values, h, side="right") - 1, 0, values.size - 2)
    up = np.clip((h - values[low]) / (values[low + 1] - values[low]), 0, 1)
    return np.asarray((root[:, low] * (1 - up) + root[:, low + 1] * up) ** 2)


def _quantile(ratio: FloatArray, weight: FloatArray, coverage: float) -> float:
    order = np.argsort(ratio)
    mass = np.cumsum(weight[order])
    return float(np.interp(coverage, (mass - 0.5 * weight[order]) / mass[-1], ratio[order]))


def _tail(ratio: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratios, rising, and the logarithm of the weight of those as large, as far as enough draws are that large."""
    order = np.argsort(-ratio)
    own, x = weight[order], ratio[order]
    mass = np.cumsum(own)
    known = np.flatnonzero((mass**2 >= _RESOLVED * np.cumsum(own**2)) & (x > 0))
    kept = known[:: max(1, known.size // 2_000)][::-1]
    above = np.log(own[x > 0].sum() / mass[-1])
    return np.concatenate([[0.0], x[kept]]), np.concatenate([[above], np.log(mass[kept] / mass[-1])])
