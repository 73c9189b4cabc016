"""What variances say about fixed effects, and random effects, of features that each have rows of their own."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner
from donorwise._core.models.lmm.ragged_kernels import (
    assemble,
    blocks_at,
    factorise,
    products,
    reduced,
    scales,
    traces,
    with_effects,
)


@entry
def pieces_ragged(data, kept, gamma, Phi, delta, P, Q, XVX, tr1, tr2, quad1, quad2):
    """Derivative pieces of every feature in the common basis (see ``Evaluation``), and X'V⁻¹X; zeros for terms left out."""
    start, pattern, y, w, local, n_levels, z, X = data
    T, p = n_levels.shape[1], X.shape[1]
    eye = np.eye(p)
    for g in range(start.size - 1):
        s, B, C, begin, e = assemble(start[g], start[g + 1], pattern, y, w, local, n_levels[g], kept[g], z, X, eye, -1)
        m = begin[T]
        a, Bn, BK, D_er, D_rr, F_e, F_r = blocks_at(s, B, C, begin, e, kept[g], n_levels[g], gamma[g], m, m, p + 1)
        traces(a, Bn, BK, D_er, D_rr, begin, e, kept[g], n_levels[g], tr1[g], tr2[g])
        Fx_e, Fx_r = np.ascontiguousarray(F_e[:, :p]), np.ascontiguousarray(F_r[:, :p])
        u_e, u_r = F_e[:, p] - Fx_e @ delta[g], F_r[:, p] - Fx_r @ delta[g]
        products(u_e, u_r, a, Bn, BK, D_er, D_rr, begin, e, kept[g], n_levels[g], quad1[g], quad2[g])
        _cross(Fx_e, Fx_r, a, Bn, BK, D_er, D_rr, begin, e, kept[g], n_levels[g], P[g], Q[g])
        Fu = _products_of_columns(Fx_e, Fx_r, u_e, u_r, begin, e, kept[g], n_levels[g])
        quad2[g] -= Fu @ Phi[g] @ Fu.T
        M = np.empty_like(C)
        reduced(s, B, C, gamma[g, e] if e >= 0 else 0.0, M)
        with_effects(M, scales(kept[g], n_levels[g], begin, gamma[g], e, m))
        factorise(M, m, m)
        for i in range(p):
            for j in range(i, p):
                XVX[g, i, j] = XVX[g, j, i] = M[m + i, m + j]


@inner
def _products_of_columns(F_e, F_r, u_e, u_r, begin, e, kept, n_levels):
    """F_i'u_i of every term, (T, p)."""
    out = np.zeros((kept.size, F_r.shape[1]))
    for t in range(kept.size):
        if kept[t] and t == e:
            out[t] = F_e.T @ u_e
        elif kept[t]:
            low, high = begin[t], begin[t] + n_levels[t]
            out[t] = F_r[low:high].T @ u_r[low:high]
    return out


@inner
def _cross(F_e, F_r, a, Bn, BK, D_er, D_rr, begin, e, kept, n_levels, P, Q):
    """P_i = F_i'F_i and Q_ij = F_i'D_ij F_j."""
    T = kept.size
    if e >= 0:
        P[e] = F_e.T @ F_e
        taken_left, taken_right = Bn.T @ F_e, BK.T @ F_e
        weighted = np.empty_like(F_e)
        for i in range(a.size):
            weighted[i] = a[i] * F_e[i]
        Q[e, e] = F_e.T @ weighted - taken_left.T @ taken_right
    for t in range(T):
        if not kept[t] or t == e:
            continue
        low, high = begin[t], begin[t] + n_levels[t]
        own = np.ascontiguousarray(F_r[low:high])
        P[t] = own.T @ own
        if e >= 0:
            Q[e, t] = F_e.T @ (np.ascontiguousarray(D_er[:, low:high]) @ own)
            Q[t, e] = Q[e, t].T
        for o in range(T):
            if kept[o] and o != e:
                first, last = begin[o], begin[o] + n_levels[o]
                Q[t, o] = own.T @ (
                    np.ascontiguousarray(D_rr[low:high, first:last]) @ np.ascontiguousarray(F_r[first:last])
                )


@entry
def effects_ragged(data, kept, gamma, delta, t, known, first, u, d):
    """Z'V⁻¹(y - Xb) and the diagonal of Z'V⁻¹Z of term `t`, of features that are `known`, from `first` (G + 1,) on."""
    start, pattern, y, w, local, n_levels, z, X = data
    p = X.shape[1]
    eye = np.eye(p)
    for g in range(start.size - 1):
        if not known[g]:
            continue
        s, B, C, begin, e = assemble(start[g], start[g + 1], pattern, y, w, local, n_levels[g], kept[g], z, X, eye, -1)
        m = begin[n_levels.shape[1]]
        a, Bn, BK, _, D_rr, F_e, F_r = blocks_at(s, B, C, begin, e, kept[g], n_levels[g], gamma[g], m, m, p + 1)
        for i in range(n_levels[g, t]):
            row = i if t == e else begin[t] + i
            F = F_e[row] if t == e else F_r[row]
            total = F[p]
            for j in range(p):
                total -= F[j] * delta[g, j]
            u[first[g] + i] = total
            if t == e:
                taken = 0.0
                for k in range(m):
                    taken += Bn[row, k] * BK[row, k]
                d[first[g] + i] = a[row] - taken
            else:
                d[first[g] + i] = D_rr[row, row]
