"""One pass over a tile of test statistics."""

from __future__ import annotations

import numpy as np

from donorwise._core.inference.genomic_control import LAST, WIDTH
from donorwise._core.models.lmm.algebra import entry, inner

BINS_PER_UNIT = round(1 / WIDTH)
N_BINS = round(LAST * BINS_PER_UNIT) + 1
"""Bins of |t| of `WIDTH`, up to `LAST`; the last one is open."""
_ALIKE = 1e-9  # of a statistic, relative: rounding between variants with the same genotypes


@inner
def _add(size, v, g, order, best, largest, tested, counts):
    """Count a |t|, and take it where it is the largest of its column, or the first in `order` of those that are alike."""
    tested[g] += 1
    counts[int(min(size * BINS_PER_UNIT, N_BINS - 1.0))] += 1  # as a number: it may be too large for a whole one
    alike = best[g] >= 0 and order[v] < order[best[g]] and size >= largest[g] * (1.0 - _ALIKE)
    if best[g] < 0 or alike or size > largest[g] * (1.0 + _ALIKE):
        best[g], largest[g] = v, max(size, largest[g])


@entry
def sift(statistic, order, low, high, least, best, largest, tested, counts, rows, columns):
    """Statistics (V, G): those from `least` on by position, and what the others say of each column.

    `order` (V,) is that of the variants in the genotypes. Those outside the rows low..high-1 of their column become NaN. Where `least` is zero all others are listed, NaN as well.
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
                _add(size, v, g, order, best, largest, tested, counts)
    return n


@entry
def add_listed(statistic, order, rows, columns, best, largest, tested, counts):
    """Add statistics (V, G) at some positions to what :func:`sift` says of others."""
    for i in range(rows.size):
        v, g = rows[i], columns[i]
        size = abs(statistic[v, g])
        if size >= 0.0:
            _add(size, v, g, order, best, largest, tested, counts)
