"""Loops over features: likelihood, derivatives and Newton steps, block by block.

Symbols follow the design: V = I + ZGZ' relative to the residual variance, with G
block-diagonal over levels; S = Z'Z, A = Z'X̃, t = Z'r for responses r that are
already residuals of least squares (so X̃'r = 0 and X̃'X̃ = I).  Per block,

    (I + SG)⁻¹ [S | A | t] = [D | F | w],   D = Z'V⁻¹Z, F = Z'V⁻¹X̃, w = Z'V⁻¹r,

by one LU with partial pivoting. No difference of nearly equal numbers is formed
there, also when G is singular or large.
"""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import (
    entry,
    evaluate_pairs,
    inner,
    is_one_pair,
    lu_solve,
    profile,
    projections,
    trace_of_product,
)
from donorwise._core.models.lmm.coupled_kernels import evaluate_coupled


@inner
def _relative_covariances(gamma, parameter, T):
    """T of every term from the K covariance entries."""
    for k in range(parameter.shape[0]):
        t, i, j = parameter[k, 0], parameter[k, 1], parameter[k, 2]
        T[t, i, j] = gamma[k]
        T[t, j, i] = gamma[k]


@inner
def evaluate(blocks, gamma, zty, rss, nu, reml, order, out):
    """Deviance at `gamma`, for order 1 what gradient and Hessian are made of, for order 2 what tests are.

    `blocks` is the tuple (start, S, S_start, A, term, component, lead, partner, parameter), with B behind it where levels are
    coupled, `out` the tuple made by :func:`workspace`. Returns (deviance without constants, R, log|V|, log|X̃'V⁻¹X̃|),
    R = y'Py. With order 2, `out` holds Phi, delta, and with E_k = ZB_kZ' per parameter
    P_k = X̃'V⁻¹E_kV⁻¹X̃, Q_jk = X̃'V⁻¹E_jV⁻¹E_kV⁻¹X̃, tr V⁻¹E_k, tr V⁻¹E_jV⁻¹E_k, y'PE_kPy, y'PE_jPE_kPy;
    with order 1 the last two, and tr PE_k and tr PE_jPE_k (for maximum likelihood, V⁻¹ in place of P).
    """
    values, coupled = evaluate_coupled(blocks, gamma, zty, rss, nu, reml, order, out)
    if coupled:
        if order == 1 and np.isfinite(values[0]):
            _project(out, reml)
        return values
    if order < 2 and is_one_pair(blocks[8]):
        return evaluate_pairs(blocks, gamma, zty, rss, nu, reml, order, out)
    start, S, S_start, A, term, component, lead, _, parameter = blocks[:9]
    Phi, delta, P, Q, tr1, tr2, quad1, quad2, XVX, XVr, F, w, D, M, B, T = out[:16]
    p = A.shape[1]
    _relative_covariances(gamma, parameter, T)
    for i in range(p):
        XVr[i] = 0.0
        for j in range(p):
            XVX[i, j] = 1.0 if i == j else 0.0
    logdet_V, rVr = 0.0, rss
    for block in range(start.size - 1):
        if start[block + 1] - start[block] == 1:  # one random column: a call would cost more than the work
            a, at = start[block], S_start[block]
            m = 1.0 + S[at] * T[term[a], 0, 0]
            for i in range(p):
                F[a, i] = A[a, i] / m
            w[a], D[at] = zty[a] / m, S[at] / m
            logdet_V += np.log(m)
        else:
            logdet_V += _solve_block(block, blocks, zty, order, T, F, w, D, M, B)
        for a in range(start[block], start[block + 1]):  # one row of GF and Gw at a time
            first, r = lead[a], 0
            while first + r < start[block + 1] and lead[first + r] == first:
                g = T[term[a], component[a], r]
                if g != 0.0:
                    gw = g * w[first + r]
                    rVr -= zty[a] * gw
                    for i in range(p):
                        XVr[i] -= A[a, i] * gw
                        for j in range(p):
                            XVX[i, j] -= A[a, i] * g * F[first + r, j]
                r += 1
    if not np.isfinite(logdet_V):
        return np.inf, rVr, logdet_V, np.inf
    for i in range(p):
        for j in range(i):
            XVX[i, j] = 0.5 * (XVX[i, j] + XVX[j, i])
            XVX[j, i] = XVX[i, j]
    values = profile(XVX, XVr, rVr, logdet_V, nu, reml, Phi, delta)
    if order > 0 and np.isfinite(values[0]) and parameter.shape[0] > 0:
        _accumulate(blocks, out)
        if order == 1:
            _project(out, reml)
    return values


@inner
def _solve_block(block, blocks, zty, order, T, F, w, D, M, B):
    """F, w and (order 1) D of one block; return its share of log|V|."""
    start, S, S_start, A, term, component, lead, _, _ = blocks[:9]
    lo, b, p, at = start[block], start[block + 1] - start[block], A.shape[1], S_start[block]
    s_columns = b if order > 0 else 0
    for a in range(b):
        for c in range(b):
            value = 1.0 if a == c else 0.0
            first, r = lead[lo + c], 0
            while first + r < lo + b and lead[first + r] == first:
                value += S[at + a * b + first - lo + r] * T[term[lo + c], r, component[lo + c]]
                r += 1
            M[a, c] = value
        for c in range(s_columns):
            B[a, c] = S[at + a * b + c]
        for i in range(p):
            B[a, s_columns + i] = A[lo + a, i]
        B[a, s_columns + p] = zty[lo + a]
    logdet = lu_solve(M, B, b, s_columns + p + 1)
    for a in range(b):
        for c in range(s_columns):
            D[at + a * b + c] = B[a, c]
        for i in range(p):
            F[lo + a, i] = B[a, s_columns + i]
        w[lo + a] = B[a, s_columns + p]
    return logdet


@inner
def _accumulate(blocks, out):
    """Sums over blocks of everything that the derivatives need (see :func:`evaluate`)."""
    start, S_start, partner = blocks[0], blocks[2], blocks[7]
    Phi, delta, P, Q, tr1, tr2, quad1, quad2, _, _, F, w, D, _, _, _, u, FBu, DBF, DBu, _, _, _ = out
    K, q, p = partner.shape[0], F.shape[0], F.shape[1]
    for k in range(K):
        tr1[k], quad1[k] = 0.0, 0.0
        for i in range(p):
            FBu[k, i] = 0.0
            for j in range(p):
                P[k, i, j] = 0.0
        for j in range(K):
            tr2[j, k], quad2[j, k] = 0.0, 0.0
            for i in range(p):
                for i2 in range(p):
                    Q[j, k, i, i2] = 0.0
    for a in range(q):  # u = Z'Py
        u[a] = w[a]
        for i in range(p):
            u[a] -= F[a, i] * delta[i]
    for block in range(start.size - 1):
        lo, hi = start[block], start[block + 1]
        b = hi - lo
        at = S_start[block]
        for k in range(K):
            for a in range(b):
                DBu[a] = 0.0
                for i in range(p):
                    DBF[a, i] = 0.0
            touched = False
            for c in range(b):
                other = partner[k, lo + c]
                if other < 0:
                    continue
                touched = True
                tr1[k] += D[at + c * b + other - lo]
                quad1[k] += u[lo + c] * u[other]
                for i in range(p):
                    FBu[k, i] += F[lo + c, i] * u[other]
                    for j in range(p):
                        P[k, i, j] += F[lo + c, i] * F[other, j]
                for a in range(b):
                    d = D[at + a * b + c]
                    DBu[a] += d * u[other]
                    for i in range(p):
                        DBF[a, i] += d * F[other, i]
            if not touched:
                continue
            for j in range(k + 1):
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
                            tr2[j, k] += D[at + (mate - lo) * b + c] * D[at + (other - lo) * b + a]
    for k in range(K):
        for j in range(k + 1):
            for i in range(p):
                for i2 in range(p):
                    quad2[j, k] -= FBu[j, i] * Phi[i, i2] * FBu[k, i2]
                    if j < k:
                        Q[k, j, i, i2] = Q[j, k, i2, i]
            tr2[k, j], quad2[k, j] = tr2[j, k], quad2[j, k]


@inner
def workspace(blocks):
    """The arrays that :func:`evaluate` writes: results first, then scratch."""
    start, S, A, parameter = blocks[0], blocks[1], blocks[3], blocks[8]
    q, p, K, largest, n_terms, r = A.shape[0], A.shape[1], parameter.shape[0], 1, 1, 1
    for block in range(start.size - 1):
        largest = max(largest, start[block + 1] - start[block])
    for k in range(K):
        n_terms, r = max(n_terms, parameter[k, 0] + 1), max(r, parameter[k, 1] + 1)
    return (
        np.zeros((p, p)),  # Phi
        np.zeros(p),  # delta
        np.zeros((K, p, p)),  # P
        np.zeros((K, K, p, p)),  # Q
        np.zeros(K),  # tr1
        np.zeros((K, K)),  # tr2
        np.zeros(K),  # quad1
        np.zeros((K, K)),  # quad2
        np.zeros((p, p)),  # XVX
        np.zeros(p),  # XVr
        np.zeros((q, p)),  # F
        np.zeros(q),  # w
        np.zeros(S.size),  # D
        np.zeros((largest, largest)),  # M
        np.zeros((largest, largest + p + 1)),  # B
        np.zeros((n_terms, r, r)),  # T
        np.zeros(q),  # u
        np.zeros((K, p)),  # FBu
        np.zeros((largest, p)),  # DBF
        np.zeros(largest),  # DBu
        np.zeros((K, p, p)),  # PhiP
        np.zeros(K),  # trPE
        np.zeros((K, K)),  # trPEPE
    )


@inner
def _project(out, reml):
    """Tr PE_k and tr PE_jPE_k from the traces with V⁻¹ in place of P."""
    Phi, P, Q, tr1, tr2, PhiP, trPE, trPEPE = out[0], out[2], out[3], out[4], out[5], out[20], out[21], out[22]
    projections(Phi, P, PhiP)
    for k in range(tr1.size):
        trPE[k] = tr1[k]
        for i in range(Phi.shape[0]):
            trPE[k] -= PhiP[k, i, i] if reml else 0.0
        for j in range(tr1.size):
            trPEPE[j, k] = tr2[j, k]
            if reml:
                trPEPE[j, k] += trace_of_product(PhiP[j], PhiP[k]) - 2.0 * trace_of_product(Phi, Q[j, k])


@inner
def derivatives(out, R, nu, gradient, hessian, expected):
    """Gradient, Hessian and expected Hessian of the profiled deviance in the entries of T."""
    K = gradient.size
    quad1, quad2, trPE, trPEPE = out[6], out[7], out[21], out[22]
    for j in range(K):
        gradient[j] = trPE[j] - nu * quad1[j] / R
        for k in range(K):
            profiled = quad1[j] * quad1[k] / R
            hessian[j, k] = -trPEPE[j, k] + nu * (2.0 * quad2[j, k] - profiled) / R
            expected[j, k] = trPEPE[j, k] - trPE[j] * trPE[k] / nu


@entry
def evaluate_features(blocks, gamma, zty, rss, nu, reml, order, likelihood, Phi, delta, pieces, posterior):
    """Evaluate every feature at its own `gamma` (G, K), and keep what was asked for.

    One entry point for all uses, since each costs seconds of compilation. `likelihood` (G, 4) takes
    deviance, R, log|V| and log|X̃'V⁻¹X̃|. `pieces` (P, Q, tr1, tr2, quad1, quad2) and `posterior`
    (Z'Py (G, q), blocks of Z'V⁻¹Z) have G or no rows; they need order 2.
    """
    shared = workspace(blocks)
    P, Q, tr1, tr2, quad1, quad2 = pieces
    u, D = posterior
    for g in range(gamma.shape[0]):
        if P.shape[0] > 0:
            own = (Phi[g], delta[g], P[g], Q[g], tr1[g], tr2[g], quad1[g], quad2[g])
        else:
            own = (Phi[g], delta[g], shared[2], shared[3], shared[4], shared[5], shared[6], shared[7])
        used = shared[12]
        if u.shape[0] > 0:
            used = D[g]
        out = own + shared[8:12] + (used,) + shared[13:]
        values = evaluate(blocks, gamma[g], zty[g], rss[g], nu, reml, order, out)
        for i in range(4):
            likelihood[g, i] = values[i]
        if u.shape[0] > 0:
            for a in range(u.shape[1]):
                u[g, a] = shared[16][a]
