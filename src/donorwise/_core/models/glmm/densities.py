"""Log-densities of a row and their two derivatives in the linear predictor (see the families), for numba loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from donorwise._core.models.glmm.families import LOGIT, NB, POISSON

inner = njit(nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True)  # type: ignore[call-overload]
summed = njit(  # sums may be taken in any order: LLVM makes vector instructions of them
    nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True, fastmath={"reassoc", "contract"}
)  # type: ignore[call-overload]

_MANTISSA, _BIAS = 52, 1023
_SQRT_HALF = 0x3FE6A09E00000000  # bits of the square root of a half, less its last digits
_LN2 = float(np.log(2.0))
_SMALLEST = 1e-300  # mean of a count, whose logarithm is finite
_HIGHEST = 300.0  # of eta: beyond it exponentials are as good as infinite


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


split: Any = intrinsic(_split_exponent)


@njit(nogil=True, cache=True, inline="always")
def log_one_plus(z):
    """log(1 + z), z >= 0, without branches and tables, to 3e-16 absolutely (and relatively for large z).

    log(m) = 2 atanh(s), s = (m - 1) / (m + 1) below .172: ten terms of the series leave 1e-17.
    """
    n, m = split(1.0 + z)
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


@summed
def _nb_slopes(own, shared, t, size, m):
    """sum_j a_j w_j and sum_j a_j w_j (1 - w_j), w_j the share of the mean in the mean and the size."""
    first, second = 0.0, 0.0
    for j in range(t.size):
        z = t[j] * m
        w = z / (size + z)
        aw = (own[j] + size * shared[j]) * w
        first += aw
        second += aw * (1.0 - w)
    return first, second


@summed
def _nb_value(own, shared, t, size, m):
    total, scale = 0.0, m / size
    for j in range(t.size):
        total += (own[j] + size * shared[j]) * log_one_plus(t[j] * scale)
    return total


@inner
def _cloglog(own, t, m):
    """Value and derivatives of sum_j own_j log(1 - exp(-t_j m)) in log m."""
    value, first, second = 0.0, 0.0, 0.0
    for j in range(t.size):
        z = max(t[j] * m, _SMALLEST)
        if z > 700.0:
            continue
        failed = np.exp(-z)
        odds = z * failed / -np.expm1(-z)
        value += own[j] * np.log(-np.expm1(-z))
        first += own[j] * odds
        second += own[j] * odds * (1.0 - z - odds)
    return value, first, second


@inner
def slopes(code, size, total, own, shared, t, eta):
    """First and second derivative of the log-density of a row at eta.

    Parameters
    ----------
    code
        The family.
    size
        Of the negative binomial.
    total
        A number; `own`, `shared` and `t` have shape (J,), `own` none where the family does not use it.
    """
    eta = min(eta, _HIGHEST)
    if code == NB:
        first, second = _nb_slopes(own, shared, t, size, np.exp(eta))
        return total - first, -second
    if code == POISSON:
        mean = shared[0] * t[0] * np.exp(eta)
        return total - mean, -mean
    if code == LOGIT:
        p = 1.0 / (1.0 + np.exp(-eta))
        return total - shared[0] * p, -shared[0] * p * (1.0 - p)
    m = np.exp(eta)
    _, first, second = _cloglog(own, t, m)
    return first - total * m, second - total * m


@inner
def value(code, size, total, own, shared, t, eta):
    """Log-density of a row at eta, without what does not depend on eta; arguments as for :func:`slopes`."""
    eta = min(eta, _HIGHEST)
    m = np.exp(eta)
    if code == NB:
        return total * (eta - np.log(size)) - _nb_value(own, shared, t, size, m)
    if code == POISSON:
        return total * eta - shared[0] * t[0] * m
    if code == LOGIT:
        return total * eta - shared[0] * (np.log1p(m) if eta < 0.0 else eta + np.log1p(np.exp(-eta)))
    return _cloglog(own, t, m)[0] - total * m
