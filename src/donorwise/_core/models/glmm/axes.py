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
_LARGEST_RATIO = 2.0  # of standard deviations at neighbouring points, where effects are carried over


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


def ratios(sd: FloatArray) -> FloatArray:
    """Standard deviations of effects (T, q) at the point before, relative to those at each, by which effects are carried over.

    Zero, with which effects begin anew, where they fall: along an axis they rise.
    """
    before = np.vstack([sd[:1], sd[:-1]])
    ratio = np.divide(before, sd, out=np.zeros_like(sd), where=sd > 0)
    return np.where(ratio > _LARGEST_RATIO, 0.0, ratio)
