"""Likelihood and derivatives where a kernel ties all levels together: one dense block with Z'WZ = I.

    C = I + sum_k gamma_k B_k,   D = Z'V⁻¹Z = C⁻¹,   F = Z'V⁻¹X̃ = C⁻¹A,   w = Z'V⁻¹r = C⁻¹t

(see :mod:`donorwise._core.models.lmm.coupling`; symbols as in :mod:`donorwise._core.models.lmm.kernels`).

Only products of matrices and one factor are left to BLAS and LAPACK, in one form each: every other form costs seconds of
compilation, and an inverse by LAPACK, which does not know that C is symmetric, three times what this takes.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from donorwise._core.models.lmm.algebra import inner, profile

LARGEST = (
    1e12  # variance of a level's mean, relative to its sampling variance, beyond which there is no residual variance
)
_UNCOUPLED = 9  # arrays of blocks without B
_DIFFERENCE = 0.01  # share of C that a term needs for its DB to be told from the others'
_TILE = 32  # rows that are worked out together, of which a column stays in the cache


def evaluate_coupled(blocks, gamma, zty, rss, nu, reml, order, out):
    """What ``evaluate`` returns where blocks are coupled, and whether they are: decided by their type.

    So what other models compile does not hold any of it.
    """
    raise NotImplementedError


@overload(evaluate_coupled)
def _by_type(blocks, gamma, zty, rss, nu, reml, order, out):
    def uncoupled(blocks, gamma, zty, rss, nu, reml, order, out):
        return (np.inf, rss, np.inf, np.inf), False

    def coupled(blocks, gamma, zty, rss, nu, reml, order, out):
        return _evaluate(blocks, gamma, zty, rss, nu, reml, order, out), True

    return uncoupled if len(blocks) == _UNCOUPLED else coupled


@inner
def _evaluate(blocks, gamma, zty, rss, nu, reml, order, out):
    """What :func:`donorwise._core.models.lmm.kernels.evaluate` returns; but for traces with P all of its `out`."""
    A, B = blocks[3], blocks[9]
    Phi, delta, XVX, XVr, F, w, D = out[0], out[1], out[8], out[9], out[10], out[11], out[12]
    m, p = A.shape
    C, sound = _covariance(B, gamma, m)
    if not sound:
        return np.inf, rss, np.inf, np.inf
    root = _root_of_inverse(np.linalg.cholesky(C))  # C⁻¹ is its cross-product
    transposed = root.T.copy()
    logdet = 0.0
    right = np.empty((m, p + 1))
    for a in range(m):
        logdet -= 2.0 * np.log(root[a, a])
        right[a, p] = zty[a]
        for i in range(p):
            right[a, i] = A[a, i]
    solved = transposed @ (root @ right)
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
        inverse = D.reshape((m, m))
        np.dot(transposed, root, inverse)
        _accumulate(B, gamma, inverse, out)
    return values


@inner
def _covariance(B, gamma, m):
    """I + sum_k gamma_k B_k (m, m), and whether it is positive definite whatever rounding does to B."""
    C, sound = np.zeros((m, m)), True
    for k in range(gamma.size):
        C += gamma[k] * B[k]
    for a in range(m):
        C[a, a] += 1.0
        sound = sound and 0.0 < C[a, a] < LARGEST
    return C, sound


@inner
def _root_of_inverse(L):
    """L⁻¹, some rows at a time: those of X above them are known, and X_i = L_ii⁻¹ (I_i - L_i X)."""
    m = L.shape[0]
    X, rows = np.zeros((m, m)), np.empty((_TILE, m))
    for low in range(0, m, _TILE):
        n = min(_TILE, m - low)
        if low > 0:
            np.dot(L[low : low + n, :low].copy(), X[:low], rows[:n])
        for a in range(n):
            row = low + a
            for c in range(low):
                X[row, c] = -rows[a, c]
            X[row, row] = 1.0
            for b in range(low, row):
                factor = L[row, b]
                for c in range(b + 1):
                    X[row, c] -= factor * X[b, c]
            inverse = 1.0 / L[row, row]
            for c in range(row + 1):
                X[row, c] *= inverse
    return X


@inner
def _accumulate(B, gamma, D, out):
    """Sums over the columns of everything that the derivatives need."""
    Phi, delta, P, Q, tr1, tr2, quad1, quad2 = out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]
    F, w, u = out[10], out[11], out[16]
    K, m, p = B.shape[0], F.shape[0], F.shape[1]
    right = np.empty((m, p + 1))  # F, and u = Z'Py
    for a in range(m):
        u[a] = w[a]
        for i in range(p):
            right[a, i] = F[a, i]
            u[a] -= F[a, i] * delta[i]
        right[a, p] = u[a]
    DB, BR, DBR = np.empty((K, m, m)), np.empty((K, m, p + 1)), np.empty((K, m, p + 1))
    last = _largest(B, gamma)
    for k in range(K):
        _products(D, B[k], right, k != last, DB[k], BR[k], DBR[k])
    if last >= 0:
        _difference(D, gamma, last, DB)
    FBu = np.zeros((K, p))
    for k in range(K):
        tr1[k], quad1[k] = 0.0, 0.0
        for i in range(p):
            for j in range(p):
                P[k, i, j] = 0.0
        for a in range(m):
            tr1[k] += DB[k, a, a]
            quad1[k] += u[a] * BR[k, a, p]
            for i in range(p):
                FBu[k, i] += F[a, i] * BR[k, a, p]
                for j in range(p):
                    P[k, i, j] += F[a, i] * BR[k, a, j]
    for k in range(K):
        for j in range(k + 1):
            _pair(DB[j], DB[k], BR[j], DBR[k], Q[j, k], tr2, quad2, j, k)
            for i in range(p):
                for i2 in range(p):
                    quad2[j, k] -= FBu[j, i] * Phi[i, i2] * FBu[k, i2]
                    if j < k:
                        Q[k, j, i, i2] = Q[j, k, i2, i]
            tr2[k, j], quad2[k, j] = tr2[j, k], quad2[j, k]


@inner
def _pair(DB_j, DB_k, BR_j, DBR_k, Q, tr2, quad2, j, k):
    """Tr DB_jDB_k, y'PE_jV⁻¹E_kPy and X̃'V⁻¹E_jV⁻¹E_kV⁻¹X̃."""
    m, p = DB_j.shape[0], Q.shape[0]
    tr2[j, k], quad2[j, k] = 0.0, 0.0
    for i in range(p):
        for i2 in range(p):
            Q[i, i2] = 0.0
    for low in range(0, m, _TILE):
        for c in range(m):
            part = 0.0
            for a in range(low, min(low + _TILE, m)):
                part += DB_j[a, c] * DB_k[c, a]
            tr2[j, k] += part
    for a in range(m):
        quad2[j, k] += BR_j[a, p] * DBR_k[a, p]
        for i in range(p):
            for i2 in range(p):
                Q[i, i2] += BR_j[a, i] * DBR_k[a, i2]


@inner
def _largest(B, gamma):
    """The dense B that makes up most of C, or -1 where none makes up enough."""
    K, m = B.shape[0], B.shape[1]
    largest, most, total = -1, 0.0, float(m)
    for k in range(K):
        size = 0.0
        for a in range(m):
            size += gamma[k] * B[k, a, a]
        total += abs(size)
        if size > most and not _is_diagonal(B[k]):
            largest, most = k, size
    return largest if most > _DIFFERENCE * total else -1


@inner
def _difference(D, gamma, last, DB):
    """DB[last] from the others, which costs no product of matrices: sum_k gamma_k DB_k = I - D."""
    own = DB[last]
    own[:] = -D
    for a in range(len(D)):
        own[a, a] += 1.0
    for k in range(gamma.size):
        if k != last:
            own -= gamma[k] * DB[k]
    own /= gamma[last]


@inner
def _is_diagonal(B):
    for a in range(B.shape[0]):
        for c in range(a):
            if B[a, c] != 0.0:
                return False
    return True


@inner
def _products(D, B, right, wanted, DB, BR, DBR):
    """DB where it is wanted, B times `right`, and D times that; a diagonal B, of independent levels, takes no product."""
    m, width = right.shape
    if _is_diagonal(B):
        for a in range(m):
            for i in range(width):
                BR[a, i] = B[a, a] * right[a, i]
            for c in range(m):
                DB[a, c] = D[a, c] * B[c, c]
    else:
        if wanted:
            np.dot(D, B, DB)
        np.dot(B, right, BR)
    np.dot(D, BR, DBR)
