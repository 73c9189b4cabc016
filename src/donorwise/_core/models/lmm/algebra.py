"""Decorators and small dense algebra of the kernels."""

from __future__ import annotations

import numpy as np
from numba import njit

# Functions that only other kernels call need no wrapper for Python; with tuples of arrays for
# arguments the wrapper costs more to compile than the function.
inner = njit(nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True)  # type: ignore[call-overload]
entry = njit(nogil=True, cache=True, error_model="numpy")


@inner
def lu_solve(M, B, n, m):
    """Solve M X = B for the leading n rows and m columns in place; return log|det M|.

    Zeros are skipped: with the factor of most levels first, its part of M is diagonal and
    elimination costs no more than a Schur complement would.
    """
    logdet = 0.0
    for c in range(n):
        pivot, best = c, abs(M[c, c])
        for r in range(c + 1, n):
            if abs(M[r, c]) > best:
                pivot, best = r, abs(M[r, c])
        if best == 0.0:
            return np.inf
        if pivot != c:
            for k in range(n):
                M[c, k], M[pivot, k] = M[pivot, k], M[c, k]
            for k in range(m):
                B[c, k], B[pivot, k] = B[pivot, k], B[c, k]
        logdet += np.log(best)
        inverse = 1.0 / M[c, c]
        for r in range(c + 1, n):
            factor = M[r, c] * inverse
            if factor != 0.0:
                for k in range(c + 1, n):
                    M[r, k] -= factor * M[c, k]
                for k in range(m):
                    B[r, k] -= factor * B[c, k]
    for c in range(n - 1, -1, -1):
        for r in range(c + 1, n):
            factor = M[c, r]
            if factor != 0.0:
                for k in range(m):
                    B[c, k] -= factor * B[r, k]
        inverse = 1.0 / M[c, c]
        for k in range(m):
            B[c, k] *= inverse
    return logdet


@inner
def cholesky_inverse(M, out, tolerance):
    """Inverse of a small positive definite matrix into `out`; return log|M|, or inf if it is not.

    A pivot below `tolerance` times its diagonal entry is rounding: the matrix is singular. The lower triangle
    of M is overwritten by its factor L.
    """
    n, L = M.shape[0], M
    logdet = 0.0
    for j in range(n):
        d = M[j, j]
        for k in range(j):
            d -= L[j, k] * L[j, k]
        if not d > tolerance * M[j, j]:
            return np.inf
        logdet += np.log(d)
        d = np.sqrt(d)
        L[j, j] = d
        for i in range(j + 1, n):
            s = M[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            L[i, j] = s / d
    for c in range(n):  # forward, then backward substitution of the unit vectors
        for i in range(n):
            s = 1.0 if i == c else 0.0
            for k in range(i):
                s -= L[i, k] * out[k, c]
            out[i, c] = s / L[i, i]
        for i in range(n - 1, -1, -1):
            s = out[i, c]
            for k in range(i + 1, n):
                s -= L[k, i] * out[k, c]
            out[i, c] = s / L[i, i]
    return logdet


@inner
def profile(XVX, XVr, rVr, logdet_V, nu, reml, Phi, delta):
    """Fixed effects and deviance from X̃'V⁻¹X̃ (overwritten), X̃'V⁻¹r and r'V⁻¹r: what `evaluate` returns.

    Phi = (X̃'V⁻¹X̃)⁻¹ and delta = Phi X̃'V⁻¹r are written; R = r'V⁻¹r - delta'X̃'V⁻¹r.
    """
    p = delta.size
    logdet_X = cholesky_inverse(XVX, Phi, 0.0)
    R = rVr
    for i in range(p):
        delta[i] = 0.0
        for j in range(p):
            delta[i] += Phi[i, j] * XVr[j]
        R -= XVr[i] * delta[i]
    if not np.isfinite(logdet_X) or not R > 0.0:
        return np.inf, R, logdet_V, np.inf
    deviance = logdet_V + nu * np.log(R)
    if reml:
        deviance += logdet_X
    return deviance, R, logdet_V, logdet_X


@inner
def projections(Phi, P, PhiP):
    """Phi P_k of every parameter into `PhiP` (K, p, p)."""
    for k in range(P.shape[0]):
        for i in range(Phi.shape[0]):
            for j in range(Phi.shape[0]):
                PhiP[k, i, j] = 0.0
                for m in range(Phi.shape[0]):
                    PhiP[k, i, j] += Phi[i, m] * P[k, m, j]


@inner
def trace_of_product(M, N):
    """Tr MN."""
    value = 0.0
    for i in range(M.shape[0]):
        for j in range(M.shape[0]):
            value += M[i, j] * N[j, i]
    return value
