"""Generalised linear mixed models as an analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.cells.nodes import PATTERN_CELLS
from donorwise._core.design.replicates import find_donors
from donorwise._core.engine.after_fit import COMPOSITION, CORRECTED, overdispersed, separated
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.count_fits import CountFit, fit_count_statistics
from donorwise._core.engine.count_sources import CountStatistics
from donorwise._core.engine.exposures import is_total
from donorwise._core.engine.glmm_tables import (
    partition_of,
    ranef_table,
    stored_points,
    varcomp_table,
    with_stored_sizes,
)
from donorwise._core.engine.lmm import donor_term
from donorwise._core.engine.mean_scale import MeanScale, of_rates
from donorwise._core.engine.planners import CountPlanner
from donorwise._core.engine.power import replication
from donorwise._core.engine.predictions import CellPredictor
from donorwise._core.engine.results import with_group
from donorwise._core.engine.row_residuals import RowResiduals
from donorwise._core.engine.scales import Counted
from donorwise._core.engine.tables import prior_table, tests_table
from donorwise._core.engine.tasks import ddf_used, test_features
from donorwise._core.models.glmm.effects import conditional
from donorwise._core.models.glmm.leftover import leftover
from donorwise._core.models.glmm.row_residuals import linked_residuals
from donorwise._typing import GLMM_DDF

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.cells.nodes import Nodes
    from donorwise._core.design.depth import Depth
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import FloatArray

EFFECTIVE = "effective_depth"
"""The column of depths that account for composition, as :func:`donorwise.pp.size_factors` calls it."""
_OF_DETECTION = (
    " Or cells differ in depth between the arms, and more from each other than by chance, so that deeper ones have a gene less "
    "often than their exposure says: compare family='nb'."
)


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
    of_genes
        Whether responses are those of genes, all of which depend on the depth of cells.
    nodes
        Where functions of the exposure are interpolated; None where none are.
    """

    distribution: Distribution
    exposure: str
    offset: str = ""
    trials: str
    detected: bool
    of_genes: bool = False
    nodes: Nodes | None = None

    ddfs = GLMM_DDF

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
        tested = test_features(fit, own.L, ddf, 0.95, self.n_jobs, min_effect=self.options.min_effect)
        numbers = tested.numbers | {"log_fc": tested.log_fc}
        table = tests_table(self.variables, own.names, numbers, tested.status, fit.n_donors, fit.n_obs)
        partition = partition_of(fit, tested.variances)
        return Tables(
            results=self.results(number, table, n_donors=fit.n_donors, n_obs=fit.n_obs),
            varcomp=with_group(varcomp_table(fit, tested.variances), name),
            icc=with_group(partition.icc(), name),
            variance_partition=with_group(partition.long(), name),
            prior=with_group(prior_table(fit.learned.prior), name) if ddf == "moderated" else None,
            ddf=ddf,
            note=note,
            donor=fit.donor,
            cautions=separated(own.names, tested.status, by_likelihood=ddf != "wald")
            | overdispersed(leftover(fit.models[0], tested.variances[fit.models[0].features]), self.distribution),
        )

    @property
    def depth_in(self) -> Depth:
        """See :class:`Analysis`."""
        seen = self.of_genes and not self.trials  # successes of trials are no detection
        return self.distribution.depth_in(of_genes=seen, exposure=bool(self.exposure or self.offset))

    @property
    def mean_scale(self) -> MeanScale:
        """See :class:`Analysis`: rates, or shares, which for detection are those at the usual exposure."""
        kind = self.distribution
        if not kind.exposed:
            return MeanScale(kind.link, what="share of trials" if self.trials else "share of cells")
        what = "count per cell" if kind.counts else "share of cells with a count,"
        total, name = is_total(self.exposure) and not self.offset, "exposure" if self.offset else self.exposure
        return of_rates(name, self.source.usual_exposure(self.tasks), total=total, link=kind.link, what=what)

    @property
    def when_shifted(self) -> str:
        """See :class:`Analysis`."""
        how = f"exposure={EFFECTIVE!r}" if self.source.from_cells else f"dw.pp.collapse(depth={EFFECTIVE!r})"
        own = f"{COMPOSITION}{how}, a column that dw.pp.size_factors makes, corrects that."
        if self.exposure == EFFECTIVE:
            own = CORRECTED.format(how)
        return own if self.distribution.counts else own + _OF_DETECTION

    @property
    def pooled(self) -> bool:
        """See :class:`Analysis`: features share what their sizes lean on."""
        return self.distribution.dispersed

    def random_effects(self, fit: CountFit, varcomp: pd.DataFrame) -> pd.DataFrame:
        """See :class:`Analysis`: at the posterior means of the variances, and the dispersions, that are in the table."""
        return ranef_table(with_stored_sizes(fit, varcomp), stored_points(fit, varcomp))

    def predictor(self, number: int, fit: CountFit, varcomp: pd.DataFrame) -> CellPredictor:
        """See :class:`Analysis`: at the stored variances and dispersions."""
        (model,) = with_stored_sizes(fit, varcomp).models
        found = conditional(model, stored_points(fit, varcomp)[model.features])
        exposure, trials = self.source.per_cell(self.n_cells)
        size, effects = fit.spread(model.size), tuple(np.moveaxis(fit.spread(mode), 0, 2) for mode, _ in found.effects)
        scale = Counted(self.distribution, exposure.__getitem__, trials.__getitem__, size, self.detected)
        return CellPredictor(self._design(number), fit.spread(found.beta), effects, scale)

    def row_residuals(
        self, number: int, statistics: CountStatistics, fit: CountFit, varcomp: pd.DataFrame
    ) -> RowResiduals:
        """See :class:`Analysis`: of sums over the cells of patterns."""
        (model,) = with_stored_sizes(fit, varcomp).models
        beta = conditional(model, stored_points(fit, varcomp)[model.features]).beta
        found = linked_residuals(model, beta)
        return RowResiduals.of(*(fit.spread(own) for own in found))

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`."""
        term = donor_term(self._design(number), self.donor)
        return Replicates(term.levels, term.codes)

    def planner(self, number: int, statistics: CountStatistics, fit: CountFit) -> CountPlanner:
        """See :class:`Analysis`."""
        return CountPlanner(self.donors(number).codes[statistics.pattern], statistics.counts)

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
            **({} if self.nodes is None else {"interpolation_error": self.interpolation_error}),
        }

    @property
    def interpolation_error(self) -> float:
        """What the log-likelihood of a pattern of `PATTERN_CELLS` cells is off by, for being interpolated."""
        return 0.0 if self.nodes is None else self.nodes.error * PATTERN_CELLS**0.5
