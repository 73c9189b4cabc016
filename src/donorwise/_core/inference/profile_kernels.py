"""Loops over responses for profiles of the deviance on a grid of shares and totals (see :mod:`profiles`)."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner

_MARGIN = 0.1  # error of a deviance that is refined by a parabola
# A bend this many times the next one, and this much more, is a cliff that no parabola follows.
_UNEVEN, _FLAT = 4.0, 1.0


@inner
def _vertex(below, at, above):
    """Place, in steps from the middle, and value of the minimum of the parabola through three even steps, if between them."""
    bend = below - 2.0 * at + above
    if not bend > 0.0:
        return 0.0, at
    place = 0.5 * (below - above) / bend
    if abs(place) > 1.0:
        return 0.0, at
    return place, at - 0.125 * (below - above) ** 2 / bend


@inner
def _lowest(values, first, n):
    """Place and value of the minimum of `values` from `first` to `n`, refined by a parabola."""
    best = first
    for j in range(first + 1, n):
        if values[j] < values[best]:
            best = j
    if n - first < 3:
        return float(best), values[best]
    middle = min(max(best, first + 1), n - 2)
    place, value = _vertex(values[middle - 1], values[middle], values[middle + 1])
    return (middle + place, value) if value < values[best] else (float(best), values[best])


@inner
def _uneven(bend, other):
    """Whether a second difference belongs to a cliff, and not to the same curve as the next one."""
    return abs(bend) > _UNEVEN * abs(other) + _FLAT


@inner
def _mirrored(D, l, j):
    """The deviance at share l: an even function of the angle at both ends."""
    last = D.shape[0] - 1
    return D[last - abs(last - abs(l)), j]


@inner
def _across(D, j):
    """Place and value of the minimum over the shares at total j.

    Where a term with few dimensions has nearly all of the variance, the deviance falls off a cliff from one share to the next.
    """
    L, best = D.shape[0], 0
    for l in range(1, L):
        if D[l, j] < D[best, j]:
            best = l
    if L == 1:
        return 0.0, D[0, j]
    below, at, above = _mirrored(D, best - 1, j), D[best, j], _mirrored(D, best + 1, j)
    place, value = _vertex(below, at, above)
    side = 1 if place > 0.0 else -1
    beside, further = _mirrored(D, best + side, j), _mirrored(D, best + 2 * side, j)
    if _uneven(below - 2.0 * at + above, at - 2.0 * beside + further):
        return float(best), at
    return min(max(best + place, 0.0), L - 1.0), value


@entry
def profile_totals(D, values, shares, best):
    """Find the lowest of deviances D (G, L, J) at every total, and of all.

    Into `values` and `shares` (G, J), the latter as places among the L, and `best` (G, 3): deviance, share and total.
    """
    G, J = values.shape
    for g in range(G):
        for j in range(J):
            shares[g, j], values[g, j] = _across(D[g], j)
        total, lowest = _lowest(values[g], 0, J)
        low = min(int(total), J - 2)
        up = total - low
        best[g, 0] = lowest
        best[g, 1] = (1.0 - up) * shares[g, low] + up * shares[g, low + 1]
        best[g, 2] = total


@inner
def _at(D, j, index, weight):
    """The deviance between shares; beside a cliff as on a straight line."""
    d = (D[index[j, 0], j], D[index[j, 1], j], D[index[j, 2], j], D[index[j, 3], j])
    first, second = d[0] - 2.0 * d[1] + d[2], d[1] - 2.0 * d[2] + d[3]
    if _uneven(first, second) or _uneven(second, first):
        up = weight[j, 2] + 2.0 * weight[j, 3] - weight[j, 0]  # a cubic through four points gives places exactly
        return (1.0 - up) * d[1] + up * d[2]
    return weight[j, 0] * d[0] + weight[j, 1] * d[1] + weight[j, 2] * d[2] + weight[j, 3] * d[3]


@entry
def profile_part(D, lowest, first, index, weight, values, totals):
    """Of deviances D (G, L, J): the lowest with one term's proportion given, (G, H), and its total (as a place), (G, H).

    Totals from first[h] on can have the h-th proportion; `index` and `weight` (H, J, 4) interpolate between shares there.
    Totals at which no share has a deviance as low, by `lowest` (G, J), are passed over.
    """
    G, J, near = D.shape[0], D.shape[2], np.empty(3)
    for g in range(G):
        for h in range(first.size):
            own, begin = D[g], first[h]
            best = begin
            for j in range(begin + 1, J):
                if lowest[g, j] < lowest[g, best]:
                    best = j
            value = _at(own, best, index[h], weight[h])
            for j in range(begin, J):
                if lowest[g, j] - _MARGIN < value:
                    other = _at(own, j, index[h], weight[h])
                    if other < value:
                        best, value = j, other
            totals[g, h], values[g, h] = float(best), value
            if J - begin > 2:
                for i in range(3):
                    near[i] = _at(own, min(max(best, begin + 1), J - 2) - 1 + i, index[h], weight[h])
                place, lower = _vertex(near[0], near[1], near[2])
                if lower < value:
                    totals[g, h], values[g, h] = min(max(best, begin + 1), J - 2) + place, lower


@entry
def interval_ends(values, ratio, cut, estimate, ends):
    """The lowest and highest proportion, (G, 2), at which the signed root of the ratio is within that of the cut.

    `values` (H,), `ratio` and `cut` (G, H), `estimate` (G,). Straight lines lie between values, and from the estimate, whose
    ratio is zero, to its neighbours.
    """
    H = values.size
    for g in range(estimate.size):
        at = estimate[g]
        for side in range(2):
            step = -1 if side == 0 else 1
            k = 0 if side == 0 else H - 1
            while 0 <= k < H and (values[k] - at) * step > 0.0 and ratio[g, k] > cut[g, k]:
                k -= step
            if k == (0 if side == 0 else H - 1):
                ends[g, side] = values[k]
                continue
            outside = np.sqrt(ratio[g, k + step]) - np.sqrt(cut[g, k + step])
            if (values[k] - at) * step > 0.0:
                place, inside = values[k], np.sqrt(cut[g, k]) - np.sqrt(ratio[g, k])
            else:
                place, inside = at, np.sqrt(cut[g, k + step])
            ends[g, side] = place + (values[k + step] - place) * inside / (inside + outside)
