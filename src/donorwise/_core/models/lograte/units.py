"""Counts summed over the cells of a unit (a donor, or a sample of one), and how far chance moves them.

A count x of a cell of depth l has mean l rho and variance l rho + phi (l rho)^2, with rho the
rate of the gene in the unit. With C = sum x, L = sum l and r = C / L,

    Var(C / (L rho)) = 1/mu + phi sum(l^2)/L^2,   mu = L rho,
    E sum (x - r l)^2 = rho (L - sum(l^2)/L) + phi rho^2 (sum(l^2) - 2 sum(l^3)/L + sum(l^2)^2/L^2),

which is solved for phi with the unbiased C (C - 1) / L^2 in place of rho^2, summed over the units.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lograte.kernels import fit_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._typing import FloatArray, IntArray

# log(C + 1/2) has about the variance 1 / (mu + 1/2), and is 1 / mu where counts are large.
OFFSET = 0.5


@dataclass(frozen=True, slots=True)
class Depths:
    """What the depths l of the cells say about S units, every array (S,): their number and power sums."""

    n_cells: IntArray
    total: FloatArray
    squares: FloatArray
    cubes: FloatArray

    @property
    def share(self) -> FloatArray:
        """sum(l^2) / sum(l)^2: one over the number of cells where all are equally deep."""
        return self.squares / self.total**2

    def take(self, units: IntArray) -> Depths:
        """Some of the units."""
        return Depths(self.n_cells[units], self.total[units], self.squares[units], self.cubes[units])

    def scaled(self, factors: FloatArray) -> Depths:
        """The same where the depth of every cell of a unit is multiplied by the unit's factor (S,).

        The dispersion and the shares stay as they are: they do not depend on the scale of a unit's depths.
        """
        return Depths(self.n_cells, self.total * factors, self.squares * factors**2, self.cubes * factors**3)


@dataclass(frozen=True, slots=True)
class LogRates:
    """Log rates of G genes in S units.

    Attributes
    ----------
    y
        Shape (G, S). log((C + 1/2) / L).
    v
        Shape (G, S). Sampling variances of y, from the rates that the fixed effects predict.
    dispersion
        Shape (G,). phi.
    """

    y: FloatArray
    v: FloatArray
    dispersion: FloatArray

    def take(self, genes: IntArray) -> LogRates:
        """Those of some genes."""
        return LogRates(self.y[genes], self.v[genes], self.dispersion[genes])

    @classmethod
    def concatenate(cls, several: Sequence[LogRates]) -> LogRates:
        """Those of several blocks of genes, one after another."""
        return cls(*(np.concatenate([getattr(r, f.name) for r in several]) for f in fields(cls)))


def depths_of_units(depth: FloatArray, codes: IntArray, n_units: int) -> Depths:
    """Power sums of the depths (N,) of cells over the units of their codes (-1 for none)."""
    own = codes >= 0
    at, l = codes[own], depth[own]
    # of depths relative to their mean, so that scaling them changes nothing but the scale
    scale = l.mean() if l.size and l.mean() > 0 else 1.0
    total, squares, cubes = (
        np.asarray(scale**k * np.bincount(at, weights=(l / scale) ** k, minlength=n_units), dtype=np.float64)
        for k in (1, 2, 3)
    )
    return Depths(np.bincount(at, minlength=n_units).astype(np.int64), total, squares, cubes)


def log_rates(collapsed: Collapsed, depths: Depths, Q: FloatArray) -> LogRates:
    """Log rates and their sampling variances.

    Parameters
    ----------
    collapsed
        Statistics of S units and G genes that have counts, with the depth of the cells as the only covariate.
    depths
        Of the same units.
    Q
        Shape (S, p). Orthonormal basis of the fixed effects.
    """
    counts = np.rint(collapsed.n_obs[:, None] * collapsed.mean)
    dispersion = dispersions(counts, _residual_ss(collapsed), depths)
    C = np.ascontiguousarray(counts.T)
    y = np.log((C + OFFSET) / depths.total)
    return LogRates(y, sampling_variances(C, dispersion, depths, Q), dispersion)


def dispersions(counts: FloatArray, residual_ss: FloatArray, depths: Depths) -> FloatArray:
    """Moment estimates (G,) of phi, not below zero, from counts and within-unit sums of squares (S, G)."""
    L, squares, cubes = depths.total[:, None], depths.squares[:, None], depths.cubes[:, None]
    excess = (residual_ss - counts / L * (L - squares / L)).sum(axis=0)
    slope = (counts * (counts - 1) / L**2 * (squares - 2 * cubes / L + squares**2 / L**2)).sum(axis=0)
    # without two counts in a unit, or cells to compare, nothing is known of phi
    return np.maximum(np.divide(excess, slope, out=np.zeros_like(slope), where=slope > 0), 0.0)


def sampling_variances(C: FloatArray, dispersion: FloatArray, depths: Depths, Q: FloatArray) -> FloatArray:
    """Variances (G, S) of log rates at the expected counts under the fixed effects.

    A unit's own count must not set its variance: low counts would come with low weights.
    """
    mu = np.empty_like(C)
    fit_means(C, depths.total, dispersion, depths.share, Q, mu)
    return 1 / (mu + OFFSET) + dispersion[:, None] * depths.share


def _residual_ss(collapsed: Collapsed) -> FloatArray:
    """Sum of (x - r l)^2 over the cells of every unit, r the unit's rate, (S, G)."""
    rate = collapsed.mean / collapsed.covariate_mean
    return np.asarray(
        collapsed.within_ss - 2 * rate * collapsed.covariate_y[:, 0] + rate**2 * collapsed.covariate_ss[:, 0]
    )
