"""Degrees of freedom of features that each have rows of their own, from their design alone."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner

_ALIKE = 1e-12  # of the largest value of a column, for rounding
_RANK = 1e-10  # of the largest eigenvalue
_CENTRED = 1e-20  # of a column's sum of squares, what centring may leave of one that is constant


@inner
def _constant_within(low, high, pattern, codes, n_levels, X, out):
    """Which columns of X take one value in every level."""
    p = X.shape[1]
    first = np.full(n_levels, -1, dtype=np.int64)
    out[:] = True
    largest = np.zeros(p)
    for row in range(low, high):
        for j in range(p):
            largest[j] = max(largest[j], abs(X[pattern[row], j]))
    for row in range(low, high):
        level = codes[row]
        if first[level] < 0:
            first[level] = pattern[row]
        for j in range(p):
            if abs(X[pattern[row], j] - X[first[level], j]) > _ALIKE * largest[j]:
                out[j] = False


@inner
def _nested(low, high, inside, outside, n_inside, n_outside):
    """Whether every level of a term lies in one level of another that has fewer."""
    if n_inside <= n_outside:
        return False
    where = np.full(n_inside, -1, dtype=np.int64)
    for row in range(low, high):
        if where[inside[row]] < 0:
            where[inside[row]] = outside[row]
        elif where[inside[row]] != outside[row]:
            return False
    return True


@inner
def _used(low, high, pattern, X, chosen, codes, n_levels):
    """Rank of some columns of X together with the indicators of a factor (none where n_levels is 0)."""
    at = np.flatnonzero(chosen)
    k = at.size
    rank = n_levels
    if k == 0:
        return rank
    counts, means, squares = np.zeros(max(n_levels, 1)), np.zeros((max(n_levels, 1), k)), np.zeros(k)
    for row in range(low, high):
        level = codes[row] if n_levels > 0 else 0
        counts[level] += 1.0
        for j in range(k):
            means[level, j] += X[pattern[row], at[j]]
            squares[j] += X[pattern[row], at[j]] ** 2
    G = np.zeros((k, k))
    centred = np.empty(k)
    for row in range(low, high):
        level = codes[row] if n_levels > 0 else 0
        for j in range(k):
            centred[j] = X[pattern[row], at[j]] - (means[level, j] / counts[level] if n_levels > 0 else 0.0)
        for i in range(k):
            for j in range(k):
                G[i, j] += centred[i] * centred[j]
    scale = np.zeros(k)
    for j in range(k):
        scale[j] = 1.0 / np.sqrt(G[j, j]) if G[j, j] > _CENTRED * squares[j] else 0.0
    for i in range(k):
        for j in range(k):
            G[i, j] *= scale[i] * scale[j]
    values = np.linalg.eigvalsh(G)
    for value in values:
        if value > _RANK * max(values[k - 1], 1e-300) and value > _RANK:
            rank += 1
    return rank


@entry
def column_df_ragged(start, pattern, local, n_levels, kept, X, df):
    """Degrees of freedom of every column of X (K, p), in the basis of the formula, feature by feature: `df` (G, p).

    By the inner-outer rule, see ``donorwise._core.design.replicates``.
    """
    T, p = n_levels.shape[1], X.shape[1]
    every, within = np.ones(p, dtype=np.bool_), np.zeros(p, dtype=np.bool_)
    for g in range(start.size - 1):
        low, high = start[g], start[g + 1]
        df[g] = np.inf
        finest = -1
        for t in range(T):
            if not kept[g, t]:
                continue
            if finest < 0 or n_levels[g, t] > n_levels[g, finest]:
                finest = t
            _constant_within(low, high, pattern, local[:, t], n_levels[g, t], X, within)
            parent = -1
            for o in range(T):
                if kept[g, o] and o != t and (parent < 0 or n_levels[g, o] > n_levels[g, parent]):
                    if _nested(low, high, local[:, t], local[:, o], n_levels[g, t], n_levels[g, o]):
                        parent = o
            outer = local[:, parent] if parent >= 0 else local[:, t]
            used = _used(low, high, pattern, X, within, outer, n_levels[g, parent] if parent >= 0 else 0)
            for j in range(p):
                if within[j]:
                    df[g, j] = min(df[g, j], n_levels[g, t] - used)
        codes = local[:, finest] if finest >= 0 else pattern
        used = _used(low, high, pattern, X, every, codes, n_levels[g, finest] if finest >= 0 else 0)
        for j in range(p):
            if df[g, j] == np.inf:
                df[g, j] = high - low - used
