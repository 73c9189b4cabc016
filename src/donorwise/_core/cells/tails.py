"""Counts as a histogram at a few values, small ones exactly: what a feature's size needs, log Gamma(y + r) - log Gamma(r)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from donorwise._core.cells.count_kernels import Kept, add_tails
from donorwise._core.cells.nodes import barycentric, chebyshev, loadings
from donorwise._typing import FloatArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_EXACT = 8  # counts that have a place of their own in any case
_TAIL_NUMBERS = range(4, 65, 2)
_TAIL_TOLERANCE = 1e-12  # of log Gamma(y + r) - log Gamma(r), relative to 1 + its size
_SIZES = 10.0 ** np.arange(-2, 3.01, 0.25)
_CHECKED = 400
_TABLE = 2**14  # whole counts whose loadings are looked up

NO_TAILS = Kept(*(np.zeros(0),) * 2, -1, *(np.zeros(0),) * 3, np.inf, detected=False, bound=-1)
"""What the kernels need where there are none."""


@dataclass(frozen=True)
class Tails:
    """Values of counts that stand for all: sum_i phi(y_i) = sum_h tail_h phi(value_h), where phi(0) = 0 and phi is smooth.

    A count up to `exact` has a place of its own, and one that is no whole number is shared by the two next to it; larger
    ones load on Chebyshev nodes of log y.

    Attributes
    ----------
    values
        Shape (H,). 1, 2, ..., `exact`, and the nodes.
    exact
        Number of whole values.
    largest
        Counts go up to here.
    """

    values: FloatArray
    exact: int
    largest: float

    @cached_property
    def kept(self) -> Kept:
        """What the kernels need of these."""
        at = np.log(self.values[self.exact :])
        last = min(np.floor(self.largest), _TABLE) if len(at) else 0.0
        table = loadings(at, np.log(np.arange(self.exact + 1, last + 1)))
        return NO_TAILS._replace(
            exact=self.exact, tail_at=at, tail_weight=barycentric(len(at)), table=table.ravel(), largest=self.largest
        )

    def loadings(self, y: ArrayLike) -> FloatArray:
        """What counts (N,) load on the values, (N, H)."""
        y = np.ascontiguousarray(y, dtype=np.float64)
        if y.size and not (y.min() >= 0 and y.max() <= self.largest):
            raise DataError(f"Counts reach from {y.min():.6g} to {y.max():.6g}, not from 0 to {self.largest:.6g}.")
        width, above = 1 + self.values.size, np.flatnonzero(y)
        out = np.zeros(y.size * width)
        add_tails(self.kept, above.size, y[above], above * width, out, np.empty(self.values.size - self.exact))
        return out.reshape(y.size, width)[:, 1:]


def choose_tails(largest: float) -> Tails:
    """Values for counts up to `largest`: the fewest with which log Gamma(y + r) - log Gamma(r) is right to 1e-12 (relative).

    That is so for sizes r from 0.01 to 1000.
    """
    last = max(1, int(np.ceil(largest)))
    whole = np.arange(1.0, last + 1)
    for n in _TAIL_NUMBERS:
        if last <= _EXACT + n:
            return Tails(whole, last, float(last))
        at = chebyshev(np.log(_EXACT), np.log(largest), n)
        if _tail_error(at, largest) <= _TAIL_TOLERANCE:
            break
    return Tails(np.concatenate([whole[:_EXACT], np.exp(at)]), _EXACT, largest)


def _tail_error(at: FloatArray, largest: float) -> float:
    x = np.linspace(np.log(_EXACT), np.log(largest), _CHECKED)

    def phi(x: FloatArray) -> FloatArray:
        return np.asarray(special.gammaln(np.exp(x)[:, None] + _SIZES) - special.gammaln(_SIZES))

    right = phi(x)
    return float((np.abs(right - loadings(at, x) @ phi(at)) / (1.0 + np.abs(right))).max())
