"""The loop over features, sizes and groups of rows that adjusted profiles of the dispersion are sums of."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.glmm.families import NB
from donorwise._core.models.glmm.lanes import add_heights, exponentials, loops, slopes
from donorwise._core.models.glmm.law_kernels import entry

_LANES = 64
_LONGEST, _STEPS, _CONVERGED = 2.0, 40, 1e-7


@loops
def _shift(eta, offset, k, shifted):
    """What row k has for a predictor."""
    if offset.shape[0] > 0:
        for l in range(eta.size):
            shifted[l] = eta[l] + offset[k, l]
    else:
        for l in range(eta.size):
            shifted[l] = eta[l]


@loops
def _best_mean(rows, total, own, shared, t, offset, size, log_size, counts, eta, height, information, numbers):
    """Move eta (B,) to the best common predictor of some rows with counts, besides what each has of its own.

    `height` and `information` (B,) become the log-likelihood there, and its curvature; `numbers` (5, B) is room.
    """
    shifted, m, first, weight, score = numbers
    moving = counts > 0.0
    for _ in range(_STEPS):
        information[:] = 0.0
        score[:] = 0.0
        for k in rows:
            _shift(eta, offset, k, shifted)
            exponentials(shifted, m)
            slopes(NB, size, total[k], own[k], shared[k], t[k], m, first, weight)
            for l in range(eta.size):
                score[l] += first[l]
                information[l] += weight[l]
        for l in range(eta.size):
            if moving[l]:
                eta[l] += min(max(score[l] / information[l], -_LONGEST), _LONGEST)
                moving[l] = score[l] * score[l] >= _CONVERGED * information[l]
        if not moving.any():
            break
    height[:] = 0.0
    information[:] = 0.0
    for k in rows:
        _shift(eta, offset, k, shifted)
        exponentials(shifted, m)
        slopes(NB, size, total[k], own[k], shared[k], t[k], m, first, weight)
        add_heights(NB, size, log_size, total[k], own[k], shared[k], t[k], shifted, m, height)
        for l in range(eta.size):
            information[l] += weight[l]


@entry
def adjusted_profiles(total, own, shared, t, offset, groups, sizes, out):
    """Sum over the groups with counts of f_k - log(W_k) / 2 for every size and feature, (points, G).

    Parameters
    ----------
    total, own
        Shapes (K, G), (K, J, G).
    shared, t
        Shape (K, J).
    offset
        Shape (K, G). What rows have of their own in the linear predictor; (0, G) for nothing.
    groups
        Shape (C + 1,). First row of every group, and K.
    """
    K, J, G = own.shape
    for begin in range(0, G, _LANES):
        end = min(begin + _LANES, G)
        B = end - begin
        own_offset = offset[:, begin:end].copy()
        own_total, own_nodes = total[:, begin:end].copy(), np.empty((K, J, B))
        for k in range(K):
            for j in range(J):
                own_nodes[k, j] = own[k, j, begin:end]
        numbers, height, information, eta = np.empty((5, B)), np.empty(B), np.empty(B), np.empty(B)
        size, log_size = np.empty(B), np.empty(B)
        for c in range(groups.size - 1):
            rows = range(groups[c], groups[c + 1])
            counts, exposure = np.zeros(B), 0.0
            for k in rows:
                counts += own_total[k]
                for j in range(J):
                    exposure += shared[k, j] * t[k, j]
            for l in range(B):
                eta[l] = np.log(max(counts[l], 1.0) / exposure)
            for i in range(sizes.size):
                size[:] = sizes[i]
                log_size[:] = np.log(sizes[i])
                _best_mean(
                    rows, own_total, own_nodes, shared, t, own_offset, size, log_size, counts, eta, height, information,
                    numbers,
                )  # fmt: skip
                for l in range(B):
                    if counts[l] > 0.0:  # a group without counts says nothing of the dispersion
                        out[i, begin + l] += height[l] - 0.5 * np.log(information[l])
