"""From an AnnData of runs x peptides to an analysis of proteins; nothing has been fitted yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.collapsed import cell_frame
from donorwise._anndata.obs import as_frame, suggest
from donorwise._anndata.origin import is_collapsed
from donorwise._anndata.prepare import check_random
from donorwise._anndata.read import check_is_anndata
from donorwise._anndata.response import matrix_and_text, resolve_response
from donorwise._anndata.roles import find_roles, known_donor, with_labels
from donorwise._core.design.formula import parse
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import check_weights, effective_jobs
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.peptide_design import lay_out, of_runs
from donorwise._core.engine.peptide_rows import PeptideSource
from donorwise._core.engine.peptides import PeptideAnalysis
from donorwise._core.engine.results import tasks_by_group
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import BoolArray, FloatArray, GroupBy, IntArray

_BASE = 2.0  # of the logarithm that intensities are, where nothing else is said


def prepare_peptides(
    adata: ad.AnnData,
    formula: str,
    *,
    features: str,
    weights_layer: str | None = None,
    groupby: GroupBy = None,
    layer: str | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    log_base: float | None = None,
    contrasts: Any = None,
    options: Options | None = None,
    n_jobs: int | None = None,
) -> PeptideAnalysis:
    """Check all that :func:`donorwise.tl.lmm` is given for peptides.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.lmm`.
    """
    check_is_anndata(adata)
    if is_collapsed(adata):
        raise DataError("features= needs every measurement of a peptide; these rows are means over cells.")
    response = resolve_response(adata, layer=layer, mask_var=mask_var)
    columns = np.arange(adata.n_vars) if response.features is None else response.features
    parsed, roles = parse(formula), find_roles(adata)
    obs = with_labels(cell_frame(adata), roles, parsed)
    var = as_frame(adata.var)
    names, protein = _proteins(var, features, columns)
    layout = lay_out(parsed, obs, var)
    source = PeptideSource(
        matrix=response.matrix, protein=protein, kind=layout.kind, groupings=layout.groupings,
        run_weights=check_weights(weights, obs), weights=None if weights_layer is None else matrix_and_text(adata, weights_layer)[0],
    )  # fmt: skip
    groups = group_columns(groupby)
    tasks = tasks_by_group(parsed, layout.table, groups)
    tasks = [t if t.design is None else replace(t, design=t.design.by_row()) for t in tasks]
    sizes = np.zeros(len(layout.table), dtype=np.int64)
    sizes[: len(obs)] = 1
    text = weights if isinstance(weights, str) else keys.NO_WEIGHTS if weights is None else keys.ARRAY_WEIGHTS
    made = PeptideAnalysis(
        formula=parsed, groupby=tuple(groups), response=response.text, log_base=_BASE if log_base is None else float(log_base),
        weights=text, variables=names, source=source, obs=layout.table, sizes=sizes, n_cells=len(obs), tasks=tasks,
        donor=known_donor(adata, roles, of_runs(parsed, obs)), options=options or Options(), n_jobs=effective_jobs(n_jobs),
        features=features, weights_layer=weights_layer or "",
    )  # fmt: skip
    check_random(made.tasks)
    return made.asking(contrasts)


def _proteins(var: pd.DataFrame, features: str, columns: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """Names of the proteins, in the order in which they come, and the protein of every peptide, -1 for none."""
    if features not in var.columns:
        raise DesignError(f"features={features!r}: adata.var has no such column. {suggest(features, var.columns)}")
    used = var[features].iloc[columns]
    labels = used.astype(object).where(used.notna(), None)
    codes, names = pd.factorize(labels.map(lambda v: v if v is None else str(v)))
    protein = np.full(len(var), -1, dtype=np.int64)
    protein[columns] = codes
    if not len(names):
        raise DataError(f"features={features!r}: no peptide has a protein.")
    return tuple(map(str, names)), protein
