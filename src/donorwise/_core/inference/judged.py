"""What is said of proportions of variance beside their estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray

COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Judged:
    """Of G features and n components.

    Attributes
    ----------
    statistic, p_value
        Shape (G, n). The restricted likelihood ratio of no variance, and its p-value.
    intervals
        By scale, (G, n, 2).
    """

    statistic: FloatArray
    p_value: FloatArray
    intervals: dict[str, FloatArray]

    @classmethod
    def empty(cls, G: int, n: int, scales: Sequence[str]) -> Self:
        """Numbers that are still to be found."""
        return cls(np.full((G, n), np.nan), np.full((G, n), np.nan), {s: np.full((G, n, 2), np.nan) for s in scales})
