"""Profiles of the restricted likelihood over proportions of variance.

The profile of a proportion h is the lowest deviance D of all points with this h (see :mod:`donorwise._core.models.lmm.surface`):
for the total at the total itself over all shares, for one of two terms along h = r t. The likelihood ratio

    LR(h) = min over r, t with h given of D - min over r, t of D

is what intervals and tests take. Minima are refined by parabolas, so that LR errs by less than a hundredth or so; responses
that a null distribution is made of have the same done to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.inference.profile_kernels import profile_part, profile_totals

if TYPE_CHECKING:
    from donorwise._core.models.lmm.surface import Surface
    from donorwise._typing import FloatArray, IntArray

TOTAL, FIRST, SECOND = "total", "first", "second"
_VALUES = 60  # of a proportion at which its profile is known, at most


class Profile(NamedTuple):
    """Of G responses at H values of a proportion: likelihood ratios, and the place of the constrained optimum.

    `ratio`, `share` and `total` (G, H), the last two as places among the shares and totals; `estimate` (G,).
    """

    ratio: FloatArray
    share: FloatArray
    total: FloatArray
    estimate: FloatArray


@dataclass(frozen=True)
class Profiler:
    """What profiles of all responses of a surface share."""

    surface: Surface

    @cached_property
    def chosen(self) -> IntArray:
        """Which of the totals are values of a proportion of one term, (H,)."""
        J = self.surface.totals.size
        return np.unique(np.linspace(0, J - 1, min(J, _VALUES)).round().astype(np.int64))

    @cached_property
    def values(self) -> FloatArray:
        """Values of proportions (H,)."""
        return self.surface.totals[self.chosen]

    @cached_property
    def _between(self) -> dict[str, tuple[IntArray, FloatArray]]:
        """How the deviance at a given proportion is found between shares, for each of two terms; see :func:`profile_part`."""
        t, h = self.surface.totals, self.values
        share = np.divide(h[:, None], t, out=np.ones((h.size, t.size)), where=t > 0)
        first = np.clip(share, 0, 1)
        return {
            FIRST: _interpolation(first, len(self.surface.lines)),
            SECOND: _interpolation(1 - first, len(self.surface.lines)),
        }

    def of(self, zty: FloatArray, rss: FloatArray, parts: tuple[str, ...]) -> dict[str, Profile]:
        """Profiles of responses (see :meth:`Surface.deviance`) for the total, or one of two terms."""
        D = self.surface.deviance(zty, rss)
        return self.of_deviance(D, parts)

    def of_deviance(self, D: FloatArray, parts: tuple[str, ...]) -> dict[str, Profile]:
        """The same from deviances (G, L, J)."""
        G, _, J = D.shape
        lowest, share, best = np.empty((G, J)), np.empty((G, J)), np.empty((G, 3))
        profile_totals(D, lowest, share, best)
        found = {}
        for part in parts:
            if part == TOTAL:
                values, at, total = (
                    lowest[:, self.chosen],
                    share[:, self.chosen],
                    np.tile(self.chosen.astype(float), (G, 1)),
                )
            else:
                values, total = (np.empty((G, self.chosen.size)) for _ in range(2))
                profile_part(D, lowest, self.chosen, *self._between[part], values, total)
                at = self._share_of(part, total)
            ratio = np.clip(values - best[:, :1], 0, None)
            found[part] = Profile(ratio, at, total, self.proportion(part, best[:, 1], best[:, 2]))
        return found

    def total_at(self, place: FloatArray) -> FloatArray:
        """t at places among the totals."""
        return np.interp(place, np.arange(self.surface.totals.size), self.surface.totals)

    def share_at(self, place: FloatArray) -> FloatArray:
        """r at places among the shares."""
        L = len(self.surface.lines)
        return np.ones_like(place) if L == 1 else np.asarray(0.5 - 0.5 * np.cos(np.pi * place / (L - 1)))

    def proportion(self, part: str, share: FloatArray, total: FloatArray) -> FloatArray:
        """The proportion of a part at places of a share and a total."""
        r = self.share_at(share)
        return np.asarray(self.total_at(total) * {TOTAL: np.ones_like(r), FIRST: r, SECOND: 1 - r}[part])

    def _share_of(self, part: str, total: FloatArray) -> FloatArray:
        """Places of the shares (G, H) of a term with the H proportions at places of totals."""
        t = self.total_at(total)
        r = np.clip(np.divide(self.values, t, out=np.ones_like(t), where=t > 0), 0, 1)
        return np.arccos(1 - 2 * (r if part == FIRST else 1 - r)) / np.pi * (len(self.surface.lines) - 1)


def _interpolation(share: FloatArray, n: int) -> tuple[IntArray, FloatArray]:
    """Indices and weights (..., 4) of a cubic through four shares around each; angles go on as in a mirror at both ends."""
    place = np.arccos(1 - 2 * share) / np.pi * (n - 1)
    low = np.clip(np.floor(place), 0, n - 2).astype(np.int64)
    z = (place - low)[..., None]
    weight = np.concatenate(
        [
            -z * (z - 1) * (z - 2) / 6,
            (z + 1) * (z - 1) * (z - 2) / 2,
            -(z + 1) * z * (z - 2) / 2,
            (z + 1) * z * (z - 1) / 6,
        ],
        axis=-1,
    )
    index = np.abs(low[..., None] + np.arange(-1, 3))
    return np.where(index > n - 1, 2 * (n - 1) - index, index), weight
