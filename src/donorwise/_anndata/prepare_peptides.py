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
from donorwise._anndata.read import check_is_anndata
from donorwise._anndata.response import matrix_and_text, resolve_response
from donorwise._anndata.roles import find_roles, known_donor, with_labels
from donorwise._anndata.scale import check_log_base, noted_base
from donorwise._core.design.formula import parse
from donorwise._core.design.names import quote
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

    from donorwise._core.design.formula import ParsedFormula
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
    log_base: str | float | None = None,
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
    made = assemble_peptides(
        adata, formula, features=features, weights_layer=weights_layer, groupby=groupby, layer=layer, mask_var=mask_var,
        weights=weights, log_base=log_base, options=options, n_jobs=n_jobs,
    )  # fmt: skip
    return made.asking(contrasts)


def assemble_peptides(
    adata: ad.AnnData,
    formula: str,
    *,
    features: str,
    weights_layer: str | None = None,
    groupby: GroupBy = None,
    layer: str | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    log_base: str | float | None = None,
    options: Options | None = None,
    n_jobs: int | None = None,
) -> PeptideAnalysis:
    """The models of all proteins, without contrasts and warnings yet."""
    check_is_anndata(adata)
    if is_collapsed(adata):
        raise DataError(
            "features= needs every measurement of a peptide, and these rows are means over cells: give the AnnData that was "
            "collapsed, or leave features= out to model every peptide for itself."
        )
    response = resolve_response(adata, layer=layer, mask_var=mask_var)
    columns = np.arange(adata.n_vars) if response.features is None else response.features
    parsed, roles = parse(formula), find_roles(adata)
    _check_independent(parsed)
    obs = with_labels(cell_frame(adata), roles, parsed)
    var = as_frame(adata.var)
    names, protein = _proteins(var, features, columns)
    layout = lay_out(parsed, obs, var)
    source = PeptideSource(
        matrix=response.matrix, protein=protein, kind=layout.kind, groupings=layout.groupings,
        run_weights=check_weights(weights, obs), weights=_weights(adata, weights_layer),
    )  # fmt: skip
    groups = group_columns(groupby)
    tasks = tasks_by_group(parsed, layout.table, groups)
    tasks = [t if t.design is None else replace(t, design=t.design.by_row()) for t in tasks]
    sizes = np.zeros(len(layout.table), dtype=np.int64)
    sizes[: len(obs)] = 1
    made = PeptideAnalysis(
        formula=parsed, groupby=tuple(groups), response=response.text, log_base=_log_base(adata, response.text, log_base),
        weights=_told(weights), variables=names, source=source, obs=layout.table, sizes=sizes, n_cells=len(obs), tasks=tasks,
        donor=known_donor(adata, roles, of_runs(parsed, obs)), options=options or Options(), n_jobs=effective_jobs(n_jobs),
        features=features, weights_layer=weights_layer or "", mask_var=_told(mask_var),
    )  # fmt: skip
    _check_terms(made)
    return made


def _check_independent(parsed: ParsedFormula) -> None:
    """Raise where levels have a known covariance."""
    if parsed.covs:
        bar = next(bar for bar in parsed.bars if bar.cov)
        raise DesignError(
            f"{bar.text!r}: models of peptides (features=) take no known covariance between levels. Write `({bar.columns.strip()} | "
            f"{':'.join(map(quote, bar.group))})`, or leave features= out to model every peptide for itself."
        )


def _check_terms(made: PeptideAnalysis) -> None:
    """Raise where there is no random term, or one with several effects of a level, which are correlated."""
    if not made.formula.bars:
        raise DesignError(
            f"The formula {made.formula.source!r} has no random term, so it would take every measurement for a replicate; add "
            "those of the peptides and of the donors, for instance (1 | peptide) + (1 | donor_id)."
        )
    terms = (term for task in made.tasks if task.design is not None for term in task.design.random_terms)
    several = next((term for term in terms if term.Z.shape[1] > 1), None)
    if several is not None:
        raise DesignError(
            f"{several.bar.text!r} has {several.Z.shape[1]} effects of each level, {', '.join(several.columns)}, and models of "
            "peptides (features=) take terms with one: an intercept for each level, (1 | donor_id) + (1 | donor_id:condition), or "
            "one slope on a number, (1 | donor_id) + (0 + age | donor_id)."
        )


def _weights(adata: ad.AnnData, layer: str | None) -> Any:
    """The layer of weights, unread; None for none."""
    if layer is None:
        return None
    names = [name for name in adata.layers if name is not None]
    if layer not in names:
        there = suggest(layer, names) if names else "The AnnData has no layers."
        raise DataError(f"weights_layer={layer!r}: there is no such layer. {there} Leave it out for equal weights.")
    return matrix_and_text(adata, layer)[0]


def _log_base(adata: ad.AnnData, text: str, log_base: str | float | None) -> float:
    """Base of the logarithms: as given, or as scanpy noted it of X, else that of intensities as programs write them."""
    noted = noted_base(adata) if text == keys.RESPONSE_X and keys.LOG1P in adata.uns else _BASE
    return check_log_base(log_base) or noted


def _told(given: Any) -> str:
    """What params say of an option that is the name of a column, an array, or nothing."""
    return given if isinstance(given, str) else keys.NO_WEIGHTS if given is None else keys.ARRAY_WEIGHTS


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
