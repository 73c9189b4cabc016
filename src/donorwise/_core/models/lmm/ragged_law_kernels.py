"""The law on a grid of variances of features that each have rows of their own.

Points that differ in one variance alone share a node: given the variances of the other terms, with P of these and of X,
the eigenvectors of Z'PZ of that term make it diagonal, Z'PZ = U diag(d) U'. With t = U'Z'Py, h = U'Z'V⁻¹X Phi c,

    log|V| + log|X'V⁻¹X| = those of the node + sum log(1 + gamma d),   y'Py = that of the node - gamma sum t² / (1 + gamma d),
    c'beta = that of the node - gamma sum h t / (1 + gamma d),   c'Phi c = that of the node + gamma sum h² / (1 + gamma d).
"""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner
from donorwise._core.models.lmm.ragged_kernels import assemble, factorise, reduced, scales, with_effects

_LARGE = 1e200  # of a product whose logarithm is taken by and by
_LOST = 1e-13  # of the y'Py of a node, below which nothing but rounding is left of it at a point


@inner
def _diagonal_term(n_levels):
    """The term that nodes make diagonal: that with the second most levels, since the one with most is eliminated."""
    T = n_levels.size
    largest = int(np.argmax(n_levels))
    second = largest
    for t in range(T):
        if t != largest and (second == largest or n_levels[t] > n_levels[second]):
            second = t
    return second


@inner
def _node(s, B, C, begin, e, n_levels, gamma, first, M):
    """Half of the log-determinants of a node, (d, U, t); M is left factorised up to the columns of the term `first`."""
    T = n_levels.size
    m, low, c = begin[T], begin[first], begin[T + 1]
    logdet = reduced(s, B, C, gamma[e] if e >= 0 else 0.0, M)
    with_effects(M, scales(np.ones(T, dtype=np.bool_), n_levels, begin, gamma, e, m))
    of_random, of_fixed = factorise(M, m, low)
    S = np.empty((c - low, c - low))
    for i in range(c - low):
        for j in range(i, c - low):
            S[i, j] = S[j, i] = M[low + i, low + j]
    d, U = np.linalg.eigh(S)
    t = np.zeros(c - low)
    for i in range(c - low):
        d[i] = max(d[i], 0.0)
        for k in range(c - low):
            t[i] += U[k, i] * M[low + k, c]
    return logdet + of_random + of_fixed, d, U, t


@inner
def _contrasts(M, m, low, c, LN, U):
    """Of contrasts (n, r) at a node: c'(X'V⁻¹X)⁻¹X'V⁻¹y, c'Phi c, and h (n, width), from the factorised M."""
    n, r = LN.shape
    centre, spread, h, own = np.zeros(n), np.zeros(n), np.zeros((n, c - low)), np.zeros(r)
    for i in range(n):
        for a in range(r):
            own[a] = LN[i, a]
            for b in range(a):
                own[a] -= M[m + b, m + a] * own[b]
            own[a] /= M[m + a, m + a]
            centre[i] += own[a] * M[m + a, c]
            spread[i] += own[a] ** 2
        for k in range(c - low):
            total = 0.0
            for a in range(r):
                total += M[m + a, low + k] * own[a]
            for j in range(c - low):
                h[i, j] += total * U[k, j]
    return centre, spread, h


@inner
def _loglik(logdet, R, gamma, d, t, nu):
    """Log-likelihood and y'Py at a point of a node, NaN where rounding leaves nothing of the latter."""
    product, least = 1.0, _LOST * R
    for i in range(d.size):
        grown = 1.0 + gamma * d[i]
        product *= grown
        if product > _LARGE:
            logdet += np.log(product)
            product = 1.0
        R -= gamma * t[i] ** 2 / grown
    if not least < R:
        R = np.nan
    return -0.5 * (logdet + np.log(product) + nu * np.log(R)), R


@entry
def law_ragged(data, basis, rank, ols, features, points, order, begin_node, L, nu, loglik, centre, scale, rest):
    """The law of some features at points (K, T): `loglik` (F, K), `centre` and `scale` (n, F, K), y'Py `rest` (F, K).

    `order` (T, K) has the points node by node for each term, `begin_node` (T, K + 1) where a node begins. L (n, p) are
    contrasts in the common basis.
    """
    start, pattern, y, w, local, n_levels, z, X = data
    K, T = points.shape
    every = np.ones(T, dtype=np.bool_)
    for f in range(features.size):
        g = features[f]
        N = np.ascontiguousarray(basis[g, :, : rank[g]])
        first = _diagonal_term(n_levels[g])
        s, B, C, begin, e = assemble(start[g], start[g + 1], pattern, y, w, local, n_levels[g], every, z, X, N, first)
        LN, M = L @ N, np.empty_like(C)
        least = L @ ols[g]
        node = 0
        while begin_node[first, node] < K:
            places = order[first, begin_node[first, node] : begin_node[first, node + 1]]
            node += 1
            logdet, d, U, t = _node(s, B, C, begin, e, n_levels[g], points[places[0]], first, M)
            at, spread, h = _contrasts(M, begin[T], begin[first], begin[T + 1], LN, U)
            for k in places:
                gamma = points[k, first]
                loglik[f, k], R = _loglik(logdet, M[-1, -1], gamma, d, t, nu[g])
                rest[f, k] = R
                for i in range(L.shape[0]):
                    value, variance = least[i] + at[i], spread[i]
                    for j in range(d.size):
                        shrunk = gamma * h[i, j] / (1.0 + gamma * d[j])
                        value -= shrunk * t[j]
                        variance += shrunk * h[i, j]
                    centre[i, f, k], scale[i, f, k] = value, np.sqrt(R / nu[g] * variance)
