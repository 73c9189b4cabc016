"""Densities of a row for B features side by side ("lanes"), in loops that LLVM makes vector instructions of.

What features share is read once for all of them, and exponentials and logarithms are polynomials without branches. The
functions are those of the families.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from donorwise._core.cells.exponential import ROUND, fused, power_of_two
from donorwise._core.models.glmm.families import LOGIT, NB, POISSON

inlined = njit(nogil=True, cache=True, error_model="numpy", inline="always")
_inside = partial(njit, nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
loops = _inside()
# a call with arrays costs as much as the loop over the lanes
short = _inside(forceinline=True)

_HIGHEST, _LOWEST = 300.0, -700.0  # of the linear predictor: beyond them exponentials are as good as infinite, or zero
_PER_LN2 = float(1 / np.log(2.0))
_LN2_HIGH = 6.93147180369123816490e-01  # the logarithm of two, in two parts (Cody and Waite 1980, ch. 6)
_LN2_LOW = 1.90821492927058770002e-10
_LN2 = float(np.log(2.0))
_MANTISSA = 52
_SQRT_HALF = 0x3FE6A09E00000000  # bits of the square root of a half, less its last digits
_SMALL = 0.05  # where a difference of exponentials would lose digits, and a series has all of them


def _split_exponent(typingctx, y):
    """Of y > 0 the n with m = y / 2^n between the root of a half and that of two, as a double, and m."""

    def codegen(context, builder, signature, args):
        whole, double = ir.IntType(64), ir.DoubleType()
        bits = builder.bitcast(args[0], whole)
        n = builder.ashr(builder.sub(bits, ir.Constant(whole, _SQRT_HALF)), ir.Constant(whole, _MANTISSA))
        m = builder.bitcast(builder.sub(bits, builder.shl(n, ir.Constant(whole, _MANTISSA))), double)
        small = builder.trunc(n, ir.IntType(32))
        return context.make_tuple(builder, signature.return_type, (builder.sitofp(small, double), m))

    return types.UniTuple(types.float64, 2)(types.float64), codegen


_split: Any = intrinsic(_split_exponent)


@inlined
def exponential(x):
    """exp(x) for x from -700 to 700, to 2e-16 relatively: 2^n exp(r), |r| < 0.35, by 13 terms of the series."""
    shifted = x * _PER_LN2 + ROUND
    n = shifted - ROUND
    r = fused(-n, _LN2_LOW, fused(-n, _LN2_HIGH, x))
    p = 1.0 / 6227020800.0
    p = fused(p, r, 1.0 / 479001600.0)
    p = fused(p, r, 1.0 / 39916800.0)
    p = fused(p, r, 1.0 / 3628800.0)
    p = fused(p, r, 1.0 / 362880.0)
    p = fused(p, r, 1.0 / 40320.0)
    p = fused(p, r, 1.0 / 5040.0)
    p = fused(p, r, 1.0 / 720.0)
    p = fused(p, r, 1.0 / 120.0)
    p = fused(p, r, 1.0 / 24.0)
    p = fused(p, r, 1.0 / 6.0)
    p = fused(p, r, 0.5)
    p = fused(p, r, 1.0)
    return fused(p, r, 1.0) * power_of_two(shifted)


@inlined
def logarithm(y):
    """log(y), y > 0, without branches and tables, to 3e-16 absolutely (and relatively for large y).

    log(m) = 2 atanh(s), s = (m - 1) / (m + 1) below .172: ten terms of the series leave 1e-17.
    """
    n, m = _split(y)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    p = 1.0 / 19.0
    p = p * q + 1.0 / 17.0
    p = p * q + 1.0 / 15.0
    p = p * q + 1.0 / 13.0
    p = p * q + 1.0 / 11.0
    p = p * q + 1.0 / 9.0
    p = p * q + 1.0 / 7.0
    p = p * q + 1.0 / 5.0
    p = p * q + 1.0 / 3.0
    p = p * q + 1.0
    return 2.0 * s * p + n * _LN2


@loops
def exponentials(eta, m):
    """exp(eta), eta being cut off where that would overflow."""
    for l in range(eta.size):
        eta[l] = min(max(eta[l], _LOWEST), _HIGHEST)
        m[l] = exponential(eta[l])


@loops
def _nb(total, own, shared, t, size, m, first, weight):
    for l in range(m.size):
        first[l] = total[l]
        weight[l] = 0.0
    for j in range(t.size):
        tj, sj, own_j = t[j], shared[j], own[j]
        for l in range(m.size):
            z = tj * m[l]
            w = z / (size[l] + z)
            aw = (own_j[l] + size[l] * sj) * w
            first[l] -= aw
            weight[l] += aw * (1.0 - w)


@loops
def _nb_heights(total, own, shared, t, size, log_size, eta, m, height):
    for l in range(m.size):
        height[l] += total[l] * (eta[l] - log_size[l])
    for j in range(t.size):
        tj, sj, own_j = t[j], shared[j], own[j]
        for l in range(m.size):
            height[l] -= (own_j[l] + size[l] * sj) * logarithm(1.0 + tj * m[l] / size[l])


@loops
def _poisson(total, exposure, m, first, weight):
    for l in range(m.size):
        weight[l] = exposure * m[l]
        first[l] = total[l] - weight[l]


@loops
def _logit(total, trials, m, first, weight):
    for l in range(m.size):
        rest = 1.0 / (1.0 + m[l])
        first[l] = total[l] - trials * (1.0 - rest)
        weight[l] = trials * rest * (1.0 - rest)


@loops
def _cloglog(total, own, t, m, first, weight):
    for l in range(m.size):
        first[l] = -total[l] * m[l]
        weight[l] = total[l] * m[l]
    for j in range(t.size):
        tj, own_j = t[j], own[j]
        for l in range(m.size):
            z = min(tj * m[l], -_LOWEST)
            odds = _odds(z)
            first[l] += own_j[l] * odds
            weight[l] -= own_j[l] * odds * (1.0 - z - odds)


@inlined
def _odds(z):
    """z exp(-z) / (1 - exp(-z))."""
    q = exponential(-z)
    far = z * q / (1.0 - q + 1e-300)
    near = 1.0 - 0.5 * z + z * z * (1.0 / 12.0 - z * z * (1.0 / 720.0 - z * z / 30240.0))
    return near if z < _SMALL else far


@loops
def _cloglog_heights(total, own, t, m, height):
    for l in range(m.size):
        height[l] -= total[l] * m[l]
    for j in range(t.size):
        tj, own_j = t[j], own[j]
        for l in range(m.size):
            z = min(tj * m[l], -_LOWEST)
            near = z * (-0.5 + z * (1.0 / 24.0 - z * z * (1.0 / 2880.0 - z * z / 181440.0)))
            far = 1.0 - exponential(-z)
            small = z < _SMALL  # one logarithm for both
            height[l] += own_j[l] * (logarithm(z if small else far) + (near if small else 0.0))


@loops
def slopes(code, size, total, own, shared, t, m, first, weight):
    """First derivative and negative second derivative of the log-density of a row, into `first` and `weight`.

    Parameters
    ----------
    code
        The family.
    size, total, m
        Shape (B,). Sizes, totals and exp(eta).
    own
        Shape (J, B); no rows where the family does not use it.
    shared, t
        Shape (J,).
    """
    if code == NB:
        _nb(total, own, shared, t, size, m, first, weight)
    elif code == POISSON:
        _poisson(total, shared[0] * t[0], m, first, weight)
    elif code == LOGIT:
        _logit(total, shared[0], m, first, weight)
    else:
        _cloglog(total, own, t, m, first, weight)


@loops
def add_heights(code, size, log_size, total, own, shared, t, eta, m, height):
    """Add the log-density of a row, without what does not depend on eta, to `height` (B,)."""
    if code == NB:
        _nb_heights(total, own, shared, t, size, log_size, eta, m, height)
    elif code == POISSON:
        exposure = shared[0] * t[0]
        for l in range(m.size):
            height[l] += total[l] * eta[l] - exposure * m[l]
    elif code == LOGIT:
        trials = shared[0]
        for l in range(m.size):
            height[l] += total[l] * eta[l] - trials * logarithm(1.0 + m[l])
    else:
        _cloglog_heights(total, own, t, m, height)
