"""Loops over features: likelihood, derivatives and Newton steps, block by block.

Symbols follow the design: V = I + ZGZ' relative to the residual variance, with G
block-diagonal over levels; S = Z'Z, A = Z'X̃, t = Z'r for responses r that are
already residuals of least squares (so X̃'r = 0 and X̃'X̃ = I).  Per block,

    (I + SG)⁻¹ [S | A | t] = [D | F | w],   D = Z'V⁻¹Z, F = Z'V⁻¹X̃, w = Z'V⁻¹r,

by one LU with partial pivoting.  No difference of nearly equal numbers is formed
there, also when G is singular or large.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Above this size a block goes to LAPACK; below it, the loops here are faster than the call.
_LAPACK_FROM = 24


@njit(nogil=True, cache=True)
def _lu_solve(M, B):  # numpydoc ignore=GL08
    """Solve M X = B in place (both overwritten); return log|det M|."""
    n, m = B.shape
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
        inverse = 1.0 / M[c, c]
        for k in range(m):
            value = B[c, k]
            for r in range(c + 1, n):
                value -= M[c, r] * B[r, k]
            B[c, k] = value * inverse
    return logdet


@njit(nogil=True, cache=True)
def _solve_block(M, B):
    """As :func:`_lu_solve`, by LAPACK for large blocks."""
    if M.shape[0] < _LAPACK_FROM:
        return _lu_solve(M, B)
    _, logdet = np.linalg.slogdet(M)
    if not np.isfinite(logdet):
        return np.inf
    B[:, :] = np.linalg.solve(M, B)
    return logdet


@njit(nogil=True, cache=True)
def _cholesky_inverse(M, out):
    """Inverse of a small positive definite matrix into `out`; return log|M|, or inf if not positive."""
    n = M.shape[0]
    L = np.zeros((n, n))
    logdet = 0.0
    for j in range(n):
        d = M[j, j]
        for k in range(j):
            d -= L[j, k] * L[j, k]
        if not d > 0.0:
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


@njit(nogil=True, cache=True)
def _relative_covariances(gamma, parameter, n_terms):
    """T of every term from the K covariance entries, (terms, r, r) padded to the largest r."""
    r = 1
    for k in range(parameter.shape[0]):
        r = max(r, parameter[k, 1] + 1)
    T = np.zeros((n_terms, r, r))
    for k in range(parameter.shape[0]):
        t, i, j = parameter[k]
        T[t, i, j] = gamma[k]
        T[t, j, i] = gamma[k]
    return T


@njit(nogil=True, cache=True)
def evaluate(blocks, gamma, zty, rss, nu, reml, order, out):
    """Deviance at `gamma` and, for order 1, what gradient, Hessian and tests are made of.

    `blocks` is the tuple (start, S, S_start, A, term, component, lead, partner, parameter), `out`
    the tuple made by :func:`workspace`. Returns (deviance without constants, R, log|V|, log|X̃'V⁻¹X̃|),
    R = y'Py. With order 1, `out` holds Phi, delta, and with E_k = ZB_kZ' per parameter
    P_k = X̃'V⁻¹E_kV⁻¹X̃, Q_jk = X̃'V⁻¹E_jV⁻¹E_kV⁻¹X̃, tr V⁻¹E_k, tr V⁻¹E_jV⁻¹E_k, y'PE_kPy, y'PE_jPE_kPy.
    """
    start, S, S_start, A, term, component, lead, partner, parameter = blocks
    Phi, delta, P, Q, tr1, tr2, quad1, quad2, XVX, F, w, D = out
    n_blocks, p, K = start.size - 1, A.shape[1], parameter.shape[0]
    T = _relative_covariances(gamma, parameter, term.max() + 1 if term.size else 0)
    logdet_V = 0.0
    rVr = rss
    XVX[:] = 0.0
    XVr = np.zeros(p)
    for a in range(p):
        XVX[a, a] = 1.0
    for block in range(n_blocks):
        lo, hi = start[block], start[block + 1]
        b = hi - lo
        Sb = S[S_start[block] : S_start[block + 1]].reshape(b, b)
        M = np.eye(b)
        for c in range(b):
            t, col, first = term[lo + c], component[lo + c], lead[lo + c] - lo
            r = 0
            while first + r < b and lead[lo + first + r] == lead[lo + c]:
                for a in range(b):
                    M[a, c] += Sb[a, first + r] * T[t, r, col]
                r += 1
        s_columns = b if order > 0 else 0
        B = np.empty((b, s_columns + p + 1))
        B[:, :s_columns] = Sb[:, :s_columns]
        B[:, s_columns : s_columns + p] = A[lo:hi]
        B[:, s_columns + p] = zty[lo:hi]
        logdet_V += _solve_block(M, B)
        for a in range(b):
            F[lo + a] = B[a, s_columns : s_columns + p]
            w[lo + a] = B[a, s_columns + p]
        if order > 0:
            D[S_start[block] : S_start[block + 1]] = B[:, :b].copy().ravel()
        for a in range(b):  # one row of GF and Gw at a time
            t, col, first = term[lo + a], component[lo + a], lead[lo + a]
            r = 0
            while first + r < hi and lead[first + r] == first:
                g = T[t, col, r]
                if g != 0.0:
                    gw = g * w[first + r]
                    rVr -= zty[lo + a] * gw
                    for i in range(p):
                        XVr[i] -= A[lo + a, i] * gw
                        for j in range(p):
                            XVX[i, j] -= A[lo + a, i] * g * F[first + r, j]
                r += 1
    if not np.isfinite(logdet_V):
        return np.inf, rVr, logdet_V, np.inf
    for i in range(p):
        for j in range(i):
            XVX[i, j] = XVX[j, i] = 0.5 * (XVX[i, j] + XVX[j, i])
    logdet_X = _cholesky_inverse(XVX, Phi)
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
    if order > 0 and K > 0:
        _accumulate(start, S_start, D, F, w, delta, Phi, partner, P, Q, tr1, tr2, quad1, quad2)
    return deviance, R, logdet_V, logdet_X


@njit(nogil=True, cache=True)
def _accumulate(start, S_start, D, F, w, delta, Phi, partner, P, Q, tr1, tr2, quad1, quad2):
    """Sums over blocks of everything that the derivatives need (see :func:`evaluate`)."""
    K, p = partner.shape[0], F.shape[1]
    q = F.shape[0]
    P[:] = 0.0
    Q[:] = 0.0
    tr1[:] = 0.0
    tr2[:] = 0.0
    quad1[:] = 0.0
    quad2[:] = 0.0
    u = np.empty(q)  # Z'Py
    FBu = np.zeros((K, p))
    for a in range(q):
        s = w[a]
        for i in range(p):
            s -= F[a, i] * delta[i]
        u[a] = s
    for block in range(start.size - 1):
        lo, hi = start[block], start[block + 1]
        b = hi - lo
        Db = D[S_start[block] : S_start[block + 1]].reshape(b, b)
        for k in range(K):
            DBF = np.zeros((b, p))
            DBu = np.zeros(b)
            touched = False
            for c in range(b):
                other = partner[k, lo + c]
                if other < 0:
                    continue
                touched = True
                tr1[k] += Db[c, other - lo]
                quad1[k] += u[lo + c] * u[other]
                for i in range(p):
                    FBu[k, i] += F[lo + c, i] * u[other]
                    for j in range(p):
                        P[k, i, j] += F[lo + c, i] * F[other, j]
                for a in range(b):
                    d = Db[a, c]
                    DBu[a] += d * u[other]
                    for i in range(p):
                        DBF[a, i] += d * F[other, i]
            if not touched:
                continue
            for j in range(K):
                for a in range(b):
                    mate = partner[j, lo + a]
                    if mate < 0:
                        continue
                    quad2[j, k] += u[mate] * DBu[a]
                    for i in range(p):
                        f = F[mate, i]
                        for i2 in range(p):
                            Q[j, k, i, i2] += f * DBF[a, i2]
                    for c in range(b):
                        other = partner[k, lo + c]
                        if other >= 0:
                            tr2[j, k] += Db[mate - lo, c] * Db[other - lo, a]
    for j in range(K):
        for k in range(K):
            for i in range(p):
                for i2 in range(p):
                    quad2[j, k] -= FBu[j, i] * Phi[i, i2] * FBu[k, i2]


@njit(nogil=True, cache=True)
def workspace(q, s_size, p, K):
    """The arrays that :func:`evaluate` writes."""
    return (
        np.zeros((p, p)),
        np.zeros(p),
        np.zeros((K, p, p)),
        np.zeros((K, K, p, p)),
        np.zeros(K),
        np.zeros((K, K)),
        np.zeros(K),
        np.zeros((K, K)),
        np.zeros((p, p)),
        np.zeros((q, p)),
        np.zeros(q),
        np.zeros(s_size),
    )


@njit(nogil=True, cache=True)
def projected_traces(out, trPE, trPEPE):
    """tr PE_k and tr PE_jPE_k from the unprojected traces."""
    Phi, _, P, Q, tr1, tr2 = out[0], out[1], out[2], out[3], out[4], out[5]
    K, p = P.shape[0], Phi.shape[0]
    PhiP = np.zeros((K, p, p))
    for k in range(K):
        trPE[k] = tr1[k]
        for i in range(p):
            for j in range(p):
                for m in range(p):
                    PhiP[k, i, j] += Phi[i, m] * P[k, m, j]
            trPE[k] -= PhiP[k, i, i]
    for j in range(K):
        for k in range(K):
            value = tr2[j, k]
            for a in range(p):
                for c in range(p):
                    value += -2.0 * Phi[a, c] * Q[j, k, c, a] + PhiP[j, a, c] * PhiP[k, c, a]
            trPEPE[j, k] = value


@njit(nogil=True, cache=True)
def derivatives(out, R, nu, reml, gradient, hessian, expected):
    """Gradient, Hessian and expected Hessian of the profiled deviance in the entries of T."""
    K = gradient.size
    trPE, trPEPE = out[4].copy(), out[5].copy()
    if reml:
        projected_traces(out, trPE, trPEPE)
    quad1, quad2 = out[6], out[7]
    for j in range(K):
        gradient[j] = trPE[j] - nu * quad1[j] / R
        for k in range(K):
            profile = quad1[j] * quad1[k] / R
            hessian[j, k] = -trPEPE[j, k] + nu * (2.0 * quad2[j, k] - profile) / R
            expected[j, k] = trPEPE[j, k] - trPE[j] * trPE[k] / nu


@njit(nogil=True, cache=True)
def evaluate_features(blocks, gamma, zty, rss, nu, reml, Phi, delta, R, logdet_V, logdet_X, deviance):
    """The likelihood and the fixed effects of every feature at its own `gamma` (G, K)."""
    start, S, S_start, A = blocks[0], blocks[1], blocks[2], blocks[3]
    out = workspace(A.shape[0], S.size, A.shape[1], gamma.shape[1])
    for g in range(gamma.shape[0]):
        deviance[g], R[g], logdet_V[g], logdet_X[g] = evaluate(
            blocks, gamma[g], zty[g], rss[g], nu, reml, 0, out
        )
        Phi[g] = out[0]
        delta[g] = out[1]


@njit(nogil=True, cache=True)
def derivative_features(blocks, gamma, zty, rss, nu, P, Q, tr1, tr2, quad1, quad2):
    """The pieces of the derivatives (see :func:`evaluate`) of every feature at its own `gamma`."""
    S, A = blocks[1], blocks[3]
    out = workspace(A.shape[0], S.size, A.shape[1], gamma.shape[1])
    for g in range(gamma.shape[0]):
        evaluate(blocks, gamma[g], zty[g], rss[g], nu, True, 1, out)
        P[g], Q[g], tr1[g], tr2[g], quad1[g], quad2[g] = out[2], out[3], out[4], out[5], out[6], out[7]


@njit(nogil=True, cache=True)
def posterior_features(blocks, gamma, zty, rss, nu, u, D):
    """Z'Py (G, q) and the blocks of Z'V⁻¹Z (G, size of S) of every feature."""
    S, A = blocks[1], blocks[3]
    out = workspace(A.shape[0], S.size, A.shape[1], gamma.shape[1])
    for g in range(gamma.shape[0]):
        evaluate(blocks, gamma[g], zty[g], rss[g], nu, True, 1, out)
        u[g] = out[10] - out[9] @ out[1]
        D[g] = out[11]
