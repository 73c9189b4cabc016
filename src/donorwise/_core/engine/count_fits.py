"""Fits of generalised models by their law on a grid of variances, and how one comes from its statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.replicates import replicate
from donorwise._core.inference.dispersion import shared_sizes
from donorwise._core.inference.moderation import Learned, learn, mean_rank
from donorwise._core.models.glmm.fit import dispersion_profiles, fit_counts
from donorwise._core.models.law import STATUS_DTYPE

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.engine.count_sources import CountStatistics
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray, StrArray


@dataclass(frozen=True)
class CountFit:
    """Models of the counts, or of yes and no, of G features in one group of cells (see :class:`Fit`).

    Attributes
    ----------
    variables
        Names of the G features.
    models
        The model of the features that have a response.
    donor
        The grouping factor that is the replicate.
    n_donors, n_obs
        Shape (G,). Replicates and cells.
    n_jobs
        Threads that learn the prior.
    """

    variables: tuple[str, ...]
    models: tuple[GLMM, ...]
    donor: str
    n_donors: IntArray
    n_obs: IntArray
    n_jobs: int

    @property
    def design(self) -> Design:
        """The design, whose patterns are the rows."""
        return self.models[0].design

    @cached_property
    def status(self) -> StrArray:
        """Whether each feature has a response that varies, (G,)."""
        out = np.full(len(self.variables), "constant", dtype=STATUS_DTYPE)
        out[self.models[0].features] = "ok"
        return out

    @cached_property
    def learned(self) -> Learned:
        """The prior that the features share."""
        return learn(self.models, n_jobs=self.n_jobs)

    def spread(self, values: FloatArray) -> FloatArray:
        """Values of the model's features as values of all, NaN for the others."""
        out = np.full((len(self.variables), *values.shape[1:]), np.nan)
        out[self.models[0].features] = values
        return out


def fit_count_statistics(
    statistics: CountStatistics, variables: tuple[str, ...], *, donor: str = "", n_jobs: int = 1
) -> CountFit:
    """The models of one task from its statistics."""
    design = statistics.of_rows
    model = fit_counts(design, statistics.counts)
    if model.distribution.dispersed:
        rank = mean_rank([model])[model.features]
        model = replace(model, size=shared_sizes(dispersion_profiles(model, n_jobs), rank))
    replicates = ":".join(replicate([t.bar.group for t in design.random_terms], donor))
    n = next((len(t.levels) for t in design.random_terms if t.group == replicates), 0)
    n_donors, n_obs = (np.full(len(variables), value) for value in (n, model.n_obs))
    return CountFit(variables, (model,), replicates, n_donors, n_obs, n_jobs)
