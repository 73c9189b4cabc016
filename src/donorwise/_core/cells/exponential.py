"""2^x - 1 without branches and tables, so that LLVM makes vector instructions of loops over it.

With x = n + f and |f| <= 1/2, 2^x = 2^n 2^f, and 2^f = 1 + f q(f) with q the polynomial of degree 7 through the
Chebyshev nodes: the relative error of 2^x is below 3e-12 (Muller 2016, Elementary Functions, ch. 4 and 11). A C
library's exp, one number after another, costs ten times as much and more than all else in a pass.
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
    from donorwise._typing import FloatArray

_LARGEST = 1000.0  # beyond 1024 the result overflows; values that are logarithms stay far below
_DEGREE = 7
_HALF = 0.5 * (1 + 1e-6)
ROUND = 1.5 * 2.0**52  # added and taken away it rounds; while it is there the whole number is in the low bits
_BIAS, _MANTISSA = 1023, 52


def _quotient() -> FloatArray:
    """Coefficients of q(f) = (2^f - 1) / f, the constant first."""
    f = _HALF * np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    terms = np.cumprod(np.log(2) / np.arange(1.0, 20))
    fitted = chebyshev.cheb2poly(chebyshev.chebfit(f / _HALF, np.polynomial.polynomial.polyval(f, terms), _DEGREE))
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
    """2^n of n + ROUND, by the bits of its exponent."""

    def codegen(context, builder, signature, args):
        whole = ir.IntType(64)
        n = builder.add(builder.bitcast(args[0], whole), ir.Constant(whole, _BIAS))
        return builder.bitcast(builder.shl(n, ir.Constant(whole, _MANTISSA)), ir.DoubleType())

    return types.float64(types.float64), codegen


fused: Any = intrinsic(_fuse)
power_of_two: Any = intrinsic(_raise_two)


@njit(nogil=True, cache=True, inline="always")
def exp2m1(x: float) -> float:
    """2^x - 1, exactly 0 for 0; its absolute error is that of 2^x. Values beyond 1000 are taken for 1000."""
    x = min(max(x, -_LARGEST), _LARGEST)
    shifted = x + ROUND
    f = x - (shifted - ROUND)
    f2 = f * f
    low = fused(fused(_Q3, f, _Q2), f2, fused(_Q1, f, _Q0))
    high = fused(fused(_Q7, f, _Q6), f2, fused(_Q5, f, _Q4))
    q = fused(high, f2 * f2, low)
    return fused(fused(q, f, 1.0), power_of_two(shifted), -1.0)
