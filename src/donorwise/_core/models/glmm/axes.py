"""Axes of a grid, of which few points are worked out and carried to all others.

What is worked out is a smooth function of the logarithm of a variance, so that splines of degree five carry it. Zero is a
point of its own, and so are all points of an axis of correlations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import make_interp_spline

from donorwise._core.models.law import tensor

if TYPE_CHECKING:
    from donorwise._typing import FloatArray

_DEGREE = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """Points of a variance or correlation: those that are worked out, and what carries them to all, (all, some)."""

    some: FloatArray
    carry: FloatArray


def thinned(points: FloatArray, most: int) -> Axis:
    """An axis that needs no more than `most` points above zero."""
    positive = points[points > 0]
    if points.min() < 0 or positive.size <= max(most, _DEGREE + 1):
        return Axis(points, np.eye(points.size))
    some, zero = np.geomspace(positive[0], positive[-1], most), points[points == 0]
    spline = make_interp_spline(np.log(some), np.eye(most), k=_DEGREE)
    carry = np.zeros((points.size, zero.size + most))
    carry[points == 0, : zero.size] = 1.0
    carry[points > 0, zero.size :] = spline(np.log(positive))
    return Axis(np.concatenate([zero, some]), carry)


def axes_of(points: FloatArray) -> list[FloatArray] | None:
    """The axes whose combinations are these points (K, variances), in the order of `tensor`; None where there are none."""
    axes = [np.array(list(dict.fromkeys(column))) for column in points.T]
    if np.prod([axis.size for axis in axes]) != len(points) or not np.array_equal(tensor(axes), points):
        return None
    return axes
