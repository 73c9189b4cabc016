"""exp(x) - 1 without branches and tables, so that LLVM makes vector instructions of loops over it.

With x = n log 2 + r and |r| <= log(2) / 2, exp(x) = 2^n exp(r), and exp(r) = 1 + r + r² q(r) with q the polynomial of
degree 7 through the Chebyshev nodes: the relative error of exp(x) is below 1e-13 (Muller 2016, Elementary Functions,
ch. 4 and 11). A C library's exp, one
number after another, costs ten times as much and more than all else in a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import types
from numba.extending import intrinsic
from numpy.polynomial import chebyshev

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._typing import FloatArray

_LARGEST = 700.0  # beyond it exp overflows; values that are logarithms stay far below
_DEGREE = 7
_HALF = 0.5 * float(np.log(2)) * (1 + 1e-6)
_PER_LOG_2 = 1 / float(np.log(2))
_LOG_2 = float.fromhex("0x1.62e42fee00000p-1")  # its leading 33 bits, and the rest: n times the first is exact
_LOG_2_REST = float.fromhex("0x1.a39ef35793c76p-33")
_ROUND = 1.5 * 2.0**52  # added and taken away it rounds; while it is there the whole number is in the low bits
_BIAS, _MANTISSA = 1023, 52


def _quotient() -> FloatArray:
    """Coefficients of q(r) = (exp(r) - 1 - r) / r², the constant first."""
    r = _HALF * np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    terms = [1 / float(np.prod(np.arange(1.0, k + 3))) for k in range(16)]
    fitted = chebyshev.cheb2poly(chebyshev.chebfit(r / _HALF, np.polynomial.polynomial.polyval(r, terms), _DEGREE))
    return np.asarray(fitted / _HALF ** np.arange(_DEGREE + 1))


_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7 = (float(value) for value in _quotient())


def _fuse(typingctx, a, b, c):
    """A times b plus c, in one rounding where the processor can."""

    def codegen(context, builder, signature, args):
        double = ir.DoubleType()
        kind = ir.FunctionType(double, [double, double, double])
        return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", [double], kind), args)

    return types.float64(types.float64, types.float64, types.float64), codegen


def _raise_two(typingctx, shifted):
    """2^n of n + _ROUND, by the bits of its exponent."""

    def codegen(context, builder, signature, args):
        whole = ir.IntType(64)
        n = builder.add(builder.bitcast(args[0], whole), ir.Constant(whole, _BIAS))
        return builder.bitcast(builder.shl(n, ir.Constant(whole, _MANTISSA)), ir.DoubleType())

    return types.float64(types.float64), codegen


_fused: Any = intrinsic(_fuse)
_power_of_two: Any = intrinsic(_raise_two)


@njit(nogil=True, cache=True, inline="always")
def expm1(x: float) -> float:
    """exp(x) - 1, exactly 0 for 0; its absolute error is that of exp(x). Values beyond 700 are taken for 700."""
    x = min(max(x, -_LARGEST), _LARGEST)
    shifted = _fused(x, _PER_LOG_2, _ROUND)
    n = shifted - _ROUND
    r = _fused(n, -_LOG_2_REST, _fused(n, -_LOG_2, x))
    r2 = r * r
    low = _fused(_fused(_Q3, r, _Q2), r2, _fused(_Q1, r, _Q0))
    high = _fused(_fused(_Q7, r, _Q6), r2, _fused(_Q5, r, _Q4))
    q = _fused(high, r2 * r2, low)
    return _fused(_fused(q, r2, r) + 1.0, _power_of_two(shifted), -1.0)


@njit(nogil=True, cache=True)
def expm1_of(values: NDArray[Any], rate: float, out: FloatArray) -> None:
    """exp(rate x) - 1 of some values, into the first places of `out`."""
    for i in range(len(values)):
        out[i] = expm1(rate * np.float64(values[i]))
