"""Counts of cells to tests of log rates: units, one pass, then genes block by block; and that as an analysis."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from donorwise._core.cells.matrices import stored_values
from donorwise._core.cells.size_factors import size_factors
from donorwise._core.design.replicates import find_donors, is_fixed
from donorwise._core.engine.after_fit import CORRECTED, UNCORRECTED
from donorwise._core.engine.analysis import Analysis, Family, Replicates, Tables
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.law_fit import LawFit
from donorwise._core.engine.mean_scale import PER, MeanScale
from donorwise._core.engine.partition import RESIDUAL, SHARES, Partition, fixed_labels
from donorwise._core.engine.planners import UnitPlanner
from donorwise._core.engine.power import replication
from donorwise._core.engine.predictions import CellPredictor
from donorwise._core.engine.random_parts import RandomPart, random_parts
from donorwise._core.engine.results import told_reasons, with_group
from donorwise._core.engine.row_residuals import RowResiduals
from donorwise._core.engine.scales import Counted
from donorwise._core.engine.sources import UnitStatistics
from donorwise._core.engine.tables import (
    DISPERSION,
    components_table,
    prior_table,
    tests_table,
)
from donorwise._core.engine.tasks import ddf_used, test_features
from donorwise._core.engine.units import with_units
from donorwise._core.models.fixed_part import own_variances
from donorwise._core.models.glmm.families import distribution
from donorwise._core.models.law import Part
from donorwise._core.models.lograte.effects import coefficients, random_effects
from donorwise._core.models.lograte.model import LogRateModel, fit_log_rates
from donorwise._typing import GLMM_DDF
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.engine.units import Units
    from donorwise._core.models.lograte.units import Depths
    from donorwise._typing import FloatArray, IntArray

logger = logging.getLogger("donorwise")


@dataclass(frozen=True, kw_only=True)
class LogRateFit(LawFit[LogRateModel]):
    """A model of the log rates of G genes in one group of cells.

    Attributes
    ----------
    unit
        What a unit is called.
    factors
        Shape (S,). What the depths of the units were multiplied by, in the order of the design.
    """

    unit: str
    factors: FloatArray

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the variances: the units, and the random term where there is one."""
        names = (self.unit, *self.models[0].components()[0][1:])
        taken = {*SHARES, DISPERSION, *self.design.terms}
        return tuple(f"(1 | {name})" if name in taken else name for name in names)

    @property
    def random_labels(self) -> tuple[str, ...]:
        """See :class:`LawFit`."""
        return self.terms


def check_counts(matrix: Any, text: str) -> float:
    """The largest value; raise unless every one is a whole number, zero or more.

    Raises
    ------
    DataError
        Says what was found, and where counts usually are.
    """
    largest = 0.0
    for chunk in stored_values(matrix):
        whole = (chunk >= 0) & np.isfinite(chunk) & (chunk == np.floor(chunk)) if chunk.dtype.kind in "fiu" else False
        bad = np.broadcast_to(~np.asarray(whole), chunk.shape)
        if bad.any():
            raise no_counts(text, f"{chunk[bad].flat[0]:g}")
        largest = max(largest, float(chunk.max(initial=0)))
    return largest


def no_counts(text: str, value: str, where: str = "name the layer that holds them with layer=") -> DataError:
    """What to say of a matrix that has a value which is no count; `where` is where counts are."""
    return DataError(
        f"{text} does not hold raw counts: it has the value {value}. A model of counts needs whole numbers, zero or more; "
        f"{where}, or fit these values with dw.tl.lmm."
    )


def fit_units(
    statistics: UnitStatistics,
    variables: tuple[str, ...],
    units: Units,
    *,
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
) -> LogRateFit:
    """Fit the genes of one task; `update` is told how many are done."""
    with one_blas_thread():
        model = fit_log_rates(statistics.design, statistics.collapsed, statistics.depths, n_jobs)
    n = len(variables)
    update(n)
    n_donors, n_obs = np.full(n, units.n_donors(statistics.units)), np.full(n, model.depths.n_cells.sum())
    return LogRateFit(
        variables=variables,
        models=(model,),
        n_donors=n_donors,
        n_obs=n_obs,
        unit=units.name,
        factors=statistics.factors,
    )


def check_depths(depths: Depths, units: Units) -> None:
    """Raise where a unit has no counts."""
    empty = np.flatnonzero(depths.total <= 0)
    if empty.size:
        name = ", ".join(f"{k}={v}" for k, v in units.table.iloc[empty[0]].items())
        raise DataError(
            f"{empty.size} units have no counts at all (the first is {name}); filter their cells out first."
        )


def ranef_table(fit: LogRateFit, units: Units, variances: FloatArray) -> pd.DataFrame:
    """Effects of the units and of the random term's levels at variances (G, terms): term, variable, level, value, ..."""
    model = fit.models[0]
    used = np.flatnonzero(fit.design.codes >= 0)
    levels = [units.labels(used), *(t.levels for t in fit.design.random_terms)]
    frames = []
    for term, own, names in zip(fit.terms, random_effects(model, variances[model.features]), levels, strict=True):
        index = pd.MultiIndex.from_product([fit.variables, names], names=["variable", "level"])
        values = {"value": fit.spread(own.mode).ravel(), "cond_sd": fit.spread(own.sd).ravel()}
        frames.append(pd.DataFrame(values, index=index).reset_index().assign(term=term, column="(Intercept)"))
    return pd.concat(frames, ignore_index=True)


def tell_uncorrected(method: str, notes: Mapping[str, str], *, by_group: bool) -> None:
    """Log why the depths of some units are as they were, once per reason with the groups that share it."""
    for text in told_reasons(notes) if by_group else filter(None, notes.values()):
        logger.warning("%r leaves depths as they are. %s.", method, text)


def factors_table(fit: LogRateFit, units: Units) -> pd.DataFrame:
    """What the depth of every unit was multiplied by: unit, n_cells, depth, factor."""
    model, used = fit.models[0], np.flatnonzero(fit.design.codes >= 0)
    order = np.argsort(model.units.order)
    depth = model.depths.total[order] / fit.factors
    table = {"unit": units.labels(used), "n_cells": model.depths.n_cells[order], "depth": depth, "factor": fit.factors}
    return pd.DataFrame(table)


def stored_variances(fit: LogRateFit, varcomp: pd.DataFrame) -> FloatArray:
    """Variances (G, terms) from the rows of :func:`varcomp_table` that a result holds of the group."""
    own = varcomp[varcomp["column1"] != ""].astype({"variable": str, "term": str})
    wide = own.set_index(["variable", "term"])["variance"].unstack("term")
    return wide.reindex(index=list(fit.variables), columns=list(fit.terms)).to_numpy(dtype=np.float64)


def varcomp_table(fit: LogRateFit, variances: FloatArray) -> pd.DataFrame:
    """Variances of log rates: between units and of the random term (G, terms), of sampling; and the dispersion."""
    rates = fit.models[0].rates
    rows = [*((name, "(Intercept)", "") for name in fit.terms), (RESIDUAL, "", ""), (DISPERSION, "", "")]
    values = np.column_stack([variances, fit.spread(rates.v.mean(axis=1)), fit.spread(rates.dispersion)])
    return components_table(fit.variables, rows, values, np.sqrt(values))


def partition_of(fit: LogRateFit, variances: FloatArray) -> Partition:
    """Shares of the variance of log rates: fixed effects, between units (and the random term), sampling."""
    units, rates = fit.models[0].units, fit.models[0].rates
    fixed = ((rates.y @ units.Q) @ units.Q.T).var(axis=1)
    values = np.column_stack([fit.spread(fixed), variances, fit.spread(rates.v.mean(axis=1))])
    own = own_variances((rates.y @ units.Q) @ units.inverse.T, units.column_spread, fit.design.terms)
    shares = values / values.sum(axis=1, keepdims=True)
    return Partition(fit.variables, fixed_labels(fit.design), fit.terms, shares, fit.spread(own))


def _of_cells(design: Design, units: IntArray) -> Design:
    """The design of units with a row for each cell, whose units are these, -1 for none."""
    codes = np.where(units >= 0, design.codes[units], -1).astype(design.codes.dtype)
    return replace(design, codes=codes, covariates=design.covariates[units])


def _exposures(depth: FloatArray, factor: FloatArray, units: IntArray, rows: IntArray) -> FloatArray:
    """Depths of cells times the factors of their units."""
    return np.asarray(depth[rows] * factor[units[rows]])


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudobulkAnalysis(Analysis[UnitStatistics, LogRateFit]):
    """Counts summed over the cells of a unit.

    Attributes
    ----------
    units
        The units, which are the rows of the designs.
    sample, depth
        Columns of obs that tell units of a donor apart and that depths are from; empty for none, and for the sum of
        the counts.
    normalize
        How depths are made comparable, one of :data:`donorwise._core.cells.size_factors.METHODS`.
    factors
        Shape (U,). What the depths of all units are multiplied by, where that is known; None to find it by `normalize`.
    """

    family = Family(method="pseudobulk", observations="units", link="log", prior_on="variance")
    ddfs = GLMM_DDF

    units: Units
    sample: str
    depth: str
    normalize: str
    factors: FloatArray | None = None

    def statistics(self, numbers: Sequence[int] | None = None) -> list[UnitStatistics | None]:
        """See :class:`Analysis`; depths are multiplied by factors, which are from all genes and do not know the design."""
        if self.factors is None:
            return self._normalized(numbers)
        found = Analysis.statistics(self, numbers)
        return [None if own is None else own.scaled(self.factors[own.units]) for own in found]

    def _normalized(self, numbers: Sequence[int] | None) -> list[UnitStatistics | None]:
        """Statistics with factors by group, which is told where they cannot correct all depths."""
        features, whole = self.source.features, replace(self, variables=(), source=replace(self.source, features=None))
        found, notes = Analysis.statistics(whole, numbers), {}
        for at, own in enumerate(found):
            if own is None:
                continue
            factors = size_factors(own.counts, own.depths.total, self.normalize)
            notes[self.tasks[at if numbers is None else numbers[at]].name] = factors.note
            scaled = own.scaled(factors.values)
            found[at] = scaled if features is None else scaled.take_features(features)
        tell_uncorrected(self.normalize, notes, by_group=bool(self.groupby))
        return found

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """See :class:`Analysis`; factors are from all genes."""
        n_features = self.source.matrix.shape[1] if self.factors is None else len(self.variables)
        return self.source.bytes_of([self.tasks[i] for i in numbers], n_features)

    def few(self, n_features: int) -> Self:
        """See :class:`Analysis`; factors would take as long as all genes."""
        return replace(Analysis.few(self, n_features), factors=np.ones(len(self.units.table)))

    def fit(self, number: int, statistics: UnitStatistics, update: Callable[[int], object]) -> LogRateFit:
        """See :class:`Analysis`."""
        if self.contrasts[number] is None:
            raise DesignError(self.tasks[number].reason or "None of the contrasts can be answered here.")
        return fit_units(statistics, self.variables, self.units, n_jobs=self.n_jobs, update=update)

    def tables(self, number: int, fit: LogRateFit | None) -> Tables:
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
            size_factors=with_group(factors_table(fit, self.units), name),
            ddf=ddf,
            note=note,
            donor=self.donor,
        )

    def random_effects(self, fit: LogRateFit, varcomp: pd.DataFrame) -> pd.DataFrame:
        """See :class:`Analysis`: at the posterior means of the variances, which are in the table."""
        return ranef_table(fit, self.units, stored_variances(fit, varcomp))

    def full_design(self, number: int) -> Design:
        """See :class:`Analysis`: with the units."""
        return with_units(self._design(number), self.units)

    def predictor(self, number: int, fit: LogRateFit, varcomp: pd.DataFrame) -> CellPredictor:
        """See :class:`Analysis`: rates of the cells of a unit are those of the unit, at the stored variances."""
        model = fit.models[0]
        of_units, *of_levels = random_effects(model, stored_variances(fit, varcomp)[model.features])
        effects = tuple(
            fit.spread(own.mode).T[:, None] for own in (*of_levels, of_units)
        )  # the units are the last term
        factor, used = np.ones(len(self.units.table)), np.flatnonzero(fit.design.codes >= 0)
        factor[used] = fit.factors
        exposure = partial(_exposures, self.source.per_cell(self.n_cells)[0], factor, self.units.codes)
        with np.errstate(divide="ignore"):
            size = 1 / fit.spread(model.rates.dispersion)
        scale = Counted(distribution("nb"), exposure, np.ones(self.n_cells).__getitem__, size)
        design = _of_cells(self.full_design(number), self.units.codes)
        return CellPredictor(design, self._beta(fit, varcomp), effects, scale)

    def _beta(self, fit: LogRateFit, varcomp: pd.DataFrame) -> FloatArray:
        """Fixed effects (G, p) at the stored variances."""
        model = fit.models[0]
        return fit.spread(coefficients(model, stored_variances(fit, varcomp)[model.features]))

    def row_residuals(
        self, number: int, statistics: UnitStatistics, fit: LogRateFit, varcomp: pd.DataFrame
    ) -> RowResiduals:
        """See :class:`Analysis`: log rates of units, of which each is a pattern, by their variances by chance."""
        units, rates = fit.models[0].units, fit.models[0].rates
        order = np.argsort(units.order)
        beta = self._beta(fit, varcomp)
        y, v = fit.spread(rates.y[:, order]), fit.spread(rates.v[:, order])
        return RowResiduals.of(y - beta @ statistics.row_space().T, 1 / v)

    def donors(self, number: int) -> Replicates:
        """See :class:`Analysis`."""
        used = self._design(number).codes >= 0
        codes, names = pd.factorize(self.units.table[self.units.donor].array[used], sort=True)
        return Replicates(tuple(map(str, names)), codes.astype(np.int64))

    def permuted_donors(self, number: int) -> IntArray:
        """See :class:`Analysis`."""
        return self.donors(number).codes

    def random_parts(self, number: int) -> list[RandomPart]:
        """See :class:`Analysis`: units differ by more than by chance, and those of a level are more alike."""
        name, design = self.units.name, self._design(number)
        terms = [own._replace(part=Part(1 + own.part.term)) for own in random_parts(design)]
        return [RandomPart(f"(1 | {name})", Part(0), (name,)), *terms]

    def planner(self, number: int, statistics: UnitStatistics, fit: LogRateFit) -> UnitPlanner:
        """See :class:`Analysis`."""
        design = self._design(number)
        if is_fixed(design, find_donors(design, self.units.table, self.donor)):
            raise DesignError(
                f"{design.formula!r} has `{self.donor}` as a fixed effect, so more of them cannot be planned; fit "
                f"(1 | {self.donor}) instead."
            )
        return UnitPlanner(self.donors(number).codes, statistics.depths.n_cells)

    def replication(self, number: int, L: FloatArray) -> tuple[list[str], list[str]]:
        """See :class:`Analysis`; the variance between units lets contrasts within donors differ between them."""
        design = self._design(number)
        kinds, _ = replication(design, find_donors(design, self.units.table, self.donor), L)
        return kinds, []

    @property
    def mean_scale(self) -> MeanScale:
        """See :class:`Analysis`."""
        where = f"per {PER:,.0f} of {self.depth}" if self.depth else f"in {PER:,.0f} counts"
        return MeanScale("log", PER, "counts", where)

    @property
    def when_shifted(self) -> str:
        """See :class:`Analysis`."""
        return UNCORRECTED if self.normalize == "depth" else CORRECTED.format(f"normalize={self.normalize!r}")

    def own_params(self) -> dict[str, Any]:
        """See :class:`Analysis`."""
        return {"units": self.units.name, "sample": self.sample, "depth": self.depth, "normalize": self.normalize}
