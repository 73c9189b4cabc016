"""Intervals of proportions of variance that hold near zero and one, and tests that a component is zero.

An interval holds the proportions that the restricted likelihood ratio does not reject at its own distribution there: a
Neyman construction ordered by likelihood ratios (Feldman and Cousins 1998, Phys Rev D 57:3873; for heritability Schweiger et
al. 2016, Am J Hum Genet 98:1181). The distributions come from :mod:`nulls`, at the optimum with the proportion given where
there is a second variance to be estimated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.inference.judged import COVERAGE, Judged
from donorwise._core.inference.nulls import Nulls, simulate_nulls
from donorwise._core.inference.profile_kernels import interval_ends
from donorwise._core.inference.profiles import FIRST, SECOND, TOTAL, Profiler
from donorwise._core.inference.proportions import weights_of
from donorwise._core.models.lmm.recent import once
from donorwise._core.models.lmm.surface import Surface, build_surface

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.inference.profiles import Profile
    from donorwise._core.inference.proportions import Component
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import FloatArray

_DOUBLES = 8_000_000  # of deviances at a time


def is_covered(equations: Equations) -> bool:
    """Whether the model has one variance, or two of terms with one column each."""
    return equations.spectrum is not None or equations.nodes is not None


class Judge:
    """Intervals and tests of the features of models with one or two variances.

    Parameters
    ----------
    equations
        The model whose rows null distributions are for.
    components
        Of which proportions.
    """

    def __init__(self, equations: Equations, components: Sequence[Component]) -> None:
        self.parts = tuple(_part(component, len(equations.terms)) for component in components)
        parts = tuple(dict.fromkeys((*self.parts, TOTAL)))
        made_from = (*equations.shared, weights_of(equations, "trace"), np.array(parts))
        self.equations, self.profiler = equations, _profiler(equations)
        self.nulls = once(Nulls, made_from, lambda: simulate_nulls(self.profiler, parts, COVERAGE))

    def of(self, equations: Equations, responses: Responses, scales: Sequence[str]) -> Judged:
        """Judge features of a model with the same terms, and perhaps fewer rows: at the points that the nulls are for."""
        own = equations is self.equations
        profiler = self.profiler if own else _profiler(equations, self.profiler.surface)
        out = Judged.empty(responses.rss.size, len(self.parts), scales)
        size = max(1, _DOUBLES // profiler.surface.logdet.size)
        factors = {scale: weights_of(equations, scale) / weights_of(equations, "trace") for scale in scales}
        for low in range(0, responses.rss.size, size):
            at = slice(low, low + size)
            found = profiler.of(responses.zty[at], responses.rss[at], tuple(dict.fromkeys(self.parts)))
            for k, part in enumerate(self.parts):
                profile = found[part]
                out.statistic[at, k] = profile.ratio[:, 0]
                out.p_value[at, k] = self.nulls.p_value(part, profile)
                ends = np.empty((profile.estimate.size, 2))
                interval_ends(profiler.values, profile.ratio, self.nulls.cut(part, profile), profile.estimate, ends)
                ends[out.p_value[at, k] > 1 - COVERAGE, 0] = 0.0  # cuts and tails are interpolated each for itself
                for scale, factor in factors.items():
                    out.intervals[scale][at, k] = _on_scale(profiler, part, profile, ends, factor)
        return out


def _part(component: Component, n_terms: int) -> str:
    """Which part of the total a component is."""
    if len(component.terms) == n_terms:
        return TOTAL
    return FIRST if component.terms == (0,) else SECOND


def _profiler(equations: Equations, like: Surface | None = None) -> Profiler:
    weights, totals = weights_of(equations, "trace"), np.empty(0) if like is None else like.totals
    made_from = (*equations.shared, weights, totals)
    return Profiler(once(Surface, made_from, lambda: build_surface(equations, weights, like)))


def _on_scale(profiler: Profiler, part: str, profile: Profile, ends: FloatArray, factor: FloatArray) -> FloatArray:
    """Ends of intervals (G, 2) where the variance of each term is `factor` (K,) times as large.

    What else varies at an end is as in the optimum there.
    """
    if (factor == 1).all():
        return _whole(profiler, ends)
    place = np.interp(ends, profiler.values, np.arange(profiler.values.size))
    low = np.minimum(place.astype(np.int64), profiler.values.size - 2)
    up = place - low
    row = np.arange(len(ends))[:, None]
    total, share = ((own[row, low] * (1 - up) + own[row, low + 1] * up) for own in (profile.total, profile.share))
    t = ends if part == TOTAL else np.maximum(profiler.total_at(total), ends)
    own = {TOTAL: t * profiler.share_at(share), FIRST: ends, SECOND: t - ends}[part]
    first, second = factor[0] * own, factor[-1] * (t - own)
    numerator = {TOTAL: first + second, FIRST: first, SECOND: second}[part]
    return _whole(profiler, numerator / (1 - t + first + second))


def _whole(profiler: Profiler, ends: FloatArray) -> FloatArray:
    """Ends of which the largest total counts as all of the variance."""
    return np.where(ends >= profiler.values[-1] - 1e-9, 1.0, ends)
