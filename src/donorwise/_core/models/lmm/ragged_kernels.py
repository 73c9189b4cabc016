"""Loops over features that each have rows of their own: small mixed models with one column in every random term.

The term with most levels, `e`, is eliminated first: given its variance V_e = W⁻¹ + gamma_e Z_e Z_e' is inverted level by level,

    V_e⁻¹ = W - W Z_e diag(h) Z_e'W,   h = gamma_e / (1 + gamma_e s),   s = diag(Z_e'W Z_e).

The columns of the other terms, of X and y, R = [Z_r, X, y], meet in M = R'V_e⁻¹R = C - B'diag(h)B with C = R'WR, B = Z_e'WR.
A Cholesky factor of M, with I + Lambda M_rr Lambda for the random columns, gives all that REML needs: log|V|, log|X'V⁻¹X|, y'Py.
"""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import inner


@inner
def assemble(low, high, pattern, y, w, local, n_levels, kept, z, X, N, first):
    """Sums of a feature's rows: (s, B, C, begin, e) with columns [the term `first`?, other terms, X N, y].

    Columns are: the kept terms other than `e` and `first`, the X, then those of the term `first` (-1 for none), then y.
    `begin` (T + 2,) says where the columns of a term begin, of X at T, and of y at T + 1; -1 for a term that has none.
    """
    T, r = kept.size, N.shape[1]
    e = -1
    for t in range(T):
        if kept[t] and t != first and (e < 0 or n_levels[t] > n_levels[e]):
            e = t
    begin = np.full(T + 2, -1, dtype=np.int64)
    c = 0
    for t in range(T):
        if kept[t] and t != e and t != first:
            begin[t] = c
            c += n_levels[t]
    begin[T] = c
    c += r
    if first >= 0:
        begin[first] = c
        c += n_levels[first]
    begin[T + 1] = c
    n_e = n_levels[e] if e >= 0 else 0
    s, B, C = np.zeros(n_e), np.zeros((n_e, c + 1)), np.zeros((c + 1, c + 1))
    at, value = np.empty(T + r + 1, dtype=np.int64), np.empty(T + r + 1)
    for row in range(low, high):
        n = 0
        for t in range(T):
            if begin[t] >= 0:
                at[n], value[n] = begin[t] + local[row, t], z[pattern[row], t]
                n += 1
        for j in range(r):
            total = 0.0
            for i in range(N.shape[0]):
                total += X[pattern[row], i] * N[i, j]
            at[n], value[n] = begin[T] + j, total
            n += 1
        at[n], value[n] = c, y[row]
        n += 1
        for i in range(n):
            scaled = w[row] * value[i]
            for j in range(n):
                C[at[i], at[j]] += scaled * value[j]
        if e >= 0:
            own, scaled = local[row, e], w[row] * z[pattern[row], e]
            s[own] += scaled * z[pattern[row], e]
            for i in range(n):
                B[own, at[i]] += scaled * value[i]
    return s, B, C, begin, e


@inner
def reduced(s, B, C, gamma, M):
    """M = C - B'diag(h)B (upper triangle), and log|I + gamma diag(s)|."""
    c = C.shape[0]
    M[:] = C
    logdet = 0.0
    for i in range(s.size):
        logdet += np.log1p(gamma * s[i])
        h = gamma / (1.0 + gamma * s[i])
        for a in range(c):
            scaled = h * B[i, a]
            if scaled != 0.0:
                for b in range(a, c):
                    M[a, b] -= scaled * B[i, b]
    return logdet


@inner
def factorise(M, m, n):
    """Cholesky factor, in place in the upper triangle, of the first n columns, the first m with one added; log-determinants of both.

    What lies beyond the first n columns is their Schur complement afterwards.
    """
    c = M.shape[0]
    of_random, of_fixed = 0.0, 0.0
    for k in range(n):
        pivot = M[k, k]
        if not pivot > 0.0:
            return np.nan, np.nan
        root = np.sqrt(pivot)
        if k < m:
            of_random += np.log(pivot)
        else:
            of_fixed += np.log(pivot)
        for j in range(k, c):
            M[k, j] /= root
        for i in range(k + 1, c):
            factor = M[k, i]
            if factor != 0.0:
                for j in range(i, c):
                    M[i, j] -= factor * M[k, j]
    return of_random, of_fixed


@inner
def scales(kept, n_levels, begin, gamma, e, m):
    """Square roots of the variances of the first m columns, those of the terms other than e."""
    out = np.ones(m)
    for t in range(kept.size):
        if begin[t] >= 0 and begin[t] < m and t != e:
            out[begin[t] : begin[t] + n_levels[t]] = np.sqrt(gamma[t])
    return out


@inner
def with_effects(M, scale):
    """I + Lambda M Lambda, in place in the upper triangle, of the first columns, whose standard deviations are `scale` (m,)."""
    m = scale.size
    for i in range(m):
        for j in range(i, M.shape[0]):
            M[i, j] *= scale[i] * (scale[j] if j < m else 1.0)
        M[i, i] += 1.0


@inner
def deviance_at(s, B, C, begin, e, kept, n_levels, gamma, nu, reml, M):
    """Profiled deviance at variances gamma (T,), and y'Py, log|V|, log|X'V⁻¹X|; M is left factorised."""
    logdet = reduced(s, B, C, gamma[e] if e >= 0 else 0.0, M)
    return deviance_of(logdet, begin, e, kept, n_levels, gamma, nu, reml, M)


@inner
def deviance_of(logdet, begin, e, kept, n_levels, gamma, nu, reml, M):
    """What :func:`deviance_at` gives, from M and the log-determinant that :func:`reduced` has left."""
    m, c = begin[kept.size], begin[kept.size + 1]
    with_effects(M, scales(kept, n_levels, begin, gamma, e, m))
    of_random, of_fixed = factorise(M, m, c)
    R = M[c, c]
    if not R > 0.0:
        return np.inf, np.nan, np.nan, np.nan
    deviance = logdet + of_random + nu * np.log(R) + (of_fixed if reml else 0.0)
    return (deviance if deviance == deviance else np.inf), R, logdet + of_random, of_fixed


@inner
def _inverse(M, n):
    """Inverse of a factorised matrix from its factor in the upper triangle, the first n columns."""
    U = np.zeros((n, n))  # inverse of the factor
    for j in range(n):
        U[j, j] = 1.0 / M[j, j]
        for i in range(j - 1, -1, -1):
            total = 0.0
            for k in range(i + 1, j + 1):
                total += M[i, k] * U[k, j]
            U[i, j] = -total / M[i, i]
    return U @ U.T


@inner
def blocks_at(s, B, C, begin, e, kept, n_levels, gamma, n, first, width):
    """Blocks of Z'PZ and products with some columns, where P takes out the first n columns (terms, and X if n reaches there).

    Returns
    -------
    (diagonal of D_ee before the others are taken out (n_e,), root of what they take out (n_e, n), D_er (n_e, m), D_rr (m, m),
    F_e (n_e, width), F_r (m, width)): F = Z'P of the columns `first` to `first + width`.
    """
    T = kept.size
    m, c = begin[T], begin[T + 1]
    ge = gamma[e] if e >= 0 else 0.0
    M = np.empty_like(C)
    reduced(s, B, C, ge, M)
    for i in range(c + 1):
        for j in range(i):
            M[i, j] = M[j, i]
    scale = np.ones(n)
    scale[:m] = scales(kept, n_levels, begin, gamma, e, m)
    K = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            K[i, j] = scale[i] * M[i, j] * scale[j]
    for i in range(m):
        K[i, i] += 1.0
    factorise(K, m, n)
    K = _inverse(K, n)
    for i in range(n):
        for j in range(n):
            K[i, j] *= scale[i] * scale[j]
    a, Bh = np.empty(s.size), np.empty_like(B)
    for i in range(s.size):
        shrunk = 1.0 / (1.0 + ge * s[i])
        a[i] = s[i] * shrunk
        Bh[i] = B[i] * shrunk
    Bn, Mn = np.ascontiguousarray(Bh[:, :n]), np.ascontiguousarray(M[:m, :n])
    BK, MK = Bn @ K, Mn @ K
    Mrn = np.ascontiguousarray(M[:n, :m])
    Mnf = np.ascontiguousarray(M[:n, first : first + width])
    D_er = np.ascontiguousarray(Bh[:, :m]) - BK @ Mrn
    D_rr = np.ascontiguousarray(M[:m, :m]) - MK @ Mrn
    F_e = np.ascontiguousarray(Bh[:, first : first + width]) - BK @ Mnf
    F_r = np.ascontiguousarray(M[:m, first : first + width]) - MK @ Mnf
    return a, Bn, BK, D_er, D_rr, F_e, F_r


@inner
def traces(a, Bn, BK, D_er, D_rr, begin, e, kept, n_levels, tr1, tr2):
    """Traces of PE_i, and of PE_iPE_j, from the blocks."""
    T = kept.size
    tr1[:] = 0.0
    tr2[:] = 0.0
    if e >= 0:
        inner_product = Bn.T @ BK  # n x n
        for i in range(a.size):
            taken = 0.0
            for k in range(Bn.shape[1]):
                taken += Bn[i, k] * BK[i, k]
            tr1[e] += a[i] - taken
            tr2[e, e] += a[i] * a[i] - 2.0 * a[i] * taken
        for k in range(Bn.shape[1]):
            for l in range(Bn.shape[1]):
                tr2[e, e] += inner_product[k, l] * inner_product[l, k]
    for t in range(T):
        if not kept[t] or t == e:
            continue
        low, high = begin[t], begin[t] + n_levels[t]
        for k in range(low, high):
            tr1[t] += D_rr[k, k]
            for i in range(a.size):
                tr2[e, t] += D_er[i, k] ** 2
        if e >= 0:
            tr2[t, e] = tr2[e, t]
        for o in range(T):
            if kept[o] and o != e:
                for k in range(low, high):
                    for l in range(begin[o], begin[o] + n_levels[o]):
                        tr2[t, o] += D_rr[k, l] ** 2


@inner
def products(u_e, u_r, a, Bn, BK, D_er, D_rr, begin, e, kept, n_levels, quad1, quad2):
    """u_i'u_i and u_i'D_ij u_j."""
    T = kept.size
    quad1[:] = 0.0
    quad2[:] = 0.0
    if e >= 0:
        left, right = Bn.T @ u_e, BK.T @ u_e
        for i in range(a.size):
            quad1[e] += u_e[i] ** 2
            quad2[e, e] += a[i] * u_e[i] ** 2
        for k in range(left.size):
            quad2[e, e] -= left[k] * right[k]
    for t in range(T):
        if not kept[t] or t == e:
            continue
        low, high = begin[t], begin[t] + n_levels[t]
        for k in range(low, high):
            quad1[t] += u_r[k] ** 2
            if e >= 0:
                for i in range(a.size):
                    quad2[e, t] += u_e[i] * D_er[i, k] * u_r[k]
        if e >= 0:
            quad2[t, e] = quad2[e, t]
        for o in range(T):
            if kept[o] and o != e:
                for k in range(low, high):
                    for l in range(begin[o], begin[o] + n_levels[o]):
                        quad2[t, o] += u_r[k] * D_rr[k, l] * u_r[l]
