"""A gene's p-value from permutations of which there are far fewer than 1 / p: their smallest p-values follow a beta law.

The smallest of n independent p-values has the law Beta(1, n); that of variants in linkage disequilibrium is close to
Beta(shape1, shape2), with shape1 near one and shape2 the effective number of tests, once p-values are those of the degrees of
freedom that the permuted responses behave as (Ongen et al. 2016, Bioinformatics 32:1479, and FastQTL; as tensorQTL does it,
Taylor-Weiner et al. 2019, Genome Biol 20:228). Those are the ones with which the beta law of the same mean and variance has
shape1 = 1; the shapes are then fitted by maximum likelihood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, polygamma, psi

from donorwise._core.inference.student import log_two_sided

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

_FEWEST = 30  # permutations to fit a law to
_TIE = 1 - 1e-10  # a share of r² below which another one is smaller
_WIDEST = 4.0  # of log df, from that of the model
_ALMOST_ONE = -1e-8  # log p, the largest in the likelihood
_STEPS, _CLOSE = 50, 1e-9


class BetaApproximation(NamedTuple):
    """Of one gene.

    Attributes
    ----------
    p_perm
        Share of permutations with a test as large as the observed one, which is counted itself: (k + 1) / (n + 1).
    p_beta
        The same by the law; `p_perm` where none could be fitted.
    shape1, shape2
        Shapes of the law, NaN where there is none.
    df
        Effective degrees of freedom, NaN where there is no law.
    """

    p_perm: float
    p_beta: float
    shape1: float
    shape2: float
    df: float


def beta_approximation(r2: float, maxima: FloatArray, df: float) -> BetaApproximation:
    """The p-value of a gene from its largest squared correlation and those with permuted responses.

    Parameters
    ----------
    r2
        Largest squared correlation of the response with a variant; NaN has no p-value.
    maxima
        Shape (n,). The same with permuted responses, see :func:`donorwise._core.inference.resampled.maxima`.
    df
        Degrees of freedom of the test of a variant.
    """
    if np.isnan(r2):
        return BetaApproximation(np.nan, np.nan, np.nan, np.nan, np.nan)
    p_perm = (int((maxima >= _TIE * r2).sum()) + 1) / (maxima.size + 1)
    none = BetaApproximation(p_perm, p_perm, np.nan, np.nan, np.nan)
    if maxima.size < _FEWEST or np.ptp(maxima) <= 1e-12:
        return none
    effective = _effective_df(maxima, df)
    shapes = _fit(_log_p(maxima, effective))
    if shapes is None:
        return none
    p_beta = float(betainc(*shapes, np.exp(_log_p(np.array([r2]), effective)[0])))
    return BetaApproximation(p_perm, p_beta, *shapes, effective)


def _log_p(r2: FloatArray, df: float) -> FloatArray:
    with np.errstate(divide="ignore"):
        return log_two_sided(np.sqrt(df * r2 / (1 - r2)), df)


def _moments(log_p: FloatArray) -> tuple[float, float]:
    """Shapes of the beta law with the mean and variance of p-values."""
    p = np.exp(log_p)
    mean = float(p.mean())
    total = mean * (1 - mean) / float(p.var()) - 1
    return mean * total, (1 - mean) * total


def _effective_df(maxima: FloatArray, df: float) -> float:
    """Degrees of freedom for which the first shape is one; those of the model where none are."""

    def log_shape1(log_df: float) -> float:
        return float(np.log(_moments(_log_p(maxima, float(np.exp(log_df))))[0]))

    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.log(df) - _WIDEST, np.log(df) + _WIDEST
        if not log_shape1(low) > 0 > log_shape1(high):
            return df
        return float(np.exp(brentq(log_shape1, low, high, xtol=1e-6)))


def _fit(log_p: FloatArray) -> tuple[float, float] | None:
    """Shapes by maximum likelihood: Newton's method, since the log-likelihood is concave in them."""
    log_p = np.minimum(log_p, _ALMOST_ONE)
    mean = np.array([log_p.mean(), np.log(-np.expm1(log_p)).mean()])
    shapes = np.array(_moments(log_p))
    for _ in range(_STEPS):
        if not (np.isfinite(shapes).all() and (shapes > 0).all()):
            return None
        gradient = mean - psi(shapes) + psi(shapes.sum())
        information = np.diag(polygamma(1, shapes)) - polygamma(1, shapes.sum())
        step = np.linalg.solve(information, gradient)
        shapes = np.maximum(shapes + step, 0.1 * shapes)
        if (np.abs(step) <= _CLOSE * shapes).all():
            return float(shapes[0]), float(shapes[1])
    return None
