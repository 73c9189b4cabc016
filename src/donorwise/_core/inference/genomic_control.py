"""Genomic control: how much larger than under the null the median test is, from p-values or from counts of them.

lambda is the median of the tests as chi-square with one degree of freedom, over what it is under the null, .4549 (Devlin and
Roeder 1999, Biometrics 55:997). It is one for uniform p-values, whatever the degrees of freedom of the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, ndtri_exp

from donorwise._core.inference.student import log_two_sided

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

WIDTH, LAST = 1 / 64, 12.0
"""Width of the bins that statistics are counted in, and the lower edge of the last, which has no end."""
_MEDIAN = float(ndtri(0.75)) ** 2
_LOG_2 = float(np.log(2.0))


def genomic_lambda(edges: FloatArray, counts: FloatArray | IntArray, df: float) -> float:
    """lambda from counts of t statistics by their size.

    Parameters
    ----------
    edges
        Shape (bins,). Lower edges of bins of abs(t), ascending, each `WIDTH` wide but for the one at `LAST`, which has no end;
        empty bins may be missing.
    counts
        Shape (bins,). Numbers of tests.
    df
        Their degrees of freedom; inf for normal statistics.

    Returns
    -------
    float
        lambda, of the median by linear interpolation inside its bin, where the error is of order 1e-4; a lower bound
        where the median is beyond `LAST`; NaN without tests.
    """
    below = np.cumsum(counts)
    if not below.size or below[-1] == 0:
        return np.nan
    half = 0.5 * below[-1]
    k = int(np.searchsorted(below, half))
    inside = 0.0 if edges[k] >= LAST else (half - (below[k] - counts[k])) / counts[k]
    return float(_of_log_p(log_two_sided(edges[k] + inside * WIDTH, df)))


def genomic_lambda_of_p(p_values: FloatArray) -> float:
    """lambda from two-sided p-values of any shape; NaN does not count, and NaN comes out without any."""
    p = p_values[np.isfinite(p_values)]
    with np.errstate(divide="ignore"):
        return float(_of_log_p(np.log(np.median(p)))) if p.size else np.nan


def _of_log_p(log_p: FloatArray) -> FloatArray:
    return np.asarray(ndtri_exp(log_p - _LOG_2) ** 2 / _MEDIAN)
