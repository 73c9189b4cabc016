"""Student's t as tables, for one number of degrees of freedom and very many values.

With v = sqrt(nu) asinh(x / sqrt(nu)) the function log P(T > x) is smooth and nearly straight, far out too, so
polynomials on equal pieces of v hold it to 1e-12. For nu = inf, v = x and T is normal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly
from scipy.special import ndtr, stdtr

from donorwise._core.inference.kernels import t_density

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

_DEGREE = 12
_WIDTH = 0.125  # of a piece, in v / sqrt(nu), up to these degrees of freedom; from there on the same in v
_WIDTH_UP_TO = 30.0
_LOG_FLOOR = 690.0  # the table ends where the density is exp(-690) of its height,
_STRAIGHT = 20.0  # or at this v / sqrt(nu), where log P is straight to the last digit
_NEAR, _PER = 12.0, 4.0  # end and pieces per unit of the table for values that are not far out
_HILL = 20.0  # degrees of freedom from which the normal score of t is exact to 1e-11
_ORDERS = np.arange(_DEGREE + 1)
_ANGLES = np.pi * (_ORDERS + 0.5) / (_DEGREE + 1)
_TO_CHEBYSHEV = np.where(_ORDERS > 0, 2.0, 1.0) * np.cos(np.outer(_ANGLES, _ORDERS)) / (_DEGREE + 1)
_TO_POWERS = np.array([np.pad(cheb2poly(row[: k + 1]), (0, _DEGREE - k)) for k, row in enumerate(np.eye(_DEGREE + 1))])


class TailTable(NamedTuple):
    """Polynomials for T with `nu` degrees of freedom, in -1 to 1 on every piece, the constant first.

    Attributes
    ----------
    nu, root
        Degrees of freedom and their square root.
    per, log_tail
        Pieces per unit of v, and shape (pieces, 13): log P(T > x) from zero.
    per_near, near
        Pieces per unit of x, and shape (pieces, 13, 2): P(T > x) and the density, for the middle of T.
    """

    nu: float
    root: float
    per: float
    log_tail: FloatArray
    per_near: float
    near: FloatArray


@lru_cache(maxsize=64)
def tail_table(nu: float) -> TailTable:
    """The table of `nu` degrees of freedom."""
    root = float(np.sqrt(nu))
    width = _WIDTH * min(root, float(np.sqrt(_WIDTH_UP_TO)))
    end = float(np.sqrt(2 * _LOG_FLOOR))
    if np.isfinite(nu):
        end = max(end, root * float(np.arccosh(np.exp(min(_LOG_FLOOR / (nu + 1), _STRAIGHT)))))
    v = _nodes(end, width)
    x = root * np.sinh(v / root) if np.isfinite(nu) else v
    near = _nodes(_NEAR, 1 / _PER)
    pair = np.stack([_polynomials(_middle(near, nu)), _polynomials(t_density(near, nu))], axis=2)
    return TailTable(nu, root, 1 / width, _polynomials(np.log(stdtr(nu, -x))), _PER, pair)


def _middle(x: FloatArray, nu: float) -> FloatArray:
    """P(T > x) for quantiles: by the normal score of t (Hill 1970, CACM 13(10), algorithm 395) from 20 df on."""
    if nu < _HILL or np.isinf(nu):
        return np.asarray(stdtr(nu, -x))
    a = nu - 0.5
    b = 48 * a**2
    z2 = a * np.log1p(x**2 / nu)
    z = np.sqrt(z2)
    bend = (((4 * z2 + 33) * z2 + 240) * z2 + 855) * z / (10 * b * (b + 0.8 * z2**2 + 100))
    return np.asarray(ndtr(-(z + (z2 + 3) * z / b - bend)))


def _nodes(end: float, width: float) -> FloatArray:
    """Chebyshev nodes on pieces of this width from zero to beyond `end`, (pieces, 13)."""
    middle = (np.arange(int(np.ceil(end / width))) + 0.5) * width
    return np.asarray(middle[:, None] + 0.5 * width * np.cos(_ANGLES))


def _polynomials(values: FloatArray) -> FloatArray:
    """Powers of the polynomials through values (pieces, 13) at the nodes; by Chebyshev's, to lose no digits."""
    return np.ascontiguousarray(values @ _TO_CHEBYSHEV @ _TO_POWERS)
