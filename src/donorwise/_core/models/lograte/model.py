"""Models of log rates: y ~ N(X beta, group2 ZZ' + tau2 I + diag(v)) with known v, their law on a grid, and the fit.

Fay and Herriot (1979), JASA 74:269-277. Given the variances beta has a flat prior and everything is normal: the
restricted likelihood is

    -1/2 [log|V| + log|X'V⁻¹X| + r'V⁻¹r],   r = y - X beta,

and c'beta is N(c'b, c'(X'V⁻¹X)⁻¹c) at the generalised least-squares estimate b.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from donorwise._core.jobs import in_threads
from donorwise._core.models.law import (
    MOST_TOGETHER,
    STATUS_DTYPE,
    JointLaw,
    Law,
    LocationScale,
    joint_contrasts,
    joint_square,
    law_of,
)
from donorwise._core.models.lograte.kernels import evaluate
from donorwise._core.models.lograte.units import OFFSET, LogRates, log_rates

if TYPE_CHECKING:
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.models.lograte.units import Depths
    from donorwise._typing import FloatArray, IntArray, StrArray


@dataclass(frozen=True, slots=True)
class UnitDesign:
    """The design of S units, shared by all genes; units in the order of the random term's levels.

    Attributes
    ----------
    design
        The design, a row per unit or pattern of units.
    order
        Shape (S,). Rows of the design's table of units.
    Q
        Shape (S, p). Orthonormal basis of X.
    inverse
        Shape (p, p). beta = inverse @ (coefficients on Q).
    starts
        Shape (levels + 1,). First unit of each level; one level where there is no random term.
    group
        Grouping factor of the random term; empty for none.
    """

    design: Design
    order: IntArray
    Q: FloatArray
    inverse: FloatArray
    starts: IntArray
    group: str

    def turned(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients on Q."""
        return np.ascontiguousarray(L @ self.inverse)

    @property
    def column_spread(self) -> FloatArray:
        """Covariance over the units of the columns of X, (p, p)."""
        X = self.Q @ np.linalg.inv(self.inverse)
        X = X - X.mean(axis=0)
        return np.asarray(X.T @ X / len(X))


def unit_design(design: Design) -> UnitDesign:
    """What genes share in a design whose rows are units, with one random intercept or none."""
    used = np.flatnonzero(design.codes >= 0)
    pattern = design.codes[used]
    X = design.X[pattern]
    for j, k in enumerate(design.varying):
        if k >= 0:
            X[:, j] = design.covariates[used, k]
    levels = design.random_terms[0].codes[pattern] if design.random_terms else np.zeros(used.size, dtype=np.int64)
    order = np.argsort(levels, kind="stable")
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 2))
    Q, R = np.linalg.qr(X[order])
    group = design.random_terms[0].group if design.random_terms else ""
    return UnitDesign(design, used[order], np.ascontiguousarray(Q), np.linalg.inv(R), starts, group)


_LOWEST, _HIGHEST = 1e-4, 25.0  # variances of log rates besides zero
# Points of the axes of one variance, or of two (units, random term): with a shared prior, and without, where the
# best point is the estimate.
_POINTS = ((64,), (32, 10))
_FINE_POINTS = ((400,), (80, 40))


@dataclass(frozen=True, slots=True)
class LogRateModel:
    """Genes with counts in the units of one group (see :class:`donorwise._core.models.law.Model`).

    Attributes
    ----------
    features
        Shape (G,). Their positions in the fit.
    units
        The design of the units.
    depths
        Depths of the units' cells.
    rates
        Log rates and their sampling variances.
    mean
        Shape (G,). Total counts; whole numbers, so that equal ones are equal in every order of the cells.
    """

    features: IntArray
    units: UnitDesign
    depths: Depths
    rates: LogRates
    mean: FloatArray

    named: ClassVar[tuple[str, str]] = ("gene with counts", "genes with counts")
    fallback: ClassVar[str] = "between-within"
    unmoderated: ClassVar[str] = ""
    estimated: ClassVar[None] = None
    most_learned_from: ClassVar[int] = 6_000
    most_together: ClassVar[int] = MOST_TOGETHER

    @property
    def design(self) -> Design:
        """The design, a row per unit or pattern of units."""
        return self.units.design

    @property
    def n_obs(self) -> int:
        """Units."""
        return self.units.order.size

    @property
    def usable(self) -> IntArray:
        """Positions of the genes that have a law: all of them."""
        return np.arange(self.features.size)

    def status(self, L: FloatArray) -> StrArray:
        """Status of every gene and contrast (n, p), (G, n)."""
        return np.full((self.features.size, len(L)), "ok", dtype=STATUS_DTYPE)

    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The variance between units and, with a random term, its variance."""
        names = ("unit", self.units.group)[: 1 + bool(self.units.group)]
        return names, (1.0,) * len(names)

    @property
    def parameters(self) -> IntArray:
        """One for each: the units are the first term, (variances, 3)."""
        return np.outer(np.arange(1 + bool(self.units.group)), [1, 0, 0])

    @property
    def of_terms(self) -> IntArray:
        """Which of the variances each axis is."""
        return np.arange(1 + bool(self.units.group))

    @property
    def column_spread(self) -> FloatArray:
        """Covariance over the units of the columns of X, (p, p)."""
        return self.units.column_spread

    def largest(self) -> FloatArray:
        """Zeros: the axes are the same for all data."""
        return np.zeros(1 + bool(self.units.group))

    def axes(self, largest: FloatArray) -> list[FloatArray]:
        """Grid of every variance."""
        return _axes(_POINTS[bool(self.units.group)])

    def fine_axes(self) -> list[FloatArray]:
        """Finer grids, whose best point is the REML estimate."""
        return _axes(_FINE_POINTS[bool(self.units.group)])

    def on(self, points: FloatArray, L: FloatArray | None = None) -> LogRateGrid:
        """The model at variances (K, 1 or 2), for contrasts (n, p)."""
        both = np.zeros((len(points), 2))
        both[:, : points.shape[1]] = points
        L = np.empty((0, self.units.Q.shape[1])) if L is None else self.units.turned(L)
        return LogRateGrid(self, both, L)

    def law(self, points: FloatArray, L: FloatArray) -> Law:
        """The law of all genes at variances (K, 1 or 2)."""
        return self.on(points, L).law(self.usable)

    def with_cells(self, factor: FloatArray) -> LogRateModel:
        """The same rates, had every unit `factor` (S,) times its cells, in the order of the design."""
        units, dispersion = self.units, self.rates.dispersion[:, None] * self.depths.share
        own = factor[np.searchsorted(np.flatnonzero(self.design.codes >= 0), units.order)]
        expected = 1 / (self.rates.v - dispersion) - OFFSET
        counted = 1 / (own * expected + OFFSET)
        return replace(self, rates=replace(self.rates, v=counted + dispersion / own))

    def take(self, at: IntArray) -> LogRateModel:
        """The model of some of its genes."""
        return LogRateModel(self.features[at], self.units, self.depths, self.rates.take(at), self.mean[at])


def _axes(points: tuple[int, ...]) -> list[FloatArray]:
    return [np.concatenate([[0.0], np.geomspace(_LOWEST, _HIGHEST, n - 1)]) for n in points]


@dataclass(frozen=True, slots=True)
class LogRateGrid(LocationScale):
    """A model at `points` (K, 2), for contrasts L (n, p) of the coefficients on Q."""

    model: LogRateModel
    points: FloatArray
    L: FloatArray

    def loglik(self, at: IntArray) -> FloatArray:
        """Restricted log-likelihood without its constant, (G, K)."""
        return self._evaluate(at, self.L[:0])[0]

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law of the contrasts; the likelihood comes with it."""
        return law_of(*self._evaluate(at, self.L), np.inf)

    def joint(self, at: IntArray, loglik: FloatArray | None = None) -> JointLaw:
        """The law of all contrasts together."""
        found, centre, scale = self._evaluate(at, joint_contrasts(self.L))
        square, size = joint_square(centre, scale)
        F = square / len(self.L)
        return JointLaw(found, F, F, size, np.inf)

    def parts(self, at: IntArray, loglik: FloatArray) -> FloatArray:
        """Variance between units, of the random term, and of sampling, (G, K, variances + 1)."""
        sampling = self.model.rates.v[at].mean(axis=1)
        n = 1 + bool(self.model.units.group)
        out = np.empty((at.size, len(self.points), n + 1))
        out[:, :, :n], out[:, :, n] = self.points[:, :n], sampling[:, None]
        return out

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """The estimates, which are logarithms of rates."""
        return np.einsum("gk,gkn->gn", weight, law.centre) / np.log(2)

    def _evaluate(self, at: IntArray, L: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Likelihood (G, K), and centre and scale (n, G, K)."""
        Q, y = self.model.units.Q, self.model.rates.y[at]
        ols = y @ Q
        loglik = np.empty((at.size, len(self.points)))
        centre, scale = (np.empty((len(L), *loglik.shape)) for _ in range(2))
        evaluate(
            y - ols @ Q.T, self.model.rates.v[at], Q, self.model.units.starts, self.points, L, loglik, centre, scale
        )
        centre += (ols @ L.T).T[:, :, None]
        return loglik, centre, scale


# Doubles of temporary arrays that a block of genes may use (32 MB).
_BLOCK = 4_000_000


def fit_log_rates(design: Design, collapsed: Collapsed, depths: Depths, n_jobs: int = 1) -> LogRateModel:
    """The model of the genes that have counts.

    Parameters
    ----------
    design
        Of the units, which are its rows.
    collapsed, depths
        Statistics of the units that the design uses, in its order; the depth is the only covariate.
    n_jobs
        Threads.
    """
    units = unit_design(design)
    order = np.searchsorted(np.flatnonzero(design.codes >= 0), units.order)
    collapsed, depths = collapsed.take(order), depths.take(order)
    present = np.flatnonzero((collapsed.mean > 0).any(axis=0))

    def rates(genes: IntArray) -> LogRates:
        return log_rates(collapsed.take_features(genes), depths, units.Q)

    size = int(np.clip(_BLOCK // (8 * units.order.size), 1, 1024))
    blocks = [present[i : i + size] for i in range(0, max(present.size, 1), size)]
    counts = np.asarray(np.rint(depths.n_cells @ collapsed.mean[:, present]))
    return LogRateModel(present, units, depths, LogRates.concatenate(list(in_threads(rates, blocks, n_jobs))), counts)
