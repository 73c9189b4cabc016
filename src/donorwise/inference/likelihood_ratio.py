"""Likelihood-ratio tests between nested models, by maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Difference:
    """Parameters that the larger model has more: fixed effects, variances and covariances."""

    fixed: int
    variances: int
    covariances: int


def p_value(statistic: FloatArray, difference: Difference) -> FloatArray:
    """p-value of twice the difference of log-likelihoods, (G,).

    One variance more, with c covariances and f fixed effects, is the mixture of chi-squared with
    f + c and f + c + 1 degrees of freedom in equal parts (Self and Liang 1987; Stram and Lee 1994).
    Several variances more have no such simple law: the chi-squared with all the parameters is
    an upper bound.
    """
    smooth = difference.fixed + difference.covariances
    if difference.variances == 0:
        return np.asarray(stats.chi2.sf(statistic, smooth))
    if difference.variances == 1:
        lower = stats.chi2.sf(statistic, smooth) if smooth else np.where(statistic > 0, 0.0, 1.0)
        return np.asarray(0.5 * lower + 0.5 * stats.chi2.sf(statistic, smooth + 1))
    return np.asarray(stats.chi2.sf(statistic, smooth + difference.variances))
