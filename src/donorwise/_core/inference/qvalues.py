"""Q-values of many tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._core.engine.tables import adjust

if TYPE_CHECKING:
    from donorwise._typing import FloatArray


def q_values(p: FloatArray) -> FloatArray:
    """Q-values with all features taken for null, which are those of Benjamini and Hochberg."""
    return adjust(p)
