"""Generalised linear mixed models as an analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._core.design.replicates import find_donors
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.count_fits import CountFit, fit_count_statistics
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class GlmmAnalysis(Analysis[CountStatistics, CountFit]):
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

    def fit(self, number: int, statistics: CountStatistics, update: Callable[[int], object]) -> CountFit:
        """See :class:`Analysis`."""
        fit = fit_count_statistics(statistics, self.variables, donor=self.donor, n_jobs=self.n_jobs)
        update(len(self.variables))
        return fit

    def tables(self, number: int, fit: CountFit | None) -> Tables:
        """See :class:`Analysis`."""
        own = self.contrasts[number]
        if fit is None or own is None:
            return Tables(self.results(number, None))
        name = self.tasks[number].name
        ddf, note = ddf_used(fit, self.options.ddf)
        tested = test_features(fit, own.L, ddf, 0.95, self.n_jobs)
        numbers = tested.numbers | {"log_fc": tested.log_fc}
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

    def random_effects(self, fit: CountFit, varcomp: pd.DataFrame) -> pd.DataFrame:
        """See :class:`Analysis`: at the posterior means of the variances, and the dispersions, that are in the table."""
        return ranef_table(with_stored_sizes(fit, varcomp), stored_points(fit, varcomp))

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`."""
        term = donor_term(self._design(number), self.donor)
        return Replicates(term.levels, term.codes)

    def planner(self, number: int, statistics: CountStatistics, fit: CountFit) -> CountPlanner:
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
