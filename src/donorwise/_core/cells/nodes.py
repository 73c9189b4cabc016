"""What a sum over cells keeps of a smooth function of each cell: its values at a few nodes, and how cells load on them.

The log-density of a cell with the exposure e depends on it through a smooth function f(log e), which is another one for every
feature and every linear predictor: log(1 + e m / r) for the negative binomial, log(1 - exp(-e m)) for yes/no with a
complementary log-log link. The polynomial through its values at J Chebyshev nodes x_j is f(x) = sum_j l_j(x) f(x_j), l_j the
Lagrange basis, so that

    sum_i y_i f(log e_i) = sum_j f(x_j) sum_i y_i l_j(log e_i),

and the sums over the cells i on the right are numbers of the data alone. The basis is computed in its barycentric form
(Berrut and Trefethen 2004, SIAM Review 46:501), which is exact at the nodes and whose rounding does not grow with J.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numba import njit

from donorwise._typing import FloatArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

PATTERN_CELLS: Final = 5_000
"""Cells of a pattern whose log-likelihood is to be right."""
RIGHT: Final = 1e-8
"""What it may be wrong by."""

_MEANS = 10.0 ** np.arange(-4, 2.01, 0.25)  # at an exposure in the middle of the range, on the scale of logarithms
_SIZES = 10.0 ** np.arange(-2, 3.01, 0.5)
_NODE_NUMBERS = (1, *range(4, 97, 4))  # fours are added by one instruction
_CHECKED = 400  # places of the range at which the interpolation is compared
_OUTSIDE = 1e-9  # beyond the range, as part of it, that rounding explains


def chebyshev(low: float, high: float, n: int) -> FloatArray:
    """The n Chebyshev nodes of the first kind between two numbers, ascending."""
    angle = (2 * np.arange(n)[::-1] + 1) * np.pi / (2 * n)
    return np.asarray((low + high) / 2 + (high - low) / 2 * np.cos(angle))


def barycentric(n: int) -> FloatArray:
    """Barycentric weights of :func:`chebyshev` nodes, (n,)."""
    sign = np.where(np.arange(n) % 2, -1.0, 1.0)
    return sign * np.sin((2 * np.arange(n) + 1) * np.pi / (2 * n))


@njit(nogil=True, cache=True, error_model="numpy")
def spread(at: FloatArray, weight: FloatArray, x: float, out: FloatArray) -> None:
    """The Lagrange basis of the nodes `at` at x, into `out`."""
    total = 0.0
    for j in range(at.size):
        share = weight[j] / (x - at[j])
        out[j] = share
        total += share
    scale = 1.0 / total
    for j in range(at.size):
        out[j] *= scale
    for j in range(at.size):
        if x == at[j]:
            for i in range(at.size):
                out[i] = 0.0
            out[j] = 1.0


@njit(nogil=True, cache=True)
def spread_all(at: FloatArray, weight: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """The basis at every x, (N, J)."""
    for i in range(x.size):
        spread(at, weight, x[i], out[i])


def loadings(at: FloatArray, x: FloatArray) -> FloatArray:
    """The Lagrange basis (N, J) of Chebyshev nodes `at` (J,) at x (N,); rows add up to 1."""
    out = np.empty((len(x), len(at)))
    spread_all(at, barycentric(len(at)), np.ascontiguousarray(x, dtype=np.float64), out)
    return out


class Smooth(NamedTuple):
    """A function of log exposure that is interpolated: log-densities of cells are sums of multiples of it.

    Attributes
    ----------
    value
        f(a + log exposure), vectorised.
    expected
        Mean over the responses of the multiple, of the mean count mu of a cell and the feature's size.
    dispersed
        Whether a = log(mean / size), otherwise log(mean).
    """

    value: Callable[[FloatArray], FloatArray]
    expected: Callable[[FloatArray, float], FloatArray]
    dispersed: bool


def _log_fails(x: FloatArray) -> FloatArray:
    """log(1 - exp(-exp(x)))."""
    z = np.exp(x)
    return np.asarray(np.where(z > 0.7, np.log1p(-np.exp(-z)), np.log(-np.expm1(-z))))


SMOOTH: Final = {
    "nb": Smooth(lambda x: np.asarray(np.logaddexp(0.0, x)), lambda mu, size: size + mu, dispersed=True),
    "cloglog": Smooth(_log_fails, lambda mu, size: np.asarray(-np.expm1(-mu)), dispersed=False),
}
"""By the name of the family (`nb`) or the link (`cloglog`)."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of log exposure.

    Attributes
    ----------
    at
        Shape (J,). Chebyshev nodes of the first kind between `low` and `high`, ascending; one where all exposures are the
        same.
    low, high
        Range of log exposure.
    error
        Error of a cell's log-density by the interpolation: root of its mean square over the range, at the worst mean count
        (1e-4 to 100 in the middle of the range) and size (0.01 to 1000). Its sign changes J times over the range, so that
        the errors of n cells of different exposures add up to about ``sqrt(n)`` times this.
    """

    at: FloatArray
    low: float
    high: float
    error: float = 0.0

    @property
    def exposures(self) -> FloatArray:
        """Exposures at the nodes, (J,)."""
        return np.exp(self.at)

    @cached_property
    def weight(self) -> FloatArray:
        """Barycentric weights, (J,)."""
        return barycentric(len(self.at))

    def loadings(self, log_exposure: ArrayLike) -> FloatArray:
        """The Lagrange basis (N, J) at the cells; rows add up to 1.

        Raises
        ------
        DataError
            A cell is outside of the range, where the polynomial says nothing.
        """
        x = np.asarray(log_exposure, dtype=np.float64)
        self.check(x)
        return loadings(self.at, x)

    def check(self, log_exposure: FloatArray) -> None:
        """Raise unless all are in the range."""
        slack = _OUTSIDE * (1.0 + self.high - self.low)
        if log_exposure.size and not (
            self.low - slack <= log_exposure.min() and log_exposure.max() <= self.high + slack
        ):
            low, high = np.exp([log_exposure.min(), log_exposure.max()])
            raise DataError(
                f"The cells have exposures from {low:.6g} to {high:.6g}, the nodes are for {np.exp(self.low):.6g} to "
                f"{np.exp(self.high):.6g}: choose nodes for all cells that are counted."
            )


def choose_nodes(low: float, high: float, kind: str, tolerance: float = RIGHT / np.sqrt(PATTERN_CELLS)) -> Nodes:
    """The fewest nodes with which the log-density of cells is interpolated well enough.

    Parameters
    ----------
    low, high
        Range of log exposure of the cells.
    kind
        Which function is interpolated, one of `SMOOTH`.
    tolerance
        Largest `Nodes.error`; the default makes the log-likelihood of a pattern of 5,000 cells right to 1e-8.

    Returns
    -------
    Nodes
        The most that there are where the tolerance cannot be reached: look at their `error`.
    """
    smooth = SMOOTH[kind]
    for n in _NODE_NUMBERS:
        at = chebyshev(low, high, n)
        error = _error(at, low, high, smooth)
        if error <= tolerance:
            break
    return Nodes(at, low, high, error)


def _error(at: FloatArray, low: float, high: float, smooth: Smooth) -> float:
    """`Nodes.error`."""
    x = np.linspace(low, high, _CHECKED) if high > low else np.array([low])
    basis, middle, worst = loadings(at, x), (low + high) / 2, 0.0
    for size in _SIZES if smooth.dispersed else (1.0,):
        a = np.log(_MEANS / size) - middle
        off = smooth.value(x[:, None] + a) - basis @ smooth.value(at[:, None] + a)
        multiple = smooth.expected(np.exp(x[:, None] - middle) * _MEANS, size)
        worst = max(worst, float(np.sqrt(np.mean((multiple * off) ** 2, axis=0)).max()))
    return worst
