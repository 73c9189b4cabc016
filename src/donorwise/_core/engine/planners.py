"""What each family of models knows of studies with more or fewer cells: see :class:`donorwise._core.engine.power.Planner`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from donorwise._core.cells.collapse import collapse
from donorwise._core.engine.power import Known, Planned
from donorwise._core.inference import kenward_roger
from donorwise._core.inference.moderation import best_point
from donorwise._core.models.law import tensor
from donorwise._core.models.lmm.components import (
    contrast_variance,
    to_basis,
    with_correlations,
    with_covariances,
    without_responses,
)
from donorwise._core.models.lmm.equations import build_equations
from donorwise._core.models.lmm.evaluate import pieces
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.counts import CellCounts, PatternCounts
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._core.models.law import Model
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.model import LMM
    from donorwise._core.models.lograte.model import LogRateModel
    from donorwise._typing import FloatArray, IntArray

M = TypeVar("M", bound="Model")


@dataclass(frozen=True, slots=True)
class CellPlanner:
    """Gaussian models of cells: their equations with more or fewer cells in every pattern.

    Attributes
    ----------
    design
        The design.
    observed
        Cells and covariates of its patterns.
    donors
        Shape (patterns,). The donor of each.
    """

    design: Design
    observed: Collapsed
    donors: IntArray
    _made: dict[int, Equations] = field(default_factory=dict)

    def n_obs(self, n_donors: int, n_cells: int) -> float:
        """Cells."""
        return n_donors * n_cells

    def most_df(self, n_obs: float, p: int) -> float:
        """Those of the residual variance."""
        return n_obs - p

    def at(self, n_cells: int, known: Known[LMM], L: FloatArray) -> Planned:
        """A contrast in a study with `n_cells` cells of every donor."""
        if n_cells not in self._made:
            self._made[n_cells] = build_equations(self.design, self._with_cells(n_cells))
        planned, equations = self._made[n_cells], known.model.equations
        gamma = with_covariances(equations, known.points)
        after = contrast_variance(planned, L, to_basis(equations, planned, gamma))
        change = after / contrast_variance(equations, L, gamma)
        variance = known.variance * (change if change.size == known.variance.shape[1] else change[:, None])
        if planned.coupling is None:
            return Planned(variance, after)
        return Planned(variance, after, _typical_df(planned, L, to_basis(equations, planned, gamma), known.weight))

    def from_estimates(self, model: LMM, L: FloatArray) -> Known[LMM]:
        """Variances at the estimates."""
        one, gamma = np.ones((model.features.size, 1)), model.estimates.gamma
        variance = np.einsum("p,gpr,r->g", L[0], model.vcov_beta, L[0])
        return Known(model, with_correlations(model.equations, gamma), variance[:, None], one, one)

    def _with_cells(self, n_cells: int) -> Collapsed:
        """The patterns with `n_cells` cells of every donor, spread over its patterns as they are."""
        observed = self.observed
        factor = (n_cells / np.bincount(self.donors, weights=observed.n_obs))[self.donors]
        return replace(
            observed,
            n_obs=np.maximum(1, np.round(observed.n_obs * factor)).astype(np.int64),
            weight=observed.weight * factor,
            covariate_ss=observed.covariate_ss * factor[:, None, None],
        )


def _typical_df(equations: Equations, L: FloatArray, gamma: FloatArray, weight: FloatArray) -> float:
    """Median over features, and their points by `weight` (G, points), of Kenward-Roger's degrees of freedom.

    With a kernel neither levels nor families are the replicates that a rule could count.
    """
    found = pieces(equations, without_responses(equations, gamma))
    df = kenward_roger.contrast_df(found, kenward_roger.adjust(found).W, equations.turned(L))[:, 0]
    share = weight.sum(axis=0) if weight.shape[1] == df.size else np.ones(df.size)
    order = np.argsort(df)
    return float(df[order][np.searchsorted(np.cumsum(share[order]), 0.5 * share.sum())])


def cells_of_patterns(design: Design, models: Sequence[LMM], weights: FloatArray | None) -> Collapsed:
    """Cells and covariates of the patterns of a fit, without responses."""
    weighted = any(abs(model.equations.log_weight) > 1e-9 for model in models)
    if weighted and weights is None:
        raise DataError("The model was fitted with weights: give weights= again.")
    covariates = design.covariates if design.covariates.shape[1] else None
    nothing = np.zeros((design.codes.size, 1))
    return collapse(nothing, design.codes, design.n_patterns, weights=weights, covariates=covariates)


@dataclass(frozen=True, slots=True)
class UnitPlanner:
    """Models of log rates: the variance between units stays, that of sampling changes with the cells of a unit.

    With f times the cells of the same depths the expected count is f mu and the dispersion's part phi / f.

    Attributes
    ----------
    donors
        Shape (units,). The donor of each unit, in the order of the design.
    n_cells
        Shape (units,). Their cells.
    """

    donors: IntArray
    n_cells: IntArray

    def n_obs(self, n_donors: int, n_cells: int) -> float:
        """Units."""
        return self.donors.size * n_donors / (int(self.donors.max()) + 1)

    def most_df(self, n_obs: float, p: int) -> float:
        """No limit: the variance of sampling is known."""
        return np.inf

    def at(self, n_cells: int, known: Known[LogRateModel], L: FloatArray) -> Planned:
        """A contrast in a study with `n_cells` cells of every donor, spread over its units as they are."""
        factor = (n_cells / np.bincount(self.donors, weights=self.n_cells))[self.donors]
        planned = known.model.with_cells(factor)
        variance = planned.law(known.points, L).scale[..., 0] ** 2
        return Planned(variance, variance)

    def from_estimates(self, model: LogRateModel, L: FloatArray) -> Known[LogRateModel]:
        """All weight on the best point of a fine grid."""
        return best_known(model, L)


@dataclass(frozen=True, slots=True)
class CountPlanner:
    """Generalised models: the variances of the random effects stay, the information grows with the cells.

    With f times the cells a row has f times the counts and the exposure, at the same rate.

    Attributes
    ----------
    donors
        Shape (K,). The donor of each row.
    counts
        The data of the fitted study.
    """

    donors: IntArray
    counts: PatternCounts | CellCounts

    def n_obs(self, n_donors: int, n_cells: int) -> float:
        """Cells."""
        return n_donors * n_cells

    def most_df(self, n_obs: float, p: int) -> float:
        """No limit: the variance of counting is known."""
        return np.inf

    def at(self, n_cells: int, known: Known[GLMM], L: FloatArray) -> Planned:
        """A contrast in a study with `n_cells` cells of every donor, spread over its rows as they are."""
        factor = (n_cells / np.bincount(self.donors, weights=self.counts.n_obs))[self.donors]
        planned = known.model.with_cells(factor)
        variance = planned.law(known.points, L).scale[..., 0] ** 2
        return Planned(variance, variance)

    def from_estimates(self, model: GLMM, L: FloatArray) -> Known[GLMM]:
        """All weight on the best point of a fine grid."""
        return best_known(model, L)


def best_known(model: M, L: FloatArray) -> Known[M]:
    """A model that is known by its law alone, with all weight on the best point of a fine grid."""
    points = tensor(model.fine_axes())
    law = model.law(points, L)
    best = best_point(law.loglik)
    return Known(model, points, law.scale[..., 0] ** 2, best, np.ones((len(best), 1)))
