"""Loops over features that each have rows of their own: small mixed models with one column in every random term.

The term with most levels, `e`, is eliminated first: given its variance V_e = W⁻¹ + gamma_e Z_e Z_e' is inverted level by level,

    V_e⁻¹ = W - W Z_e diag(h) Z_e'W,   h = gamma_e / (1 + gamma_e s),   s = diag(Z_e'W Z_e).

The columns of the other terms, of X and y, R = [Z_r, X, y], meet in M = R'V_e⁻¹R = C - B'diag(h)B with C = R'WR, B = Z_e'WR.
A Cholesky factor of M, with I + Lambda M_rr Lambda for the random columns, gives all that REML needs: log|V|, log|X'V⁻¹X|, y'Py.
"""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner

_RANK = 1e-10  # of the largest eigenvalue of X'X, below which a direction has no rows
_ALIKE = 1e-12  # of the largest value of a column, for rounding


@entry
def local_levels(start, codes, size, local, n_levels):
    """Number the levels of every term feature by feature, in the order of their codes: `local` (M, T), `n_levels` (G, T)."""
    place = np.full(size, -1, dtype=np.int64)
    for t in range(codes.shape[1]):
        for g in range(start.size - 1):
            own = np.unique(codes[start[g] : start[g + 1], t])
            for number in range(own.size):
                place[own[number]] = number
            for row in range(start[g], start[g + 1]):
                local[row, t] = place[codes[row, t]]
            n_levels[g, t] = own.size


@inner
def _alike(low, high, pattern, local, z, a, b):
    """Whether the covariances of terms a and b are proportional in some rows; b = -1 is the residual.

    They are where both group the rows alike that are not zero, and their columns have a ratio of one size, and of one
    sign within a level.
    """
    n = high - low
    partner, back, ratios = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64), np.empty(n)
    size = 0.0
    for row in range(low, high):
        own, other = z[pattern[row], a], z[pattern[row], b] if b >= 0 else 1.0
        if (own == 0.0) != (other == 0.0):
            return False
        if own == 0.0:
            continue
        level, its, ratio = local[row, a], local[row, b] if b >= 0 else row - low, other / own
        if size == 0.0:
            size = abs(ratio)
        if partner[level] < 0 and back[its] < 0:
            partner[level], back[its], ratios[level] = its, level, ratio
        elif partner[level] != its or abs(ratio - ratios[level]) > _ALIKE * size:
            return False
        if abs(abs(ratio) - size) > _ALIKE * size:
            return False
    return True


@inner
def _several(low, high, pattern, local, z, t):
    """Whether a term has more than one level with a column that is not zero."""
    first = -1
    for row in range(low, high):
        if z[pattern[row], t] != 0.0:
            if first < 0:
                first = local[row, t]
            elif local[row, t] != first:
                return True
    return False


@inner
def _saturated(low, high, pattern, local, n_levels, z, X, kept):
    """Whether X and the kept terms fit any response, so that nothing tells the residual from their effects."""
    T, p = n_levels.size, X.shape[1]
    begin, columns = np.empty(T, dtype=np.int64), p
    for t in range(T):
        begin[t] = columns
        columns += n_levels[t] if kept[t] else 0
    n = high - low
    if columns < n:
        return False
    rows = np.zeros((n, columns))
    for row in range(n):
        rows[row, :p] = X[pattern[low + row]]
        for t in range(T):
            if kept[t]:
                rows[row, begin[t] + local[low + row, t]] = z[pattern[low + row], t]
    values = np.linalg.eigvalsh(rows @ rows.T)
    return bool(values[0] > _RANK * values[n - 1])


@inner
def _without_residual(low, high, pattern, local, n_levels, z, X, order, kept):
    """The term with most levels, the last of `order`, without which something is left for the residual; -1 for none."""
    found = -1
    if _saturated(low, high, pattern, local, n_levels, z, X, kept):
        fewer = kept.copy()
        for t in order[::-1]:
            if kept[t] and (found < 0 or n_levels[t] > n_levels[found]):
                fewer[t] = False
                if not _saturated(low, high, pattern, local, n_levels, z, X, fewer):
                    found = t
                fewer[t] = True
    return found


@entry
def kept_terms(start, pattern, local, n_levels, z, X, order, kept, merged):
    """Which terms (G, T) a feature can tell: with several levels, and neither the residual's covariance nor that of another.

    `order` (T,) says which term is looked at first. `merged` (G,) says whether a term was left out that cannot be told from the
    residual: alone, or as all terms together fit every response.
    """
    for g in range(start.size - 1):
        low, high = start[g], start[g + 1]
        for position in range(order.size):
            t = order[position]
            several, of_rows = _several(low, high, pattern, local, z, t), _alike(low, high, pattern, local, z, t, -1)
            merged[g] |= several and of_rows
            keep = several and not of_rows
            for earlier in range(position):
                o = order[earlier]
                if keep and kept[g, o]:
                    keep = not _alike(low, high, pattern, local, z, t, o)
            kept[g, t] = keep
        lost = _without_residual(low, high, pattern, local, n_levels[g], z, X, order, kept[g])
        if lost >= 0:
            kept[g, lost], merged[g] = False, True


@entry
def least_squares(start, pattern, y, w, X, basis, rank, ols, residual, sums):
    """Of every feature: a `basis` (G, p, p) of the directions of X that it has rows for, `rank` of them, weighted least squares.

    In the basis X'X of its rows is one. `ols` (G, p) are coefficients of least norm, `residual` (M,) what they leave,
    and `sums` (G, 3) its weighted sum of squares, that about the mean, and the mean.
    """
    p = X.shape[1]
    for g in range(start.size - 1):
        XX, XWX, XWy = np.zeros((p, p)), np.zeros((p, p)), np.zeros(p)
        total, mean = 0.0, 0.0
        for row in range(start[g], start[g + 1]):
            x = X[pattern[row]]
            total += w[row]
            mean += w[row] * y[row]
            for i in range(p):
                for j in range(p):
                    XX[i, j] += x[i] * x[j]
                    XWX[i, j] += w[row] * x[i] * x[j]
        if total > 0.0:
            mean /= total
        values, vectors = np.linalg.eigh(XX)
        r = 0
        for k in range(p - 1, -1, -1):
            if values[k] > _RANK * values[p - 1] and values[k] > 0.0:
                basis[g, :, r] = vectors[:, k] / np.sqrt(values[k])
                r += 1
        rank[g] = r
        N = np.ascontiguousarray(basis[g, :, :r])
        for row in range(start[g], start[g + 1]):
            for i in range(p):
                XWy[i] += w[row] * X[pattern[row], i] * y[row]
        if r > 0 and total > 0.0:
            ols[g] = N @ np.linalg.solve(N.T @ XWX @ N, N.T @ XWy)
        rss, spread = 0.0, 0.0
        for row in range(start[g], start[g + 1]):
            fitted = 0.0
            for i in range(p):
                fitted += X[pattern[row], i] * ols[g, i]
            residual[row] = y[row] - fitted
            rss += w[row] * residual[row] ** 2
            spread += w[row] * (y[row] - mean) ** 2
        sums[g, 0], sums[g, 1], sums[g, 2] = rss, spread, mean


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
