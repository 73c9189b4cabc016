"""Loops for random effects of features that each have rows of their own; see ``ragged_kernels``."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry
from donorwise._core.models.lmm.ragged_kernels import assemble, blocks_at


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
