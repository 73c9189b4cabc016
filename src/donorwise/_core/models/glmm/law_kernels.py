"""Loops over features and points: the law of contrasts, and random effects at given variances."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.glmm.densities import inner
from donorwise._core.models.glmm.kernels import backward, entry, forward, mode, new_state


@inner
def _standardise(state, ratio):
    """Keep the effects where their standard deviations change by 1 / `ratio` (q,)."""
    for c in range(state.b.shape[0]):
        for i in range(ratio.size):
            state.b[c, i] *= ratio[i]


@entry
def evaluate(rows, total, own, size, X, constrained, A, ratios, L, start, loglik, centre, scale, root):
    """Restricted log-likelihood at every point, and the law of contrasts there; NaN where Newton's method fails.

    Parameters
    ----------
    rows
        What the features share.
    total, own
        Shapes (G, K), (G, K, J).
    size
        Shape (G,).
    X
        Shape (K, p). Orthonormal columns.
    constrained
        Shape (n, K, p - 1). Columns for the coefficients whose contrast is zero.
    A
        Shape (T, K, q). Loadings of the rows on their component's standardised effects, point by point.
    ratios
        Shape (T, q). Standard deviations at the point before, relative to those at the point.
    L
        Shape (n, p). Contrasts; none, and nothing but the likelihood is worked out.
    start
        Shape (G, p). Coefficients to begin with.
    loglik, centre, scale, root
        Shapes (G, T), (G, T, n) for the others. Filled.
    """
    n_components, q, p = rows.starts.size - 1, A.shape[2], X.shape[1]
    n = L.shape[0]
    c = np.empty(p)
    for g in range(total.shape[0]):
        full = new_state(n_components, q, p)
        full.beta[:] = start[g]
        null = [new_state(n_components, q, p - 1) for _ in range(n)]
        for i in range(n):
            null[i].beta[:] = _projected(X, constrained[i], start[g])
        for t in range(A.shape[0]):
            _standardise(full, ratios[t])
            height, logdet, logdet_s, converged = mode(rows, total[g], own[g], size[g], X, A[t], full)
            loglik[g, t] = height - 0.5 * (logdet + logdet_s) if converged else np.nan
            for i in range(n):
                c[:] = L[i]
                estimate = 0.0
                for j in range(p):
                    estimate += c[j] * full.beta[j]
                centre[g, t, i] = estimate
                scale[g, t, i] = np.sqrt(forward(full.S, c, p))
                _standardise(null[i], ratios[t])
                lower, _, _, found = mode(rows, total[g], own[g], size[g], constrained[i], A[t], null[i])
                ratio = max(2.0 * (height - lower), 0.0)
                root[g, t, i] = np.sign(estimate) * np.sqrt(ratio) if converged and found else np.nan


@inner
def _projected(X, N, beta):
    """Coefficients of the columns N that come closest to X beta."""
    K, p, m = X.shape[0], X.shape[1], N.shape[1]
    S, s = np.zeros((m, m)), np.zeros(m)
    for k in range(K):
        eta = 0.0
        for j in range(p):
            eta += X[k, j] * beta[j]
        for i in range(m):
            s[i] += N[k, i] * eta
            for j in range(m):
                S[i, j] += N[k, i] * N[k, j]
    return np.linalg.solve(S, s) if m > 0 else s


@entry
def effects(rows, total, own, size, X, A, start, beta, b, variance):
    """Coefficients and standardised effects at the mode, feature by feature, each at its own variances.

    Parameters
    ----------
    A
        Shape (G, K, q).
    beta, b, variance
        Shapes (G, p), (G, C, q), (G, C, q, q). Filled; the covariance of the effects given the coefficients.
    """
    n_components, q, p = rows.starts.size - 1, A.shape[2], X.shape[1]
    column = np.empty(q)
    for g in range(total.shape[0]):
        state = new_state(n_components, q, p)
        state.beta[:] = start[g]
        _, _, _, converged = mode(rows, total[g], own[g], size[g], X, A[g], state)
        beta[g] = state.beta if converged else np.full(p, np.nan)
        b[g] = state.b if converged else np.full((n_components, q), np.nan)
        for c in range(n_components):
            for i in range(q):
                column[:] = 0.0
                column[i] = 1.0
                forward(state.factor[c], column, q)
                backward(state.factor[c], column, q)
                variance[g, c, i] = column
