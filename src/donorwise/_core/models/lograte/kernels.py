"""Loops over genes and grid points: expected counts, restricted likelihood, weighted least squares.

Per gene V = diag(v + tau2) + group2 ZZ', with Z the indicators of contiguous blocks of units.
With D = diag(v + tau2), s = Z'D⁻¹1 and g = group2 / (1 + group2 s) per block,

    X'V⁻¹X = X'D⁻¹X - sum_blocks g (X'D⁻¹1)(X'D⁻¹1)',   log|V| = log|D| + sum_blocks log(1 + group2 s),

one rank-one update per block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

inner = njit(nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True)  # type: ignore[call-overload]
entry = njit(nogil=True, cache=True, error_model="numpy")

_BETWEEN = 0.1
_SCORING_STEPS = 60
_LONGEST_STEP = 2.0
_SMALLEST_MEAN = 0.01  # of a unit in an arm without counts, whose rate has no finite estimate
_CONVERGED = 1e-10


@inner
def _accumulate(r, v, X, starts, tau2, group2, A, b, ax):
    """Fill the lower triangle of A = X'V⁻¹X and b = X'V⁻¹r; return (log|V|, r'V⁻¹r).

    Logarithms are taken of a running product, which is flushed before it can overflow.
    """
    p = X.shape[1]
    A[:] = 0.0
    b[:] = 0.0
    logdet, product, quadratic = 0.0, 1.0, 0.0
    for block in range(starts.size - 1):
        total, ar = 0.0, 0.0
        for j in range(p):
            ax[j] = 0.0
        for i in range(starts[block], starts[block + 1]):
            d = v[i] + tau2
            w = 1.0 / d
            product *= d
            if product < 1e-200 or product > 1e200:
                logdet += np.log(product)
                product = 1.0
            wr = w * r[i]
            total += w
            ar += wr
            quadratic += wr * r[i]
            for j in range(p):
                wx = w * X[i, j]
                ax[j] += wx
                b[j] += wr * X[i, j]
                for k in range(j + 1):
                    A[j, k] += wx * X[i, k]
        if group2 > 0.0:
            growth = 1.0 + group2 * total
            g = group2 / growth
            logdet += np.log(growth)
            quadratic -= g * ar * ar
            for j in range(p):
                b[j] -= g * ar * ax[j]
                for k in range(j + 1):
                    A[j, k] -= g * ax[j] * ax[k]
    return logdet + np.log(product), quadratic


@inner
def _cholesky(A):
    """Cholesky factor in the lower triangle of A, in place; return log|A|, or inf where A is singular."""
    logdet = 0.0
    for j in range(A.shape[0]):
        d = A[j, j]
        for k in range(j):
            d -= A[j, k] * A[j, k]
        if not d > 0.0:
            return np.inf
        A[j, j] = np.sqrt(d)
        logdet += np.log(d)
        for i in range(j + 1, A.shape[0]):
            s = A[i, j]
            for k in range(j):
                s -= A[i, k] * A[j, k]
            A[i, j] = s / A[j, j]
    return logdet


@inner
def _forward(A, b):
    """Solve with the Cholesky factor in A, in place; return the squared length of the solution."""
    total = 0.0
    for j in range(b.size):
        s = b[j]
        for k in range(j):
            s -= A[j, k] * b[k]
        b[j] = s / A[j, j]
        total += b[j] * b[j]
    return total


@inner
def _backward(A, b):
    """Solve with the transpose of the Cholesky factor in A, in place."""
    for j in range(b.size - 1, -1, -1):
        s = b[j]
        for k in range(j + 1, b.size):
            s -= A[k, j] * b[k]
        b[j] = s / A[j, j]


@entry
def evaluate(r, v, X, starts, points, L, loglik, centre, scale):
    """Restricted log-likelihood of every gene at every grid point, and the normal law of contrasts there.

    Parameters
    ----------
    r
        Shape (G, S). Residuals of least squares, units in the order of the blocks.
    v
        Shape (G, S). Sampling variances.
    X
        Shape (S, p). Orthonormal columns.
    starts
        Shape (blocks + 1,). First unit of each block, and S.
    points
        Shape (K, 2). (tau2, group2).
    L
        Shape (n, p). Contrasts; may be empty.
    loglik, centre, scale
        Shapes (G, K), (n, G, K), (n, G, K). Filled; `centre` is the step from least squares.
    """
    p = X.shape[1]
    A, b, ax, c = np.empty((p, p)), np.empty(p), np.empty(p), np.empty(p)
    for g in range(r.shape[0]):
        for k in range(points.shape[0]):
            logdet, quadratic = _accumulate(r[g], v[g], X, starts, points[k, 0], points[k, 1], A, b, ax)
            logdet += _cholesky(A)
            quadratic -= _forward(A, b)
            loglik[g, k] = -0.5 * (logdet + quadratic)
            for n in range(L.shape[0]):
                c[:] = L[n]
                scale[n, g, k] = np.sqrt(_forward(A, c))
                total = 0.0
                for j in range(p):
                    total += c[j] * b[j]
                centre[n, g, k] = total


@entry
def fit_means(C, depth, dispersion, share, X, mu):
    """Expected counts under the fixed effects: a log-linear quasi-likelihood fit, gene by gene.

    Parameters
    ----------
    C
        Shape (G, S). Counts; every gene has some.
    depth, share
        Shape (S,). Sum of the depths l of the unit's cells; sum(l^2) / sum(l)^2.
    dispersion
        Shape (G,).
    X
        Shape (S, p). Orthonormal columns.
    mu
        Shape (G, S). Filled.
    """
    S, p = X.shape
    A, b, eta = np.empty((p, p)), np.empty(p), np.empty(S)
    for g in range(C.shape[0]):
        start = np.log(C[g].sum() / depth.sum())
        for i in range(S):
            mu[g, i] = depth[i] * np.exp(start)
        for _ in range(_SCORING_STEPS):
            A[:] = 0.0
            b[:] = 0.0
            for i in range(S):
                # the constant stands for variance between units, so that deep ones do not decide alone
                w = 1.0 / (1.0 / mu[g, i] + dispersion[g] * share[i] + _BETWEEN)
                eta[i] = np.log(mu[g, i] / depth[i])
                z = w * (eta[i] - start + C[g, i] / mu[g, i] - 1.0)
                for j in range(p):
                    b[j] += z * X[i, j]
                    for k in range(j + 1):
                        A[j, k] += w * X[i, j] * X[i, k]
            if np.isinf(_cholesky(A)):
                break
            _forward(A, b)
            _backward(A, b)
            change = 0.0
            for i in range(S):
                step = start - eta[i]
                for j in range(p):
                    step += X[i, j] * b[j]
                step = min(max(step, -_LONGEST_STEP), _LONGEST_STEP)
                mu[g, i] = max(mu[g, i] * np.exp(step), _SMALLEST_MEAN)
                change = max(change, abs(step))
            if change < _CONVERGED:
                break
