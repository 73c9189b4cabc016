"""Generalised linear mixed models as an analysis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.replicates import find_donors, replicate
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.count_sources import CountStatistics
from donorwise._core.engine.glmm_tables import (
    partition_table,
    ranef_table,
    stored_points,
    varcomp_table,
    with_stored_sizes,
)
from donorwise._core.engine.lmm import donor_term
from donorwise._core.engine.planners import CountPlanner
from donorwise._core.engine.power import replication
from donorwise._core.engine.results import with_group
from donorwise._core.engine.tables import icc_table, long_partition, prior_table, tests_table
from donorwise._core.engine.tasks import ddf_used, test_features
from donorwise._core.inference.dispersion import shared_sizes
from donorwise._core.inference.moderation import Learned, learn, mean_rank
from donorwise._core.models.glmm.fit import dispersion_profiles, fit_counts
from donorwise._core.models.law import STATUS_DTYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray, StrArray


@dataclass(frozen=True)
class GLMMFit:
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


def fit_glmm_statistics(
    statistics: CountStatistics, variables: tuple[str, ...], *, donor: str = "", n_jobs: int = 1
) -> GLMMFit:
    """The models of one task from its statistics."""
    design = statistics.of_rows
    model = fit_counts(design, statistics.counts)
    if model.distribution.dispersed:
        rank = mean_rank([model])[model.features]
        model = replace(model, size=shared_sizes(dispersion_profiles(model, n_jobs), rank))
    replicates = ":".join(replicate([t.bar.group for t in design.random_terms], donor))
    n = next((len(t.levels) for t in design.random_terms if t.group == replicates), 0)
    n_donors, n_obs = (np.full(len(variables), value) for value in (n, model.n_obs))
    return GLMMFit(variables, (model,), replicates, n_donors, n_obs, n_jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlmmAnalysis(Analysis[CountStatistics, GLMMFit]):
    """A generalised linear mixed model of cells.

    Attributes
    ----------
    distribution
        The family.
    exposure, offset, trials
        What they are: a column of obs, an array, for the exposure what it is made of; empty for none.
    detected
        Whether the response is that a count is above zero.
    """

    distribution: Distribution
    exposure: str
    offset: str = ""
    trials: str
    detected: bool

    @property
    def family(self) -> Family:  # type: ignore[override]
        """See :class:`Analysis`; the link is the family's."""
        return Family(method="glmm", observations="counts", link=self.distribution.link, prior_on="variance")

    def fit(self, number: int, statistics: CountStatistics, update: Callable[[int], object]) -> GLMMFit:
        """See :class:`Analysis`."""
        fit = fit_glmm_statistics(statistics, self.variables, donor=self.donor, n_jobs=self.n_jobs)
        update(len(self.variables))
        return fit

    def tables(self, number: int, fit: GLMMFit | None) -> Tables:
        """See :class:`Analysis`."""
        own = self.contrasts[number]
        if fit is None or own is None:
            return Tables(self.results(number, None))
        name = self.tasks[number].name
        ddf, note = ddf_used(fit, self.options.ddf)
        tested = test_features(fit, own.L, ddf, 0.95, self.n_jobs)
        numbers = _open_intervals(tested.numbers, tested.status) | {"log_fc": tested.log_fc}
        table = tests_table(self.variables, own.names, numbers, tested.status, fit.n_donors, fit.n_obs)
        partition = partition_table(fit, tested.variances)
        return Tables(
            results=self.results(number, table, n_donors=fit.n_donors, n_obs=fit.n_obs),
            varcomp=with_group(varcomp_table(fit, tested.variances), name),
            icc=with_group(icc_table(partition), name),
            variance_partition=with_group(long_partition(partition, "fraction"), name),
            prior=with_group(prior_table(fit.learned.prior), name) if ddf == "moderated" else None,
            ddf=ddf,
            note=note,
            donor=fit.donor,
        )

    @property
    def pooled(self) -> bool:
        """See :class:`Analysis`: features share what their sizes lean on."""
        return self.distribution.dispersed

    def random_effects(self, fit: GLMMFit, varcomp: pd.DataFrame) -> pd.DataFrame:
        """See :class:`Analysis`: at the posterior means of the variances, and the dispersions, that are in the table."""
        return ranef_table(with_stored_sizes(fit, varcomp), stored_points(fit, varcomp))

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`."""
        term = donor_term(self._design(number), self.donor)
        return Replicates(term.levels, term.codes)

    def planner(self, number: int, statistics: CountStatistics, fit: GLMMFit) -> CountPlanner:
        """See :class:`Analysis`."""
        return CountPlanner(self.donors(number).codes[statistics.counts.pattern], statistics.counts)

    def replication(self, number: int, L: FloatArray) -> tuple[list[str], list[str]]:
        """See :class:`Analysis`."""
        design = self._design(number)
        return replication(design, find_donors(design, design.frame, self.donor), L)

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {
            "family": self.distribution.name,
            "exposure": self.exposure,
            "offset": self.offset,
            "trials": self.trials,
            "detected": self.detected,
        }


def _open_intervals(numbers: dict[str, FloatArray], status: StrArray) -> dict[str, FloatArray]:
    """Numbers (n, G) whose intervals have no end on the side of an arm without a response."""
    separated, below = status == "separated", numbers["estimate"] < 0
    low = np.where(separated & below, -np.inf, numbers["ci_low"])
    return numbers | {"ci_low": low, "ci_high": np.where(separated & ~below, np.inf, numbers["ci_high"])}
