"""Adjustment for many features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

UNIVERSE = "Benjamini-Hochberg within each contrast and group, over the features that were tested"


def adjust(p_values: FloatArray) -> FloatArray:
    """Benjamini-Hochberg adjusted p-values (Benjamini and Hochberg 1995); NaN stays NaN and does not count."""
    out = np.full(p_values.shape, np.nan)
    tested = np.isfinite(p_values)
    if tested.any():
        out[tested] = stats.false_discovery_control(p_values[tested], method="bh")
    return out
