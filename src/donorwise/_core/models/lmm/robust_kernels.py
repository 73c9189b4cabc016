"""Winsorised measurements of features that each have rows of their own: the loops of ``robust``, which has the mathematics."""

from __future__ import annotations

from math import erf, exp, pi, sqrt

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner
from donorwise._core.models.lmm.ragged_kernels import assemble, factorise, reduced, scales, with_effects


def inside(k: float) -> float:
    """Share of standard normal residuals within k, E psi'."""
    return erf(k / sqrt(2))


def square(k: float) -> float:
    """Mean square of standard normal residuals cut off at k, E psi²."""
    return inside(k) - 2 * k * exp(-(k**2) / 2) / sqrt(2 * pi) + k**2 * (1 - inside(k))


CUT, WIDE = 1.345, 2.0  # standard deviations at which residuals end in the fit (Huber's 95%), and in their scale
_INSIDE, _SQUARE, _WIDE_SQUARE = inside(CUT), square(CUT), square(WIDE)
_NO_ROOM = 1e-8  # 1 - leverage below which a measurement fits itself
_COLLAPSED = 1e-6  # scale, relative to that of least squares, of rows most of which are fitted exactly
_STEPS = 50  # at given variances,
_ENOUGH = 0.03  # until one is that small beside the first: the variances change as well


@inner
def _factorised(s, B, C, begin, e, kept, n_levels, gamma):
    """Factor of the mixed model equations without the term e, and the scale of every column."""
    m, c = begin[kept.size], begin[kept.size + 1]
    M, scale = np.empty_like(C), np.ones(c + 1)
    reduced(s, B, C, gamma[e] if e >= 0 else 0.0, M)
    scale[:m] = scales(kept, n_levels, begin, gamma, e, m)
    with_effects(M, scale[:m])
    factorise(M, m, c)
    return M, scale


@inner
def _columns(pattern, levels, begin, z, X, N, out):
    """The columns of one measurement, those of the term e aside: `out` (c,)."""
    T = z.shape[1]
    out[:] = 0.0
    for t in range(T):
        if begin[t] >= 0:
            out[begin[t] + levels[t]] = z[pattern, t]
    for j in range(N.shape[1]):
        for i in range(N.shape[0]):
            out[begin[T] + j] += X[pattern, i] * N[i, j]


@inner
def _room(low, high, pattern, w, local, z, X, N, s, B, M, scale, begin, e, ge, room):
    """1 - leverage of every row, `room` (rows,): x'(equations)⁻¹x w is what the fit takes of a residual's variance."""
    c = M.shape[0] - 1
    x = np.empty(c)
    for row in range(low, high):
        _columns(pattern[row], local[row], begin, z, X, N, x)
        taken = 0.0
        if e >= 0:
            level, own = local[row, e], z[pattern[row], e]
            h = ge / (1.0 + ge * s[level])
            taken = own * own * h
            for j in range(c):
                x[j] -= own * h * B[level, j]
        for j in range(c):
            total = x[j] * scale[j]
            for i in range(j):
                total -= M[i, j] * x[i]
            x[j] = total / M[j, j]
            taken += x[j] * x[j]
        room[row - low] = max(1.0 - w[row] * taken, 0.0)


@inner
def _predict(low, high, pattern, local, z, X, N, s, B, M, scale, begin, e, ge, fitted):
    """Fitted values with the modes of the random effects, `fitted` (rows,)."""
    c = M.shape[0] - 1
    b = np.empty(c)
    for i in range(c - 1, -1, -1):
        total = M[i, c]
        for j in range(i + 1, c):
            total -= M[i, j] * b[j]
        b[i] = total / M[i, i]
    b *= scale[:c]
    u = np.zeros(s.size)
    for level in range(s.size):
        u[level] = B[level, c]
        for j in range(c):
            u[level] -= B[level, j] * b[j]
        u[level] *= ge / (1.0 + ge * s[level])
    x = np.empty(c)
    for row in range(low, high):
        _columns(pattern[row], local[row], begin, z, X, N, x)
        total = 0.0
        for j in range(c):
            total += x[j] * b[j]
        if e >= 0:
            total += z[pattern[row], e] * u[local[row, e]]
        fitted[row - low] = total


@inner
def _rescaled(y, w, fitted, room, sigma):
    """One step of the scale: residuals cut off at `WIDE` have the mean square that they have at normal errors."""
    total, rooms = 0.0, 0.0
    for i in range(y.size):
        if room[i] > _NO_ROOM:
            r = (y[i] - fitted[i]) * np.sqrt(w[i] / room[i]) / sigma
            total += room[i] * min(r * r, WIDE * WIDE)
            rooms += room[i]
    return sigma * np.sqrt(total / (rooms * _WIDE_SQUARE))


@inner
def _pull(y, w, fitted, room, sigma, amplified, pseudo):
    """Put the rows' pseudo-measurements into `pseudo` (rows,); returns the largest step in standard deviations."""
    largest = 0.0
    for i in range(y.size):
        if room[i] > _NO_ROOM:
            unit = sigma * np.sqrt(room[i] / w[i])
            value = fitted[i] + unit * amplified * min(max((y[i] - fitted[i]) / unit, -CUT), CUT)
            largest = max(largest, abs(value - pseudo[i]) * np.sqrt(w[i]) / sigma)
            pseudo[i] = value
    return largest


@entry
def winsorise(data, basis, rank, kept, gamma, plain, pseudo, scale, efficiency, moved):
    """Iterate the pseudo-measurements `pseudo` (M,) and scales (G,) of every feature at variances gamma (G, T).

    `plain` (G,) are scales of least squares, `efficiency` (G,) becomes what a pseudo-measurement tells beside a measurement,
    and `moved` (G,) the largest step from what `pseudo` was, in standard deviations.
    """
    start, pattern, y, w, local, n_levels, z, X = data
    for g in range(start.size - 1):
        low, high = start[g], start[g + 1]
        own, weight, out = y[low:high], w[low:high], pseudo[low:high]
        N = np.ascontiguousarray(basis[g, :, : rank[g]])
        before, fitted, room = out.copy(), np.empty(own.size), np.empty(own.size)
        first, lost, moved[g] = 0.0, 1.0, 0.0
        for step in range(_STEPS):
            s, B, C, begin, e = assemble(low, high, pattern, pseudo, w, local, n_levels[g], kept[g], z, X, N, -1)
            ge = gamma[g, e] if e >= 0 else 0.0
            M, units = _factorised(s, B, C, begin, e, kept[g], n_levels[g], gamma[g])
            if step == 0:
                _room(low, high, pattern, w, local, z, X, N, s, B, M, units, begin, e, ge, room)
                lost = 1.0 + (1.0 - room.mean()) * (1.0 - _INSIDE) / _INSIDE
            _predict(low, high, pattern, local, z, X, N, s, B, M, units, begin, e, ge, fitted)
            scale[g] = _rescaled(own, weight, fitted, room, scale[g])
            if not scale[g] > _COLLAPSED * plain[g]:
                break
            largest = _pull(own, weight, fitted, room, scale[g], lost / _INSIDE, out)
            first = max(first, largest)
            if step > 0 and largest <= _ENOUGH * first:
                break
        if scale[g] > _COLLAPSED * plain[g]:
            efficiency[g] = _INSIDE**2 / (_SQUARE * lost)
            for i in range(own.size):
                moved[g] = max(moved[g], abs(out[i] - before[i]) * np.sqrt(weight[i]) / scale[g])
        else:
            out[:] = own
            efficiency[g] = 1.0
