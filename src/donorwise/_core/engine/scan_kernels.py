"""One pass over a tile of test statistics."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry

BINS_PER_UNIT, N_BINS = 64, 769
"""Bins of |t| of 1/64, up to 12; the last one is open."""
_ALIKE = (
    1e-9  # of a statistic, relative: rounding between variants with the same genotypes, of which the first is taken
)


@entry
def summarise(statistic, best, tested, counts):
    """Position of the largest |t| (V, G) of every feature, how many there are that are no NaN, and their histogram."""
    V, G = statistic.shape
    largest = np.zeros(G)
    for v in range(V):
        for g in range(G):
            size = abs(statistic[v, g])
            if not size >= 0.0:
                continue
            tested[g] += 1
            counts[min(int(size * BINS_PER_UNIT), N_BINS - 1)] += 1
            if best[g] < 0 or size > largest[g] * (1.0 + _ALIKE):
                best[g], largest[g] = v, size
