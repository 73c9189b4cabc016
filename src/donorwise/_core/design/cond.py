"""A condition that a user names by levels of variables, and sums of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from donorwise._core.wording import linear_combination


@dataclass(frozen=True, slots=True)
class Cond:
    """A weighted sum of conditions, made by :func:`cond`; it meets the data when it is tested.

    Attributes
    ----------
    parts
        Pairs of a weight and a condition, ``(1.0, (("disease", "MS"),))``.
    """

    parts: tuple[tuple[float, tuple[tuple[str, Hashable], ...]], ...]

    def __add__(self, other: object) -> Cond:
        return Cond((*self.parts, *other.parts)) if isinstance(other, Cond) else NotImplemented

    def __sub__(self, other: object) -> Cond:
        return self + -other if isinstance(other, Cond) else NotImplemented

    def __neg__(self) -> Cond:
        return self * -1.0

    def __mul__(self, factor: object) -> Cond:
        if not isinstance(factor, int | float | np.number):
            return NotImplemented
        return Cond(tuple((weight * float(factor), levels) for weight, levels in self.parts))

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Cond:
        return self * (1.0 / float(divisor)) if isinstance(divisor, int | float | np.number) else NotImplemented

    def __repr__(self) -> str:
        weights: dict[str, float] = {}
        for weight, levels in self.parts:
            name = f"({', '.join(f'{k}={v}' for k, v in levels) or 'average'})"
            weights[name] = weights.get(name, 0.0) + weight
        return linear_combination(weights)


def cond(levels: Mapping[str, Hashable] | None = None, /, **more: Hashable) -> Cond:
    """Name a condition by levels of variables, ``cond(disease="MS", cell_type="T")``.

    It stands for the expected response there: averaged over the levels (with equal weights) of the
    categorical variables that are not named, numeric variables at their mean unless a value is given.
    Conditions can be added, subtracted, and multiplied or divided by a number.

    Parameters
    ----------
    levels
        A mapping, for variables whose names are not Python names.
    more
        Levels by keyword.

    Returns
    -------
    A condition, to be passed as a contrast to :func:`donorwise.tl.lmm` or :meth:`donorwise.LMMFit.test`. Names and
    levels meet the data there: a ``DesignError`` says which it does not have.

    Examples
    --------
    >>> from donorwise import cond
    >>> cond(disease="MS", cell_type="T") - cond(disease="control", cell_type="T")
    (disease=MS, cell_type=T) - (disease=control, cell_type=T)
    """
    return Cond(((1.0, tuple({**(levels or {}), **more}.items())),))
