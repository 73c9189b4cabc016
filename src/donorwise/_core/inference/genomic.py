"""Genomic control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    import pandas as pd


def genomic_lambda(counts: pd.DataFrame) -> float:
    """Median chi-squared of tests, from their histogram, over that of the null (Devlin and Roeder 1999, Biometrics 55:997)."""
    below = 1 - np.cumsum(counts["count"]) / counts["count"].sum()
    p = float(np.interp(0.5, below[::-1], np.append(counts["p_value"].to_numpy()[1:], 0.0)[::-1]))
    return float(stats.chi2.isf(p, 1) / stats.chi2.isf(0.5, 1))
