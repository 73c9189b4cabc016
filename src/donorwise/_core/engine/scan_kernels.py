"""One pass over a tile of test statistics."""

from __future__ import annotations

import numpy as np

from donorwise._core.inference.genomic_control import LAST, WIDTH
from donorwise._core.models.lmm.algebra import entry

BINS_PER_UNIT = round(1 / WIDTH)
N_BINS = round(LAST * BINS_PER_UNIT) + 1
"""Bins of |t| of `WIDTH`, up to `LAST`; the last one is open."""
_ALIKE = (
    1e-9  # of a statistic, relative: rounding between variants with the same genotypes, of which the first is taken
)


@entry
def sift(statistic, low, high, least, best, largest, tested, counts, rows, columns):
    """Statistics (V, G): those from `least` on by position, and what the others say of each column.

    Those outside the rows low..high-1 of their column become NaN. Where `least` is zero all others are listed, NaN as well.
    Returns how many of `rows` and `columns` are filled.
    """
    V, G = statistic.shape
    n = 0
    for v in range(V):
        for g in range(G):
            if not low[g] <= v < high[g]:
                statistic[v, g] = np.nan
                continue
            size = abs(statistic[v, g])
            if size >= least or least == 0.0:
                rows[n], columns[n] = v, g
                n += 1
            elif size >= 0.0:
                tested[g] += 1
                counts[min(int(size * BINS_PER_UNIT), N_BINS - 1)] += 1
                if best[g] < 0 or size > largest[g] * (1.0 + _ALIKE):
                    best[g], largest[g] = v, size
    return n


@entry
def add_listed(statistic, rows, columns, best, largest, tested, counts):
    """Add statistics (V, G) at some positions to what :func:`sift` says of others; the first is taken of those that are alike."""
    for i in range(rows.size):
        v, g = rows[i], columns[i]
        size = abs(statistic[v, g])
        if not size >= 0.0:
            continue
        tested[g] += 1
        counts[min(int(size * BINS_PER_UNIT), N_BINS - 1)] += 1
        alike = v < best[g] and size >= largest[g] * (1.0 - _ALIKE)
        if best[g] < 0 or alike or size > largest[g] * (1.0 + _ALIKE):
            best[g], largest[g] = v, max(size, largest[g])
