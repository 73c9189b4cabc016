"""Known covariances between the levels of a grouping factor: what ``gr(donor, cov=name)`` stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.wording import listing, near_names
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from donorwise._typing import FloatArray

_ROUNDING = 1e-10  # of the largest absolute row sum, that rounding may take an eigenvalue below zero


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """The covariance of the effects of some levels, up to a variance: u ~ N(0, sigma2 K).

    Attributes
    ----------
    name
        What the formula calls it.
    levels
        Names of its n rows and columns.
    values
        Shape (n, n). K, symmetric.
    """

    name: str
    levels: tuple[str, ...]
    values: FloatArray
    _extremes: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict, init=False, repr=False)
    _last: dict[tuple[str, ...], FloatArray] = field(default_factory=dict, init=False, repr=False)

    def has(self, levels: Iterable[str]) -> bool:
        """Whether the kernel has all of some levels."""
        return set(self.levels).issuperset(levels)

    def on(self, levels: Sequence[str]) -> FloatArray:
        """K of some levels, in their order.

        Raises
        ------
        DesignError
            The kernel does not have all of them.
        """
        place = {level: i for i, level in enumerate(self.levels)}
        missing = [level for level in levels if level not in place]
        if missing:
            raise DesignError(_lacking(self, levels, missing))
        at = np.array([place[level] for level in levels], dtype=np.int64)
        return self.values[np.ix_(at, at)]

    def covariance(self, levels: tuple[str, ...]) -> FloatArray:
        """K of some levels without negative eigenvalues, read-only; the last that was asked for is kept."""
        found = self._last.get(levels)
        if found is None:
            found = semidefinite(self.on(levels))
            found.flags.writeable = False
            self._last.clear()
            self._last[levels] = found
        return found

    def extremes(self, levels: Sequence[str]) -> tuple[float, float]:
        """Smallest and largest eigenvalue of K of some levels; groups with the same levels share them."""
        key = tuple(levels)
        if key not in self._extremes:
            values = np.linalg.eigvalsh(self.on(key))
            self._extremes[key] = float(values[0]), float(values[-1])
        return self._extremes[key]


def semidefinite(K: FloatArray) -> FloatArray:
    """K (n, n) as it is where it has no negative eigenvalue beyond rounding; else with zeros for these."""
    slack = _ROUNDING * np.abs(K).sum(axis=1).max(initial=0.0)
    try:
        np.linalg.cholesky(K + slack * np.eye(len(K)))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(K)
        return np.asarray((vectors * values.clip(0.0)) @ vectors.T)
    return K


def correlations(K: FloatArray) -> FloatArray:
    """K (n, n) relative to its diagonal; zero where that is."""
    size = np.sqrt(np.diag(K).clip(0.0))
    scale = np.outer(size, size)
    return np.divide(K, scale, out=np.zeros_like(K), where=scale > 0)


def _lacking(kernel: Kernel, levels: Sequence[str], missing: Sequence[str]) -> str:
    """That a kernel does not have some levels, and which of its own come close to their names."""
    close = near_names(missing, kernel.levels)
    pairs = ", ".join(f"`{level}` is there as `{own}`" for level, own in list(close.items())[:3])
    text = (
        f"The kernel `{kernel.name}` lacks {len(missing):,} of the {len(levels):,} levels in use: {listing(missing, 5)}. "
        f"It has {len(kernel.levels):,} ({listing(kernel.levels, 3)})"
    )
    if not close:
        return f"{text}; name its rows and columns as the column of obs does, or leave the rows of these levels out."
    return f"{text}; {pairs}: names must be the same, with spaces, zeros and capitals."
