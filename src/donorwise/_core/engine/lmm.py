"""Linear mixed models: collapse once, then fit block by block; as an analysis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import delayed

from donorwise._core.design.replicates import find_donors, replicate
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.heritability import heritability_table
from donorwise._core.engine.partition import partition_of
from donorwise._core.engine.planners import CellPlanner, cells_of_patterns
from donorwise._core.engine.power import replication
from donorwise._core.engine.predictions import CellPredictor, effects_of
from donorwise._core.engine.results import constant_beta, with_group
from donorwise._core.engine.row_residuals import RowResiduals, of_values
from donorwise._core.engine.scales import Values
from donorwise._core.engine.spread import unequal_spreads
from donorwise._core.engine.tables import (
    prior_table,
    tests_table,
    varcomp_table,
)
from donorwise._core.engine.tasks import Statistics, ddf_used, test_features
from donorwise._core.jobs import workers
from donorwise._core.models.lmm.abundance import are_ratios, find_units, responses_of
from donorwise._core.models.lmm.crossproducts import Responses
from donorwise._core.models.lmm.equations import Estimates, build_equations
from donorwise._core.models.lmm.fit import fit_collapsed
from donorwise._core.models.lmm.levels import LevelLMM, level_model, term_without_rest
from donorwise._core.models.lmm.model import LMM
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable

    from joblib import Parallel

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.models.lmm.abundance import Units
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import BoolArray, FloatArray, IntArray

# Doubles of temporary arrays that a block of features may use (32 MB).
_BLOCK = 4_000_000
# Features times levels that keep one worker busy for long enough.
_WORKER = 100_000


def fit_statistics(
    statistics: Statistics,
    variables: tuple[str, ...],
    *,
    reml: bool = True,
    donor: str = "",
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
    budget: int = _BLOCK,
    per_worker: int = _WORKER,
) -> LMMFit:
    """Fit all features of one task from its statistics; `update` is told how many are done.

    `budget` doubles are used at a time by each worker, and there is one worker for `per_worker` features times levels.
    """
    design = statistics.design
    replicates = ":".join(replicate([t.bar.group for t in design.random_terms], donor))
    n_workers = min(n_jobs, _useful_workers(design, len(variables), per_worker))
    models: list[LMM] = []
    n_obs, n_donors = (np.zeros(len(variables), dtype=np.int64) for _ in range(2))
    with one_blas_thread(), workers(n_workers) as parallel:
        for own in statistics.passes:
            n_obs[own.features] = own.collapsed.n_obs.sum()
            models += _fit_models(design, own.collapsed, own.features, reml, parallel, update, budget)
            n_donors[own.features] = _n_donors(design, own.collapsed, replicates)
    counts = {"n_obs": n_obs, "n_donors": n_donors}
    return LMMFit.of(design, tuple(models), variables, donor=replicates, reml=reml, **counts)


def _useful_workers(design: Design, n_features: int, per_worker: int) -> int:
    """Workers that a job of this size can keep busy: handing out work costs some 10 ms."""
    levels = sum(t.codes.max() + 1 for t in design.random_terms) if design.random_terms else 1
    iterative = sum(len(t.columns) for t in design.random_terms) > 1
    return 1 + int(n_features * levels * (50 if iterative else 1)) // per_worker


def _fit_models(
    design: Design,
    collapsed: Collapsed,
    features: IntArray,
    reml: bool,
    parallel: Parallel,
    update: Callable[[int], object],
    budget: int,
) -> list[LMM]:
    """The models of features that share their rows; none where these cannot be fitted.

    Features that do not vary within the levels of a term are a model of their own.
    """
    present = np.flatnonzero(collapsed.n_obs > 0)
    if present.size < design.n_patterns:
        collapsed, design = collapsed.take(present), design.take(present)
    try:
        equations = build_equations(design, collapsed)
        if equations.n_obs <= equations.p:
            raise DesignError("No more rows than fixed effects.")
    except DesignError:
        update(features.size)
        return []
    units = find_units(design, collapsed.n_obs) if collapsed.abundance.size else None
    limits = _level_models(equations, collapsed, features, units, reml=reml)
    rest = ~np.isin(features, np.concatenate([[], *(model.features for model in limits)]))
    update(features.size - int(rest.sum()))
    if not rest.any():
        return [*limits]
    collapsed, features = collapsed.take_features(rest) if limits else collapsed, features[rest]
    if reml and equations.nodes is not None:
        equations.nodes.work_out()
    # each with its features only: a backend that is not threads sends them
    work = (
        delayed(_fit_block)(equations, collapsed.take_features(s), units, reml=reml)
        for s in _slices(equations, collapsed, budget)
    )
    blocks, abundances = [], []
    for block, abundance in parallel(work):
        blocks.append(block)
        abundances += [] if abundance is None else [abundance]
        update(block.status.size)
    together = Responses.concatenate(abundances) if abundances else None
    return [LMM(features, equations, Estimates.concatenate(blocks), together), *limits]


def _fit_block(
    equations: Equations, collapsed: Collapsed, units: Units | None, *, reml: bool
) -> tuple[Estimates, Responses | None]:
    """Estimates of some features and, where units are given, their log abundances as responses."""
    abundance = None if units is None else responses_of(equations, collapsed, units)
    return fit_collapsed(equations, collapsed, reml=reml), abundance


def _level_models(
    equations: Equations, collapsed: Collapsed, features: IntArray, units: Units | None, *, reml: bool
) -> list[LevelLMM]:
    """Models of the features that do not vary within the levels of some term."""
    term = term_without_rest(equations.design, collapsed)
    found = []
    for t in np.unique(term[term >= 0]):
        at = np.flatnonzero(term == t)
        own = collapsed.take_features(at)
        abundance = None if units is None else responses_of(equations, own, units)
        model = level_model(equations, own, features[at], abundance, int(t), reml=reml)
        found += [] if model is None else [model]
    return found


def _on_levels(fit: LMMFit) -> str:
    """Which features are tested as one row per level, and why; empty for none."""
    levels: dict[str, int] = {}
    for model in fit.models:
        if isinstance(model, LevelLMM):
            levels[model.level] = levels.get(model.level, 0) + model.features.size
    return "; ".join(
        f"{n:,} of {len(fit.variables):,} have one value in all cells of every {level} and are tested, without moderation, "
        f"as one row per {level}"
        for level, n in levels.items()
    )


def _slices(equations: Equations, collapsed: Collapsed, budget: int) -> list[slice]:
    """Blocks of features within the memory budget; their number does not depend on the workers."""
    n_features, m = collapsed.mean.shape[1], collapsed.covariate_mean.shape[1]
    per_feature = collapsed.n_obs.size * (4 + 3 * m) + 4 * equations.blocks.order.size + 4 * equations.p**2
    size = int(np.clip(budget // per_feature, 1, 1024))
    return [slice(i, min(i + size, n_features)) for i in range(0, n_features, size)]


def _n_donors(design: Design, collapsed: Collapsed, donor: str) -> int:
    """Levels of `donor` that have rows."""
    used = collapsed.n_obs > 0
    return next((np.unique(t.codes[used]).size for t in design.random_terms if t.group == donor), 0)


def _are_ratios(fit: LMMFit, L: FloatArray) -> BoolArray:
    """Which contrasts (n, p) can be fold changes, (n,): adding a constant to the log abundances must leave them alone."""
    if all(model.abundance is None for model in fit.models) or not constant_beta(fit.design).any():
        return np.zeros(len(L), dtype=bool)
    used = fit.design.codes[fit.design.codes >= 0]
    return are_ratios(find_units(fit.design, np.bincount(used, minlength=fit.design.n_patterns)), L)


def donor_term(design: Design, donor: str) -> RandomTerm:
    """The random term whose levels are the donors.

    Raises
    ------
    DesignError
        No random term has the grouping factor `donor`.
    """
    term = next((t for t in design.random_terms if t.group == donor), None)
    if term is None:
        groups = [t.group for t in design.random_terms]
        raise DesignError(f"{donor!r} is not a grouping factor of {design.formula!r}; those are {groups}.")
    return term


def fitted_tables(analysis: Analysis[Any, Any], number: int, fit: LMMFit, ratios: BoolArray | None) -> Tables:
    """The tables of a fitted task; `ratios` (n,) says which of its contrasts can be fold changes."""
    name, own = analysis.tasks[number].name, analysis.contrasts[number]
    ddf, note = ddf_used(fit, analysis.options.ddf)
    table = None
    if own is not None and ratios is not None:
        tested = test_features(fit, own.L, ddf, 0.95, min_effect=analysis.options.min_effect)
        numbers = tested.numbers | {"log_fc": np.where(ratios[:, None], tested.log_fc, np.nan)}
        table = tests_table(analysis.variables, own.names, numbers, tested.status, fit.n_donors, fit.n_obs)
    partition = partition_of(fit.variables, fit.design, fit.models)
    return Tables(
        results=analysis.results(number, table, n_donors=fit.n_donors, n_obs=fit.n_obs),
        varcomp=with_group(varcomp_table(fit.variables, fit.design, fit.models), name),
        icc=with_group(partition.icc(), name),
        variance_partition=with_group(partition.long(), name),
        prior=with_group(prior_table(fit.prior), name) if ddf == "moderated" else None,
        heritability=with_group(heritability_table(fit.variables, fit.design, fit.models), name)
        if analysis.formula.covs
        else None,
        ddf=ddf,
        note=note,
        donor=fit.donor,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LmmAnalysis(Analysis[Statistics, LMMFit]):
    """A linear mixed model of cells."""

    family = Family(method="lmm", observations="cells", link="identity", prior_on="ratio")

    def fit(self, number: int, statistics: Statistics, update: Callable[[int], object]) -> LMMFit:
        """See :class:`Analysis`."""
        return fit_statistics(
            statistics, self.variables, reml=self.options.reml, donor=self.donor, n_jobs=self.n_jobs, update=update
        )

    def tables(self, number: int, fit: LMMFit | None) -> Tables:
        """See :class:`Analysis`."""
        if fit is None:
            return Tables(self.results(number, None))
        own = self.contrasts[number]
        made = fitted_tables(self, number, fit, None if own is None else _are_ratios(fit, own.L))
        return replace(
            made, note=made.note or _on_levels(fit), cautions={} if own is None else unequal_spreads(fit, own.L)
        )

    def random_effects(self, fit: LMMFit, varcomp: pd.DataFrame) -> pd.DataFrame:
        """See :class:`Analysis`: at the estimates."""
        groups = dict.fromkeys(term.name for term in fit.design.random_terms)
        return pd.concat([fit.ranef(group).assign(term=group) for group in groups], ignore_index=True)

    def predictor(self, number: int, fit: LMMFit, varcomp: pd.DataFrame) -> CellPredictor:
        """See :class:`Analysis`: at the estimates."""
        effects = effects_of(fit.models, fit.design, len(self.variables))
        return CellPredictor(fit.design, fit.beta, effects, Values())

    def row_residuals(self, number: int, statistics: Statistics, fit: LMMFit, varcomp: pd.DataFrame) -> RowResiduals:
        """See :class:`Analysis`."""
        return of_values(statistics, fit.beta)

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`."""
        term = donor_term(self._design(number), self.donor)
        return Replicates(term.levels, term.codes)

    def planner(self, number: int, statistics: Statistics, fit: LMMFit) -> CellPlanner:
        """See :class:`Analysis`."""
        if self.source.from_cells:
            observed = cells_of_patterns(fit.design, fit.models, getattr(self.source, "weights", None))
        else:  # without cells there are no weights of single cells to take the patterns' from
            observed = statistics.passes[0].collapsed
        return CellPlanner(fit.design, observed, self.donors(number).codes)

    def replication(self, number: int, L: FloatArray) -> tuple[list[str], list[str]]:
        """See :class:`Analysis`."""
        design = self._design(number)
        return replication(design, find_donors(design, design.frame, self.donor), L)

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {}
