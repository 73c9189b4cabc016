"""Many tests at once: Benjamini and Hochberg's adjusted p-values, and Storey's q-values, which learn how many nulls are true.

Of m p-values about m pi0 belong to true null hypotheses, and those are uniform: pi0(lambda) = #{p >= lambda} / (m (1 - lambda))
estimates pi0, with a bias that fades and a variance that grows as lambda goes to one. The value at .95 of a smoothing spline
with 3 degrees of freedom through lambda = .05, .10, ..., .95 is taken (Storey and Tibshirani 2003, PNAS 100:9440, as the R
package qvalue 2 does it), and where that is none the lambda with the smallest mean squared error (Storey, Taylor and Siegmund
2004, J R Stat Soc B 66:187; in closed form, as qvalue). A q-value is pi0 times the p-value of Benjamini and Hochberg (1995).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

_LAMBDA = np.arange(1, 20) / 20
_FEWEST = 100  # p-values to learn from
_SMOOTH_DF = 3.0


class TrueNulls(NamedTuple):
    """Estimated proportion of true null hypotheses, and why it is one where it could not be estimated ("" where it was)."""

    pi0: float
    reason: str


def adjust(p_values: FloatArray) -> FloatArray:
    """Benjamini-Hochberg adjusted p-values (Benjamini and Hochberg 1995); NaN stays NaN and does not count."""
    out = np.full(p_values.shape, np.nan)
    tested = np.isfinite(p_values)
    if tested.any():
        out[tested] = stats.false_discovery_control(p_values[tested], method="bh")
    return out


def q_values(p_values: FloatArray) -> FloatArray:
    """Storey's q-values of p-values of any shape; NaN stays NaN and does not count."""
    return true_nulls(p_values).pi0 * adjust(p_values)


def true_nulls(p_values: FloatArray) -> TrueNulls:
    """The proportion pi0 of true null hypotheses among p-values of any shape; NaN does not count.

    Examples
    --------
    >>> round(true_nulls(np.arange(1, 1001) / 2000 * np.tile([1, 2], 500)).pi0, 1)
    0.5
    >>> true_nulls(np.array([0.01, 0.5]))
    TrueNulls(pi0=1.0, reason='fewer than 100 p-values')
    """
    p = p_values[np.isfinite(p_values)]
    if p.size < _FEWEST:
        return TrueNulls(1.0, f"fewer than {_FEWEST} p-values")
    if p.max() < _LAMBDA[-1]:
        return TrueNulls(1.0, f"no p-value above {_LAMBDA[-1]}")
    n_above = p.size - np.searchsorted(np.sort(p), _LAMBDA)
    shares = n_above / (p.size * (1 - _LAMBDA))
    for pi0 in (_smoother_at_end() @ shares, _least_error(n_above, p.size, shares)):
        if pi0 > 0:
            return TrueNulls(min(float(pi0), 1.0), "")
    return TrueNulls(1.0, "hardly any p-value is large")


def _least_error(n_above: IntArray, m: int, shares: FloatArray) -> float:
    """The share with the smallest bootstrap estimate of mean squared error about the lowest decile of all."""
    error = n_above / (m * (1 - _LAMBDA)) ** 2 * (1 - n_above / m) + (shares - np.quantile(shares, 0.1)) ** 2
    return float(shares[np.argmin(error)])


@lru_cache(maxsize=1)
def _smoother_at_end() -> FloatArray:
    """What a cubic smoothing spline of 3 degrees of freedom on `_LAMBDA` weighs its data by, at the last knot.

    S = (I + alpha Q R⁻¹Q')⁻¹ with tr S = 3 (Green and Silverman 1994, Nonparametric Regression, 2.3).
    """
    n, h = _LAMBDA.size, np.diff(_LAMBDA)
    inside = np.arange(n - 2)
    Q = np.zeros((n, n - 2))
    Q[inside, inside], Q[inside + 2, inside] = 1 / h[:-1], 1 / h[1:]
    Q[inside + 1, inside] = -1 / h[:-1] - 1 / h[1:]
    R = np.diag((h[:-1] + h[1:]) / 3) + np.diag(h[1:-1] / 6, 1) + np.diag(h[1:-1] / 6, -1)
    values, vectors = np.linalg.eigh(Q @ np.linalg.solve(R, Q.T))
    values[:2] = 0.0  # straight lines are not penalised
    alpha = np.exp(brentq(lambda x: (1 / (1 + np.exp(x) * values)).sum() - _SMOOTH_DF, -40, 20, xtol=1e-13))
    return np.asarray((vectors / (1 + alpha * values))[-1] @ vectors.T)
