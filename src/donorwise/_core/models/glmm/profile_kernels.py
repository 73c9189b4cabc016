"""The loop over features, sizes and groups of rows that adjusted profiles of the dispersion are sums of."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.glmm.densities import slopes, value
from donorwise._core.models.glmm.families import NB
from donorwise._core.models.glmm.kernels import entry

_LONGEST, _STEPS, _CONVERGED = 2.0, 40, 1e-9


@entry
def adjusted_profiles(total, own, shared, t, groups, sizes, out):
    """Sum over the groups with counts of f_k - log(W_k) / 2 for every feature and size, (G, points)."""
    for g in range(total.shape[0]):
        for c in range(groups.size - 1):
            rows = range(groups[c], groups[c + 1])
            counts, exposure = 0.0, 0.0
            for k in rows:
                counts += total[g, k]
                for j in range(t.shape[1]):
                    exposure += shared[k, j] * t[k, j]
            if counts <= 0.0:
                continue
            eta = np.log(counts / exposure)
            for i in range(sizes.size):
                weight = 0.0
                for _ in range(_STEPS):
                    score, weight = 0.0, 0.0
                    for k in rows:
                        first, second = slopes(NB, sizes[i], total[g, k], own[g, k], shared[k], t[k], eta)
                        score += first
                        weight -= second
                    eta += min(max(score / weight, -_LONGEST), _LONGEST)
                    if score * score < _CONVERGED * weight:
                        break
                height = 0.0
                for k in rows:
                    height += value(NB, sizes[i], total[g, k], own[g, k], shared[k], t[k], eta)
                out[g, i] += height - 0.5 * np.log(weight)
