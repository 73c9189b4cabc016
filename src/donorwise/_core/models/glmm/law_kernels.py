"""Loops over features and points: the law of contrasts, and random effects at given variances."""

from __future__ import annotations

import numpy as np
from numba import njit

from donorwise._core.models.glmm.kernels import Data, Rows, forward, invert, make_found, make_work, mode
from donorwise._core.models.glmm.lanes import loops

entry = njit(nogil=True, cache=True, error_model="numpy")

_LANES = 64


@loops
def _taken(total, own, size, first, last):
    """The data of features first..last-1."""
    K, J = own.shape[0], own.shape[1]
    part = Data(
        total[:, first:last].copy(), np.empty((K, J, last - first)), size[first:last].copy(), np.log(size[first:last])
    )
    for k in range(K):
        for j in range(J):
            part.own[k, j] = own[k, j, first:last]
    return part


@loops
def _standardise(b, ratio):
    """Keep the effects (C, q, B) where their standard deviations change by 1 / `ratio` (q,)."""
    for c in range(b.shape[0]):
        for i in range(ratio.size):
            b[c, i] *= ratio[i]


@loops
def _estimates(c, beta, S, centre, scale, work):
    """Estimate and standard error of a contrast c (p,) for B features, the factor of S being given."""
    centre[:] = 0.0
    scale[:] = 0.0
    for j in range(c.size):
        work[j] = c[j]
        centre += c[j] * beta[j]
    forward(S, work)
    for j in range(c.size):
        scale += work[j] * work[j]
    scale[:] = np.sqrt(scale)


@entry
def evaluate(
    rows, total, own, size, X, constrained, offset, null, A, ratios, L, start, null_start, loglik, centre, scale, root
):
    """Restricted log-likelihood at every point, and the law of contrasts there; NaN where Newton's method fails.

    Parameters
    ----------
    rows
        What the features share.
    total, own
        Shapes (K, G), (K, J, G).
    size
        Shape (G,).
    X
        Shape (K, p). Orthonormal columns.
    constrained
        Shape (m, K, p - r). Columns for the coefficients at which each of some questions, of r contrasts each, is answered by
        zero.
    offset
        Shape (m, K). Linear predictors at the shortest coefficients at which each contrast is `null`.
    null
        The value of the contrasts that `root` is of.
    A
        Shape (T, K, q). Loadings of the rows on their component's standardised effects, point by point.
    ratios
        Shape (T, q). Standard deviations at the point before, relative to those at the point.
    L
        Shape (n, p). Contrasts, n >= m: root i has the sign of contrast i. None, and nothing but the likelihood is worked out.
    start, null_start
        Shapes (p, G), (m, p - r, G). Coefficients to begin with.
    loglik, centre, scale, root
        Shapes (T, G), (T, n, G) for centre and scale, (T, m, G). Filled.
    """
    C, q, p, n = rows.starts.size - 1, A.shape[2], X.shape[1], L.shape[0]
    m, p_null = constrained.shape[0], constrained.shape[2]
    for first in range(0, size.size, _LANES):
        last = min(first + _LANES, size.size)
        B = last - first
        data = _taken(total, own, size, first, last)
        work, null_work = make_work(C, q, p, B), make_work(C, q, p_null, B)
        found, null_found, column = make_found(p, B), make_found(p_null, B), np.empty((p, B))
        own_start, own_null_start = start[:, first:last].copy(), null_start[:, :, first:last].copy()
        beta, b = own_start.copy(), np.zeros((C, q, B))
        null_beta, null_b = own_null_start.copy(), np.zeros((m, C, q, B))
        for t in range(A.shape[0]):
            _standardise(b, ratios[t])
            mode(rows, data, X, A[t], beta, b, own_start, work, found)
            loglik[t, first:last] = found.height - 0.5 * (found.logdet + found.logdet_s)
            for i in range(n):
                _estimates(L[i], beta, found.S, centre[t, i, first:last], scale[t, i, first:last], column)
            for i in range(m):
                _standardise(null_b[i], ratios[t])
                mode(
                    Rows(rows.code, rows.starts, rows.shared, rows.t, offset[i]), data, constrained[i], A[t],
                    null_beta[i], null_b[i], own_null_start[i], null_work, null_found,
                )  # fmt: skip
                ratio = 2.0 * (found.height - null_found.height)
                for l in range(B):
                    root[t, i, first + l] = (
                        np.sign(centre[t, i, first + l] - null) * np.sqrt(max(ratio[l], 0.0)) + 0.0 * ratio[l]
                    )


@entry
def effects(rows, total, own, size, X, A, start, beta, b, variance):
    """Coefficients and standardised effects at the mode, feature by feature, each at its own variances.

    Parameters
    ----------
    A
        Shape (G, K, q).
    start
        Shape (p, G).
    beta, b, variance
        Shapes (G, p), (G, C, q), (G, C, q, q). Filled; the covariance of the effects given the coefficients.
    """
    C, q, p = rows.starts.size - 1, A.shape[2], X.shape[1]
    work, found, column = make_work(C, q, p, 1), make_found(p, 1), np.empty((q, 1))
    for g in range(size.size):
        own_start, own_b = start[:, g : g + 1].copy(), np.zeros((C, q, 1))
        own_beta = own_start.copy()
        mode(rows, _taken(total, own, size, g, g + 1), X, A[g], own_beta, own_b, own_start, work, found)
        missing = 0.0 * found.height[0]
        beta[g] = own_beta[:, 0] + missing
        b[g] = own_b[:, :, 0] + missing
        for c in range(C):
            invert(work.factor[c], column, variance[g, c])


@entry
def coefficients(rows, total, own, size, X, A, start, beta):
    """Coefficients (p, G) at the mode, the loadings A (K, q) being those of all features; arguments as for `evaluate`."""
    C, q, p = rows.starts.size - 1, A.shape[1], X.shape[1]
    for first in range(0, size.size, _LANES):
        last = min(first + _LANES, size.size)
        B = last - first
        work, found = make_work(C, q, p, B), make_found(p, B)
        own_start = start[:, first:last].copy()
        own_beta, b = own_start.copy(), np.zeros((C, q, B))
        mode(rows, _taken(total, own, size, first, last), X, A, own_beta, b, own_start, work, found)
        for j in range(p):
            for l in range(B):
                beta[j, first + l] = own_beta[j, l] + 0.0 * found.height[l]
