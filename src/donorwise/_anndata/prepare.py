"""From an AnnData to an analysis of values: responses, obs, weights, one design per group; no cells have been read yet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import (
    cell_depth,
    cell_frame,
    check_has_cells,
    check_is_anndata,
    columns_read,
    counts_layer,
    examined,
    find_roles,
    is_collapsed,
    keys,
    looks_like_counts,
    read_origin,
    read_rows,
    resolve_response,
)
from donorwise._anndata.kernels import with_kernels
from donorwise._anndata.origin import has_abundance
from donorwise._anndata.prepare_peptides import prepare_peptides
from donorwise._anndata.roles import AUDITED, known_columns, known_donor, said_of_labels, with_labels
from donorwise._anndata.scale import check_log_base
from donorwise._core.design.audit import audit, with_covariates
from donorwise._core.design.coarsen import coarsen
from donorwise._core.design.formula import parse
from donorwise._core.design.kernel_checks import log_ignored
from donorwise._core.design.peptide_names import PEPTIDE
from donorwise._core.engine import cautions
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import check_weights, effective_jobs, pass_jobs
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.lmm import LmmAnalysis
from donorwise._core.engine.results import tasks_by_group
from donorwise._core.engine.sources import CellSource, RowSource
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._anndata.roles import Role
    from donorwise._core.design.audit import Audit
    from donorwise._core.design.depth import Depth
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.peptides import PeptideAnalysis
    from donorwise._core.engine.tasks import Task
    from donorwise._typing import BoolArray, FloatArray, GroupBy

_NO_ABUNDANCE = (
    "These rows were collapsed by donorwise 0.1, or merged with such rows, which do not tell fold changes: log_fc is left "
    "empty. Collapse the cells again to have it."
)
_RAW_VALUES = (
    "{} looks like counts, and a linear mixed model takes differences of them for effects, with the same spread at every "
    "level: take their logarithm first, such as obs[...] = np.log1p(obs[...])."
)


def prepare_lmm(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: GroupBy = None,
    features: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    weights_layer: str | None = None,
    log_base: str | float | None = None,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
    contrasts: Any = None,
    options: Options | None = None,
    n_jobs: int | None = None,
    columns: Sequence[str] = (),
    fold_changes: bool = True,
) -> LmmAnalysis | PeptideAnalysis:
    """Check all that :func:`donorwise.tl.lmm` is given, and choose the analysis: of values, or of peptides by protein.

    `columns` are further columns of obs that will be read; without `fold_changes` nothing is read for them.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.lmm`.
    """
    check_is_anndata(adata)
    options = options or Options()
    if features is not None:
        of_values = {"obsm": obsm, "obs_keys": obs_keys, "kernels": kernels, "relmat": relmat, "levels": levels}
        _check_of_peptides(features, of_values)
        return prepare_peptides(
            adata, formula, features=features, weights_layer=weights_layer, groupby=groupby, layer=layer, mask_var=mask_var,
            weights=weights, log_base=log_base, contrasts=contrasts, options=options, n_jobs=n_jobs,
        )  # fmt: skip
    _check_of_values(weights_layer, options)
    named: dict[str, Any] = {
        "layer": layer, "obsm": obsm, "obs_keys": obs_keys, "mask_var": mask_var, "log_base": log_base,
    }  # fmt: skip
    response, scale = (
        (collapsed_response(adata, **named), scale_of_rows(adata))
        if is_collapsed(adata)
        else examined(adata, resolve_response(adata, **named))
    )
    parsed, roles = with_kernels(adata, formula, kernels, relmat, levels), find_roles(adata)
    _check_of_obs(adata, parsed)
    made = assemble_lmm(
        adata, parsed, response, groupby=group_columns(groupby), weights=weights, roles=roles, columns=columns, options=options,
        n_jobs=n_jobs, fold_changes=fold_changes,
    )  # fmt: skip
    check_random(made.tasks)
    log_ignored(task.design for task in made.tasks if task.design is not None)
    return _told(adata, made.asking(contrasts), response, scale, roles)


def _check_of_peptides(features: str, of_values: Mapping[str, Any]) -> None:
    """Raise for options of `of_values` that a model of peptides does not take."""
    given = [f"{name}=" for name, value in of_values.items() if value is not None]
    if given:
        raise DataError(
            f"features={features!r} gives every protein a model of the measurements of its peptides, which are X or a layer, "
            f"with independent levels; it does not go with {', '.join(given)}: leave {'it' if len(given) == 1 else 'them'} out, "
            "or leave features= out to model every column for itself."
        )


def _check_of_values(weights_layer: str | None, options: Options) -> None:
    """Raise for options that only a model of peptides takes."""
    if weights_layer is not None:
        raise DataError(
            f"weights_layer={weights_layer!r} has a weight for each measurement of a peptide and goes with features=, the column "
            "of var with the protein of each. Give that too, or weights=, a weight for each row: a column of obs or an array."
        )
    if options.robust:
        raise DataError(
            f"robust={options.robust!r} goes with features=, the column of var with the protein of each peptide: values of cells "
            "are summed by donor before any fit, so that none of them can be weighted down. Leave robust= out."
        )


def _check_of_obs(adata: ad.AnnData, parsed: ParsedFormula) -> None:
    """Raise where a formula reads peptides and nothing says so."""
    of_var = [
        name for name in parsed.columns if name not in adata.obs.columns and name in (PEPTIDE, *adata.var.columns)
    ]
    if of_var and not is_collapsed(adata):
        what = "what the names of var are called" if of_var[0] not in adata.var.columns else "a column of var"
        raise DesignError(
            f"`{of_var[0]}` is no column of obs; it is {what} in a model of peptides: give features= (--features), the column "
            "of var with the protein of each peptide."
        )


def _told(
    adata: ad.AnnData, made: LmmAnalysis, response: Response, scale: str, roles: Mapping[str, Role]
) -> LmmAnalysis:
    """The analysis with what deserves a second look."""
    raw = read_origin(adata).looks_like_counts if is_collapsed(adata) else _look_raw(response)
    if raw and not response.aligned_to_var:
        raw, scale = False, _RAW_VALUES.format(response.text)
    depth = cell_depth(adata) if response.aligned_to_var else None
    known = known_columns(roles, made.obs)
    said = cautions.of_cells(made, raw_counts=raw, scale=scale, depth=depth, roles=known)
    return replace(made, warnings=(*said, *said_of_labels(adata, roles, made.formula)))


def _look_raw(response: Response) -> bool:
    return bool(np.isnan(response.log_base) and looks_like_counts(response.matrix))


def assemble_lmm(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    response: Response,
    *,
    groupby: Sequence[str],
    weights: str | FloatArray | None,
    roles: Mapping[str, Role] | None = None,
    columns: Sequence[str] = (),
    options: Options | None = None,
    n_jobs: int | None = None,
    fold_changes: bool = False,
    residual: bool = True,
) -> LmmAnalysis:
    """A linear mixed model of a response, on cells or on collapsed rows, without contrasts and warnings yet.

    `residual` says whether the residual could not be told from an effect of each row; see :func:`build_design`.
    """
    logged = fold_changes and np.isfinite(response.log_base)
    parsed, roles = parse(formula), find_roles(adata) if roles is None else roles
    if not is_collapsed(adata):
        obs = with_labels(cell_frame(adata), roles, parsed)
        w = check_weights(weights, obs)
        text = weights if isinstance(weights, str) else keys.NO_WEIGHTS if weights is None else keys.ARRAY_WEIGHTS
        tasks = tasks_by_group(parsed, obs, groupby, residual=residual)
        source: CellSource | RowSource = CellSource(
            matrix=response.matrix, features=response.features, weights=w,
            log_base=response.log_base if logged else math.nan,
        )  # fmt: skip
    else:
        origin = read_origin(adata)
        _check_no_weights(weights, origin.weights)
        text = origin.weights
        obs = with_labels(cell_frame(adata, read_columns(adata, parsed, roles, groupby, columns)), roles, parsed)
        used = [name for name in origin.covariates if name in obs.columns]
        logged = logged and has_abundance(adata)
        source = RowSource(
            matrix=response.matrix, features=response.features, rows=read_rows(adata, used, abundance=logged),
            abundance=logged,
        )  # fmt: skip
        tasks = [
            t if t.design is None else replace(t, design=coarsen(t.design, used))
            for t in tasks_by_group(parsed, obs, groupby)
        ]
    return LmmAnalysis(
        formula=parsed, groupby=tuple(groupby), response=response.text, log_base=response.log_base, weights=text,
        variables=response.variables, source=source, obs=obs, n_cells=len(obs), tasks=tasks,
        donor=known_donor(adata, roles, parsed), options=options or Options(), n_jobs=effective_jobs(n_jobs),
        pass_jobs=pass_jobs(n_jobs),
    )  # fmt: skip


def read_columns(
    adata: ad.AnnData,
    parsed: ParsedFormula,
    roles: Mapping[str, Role],
    groupby: Sequence[str],
    columns: Sequence[str] = (),
    *,
    moments: bool = True,
) -> list[str]:
    """Columns of a collapsed AnnData that a tool reads: the formula's, the group, the donor, and others.

    `moments` says whether the model needs no more of a covariate than these.
    """
    labels = [*groupby, *columns]
    names = columns_read(adata, parsed, labels, moments=moments) or []
    donor = [roles["donor"].column] if "donor" in roles and roles["donor"].column else []
    known = [roles[role].column for role in AUDITED if role in roles]
    return list(dict.fromkeys([*names, *donor, *(c for c in known if c in read_origin(adata).by)]))


def collapsed_response(
    adata: ad.AnnData,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    log_base: str | float | None = None,
) -> Response:
    """The means of a collapsed AnnData as responses, on the scale of the cells' values.

    Raises
    ------
    DataError
        Another matrix, or another base, is asked for than the one that was collapsed.
    """
    origin, base = read_origin(adata), check_log_base(log_base)
    if base is not None and not np.isclose(base, origin.log_base):
        held = "no logarithms" if np.isnan(origin.log_base) else f"logarithms to base {origin.log_base:.6g}"
        raise DataError(
            f"log_base={log_base!r}: these rows were collapsed as {held}; give log_base= to dw.pp.collapse."
        )
    asked = keys.RESPONSE_X if layer is None else f"{keys.LAYER_PREFIX}{layer}"
    if obsm is not None or obs_keys is not None or (layer is not None and asked != origin.source):
        wanted = asked if layer is not None else "obsm=" if obsm is not None else "obs_keys="
        raise DataError(
            f"{wanted} is not what was collapsed: these rows have the means of {origin.source}. Leave layer= out, or "
            "collapse the cells again."
        )
    return replace(resolve_response(adata, mask_var=mask_var), log_base=origin.log_base)


def scale_of_rows(adata: ad.AnnData) -> str:
    """What to be told of the scale of collapsed rows: what was of their cells, or that a part is missing."""
    origin = read_origin(adata)
    return _NO_ABUNDANCE if np.isfinite(origin.log_base) and not has_abundance(adata) else origin.scale


def _check_no_weights(weights: object, stored: str) -> None:
    if weights is not None and not (isinstance(weights, str) and weights == stored):
        raise DataError("Weights belong to cells: give weights= to dw.pp.collapse, from where the tools take them.")


def check_random(tasks: Sequence[Task]) -> None:
    """Raise where cells have no random term.

    Raises
    ------
    DesignError
        Says what would be wrong.
    """
    design = next(t.design for t in tasks if t.design is not None)
    if not design.random_terms:
        raise DesignError(
            f"The formula {design.formula!r} has no random term, so it would take every cell for a replicate; "
            "add one for the donor, for instance (1 | donor_id)."
        )


def audit_cells(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    depth_in: Depth = "values",
    *,
    moments: bool = True,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
) -> Audit:
    """What the design of cells, or of collapsed rows, can answer; see :meth:`DonorwiseAccessor.audit`.

    `moments` says whether the model needs no more of a covariate of collapsed rows than these.
    """
    check_has_cells(adata)
    parsed, roles = with_kernels(adata, formula, kernels, relmat, levels), find_roles(adata)
    _check_of_obs(adata, parsed)
    donor = known_donor(adata, roles, parsed) or None
    by = read_origin(adata).by if is_collapsed(adata) else ()
    read = columns_read(adata, parsed, [*([donor] if donor else []), *by], moments=moments)
    obs = with_labels(cell_frame(adata, read), roles, parsed)
    known: dict[str, Any] = known_columns(roles, obs)
    known |= {"depth": cell_depth(adata), "donor": donor, "counts": counts_layer(adata), "depth_in": depth_in}
    found = with_covariates(audit(parsed, obs, **known), parsed, obs, donor or "", known.get("sample", ""))
    return replace(found, notes=(*found.notes, *said_of_labels(adata, roles, parsed)))
