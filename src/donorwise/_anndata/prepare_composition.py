"""From an AnnData to a model of the shares of cell types: labels, samples, one design per group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from donorwise._anndata import cell_frame, check_is_anndata, find_roles, is_collapsed, keys, read_cells
from donorwise._anndata.labels import read_labels
from donorwise._anndata.prepare import read_columns
from donorwise._anndata.read import check_has_cells
from donorwise._anndata.response import labels_response
from donorwise._anndata.roles import known_columns, known_donor, said_of_labels, with_labels
from donorwise._core.design.binding import refuse_kernels
from donorwise._core.design.formula import parse
from donorwise._core.design.shares import check_samples, find_samples
from donorwise._core.engine import cautions
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import effective_jobs, pass_jobs
from donorwise._core.engine.composition import CompositionAnalysis, coarse_terms
from donorwise._core.engine.count_sources import LabelSource
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.results import tasks_by_group
from donorwise._core.models.glmm.families import distribution
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._anndata.roles import Role
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import GroupBy

_MISSING = "the cell type, the group or a variable of the formula is missing"


def prepare_composition(
    adata: ad.AnnData,
    formula: str,
    *,
    cell_type: str | None = None,
    sample: str | None = None,
    groupby: GroupBy = None,
    contrasts: Any = None,
    options: Options | None = None,
    n_jobs: int | None = None,
    columns: Sequence[str] = (),
) -> CompositionAnalysis:
    """Check all that :func:`donorwise.tl.composition` is given; `columns` are further columns of obs that will be read.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.composition`.
    """
    check_is_anndata(adata)
    check_has_cells(adata)
    parsed, roles = parse(formula), find_roles(adata)
    refuse_kernels(parsed, "dw.tl.composition")
    column = _known(roles, "cell_type", cell_type)
    if not column:
        raise DesignError(
            "Which column of obs holds the cell types is not known: give cell_type=, or declare it once with "
            "adata.donorwise.setup(cell_type=...)."
        )
    made = assemble_composition(
        adata, parsed, labels_response(adata, column), cell_type=column, sample=_known(roles, "sample", sample),
        groupby=group_columns(groupby), options=options, n_jobs=n_jobs, columns=columns,
    ).asking(contrasts)  # fmt: skip
    known = known_columns(roles, made.obs) | ({"sample": made.sample} if made.sample else {})
    said = cautions.of_cells(made, raw_counts=False, scale="", depth=None, roles=known, missing=_MISSING)
    return replace(made, warnings=(*said, *coarse_terms(made), *said_of_labels(adata, roles, parsed)))


def assemble_composition(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    response: Response,
    *,
    cell_type: str,
    sample: str,
    groupby: Sequence[str],
    options: Options | None = None,
    n_jobs: int | None = None,
    columns: Sequence[str] = (),
) -> CompositionAnalysis:
    """A model of the shares of cell types, without contrasts and warnings yet."""
    parsed, roles = parse(formula), find_roles(adata)
    _check_not_counted(parsed, groupby, cell_type)
    donor = _known(roles, "donor", None)
    named = [name for name in (cell_type, sample, *columns) if name]
    names = read_columns(adata, parsed, roles, groupby, named) if is_collapsed(adata) else None
    obs = with_labels(cell_frame(adata, names), roles, parsed)
    labels, codes = read_labels(adata, cell_type)
    codes = codes[read_cells(adata).rows()] if is_collapsed(adata) else codes
    kind, samples = distribution("binomial"), find_samples(parsed, obs, sample=sample, donor=donor)
    tasks = tasks_by_group(parsed, obs, groupby, rows=codes >= 0)
    for task in tasks:
        if task.design is not None:
            check_samples(samples, task.design, obs, groupby)
    return CompositionAnalysis(
        formula=parsed, groupby=tuple(groupby), response=response.text, log_base=math.nan, weights=keys.NO_WEIGHTS,
        variables=response.variables,
        source=LabelSource(matrix=codes, features=response.features, distribution=kind, n_labels=len(labels)),
        obs=obs, n_cells=len(obs), tasks=tasks, donor=known_donor(adata, roles, parsed), options=options or Options(),
        n_jobs=effective_jobs(n_jobs), pass_jobs=pass_jobs(n_jobs), distribution=kind, exposure="", trials="",
        detected=False, cell_type=cell_type, sample=sample, samples=samples,
    )  # fmt: skip


def _known(roles: Mapping[str, Role], role: str, given: str | None) -> str:
    """The column of a role, as given, declared or guessed; empty for none."""
    if given is not None:
        if not isinstance(given, str):
            raise DesignError(f"{role}= is the name of one column of obs, not {given!r}.")
        return given
    return roles[role].column if role in roles else ""


def _check_not_counted(parsed: ParsedFormula, groupby: Sequence[str], cell_type: str) -> None:
    """Raise where the types that are counted make groups, or stand in the formula."""
    where = "groupby=" if cell_type in groupby else repr(parsed.source) if cell_type in parsed.columns else ""
    if where:
        raise DesignError(
            f"{listing([cell_type])} holds the types whose cells are counted, a row of results for each, so it cannot be in "
            f"{where}: leave it out there, or name the column of the types with cell_type=."
        )
