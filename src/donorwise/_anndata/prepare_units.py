"""From an AnnData to an analysis of counts: the units, their table, one design per group; no cells have been read yet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import (
    cell_frame,
    check_is_anndata,
    columns_read,
    count_depth,
    find_roles,
    is_collapsed,
    keys,
    read_cells,
    read_counts,
    read_origin,
    resolve_response,
)
from donorwise._anndata.origin import COUNTS
from donorwise._anndata.roles import known_columns, said_of_labels, with_labels
from donorwise._core.cells.size_factors import METHODS
from donorwise._core.design.binding import refuse_kernels
from donorwise._core.design.formula import parse
from donorwise._core.engine import cautions
from donorwise._core.engine.arrays import effective_jobs, pass_jobs
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.pseudobulk import PseudobulkAnalysis, check_counts, check_depths
from donorwise._core.engine.results import resolve_by_group, tasks_by_group
from donorwise._core.engine.sources import CellUnitSource, RowUnitSource
from donorwise._core.engine.units import find_units, merge_units
from donorwise._core.models.lograte.units import depths_of_units
from donorwise._typing import check_option
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._typing import BoolArray, GroupBy

_NO_COUNTS = "These rows were collapsed without counts: give counts_layer= to dw.pp.collapse."


def prepare_pseudobulk(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: GroupBy = None,
    layer: str | None = "counts",
    mask_var: str | BoolArray | None = None,
    donor: str | None = None,
    sample: str | None = None,
    depth: str | None = None,
    normalize: str = "tmm",
    contrasts: Any = None,
    n_jobs: int | None = None,
    columns: Sequence[str] = (),
) -> PseudobulkAnalysis:
    """Check all that :func:`donorwise.tl.pseudobulk` is given; `columns` are further columns of obs for the units.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.pseudobulk`.
    """
    check_is_anndata(adata)
    check_option("normalize", normalize, METHODS)
    effective_jobs(n_jobs)  # like the contrasts, checked before anything is read
    parsed = parse(formula)
    refuse_kernels(parsed, "dw.tl.pseudobulk")
    response = counts_response(adata, layer, depth, mask_var)
    by = group_columns(groupby)
    units = units_of(adata, parsed, donor=donor, sample=sample, groupby=by)
    tasks = tasks_of_units(units, by)
    names, resolved = resolve_by_group(tasks, contrasts, by)
    made = assemble_pseudobulk(
        adata, parsed, response, units, tasks, groupby=by, depth=depth, normalize=normalize, n_jobs=n_jobs
    )
    table = _unit_table(adata, units, columns)
    made = replace(made, names=tuple(names), contrasts=tuple(resolved), obs=table)
    cells, roles = cell_frame(adata), find_roles(adata)
    known = known_columns(roles, cells)
    return replace(made, warnings=(*cautions.of_units(made, cells, known), *said_of_labels(adata, roles, parsed)))


def tasks_of_units(units: Units, groupby: Sequence[str]) -> list[Task]:
    """One task per group, whose patterns are units."""
    return [
        task if task.design is None else replace(task, design=task.design.by_row())
        for task in tasks_by_group(units.formula, units.table, groupby, units.levels)
    ]


def assemble_pseudobulk(
    adata: ad.AnnData,
    formula: ParsedFormula,
    response: Response,
    units: Units,
    tasks: list[Task],
    *,
    groupby: Sequence[str],
    depth: str | None,
    normalize: str,
    n_jobs: int | None = None,
) -> PseudobulkAnalysis:
    """A model of the counts of units, of cells or of collapsed rows, without contrasts and warnings yet."""
    return PseudobulkAnalysis(
        formula=formula, groupby=tuple(groupby), response=response.text, log_base=math.e, weights=keys.NO_WEIGHTS,
        variables=response.variables, source=_units_source(adata, response, units, depth), obs=units.table,
        sizes=np.bincount(units.codes[units.codes >= 0], minlength=len(units.table)), n_cells=units.codes.size,
        tasks=tasks, donor=units.donor, n_jobs=effective_jobs(n_jobs), pass_jobs=pass_jobs(n_jobs), units=units,
        sample=units.sample, normalize=normalize,
        depth=depth or (read_origin(adata).depth if is_collapsed(adata) else "") or "",
    )  # fmt: skip


def _unit_table(adata: ad.AnnData, units: Units, columns: Sequence[str]) -> pd.DataFrame:
    """The table of units with further columns of obs, which have to be the same in all cells of a unit."""
    obs = cell_frame(adata, list(columns)) if columns else units.table
    used, table = units.codes >= 0, units.table
    for name in (c for c in columns if c in obs.columns and c not in table.columns):
        pairs = pd.DataFrame({"unit": units.codes[used], name: obs[name].array[used]}).drop_duplicates()
        if pairs["unit"].duplicated().any():
            raise DesignError(f"`{name}` takes several values inside a unit ({units.name}).")
        table = table.assign(**{name: pairs.set_index("unit")[name].reindex(table.index)})
    return table


def _units_source(
    adata: ad.AnnData, response: Response, units: Units, column: str | None
) -> CellUnitSource | RowUnitSource:
    """The counts of units, checked: whole numbers, and some in every unit."""
    n = len(units.table)
    if not is_collapsed(adata):
        check_counts(response.matrix, response.text)
        depth = count_depth(adata, response, column)
        depths = depths_of_units(depth, units.codes, n)
        check_depths(depths, units)
        return CellUnitSource(
            matrix=response.matrix, features=response.features, units=units, depth=depth, depths=depths
        )
    counts, starts = read_counts(adata), read_cells(adata).starts
    if counts is None:
        raise DataError(_NO_COUNTS)
    none = counts.values.take_features(np.empty(0, dtype=np.int64))
    check_depths(merge_units(none, counts.cubes, units.codes[starts], n)[1], units)
    return RowUnitSource(
        matrix=response.matrix, features=response.features, units=units, values=counts.values, cubes=counts.cubes,
        starts=starts,
    )  # fmt: skip


def units_of(
    adata: ad.AnnData, parsed: ParsedFormula, *, donor: str | None, sample: str | None, groupby: Sequence[str]
) -> Units:
    """The units, with the donor and the sample as given, declared, or known by their names."""
    roles = find_roles(adata)
    if donor is None:
        role = roles.get("donor")
        if role is None or not role.column:
            several = f" (it could be one of {', '.join(role.candidates)})" if role is not None else ""
            raise DesignError(
                f"Which column of obs is the donor is not known{several}: give donor=, or declare it once with "
                "adata.donorwise.setup(donor=...)."
            )
        donor = role.column
    known = roles.get("sample")
    column = sample if sample is not None else known.column if known is not None and known.column else None
    column = None if column == donor else column
    labels = [name for name in (donor, column, *groupby) if name is not None]
    obs = with_labels(cell_frame(adata, columns_read(adata, parsed, labels)), roles, parsed)
    explicit = sample is not None
    return find_units(parsed, obs, donor=donor, sample=column, groupby=groupby, explicit=explicit)


def counts_response(
    adata: ad.AnnData, layer: str | None, depth: str | None, mask_var: str | BoolArray | None
) -> Response:
    """The matrix of counts, of cells or of collapsed rows."""
    if is_collapsed(adata):
        return _collapsed_counts(adata, layer, depth, mask_var)
    return resolve_response(adata, layer=layer, mask_var=mask_var)


def _collapsed_counts(
    adata: ad.AnnData, layer: str | None, depth: str | None, mask_var: str | BoolArray | None
) -> Response:
    """The counts of a collapsed AnnData, if they are those that are asked for."""
    origin = read_origin(adata)
    if origin.counts_layer is None:
        raise DataError(_NO_COUNTS)
    if layer not in (COUNTS, origin.counts_layer):
        raise DataError(
            f"layer={layer!r} is not what was collapsed: these rows have the counts of {origin.counts_layer!r}. Leave "
            "layer= out, or collapse the cells again."
        )
    if depth is not None and depth != origin.depth:
        used = f"the column {origin.depth!r}" if origin.depth else "the sum of the counts"
        raise DataError(f"depth={depth!r}: these rows were collapsed with {used} for the depth; give depth= there.")
    return resolve_response(adata, layer=COUNTS, mask_var=mask_var)
