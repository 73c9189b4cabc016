"""Satterthwaite degrees of freedom by analytic derivatives.

As lmerTest (Kuznetsova, Brockhoff and Christensen 2017, J Stat Softw 82(13)): the variance
c'Var(beta)c is differentiated in the Cholesky factors of the random terms and the residual
variance, and the covariance of those is twice the inverse Hessian of the REML deviance. In
the interior this equals the version in variances; a factor at zero drops out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.components import cholesky_psd, relative_covariance

if TYPE_CHECKING:
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._typing import FloatArray

_NULL = 1e-8


def contrast_df(pieces: Pieces, L: FloatArray) -> FloatArray:
    """Degrees of freedom of one-row contrasts L (n, p), or (G, n, p), in the orthonormal basis: (G, n)."""
    J, A = covariance_of_factors(pieces)
    c = L @ pieces.Phi
    variance = (c * L).sum(axis=-1)
    by_component = np.einsum("gna,gkab,gnb->gnk", c, pieces.P, c, optimize=True)
    gradient = np.einsum("gnk,gkm->gnm", by_component, J)
    return 2 * variance**2 / np.einsum("gnk,gkj,gnj->gn", gradient, A, gradient, optimize=True)


def covariance_of_factors(pieces: Pieces) -> tuple[FloatArray, FloatArray]:
    """Jacobian of the variance components in (factors, log sigma2), in units of sigma2, and the covariance of the latter.

    Returns
    -------
    (J (G, C, C), A (G, C, C))
    """
    sigma2 = pieces.sigma2[:, None]  # the components' unit: its square is beyond numbers where weights or responses are
    gradient = pieces.tr_PE - pieces.quad1 / sigma2
    hessian = 2 * (pieces.quad2 / sigma2[:, :, None]) - pieces.tr_PEPE
    J, second = _factor_derivatives(pieces, gradient)
    H = np.einsum("gkm,gkl,gln->gmn", J, hessian, J, optimize=True) + second
    curvature = np.sqrt(np.abs(np.einsum("gkk->gk", H)))
    unit = 1 / np.where(curvature > 0, curvature, 1)  # parameters differ in units
    H = unit[:, :, None] * H * unit[:, None, :]
    values, vectors = np.linalg.eigh(0.5 * (H + np.swapaxes(H, 1, 2)))
    kept = values > _NULL
    inverse = np.where(kept, 2 / np.where(kept, values, 1), 0)
    vectors = unit[:, :, None] * vectors
    return J, np.einsum("gak,gk,gbk->gab", vectors, inverse, vectors)


def _factor_derivatives(pieces: Pieces, gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
    """First derivatives of tau = sigma2 (LL', 1) and the gradient-weighted second ones, in units of sigma2."""
    parameter = pieces.parameter
    G, K = pieces.gamma.shape
    J, curvature = np.zeros((G, K + 1, K + 1)), np.zeros((G, K + 1, K + 1))
    factors = [cholesky_psd(relative_covariance(t, parameter, pieces.gamma)) for t in np.unique(parameter[:, 0])]
    index = {tuple(row): k for k, row in enumerate(parameter.tolist())}
    for (t, a, c), m in index.items():
        L = factors[t]
        for i in range(c, L.shape[1]):
            k = index[t, max(i, a), min(i, a)]
            J[:, k, m] += L[:, i, c] * (2 if i == a else 1)
            curvature[:, m, index[t, i, c]] += gradient[:, k] * (2 if i == a else 1)
    # log sigma2 scales every component: d tau / d log sigma2 = tau, and so do its second derivatives.
    tau = np.concatenate([pieces.gamma, np.ones((G, 1))], axis=1)
    mixed = np.einsum("gk,gkm->gm", gradient, J)
    J[:, :, K] = tau
    curvature[:, :K, K] += mixed[:, :K]
    curvature[:, K, :K] += mixed[:, :K]
    curvature[:, K, K] += (gradient * tau).sum(axis=1)
    return J, curvature


def pooled_df(df: FloatArray) -> FloatArray:
    """Denominator df (G,) of an F that is the mean of squared t with `df` (G, n) each.

    The expectation of F is matched: E = sum df / (df - 2), 2E / (E - n).
    """
    n = df.shape[1]
    E = (df / (df - 2)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        matched = np.where((df > 2).all(axis=1), 2 * E / (E - n), 2.0)
    equal = np.ptp(df, axis=1) < 1e-8
    return np.where(equal, df.mean(axis=1), matched)
