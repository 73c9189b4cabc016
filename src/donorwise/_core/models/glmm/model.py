"""Generalised linear mixed models of many features, known by their law on a grid of variances.

y | u is Poisson, negative binomial (variance mu + mu² / size) or binomial, g(mean) = log exposure + x'beta + z'u,
u ~ N(0, Lambda). Given the variances the likelihood over (u, beta) is approximated about its joint mode (Laplace;
Breslow and Clayton 1993, JASA 88:9-25, for the restricted form), and the root of a contrast is

    sign(c'b) sqrt(2 (g(b, beta) - max g subject to c'beta = 0)),

a standard normal deviate where c'beta = 0. Half its leverage is added to the counts of every row (to yes and to no), as
Jeffreys' prior does to those of a saturated log-linear model (Firth 1993, Biometrika 80:27-38): it makes estimates
finite where all counts are in one arm, and takes away what is discrete about the test of a handful of counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from donorwise._core.design.replicates import known_df
from donorwise._core.models.glmm.axes import axes_of, thinned
from donorwise._core.models.glmm.features import CountFeatures
from donorwise._core.models.glmm.grid import GLMMGrid
from donorwise._core.models.glmm.rows import share_rows
from donorwise._core.models.glmm.separation import open_contrasts
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm import components

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.axes import Axis
    from donorwise._core.models.law import Law
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_LOWEST, _HIGHEST = 3e-4, 9.0  # variances of the linear predictor besides zero
_CORRELATIONS = np.array([0.0, -0.8, -0.4, 0.4, 0.8])
# Points above zero of the axis of a variance where there are so many parameters: of the grid with a shared prior, of
# a fine one whose best point is the estimate, and those that are worked out with up to 20 levels: p-values move by less
# than 1% (most by less than 0.1%) when all are, up to 100,000 counts a level.
_POINTS = {0: (0, 0, 0), 1: (47, 300, 16), 2: (23, 60, 13), 3: (13, 18, 13)}
_FEW_LEVELS, _MORE_POINTS = 20, 4  # likelihoods are the steeper the more levels: so many more for ten times the levels
MOST_PARAMETERS = 3
"""Variances and covariances of random effects that a grid can have axes for."""


@dataclass(frozen=True, slots=True)
class GLMM(CountFeatures):
    """Features with counts in the rows of one design (see :class:`donorwise._core.models.law.Model`)."""

    named: ClassVar[tuple[str, str]] = ("feature with a response", "features with a response")
    fallback: ClassVar[str] = "between-within"
    estimated: ClassVar[None] = None
    most_learned_from: ClassVar[int] = 1_500
    most_together: ClassVar[int] = 512

    @property
    def design(self) -> Design:
        """The design, whose patterns are the rows."""
        return self.rows.design

    @property
    def n_obs(self) -> int:
        """Cells."""
        return int(self.counts.n_obs.sum())

    @property
    def unmoderated(self) -> str:
        """Why the variances cannot lie on a grid; empty where they can."""
        n = len(self.parameters)
        if 1 <= n <= MOST_PARAMETERS:
            return ""
        return f"moderation covers one to three variances and covariances of random effects and the model has {n}"

    @property
    def usable(self) -> IntArray:
        """Positions of the features that have a law: all of them."""
        return np.arange(self.features.size)

    @property
    def parameters(self) -> IntArray:
        """Term, row and column of every parameter of the random part."""
        return self.rows.equations.blocks.parameter

    @property
    def are_variances(self) -> BoolArray:
        """Whether each parameter is a variance, and no correlation."""
        return np.asarray(self.parameters[:, 1] == self.parameters[:, 2])

    @property
    def of_terms(self) -> IntArray:
        """The random term whose variance each axis is, -1 for a correlation."""
        return components.of_terms(self.rows.equations)

    def status(self, L: FloatArray) -> StrArray:
        """Status of every feature and contrast (n, p), (G, n)."""
        few = known_df(self.design, self.n_obs, L) < 1
        status = np.where(self.separated(L), "separated", "ok")
        return np.where(few, "too_few_donors", status).astype(STATUS_DTYPE)

    def separated(self, L: FloatArray) -> BoolArray:
        """Whether a contrast (n, p) has no finite estimate by the likelihood alone, (G, n)."""
        total, rows = self.counts.sums(), self.rows
        low, high = total <= 0, total >= self.counts.most
        return open_contrasts(rows.of_patterns, rows.within_patterns, low, high, rows.equations.turned(L))

    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Names of the parameters, and what takes each to that of the column as the formula has it."""
        terms = self.rows.equations.terms
        named = [(components.parameter_name(terms[t], i, j), terms[t].scale[i]) for t, i, j in self.parameters]
        return tuple(name for name, _ in named), tuple(float(scale) ** 2 for _, scale in named)

    def largest(self) -> FloatArray:
        """Zeros: the axes are the same for all data."""
        return np.zeros(len(self.parameters))

    def axes(self, largest: FloatArray) -> list[FloatArray]:
        """Grid of every parameter: variances, and correlations."""
        return self._axes(0)

    def fine_axes(self) -> list[FloatArray]:
        """Finer grids, whose best point is the estimate."""
        return self._axes(1)

    def _axes(self, kind: int) -> list[FloatArray]:
        n = _POINTS[min(len(self.parameters), MOST_PARAMETERS)][kind]
        variances = np.concatenate([[0.0], np.geomspace(_LOWEST, _HIGHEST, n)])
        return [variances if i == j else _CORRELATIONS for _, i, j in self.parameters]

    def on(self, points: FloatArray, L: FloatArray | None = None) -> GLMMGrid:
        """The model at variances and correlations (K, parameters), for contrasts (n, p)."""
        equations = self.rows.equations
        turned = np.empty((0, equations.p)) if L is None else np.ascontiguousarray(equations.turned(L))
        return GLMMGrid(self, points, turned, self._thinned(points))

    def _thinned(self, points: FloatArray) -> tuple[Axis, ...]:
        axes, levels = axes_of(points), self.rows.kernel.starts.size - 1
        most = _POINTS[min(len(self.parameters), MOST_PARAMETERS)][2]
        most += round(_MORE_POINTS * np.log10(max(levels / _FEW_LEVELS, 1)))
        return () if axes is None else tuple(thinned(axis, most) for axis in axes)

    def law(self, points: FloatArray, L: FloatArray) -> Law:
        """The law of all features at variances and correlations (K, parameters)."""
        return self.on(points, L).law(self.usable)

    def with_cells(self, factor: FloatArray) -> GLMM:
        """The same rates, had every row `factor` (K,) times its cells."""
        counts = self.counts.scaled(factor)
        return replace(self, counts=counts, rows=share_rows(self.design, counts))

    def take(self, at: IntArray) -> GLMM:
        """The model of some of its features."""
        return replace(
            self, features=self.features[at], counts=self.counts.take_features(at), size=self.size[at],
            mean=self.mean[at], start=self.start[at],
        )  # fmt: skip
