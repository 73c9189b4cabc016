"""One pass over a tile of test statistics."""

from __future__ import annotations

import numpy as np

from donorwise._core.inference.genomic_control import LAST, WIDTH
from donorwise._core.models.lmm.algebra import entry, inner
from donorwise._core.models.lmm.variant_kernels import ROUNDING

BINS_PER_UNIT = round(1 / WIDTH)
N_BINS = round(LAST * BINS_PER_UNIT) + 1
"""Bins of |t| of `WIDTH`, up to `LAST`; the last one is open."""
ALIKE = 1e-9  # of a statistic, relative: rounding between variants with the same genotypes


@inner
def _is_lead(t, largest, at, best, order):
    """Whether a |t| is larger than the largest before, or is alike and its variant the first in `order`."""
    if best < 0 or t > largest * (1.0 + ALIKE):
        return True
    return t >= largest * (1.0 - ALIKE) and order[at] < order[best]


@inner
def _bin(t):
    return np.int32(min(t * BINS_PER_UNIT, N_BINS - 1.0))  # as a number: it may be too large for a whole one


@inner
def _set_aside(v, t, bins, low, high, least, rows, columns, found, tested):
    """List those of a row whose |t| is large, and take them and those that are not asked for out of what is counted."""
    for g in range(t.size):
        inside = low[g] <= v < high[g]
        if inside and t[g] < least:
            continue
        if inside and (t[g] >= least or least == 0.0):
            rows[found], columns[found] = v, g
            found += 1
        t[g], bins[g] = -1.0, N_BINS
        tested[g] -= 1
    return found


@inner
def _sift_row(v, t, bins, order, low, high, least, best, largest, tested, histogram, rows, columns, found):
    """Sift |t| (G,) of a row and their bins, in loops of a kind that processors do several turns of at once."""
    aside, alike = 0, 0
    for g in range(t.size):
        tested[g] += 1
        aside += not ((t[g] < least) & (low[g] <= v) & (v < high[g]))
    if aside > 0:
        found = _set_aside(v, t, bins, low, high, least, rows, columns, found, tested)
    if aside == t.size:
        return found
    for g in range(t.size):
        histogram[bins[g]] += 1
    for g in range(t.size):
        alike += (t[g] >= largest[g] * (1.0 - ALIKE)) & (t[g] <= largest[g] * (1.0 + ALIKE))
    if alike > 0:
        for g in range(t.size):
            if t[g] >= 0.0 and _is_lead(t[g], largest[g], v, best[g], order):
                best[g], largest[g] = v, max(t[g], largest[g])
        return found
    for g in range(t.size):
        better = t[g] > largest[g]
        best[g] = v if better else best[g]
        largest[g] = t[g] if better else largest[g]
    return found


@entry
def sift_scores(
    n, s, R, between, per_df, per_row, aliased, order, low, high, least, best, tested, counts, rows, columns
):
    """Scores (V, G), see `Scores`: positions of those whose |t| is `least` or more, and what the others say of each column.

    Looked at are rows low..high-1 of each column. Where `least` is zero all of these are listed, also without a number. Of
    others the row of the largest |t| goes into `best`, and all into the histogram `counts`; of rows that are alike it is the
    first in `order` (V,). Returns how many are listed.
    """
    V, G = n.shape
    found, t, bins = 0, np.empty(G), np.empty(G, np.int32)
    largest, histogram = np.full(G, -0.5), np.zeros(N_BINS + 1, np.int64)
    for v in range(V):
        if aliased[v] and least > 0.0:
            continue
        for g in range(G):
            square = n[v, g] * n[v, g]
            whole = R[g] * s[v, g]
            of_rows = max(whole - square, ROUNDING * whole) * s[v, g] * per_row[v]
            t[g] = np.sqrt(square / max(between[g] * s[v, g] - per_df[g] * square, of_rows))
            bins[g] = _bin(t[g])
        found = _sift_row(v, t, bins, order, low, high, least, best, largest, tested, histogram, rows, columns, found)
    counts += histogram[:N_BINS]
    return found


@entry
def sift(statistic, order, low, high, least, best, tested, counts, rows, columns):
    """The same of t statistics (V, G), NaN where there is no number."""
    V, G = statistic.shape
    found, t, bins = 0, np.empty(G), np.empty(G, np.int32)
    largest, histogram = np.full(G, -0.5), np.zeros(N_BINS + 1, np.int64)
    for v in range(V):
        for g in range(G):
            t[g] = abs(statistic[v, g])
            bins[g] = _bin(t[g])
        found = _sift_row(v, t, bins, order, low, high, least, best, largest, tested, histogram, rows, columns, found)
    counts += histogram[:N_BINS]
    return found


@entry
def count_pairs(statistic, order, columns, best, tested, counts):
    """Add pairs (n,) of a column to its number and the histogram; which pair has its largest |t| goes into `best` (G,)."""
    largest = np.zeros(best.size)
    for i in range(statistic.size):
        g, t = columns[i], abs(statistic[i])
        if not t >= 0.0:
            continue
        tested[g] += 1
        counts[_bin(t)] += 1
        if _is_lead(t, largest[g], i, best[g], order):
            best[g], largest[g] = i, max(t, largest[g])
