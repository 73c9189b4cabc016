"""Temporary: exponential."""
import numpy as np
from numba import njit

from donorwise._core.cells.exponential import _ROUND as ROUND, _fused as fused, _power_of_two as power_of_two

inlined = njit(nogil=True, cache=True, error_model="numpy", inline="always")
_PER_LN2 = float(1 / np.log(2.0))
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


@inlined
def exponential(x):
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
