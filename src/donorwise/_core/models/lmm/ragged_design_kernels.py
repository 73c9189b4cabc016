"""What the rows of each feature can tell: levels, terms, directions of X, and least squares."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner

_RANK = 1e-10  # of the largest eigenvalue of X'X, below which a direction has no rows
_EXPLAINED = 1e-10  # of a level's sum of squares, what the fixed effects may leave of it
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


@entry
def explained_terms(start, pattern, local, n_levels, z, X, basis, rank, kept, explained):
    """Which kept terms (G, T) the fixed effects of a feature explain, level by level: restricted likelihood says nothing of these.

    The columns of `basis` (G, p, p) are those in which X'X of the feature's rows is one.
    """
    for g in range(start.size - 1):
        N = np.ascontiguousarray(basis[g, :, : rank[g]])
        for t in range(n_levels.shape[1]):
            if not kept[g, t] or n_levels[g, t] > rank[g]:
                continue
            square, along = np.zeros(n_levels[g, t]), np.zeros((n_levels[g, t], rank[g]))
            for row in range(start[g], start[g + 1]):
                value = z[pattern[row], t]
                square[local[row, t]] += value**2
                along[local[row, t]] += value * (X[pattern[row]] @ N)
            explained[g, t] = np.all(square - (along**2).sum(axis=1) <= _EXPLAINED * square)
