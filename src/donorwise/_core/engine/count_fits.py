"""Fits of generalised models by their law on a grid of variances, and how one comes from its statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.replicates import replicate
from donorwise._core.engine.law_fit import LawFit
from donorwise._core.inference.dispersion import shared_sizes
from donorwise._core.inference.moderation import mean_rank
from donorwise._core.models.glmm.fit import dispersion_profiles, fit_counts
from donorwise._core.models.glmm.model import GLMM

if TYPE_CHECKING:
    from donorwise._core.engine.count_sources import CountStatistics


@dataclass(frozen=True, kw_only=True)
class CountFit(LawFit[GLMM]):
    """A model of the counts, or of yes and no, of G features in one group of cells.

    Attributes
    ----------
    donor
        The grouping factor that is the replicate.
    """

    donor: str


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
    return CountFit(
        variables=variables, models=(model,), donor=replicates, n_donors=n_donors, n_obs=n_obs, n_jobs=n_jobs
    )
