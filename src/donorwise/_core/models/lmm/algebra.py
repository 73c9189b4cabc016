"""Small dense algebra inside the kernels, how they are compiled, and blocks of two columns in closed form.

Where every block is one level of one term with two columns, as in (time | donor), with S = Z'Z of a level and
T the relative covariance, both 2 x 2,

    |I + ST| = 1 + tr ST + |S||T|,   Z'V⁻¹Z = (S + |S| adj T) / |I + ST|,   T(I + ST)⁻¹ = (T + |T| adj S) / |I + ST|.

The parameters are t00, t01, t11, with E_k = ZB_kZ' for B = [1 0; 0 0], [0 1; 1 0], [0 0; 0 1].
"""

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


_LARGE = 1e100  # determinants are multiplied up to here before a logarithm is taken


@inner
def is_one_pair(parameter):
    """Whether the parameters are those of one term with two columns."""
    return parameter.shape[0] == 3 and parameter[1, 1] == 1


@inner
def evaluate_pairs(blocks, gamma, zty, rss, nu, reml, order, out):
    """What :func:`~donorwise._core.models.lmm.kernels.evaluate` does, for orders 0 and 1."""
    S, A = blocks[1], blocks[3]
    Phi, delta, XVX, XVr = out[0], out[1], out[8], out[9]
    p, t00, t01, t11 = A.shape[1], gamma[0], gamma[1], gamma[2]
    det_T = t00 * t11 - t01 * t01
    for i in range(p):
        XVr[i] = 0.0
        for j in range(p):
            XVX[i, j] = 1.0 if i == j else 0.0
    logdet_V, product, rVr = 0.0, 1.0, rss
    for block in range(A.shape[0] // 2):
        s00, s01, s11 = S[4 * block], S[4 * block + 1], S[4 * block + 3]
        det = 1.0 + s00 * t00 + 2.0 * s01 * t01 + s11 * t11 + (s00 * s11 - s01 * s01) * det_T
        if not det > 0.0:
            return np.inf, rVr, np.inf, np.inf
        product *= det
        if product > _LARGE:
            logdet_V, product = logdet_V + np.log(product), 1.0
        w00, w01, w11 = (t00 + det_T * s11) / det, (t01 - det_T * s01) / det, (t11 + det_T * s00) / det
        a0, a1, y0, y1 = A[2 * block], A[2 * block + 1], zty[2 * block], zty[2 * block + 1]
        g0, g1 = w00 * y0 + w01 * y1, w01 * y0 + w11 * y1
        rVr -= y0 * g0 + y1 * g1
        for i in range(p):
            XVr[i] -= a0[i] * g0 + a1[i] * g1
            f0, f1 = w00 * a0[i] + w01 * a1[i], w01 * a0[i] + w11 * a1[i]
            for j in range(i + 1):
                XVX[i, j] -= f0 * a0[j] + f1 * a1[j]
    values = profile(XVX, XVr, rVr, logdet_V + np.log(product), nu, reml, Phi, delta)
    if order > 0 and np.isfinite(values[0]):
        _accumulate_pairs(S, A, t00, t01, t11, zty, reml, out)
    return values


@inner
def _accumulate_pairs(S, A, t00, t01, t11, zty, reml, out):
    """Sums over levels of what gradient and Hessian need.

    With D = Z'V⁻¹Z, C = F Phi F' and u = Z'Py of a level, tr PE_jPE_k = sum tr B_jDB_k(D - 2C) + tr Phi P_j Phi P_k
    and y'PE_jPE_kPy = sum tr B_jDB_kuu' - (sum F'B_ju)' Phi (sum F'B_ku).
    """
    Phi, delta, P, quad1, quad2, F, FBu = out[0], out[1], out[2], out[6], out[7], out[14], out[17]
    trPE, trPEPE, p = out[21], out[22], A.shape[1]
    trPE[:], quad1[:], P[:] = 0.0, 0.0, 0.0
    trPEPE[:], quad2[:], FBu[:] = 0.0, 0.0, 0.0
    for block in range(A.shape[0] // 2):
        d00, d01, d11, n00, n01, n10, n11 = _solve_pair(S[4 * block], S[4 * block + 1], S[4 * block + 3], t00, t01, t11)
        e0, e1 = zty[2 * block], zty[2 * block + 1]
        for i in range(p):
            a0, a1 = A[2 * block, i], A[2 * block + 1, i]
            e0, e1 = e0 - a0 * delta[i], e1 - a1 * delta[i]
            F[0, i], F[1, i] = n00 * a0 + n01 * a1, n10 * a0 + n11 * a1
        u0, u1 = n00 * e0 + n01 * e1, n10 * e0 + n11 * e1
        for i in range(p):
            FBu[0, i] += F[0, i] * u0
            FBu[1, i] += F[0, i] * u1 + F[1, i] * u0
            FBu[2, i] += F[1, i] * u1
        c00, c01, c11 = 0.0, 0.0, 0.0
        if reml:
            c00, c01, c11 = _project_pair(F, Phi, P)
        _add(trPE, d00 - c00, d01 - c01, d11 - c11)
        _add(quad1, u0 * u0, u0 * u1, u1 * u1)
        _add_pairs(trPEPE, d00, d01, d11, d00 - 2.0 * c00, d01 - 2.0 * c01, d11 - 2.0 * c11)
        _add_pairs(quad2, d00, d01, d11, u0 * u0, u0 * u1, u1 * u1)
    _finish_pairs(Phi, P, FBu, quad2, trPEPE, reml, out[20])


@inner
def _solve_pair(s00, s01, s11, t00, t01, t11):
    """Z'V⁻¹Z (00, 01, 11) and (I + ST)⁻¹ (00, 01, 10, 11) of one level."""
    det_S, det_T = s00 * s11 - s01 * s01, t00 * t11 - t01 * t01
    inverse = 1.0 / (1.0 + s00 * t00 + 2.0 * s01 * t01 + s11 * t11 + det_S * det_T)
    n00, n01 = (1.0 + s01 * t01 + s11 * t11) * inverse, -(s00 * t01 + s01 * t11) * inverse
    n10, n11 = -(s01 * t00 + s11 * t01) * inverse, (1.0 + s00 * t00 + s01 * t01) * inverse
    d00, d01, d11 = (s00 + det_S * t11) * inverse, (s01 - det_S * t01) * inverse, (s11 + det_S * t00) * inverse
    return d00, d01, d11, n00, n01, n10, n11


@inner
def _project_pair(F, Phi, P):
    """Add F'B_kF of one level to P; return F Phi F' (00, 01, 11)."""
    c00, c01, c11 = 0.0, 0.0, 0.0
    for i in range(Phi.shape[0]):
        f0, f1, g0, g1 = F[0, i], F[1, i], 0.0, 0.0
        for j in range(Phi.shape[0]):
            g0, g1 = g0 + Phi[i, j] * F[0, j], g1 + Phi[i, j] * F[1, j]
            P[0, i, j] += f0 * F[0, j]
            P[1, i, j] += f0 * F[1, j] + f1 * F[0, j]
            P[2, i, j] += f1 * F[1, j]
        c00, c01, c11 = c00 + f0 * g0, c01 + f0 * g1, c11 + f1 * g1
    return c00, c01, c11


@inner
def _add(total, x00, x01, x11):
    """Add tr B_kX for symmetric X."""
    total[0] += x00
    total[1] += 2.0 * x01
    total[2] += x11


@inner
def _add_pairs(total, d00, d01, d11, x00, x01, x11):
    """Add tr B_jDB_kX for symmetric D and X; j <= k."""
    total[0, 0] += d00 * x00
    total[0, 1] += d01 * x00 + d00 * x01
    total[0, 2] += d01 * x01
    total[1, 1] += d11 * x00 + 2.0 * d01 * x01 + d00 * x11
    total[1, 2] += d11 * x01 + d01 * x11
    total[2, 2] += d11 * x11


@inner
def _finish_pairs(Phi, P, FBu, quad2, trPEPE, reml, PhiP):
    """The terms that are products of sums, and the lower triangles."""
    p = Phi.shape[0]
    if reml:
        projections(Phi, P, PhiP)
    for k in range(3):
        for j in range(k + 1):
            if reml:
                trPEPE[j, k] += trace_of_product(PhiP[j], PhiP[k])
            for i in range(p):
                for i2 in range(p):
                    quad2[j, k] -= FBu[j, i] * Phi[i, i2] * FBu[k, i2]
            quad2[k, j], trPEPE[k, j] = quad2[j, k], trPEPE[j, k]
