"""Counts summed per donor, group by group."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import count_depth, is_collapsed, keys, read_cells, read_counts, read_origin
from donorwise._batch.lmm import few_features
from donorwise._batch.tables import GroupResult
from donorwise._core.cells.accumulate import collapse
from donorwise._core.design.formula import parse
from donorwise._core.engine.arrays import effective_jobs
from donorwise._core.engine.pseudobulk import (
    check_counts,
    check_depths,
    fit_units,
    icc_table,
    partition_table,
    results_table,
    varcomp_table,
)
from donorwise._core.engine.results import resolve_by_group, side_table, tasks_by_group
from donorwise._core.engine.tables import prior_table
from donorwise._core.engine.units import merge_units
from donorwise._core.models.lograte.units import depths_of_units
from donorwise.errors import DataError, DonorwiseError
from donorwise.tl._pseudobulk import counts_response, unit_warnings, units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import anndata as ad

    from donorwise._anndata import Response
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.engine.pseudobulk import LogRateFit
    from donorwise._core.engine.results import Rows
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._core.models.lograte.units import Depths

SHARED_PRIOR, OWN_VARIANCE = "shared prior", "between-within"


@dataclass(frozen=True, slots=True)
class PseudobulkAnalysis:
    """What :func:`donorwise.tl.pseudobulk` does, a group at a time.

    Attributes
    ----------
    response
        The counts and the names of the genes.
    statistics
        Makes those of all units and their depths, for some of the genes, from one pass or from collapsed rows.
    depth_column
        The column of obs that depths are from; empty for the sum of counts.
    units
        Donors, or samples of them.
    tasks
        One per group; the rows of their designs are units.
    contrasts
        Names of all contrasts.
    rows
        The contrasts that each group can answer; None for a group that can answer none.
    warnings
        What deserves a second look before the fit.
    n_jobs
        Threads.
    """

    response: Response
    statistics: Callable[[Response], tuple[Collapsed, Depths]]
    depth_column: str
    units: Units
    tasks: list[Task]
    contrasts: list[str]
    rows: list[Rows | None]
    warnings: list[str]
    n_jobs: int

    @property
    def n_cells(self) -> int:
        """Cells of the input."""
        return int(self.units.codes.size)

    def params(self, parts: Sequence[GroupResult]) -> dict[str, Any]:
        """What the params of the result say about this kind of model."""
        shared = any(part.method == SHARED_PRIOR for part in parts)
        return {
            "method": keys.PSEUDOBULK,
            "units": self.units.name,
            "ddf": SHARED_PRIOR if shared else OWN_VARIANCE,
            "reml": True,
            "weights": keys.NO_WEIGHTS,
            "depth": self.depth_column,
            "log_base": math.e,
        }

    def few(self, n_features: int) -> PseudobulkAnalysis:
        """The same with some genes only, spread over all, to see how long it takes."""
        return replace(self, response=few_features(self.response, n_features))

    def passes(self, max_memory: float) -> list[list[int]]:
        """One: the statistics of all units are made at once."""
        return [list(range(len(self.tasks)))]

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Memory for the statistics of all units."""
        return 8 * len(self.units.table) * len(self.response.variables) * 3

    def fit(
        self, numbers: Sequence[int], finished: set[int], update: Callable[[int], object]
    ) -> Iterator[tuple[int, GroupResult]]:
        """Fit some groups from one pass over the counts, without those that are finished."""
        made = self.statistics(self.response)
        for number in numbers:
            if number not in finished:
                yield number, self._group(self.tasks[number], self.rows[number], *made)
                update(len(self.response.variables))

    def _group(self, task: Task, rows: Rows | None, collapsed: Collapsed, depths: Depths) -> GroupResult:
        if task.design is None or rows is None:
            return self._failed(task, task.reason or "None of the contrasts can be answered here.")
        try:
            (fit,) = fit_units(
                collapsed, depths, self.units, [task], [rows], n_genes=len(self.response.variables), n_jobs=self.n_jobs
            )
        except (DonorwiseError, np.linalg.LinAlgError) as error:  # one bad group does not end the run
            return self._failed(task, str(error))
        return self._failed(task, task.reason) if fit is None else self._tables(task, rows, fit)

    def _tables(self, task: Task, rows: Rows, fit: LogRateFit) -> GroupResult:
        variables = self.response.variables
        tables = {keys.RESULTS: results_table([task], [fit], [rows], self.contrasts, variables)}
        for name, make in (
            (keys.VARCOMP, varcomp_table),
            (keys.ICC, icc_table),
            (keys.VARIANCE_PARTITION, partition_table),
        ):
            tables[name] = side_table([task], [fit], partial(make, variables=variables))
        if fit.prior is not None:
            tables[keys.PRIOR] = side_table([task], [fit.prior], prior_table)
        method, why = (SHARED_PRIOR, "") if fit.prior is not None else (OWN_VARIANCE, "too few genes with counts")
        return GroupResult(tables, fit.n_obs, method, why, donor=self.units.donor)

    def _failed(self, task: Task, why: str) -> GroupResult:
        table = results_table([task], [None], [None], self.contrasts, self.response.variables)
        return GroupResult({keys.RESULTS: table}, 0, failed=why)


def plan_pseudobulk(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: str | None = None,
    layer: str | None = "counts",
    mask_var: str | None = None,
    donor: str | None = None,
    sample: str | None = None,
    depth: str | None = None,
    contrasts: Any = None,
    n_jobs: int | None = None,
) -> PseudobulkAnalysis:
    """Check everything that can be wrong with the input before any long work; options as in ``dw.tl.pseudobulk``.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.pseudobulk`.
    """
    collapsed, jobs = is_collapsed(adata), effective_jobs(n_jobs)
    response = counts_response(adata, layer, depth, mask_var)
    parsed = parse(formula)
    units = units_of(adata, parsed, donor=donor, sample=sample, groupby=groupby)
    tasks = tasks_by_group(units.formula, units.table, groupby)
    names, rows = resolve_by_group(tasks, contrasts)
    made = _from_rows(adata, units) if collapsed else _from_cells(adata, response, units, depth, jobs)
    column = depth or (read_origin(adata).depth if collapsed else "") or ""
    found = unit_warnings(parsed, units, tasks, groupby)
    return PseudobulkAnalysis(response, made, column, units, tasks, names, rows, found, jobs)


def _from_cells(
    adata: ad.AnnData, response: Response, units: Units, column: str | None, n_jobs: int
) -> Callable[[Response], tuple[Collapsed, Depths]]:
    check_counts(response.matrix, response.text)
    depth = count_depth(adata, response, column)
    depths = depths_of_units(depth, units.codes, len(units.table))
    check_depths(depths, units)

    def make(chosen: Response) -> tuple[Collapsed, Depths]:
        values = collapse(
            chosen.matrix, units.codes, len(units.table), covariates=depth[:, None], features=chosen.features,
            n_jobs=n_jobs, names=chosen.variables,
        )  # fmt: skip
        return values, depths

    return make


def _from_rows(adata: ad.AnnData, units: Units) -> Callable[[Response], tuple[Collapsed, Depths]]:
    counts = read_counts(adata)
    if counts is None:
        raise DataError("These rows were collapsed without counts: give --counts-layer to donorwise collapse.")

    def make(chosen: Response) -> tuple[Collapsed, Depths]:
        values = counts.values if chosen.features is None else counts.values.take_features(chosen.features)
        merged, depths = merge_units(values, counts.cubes, read_cells(adata).starts, units)
        check_depths(depths, units)
        return merged, depths

    return make
