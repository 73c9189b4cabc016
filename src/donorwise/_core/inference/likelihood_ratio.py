"""Likelihood-ratio tests of nested Gaussian models."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.models.lmm.fitted import FittedArrays
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray

_NOT_NESTED = (
    "A likelihood-ratio test needs nested models: one must have all the terms of the other and more. Got {!r} and {!r}."
)


class Extra(NamedTuple):
    """Parameters that the larger model has more: fixed effects, variances and covariances."""

    fixed: int
    variances: int
    covariances: int


def n_parameters(design: Design) -> Extra:
    """Parameters of a design's model, but for the residual variance."""
    widths = [len(t.columns) for t in design.random_terms]
    return Extra(len(design.fixed_names), sum(widths), sum(r * (r - 1) // 2 for r in widths))


def extra_parameters(larger: Design, smaller: Design) -> Extra:
    """What a design has more than another.

    Raises
    ------
    DesignError
        If it has not all that the other has, or nothing more.
    """
    extra = Extra(*(own - other for own, other in zip(n_parameters(larger), n_parameters(smaller), strict=True)))
    if min(extra) < 0 or sum(extra) == 0:
        raise DesignError(_NOT_NESTED.format(larger.formula, smaller.formula))
    return extra


def check_nested(larger: Design, smaller: Design) -> None:
    """Raise where a design has not all the terms of another."""
    random = all(
        any(_same_levels(own, other) and set(own.columns) <= set(other.columns) for other in larger.random_terms)
        for own in smaller.random_terms
    )
    if not random or not _spanned(larger, smaller):
        raise DesignError(_NOT_NESTED.format(larger.formula, smaller.formula))


def _same_levels(term: RandomTerm, other: RandomTerm) -> bool:
    """Whether two terms are of one grouping factor, with one covariance between its levels."""
    if term.name != other.name or (term.kernel is None) != (other.kernel is None):
        return False
    return term.kernel is None or other.kernel is None or np.allclose(term.kernel, other.kernel)


def _spanned(big: Design, small: Design) -> bool:
    """Whether the fixed columns of one design are combinations of those of another, on the same rows."""
    extra = [i for i, name in enumerate(small.fixed_names) if name not in big.fixed_names]
    if not extra:
        return True
    if any(small.varying[i] >= 0 for i in extra):
        return False
    used = (big.codes >= 0) & (small.codes >= 0)
    pairs = np.unique(np.stack([big.codes[used], small.codes[used]]), axis=1)
    X, x = big.X[pairs[0]], small.X[pairs[1]][:, extra]
    rest = x - X @ np.linalg.lstsq(X, x, rcond=None)[0]
    return bool((np.abs(rest).max(axis=0) <= 1e-8 * np.abs(x).max(axis=0)).all())


def check_same_data(fit: FittedArrays, other: FittedArrays) -> None:
    """Raise unless two fits have the same features, rows, responses and weights."""
    same = fit.variables == other.variables and np.array_equal(fit.n_obs, other.n_obs)
    own, others = (_fingerprint(f.models, len(f.variables)) for f in (fit, other))
    if not same or not np.allclose(own, others, rtol=1e-9, atol=0, equal_nan=True):
        raise DesignError(
            "The two fits do not have the same features, rows, responses and weights (rows are dropped where a "
            "variable of the formula is missing); fit both to the same data."
        )


def _fingerprint(models: Sequence[LMM], n_features: int) -> FloatArray:
    """Mean response of every feature and the weights of its rows, (2, G)."""
    out = np.full((2, n_features), np.nan)
    for model in models:
        out[:, model.features] = model.mean, np.full(model.features.size, model.equations.log_weight)
    return out


def p_value(statistic: FloatArray, extra: Extra) -> FloatArray:
    """p-value of twice the difference of log-likelihoods, (G,).

    One variance more, with c covariances and f fixed effects, is the mixture of chi-squared with
    f + c and f + c + 1 degrees of freedom in equal parts (Self and Liang 1987; Stram and Lee 1994).
    Several variances more have no such simple law: the chi-squared with all the parameters is
    an upper bound. NaN without a parameter more.
    """
    if min(extra) < 0 or sum(extra) == 0:
        return np.full(statistic.shape, np.nan)
    smooth = extra.fixed + extra.covariances
    if extra.variances == 0:
        return np.asarray(stats.chi2.sf(statistic, smooth))
    if extra.variances == 1:
        lower = stats.chi2.sf(statistic, smooth) if smooth else np.where(statistic > 0, 0.0, 1.0)
        return np.asarray(0.5 * lower + 0.5 * stats.chi2.sf(statistic, smooth + 1))
    return np.asarray(stats.chi2.sf(statistic, smooth + extra.variances))
