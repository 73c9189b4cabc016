"""Likelihood and derivatives where a kernel ties all levels together: one dense block with Z'WZ = I.

    C = I + sum_k gamma_k B_k,   D = Z'V⁻¹Z = C⁻¹,   F = Z'V⁻¹X̃ = C⁻¹A,   w = Z'V⁻¹r = C⁻¹t

(see :mod:`donorwise._core.models.lmm.coupling`; symbols as in :mod:`donorwise._core.models.lmm.kernels`).
"""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import inner, profile


@inner
def evaluate_coupled(blocks, gamma, zty, rss, nu, reml, order, out):
    """What :func:`donorwise._core.models.lmm.kernels.evaluate` returns; but for traces with P all of its `out`."""
    A, B = blocks[3], blocks[9]
    Phi, delta, XVX, XVr, F, w, D = out[0], out[1], out[8], out[9], out[10], out[11], out[12]
    m, p = A.shape
    C = np.eye(m)
    for k in range(gamma.size):
        if gamma[k] != 0.0:
            C += gamma[k] * B[k]
    for a in range(m):
        if not C[a, a] > 0.0 or not np.isfinite(C[a, a]):
            return np.inf, rss, np.inf, np.inf
    logdet = _log_determinant(C)
    if not np.isfinite(logdet):
        return np.inf, rss, logdet, np.inf
    right = np.empty((m, p + 1))
    right[:, :p] = A
    right[:, p] = zty
    if order > 0:
        inverse = np.linalg.inv(C)
        solved = inverse @ right
        for a in range(m):
            for c in range(m):
                D[a * m + c] = inverse[a, c]
    else:
        solved = np.linalg.solve(C, right)
    rVr = rss
    for i in range(p):
        XVr[i] = 0.0
        for j in range(p):
            XVX[i, j] = 1.0 if i == j else 0.0
    for a in range(m):
        gap = zty[a] - solved[a, p]  # r'V⁻¹r = r'r - t'(I - C⁻¹)t
        rVr -= zty[a] * gap
        w[a] = solved[a, p]
        for i in range(p):
            F[a, i] = solved[a, i]
            XVr[i] -= A[a, i] * gap
            for j in range(p):
                XVX[i, j] -= A[a, i] * (A[a, j] - solved[a, j])
    for i in range(p):
        for j in range(i):
            XVX[i, j] = 0.5 * (XVX[i, j] + XVX[j, i])
            XVX[j, i] = XVX[i, j]
    values = profile(XVX, XVr, rVr, logdet, nu, reml, Phi, delta)
    if order > 0 and np.isfinite(values[0]):
        _accumulate(B, out)
    return values


@inner
def _log_determinant(C):
    """Log|C|, or inf where rounding leaves it not positive definite."""
    L = np.linalg.cholesky(C)
    logdet = 0.0
    for a in range(C.shape[0]):
        logdet += 2.0 * np.log(L[a, a])
    return logdet


@inner
def _accumulate(B, out):
    """Sums over the columns of everything that the derivatives need."""
    Phi, delta, P, Q, tr1, tr2, quad1, quad2 = out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]
    F, w, flat, u = out[10], out[11], out[12], out[16]
    K, m, p = B.shape[0], F.shape[0], F.shape[1]
    D = flat.reshape((m, m))
    u[:] = w - F @ delta
    DB, BF, Bu = np.empty((K, m, m)), np.empty((K, m, p)), np.empty((K, m))
    for k in range(K):
        _times(D, B[k], DB[k])
        BF[k] = B[k] @ F
        Bu[k] = B[k] @ u
        P[k] = F.T @ BF[k]
        tr1[k] = np.trace(DB[k])
        quad1[k] = u @ Bu[k]
    for k in range(K):
        DBF, DBu, FBu = D @ BF[k], D @ Bu[k], F.T @ Bu[k]
        for j in range(k + 1):
            Q[j, k] = BF[j].T @ DBF
            Q[k, j] = Q[j, k].T
            trace = 0.0
            for a in range(m):
                for c in range(m):
                    trace += DB[j, a, c] * DB[k, c, a]
            tr2[j, k] = tr2[k, j] = trace
            quad2[j, k] = quad2[k, j] = Bu[j] @ DBu - (F.T @ Bu[j]) @ Phi @ FBu


@inner
def _times(D, B, out):
    """DB into `out`; a diagonal B, that of independent levels with rows of their own, needs no matrix product."""
    m = B.shape[0]
    diagonal = True
    for a in range(m):
        for c in range(a):
            if B[a, c] != 0.0:
                diagonal = False
                break
        if not diagonal:
            break
    if not diagonal:
        out[:] = D @ B
        return
    for a in range(m):
        for c in range(m):
            out[a, c] = D[a, c] * B[c, c]
