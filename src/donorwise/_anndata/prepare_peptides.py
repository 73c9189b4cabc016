"""From an AnnData of runs x peptides to an analysis of proteins; nothing has been fitted yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.collapsed import cell_frame
from donorwise._anndata.obs import as_frame, suggest
from donorwise._anndata.origin import is_collapsed
from donorwise._anndata.read import check_is_anndata
from donorwise._anndata.response import matrix_and_text, resolve_response
from donorwise._anndata.roles import find_roles, known_columns, known_donor, said_of_labels, with_labels
from donorwise._anndata.scale import check_log_base, noted_base, pivoted_base
from donorwise._core.design.audit import Audit, audit_design
from donorwise._core.design.build import assemble_design
from donorwise._core.design.formula import parse
from donorwise._core.design.names import quote
from donorwise._core.design.peptide_labels import unlabelled
from donorwise._core.design.peptide_names import split_names
from donorwise._core.engine import cautions
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import check_weights, effective_jobs
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.peptide_design import lay_out, of_runs
from donorwise._core.engine.peptide_rows import PeptideSource
from donorwise._core.engine.peptides import PeptideAnalysis, is_scalar
from donorwise._core.engine.results import tasks_by_group
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._anndata.roles import Role
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.design.peptide_names import Names
    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.tasks import Task
    from donorwise._typing import BoolArray, FloatArray, GroupBy, IntArray

_BASE = 2.0  # of the logarithm that intensities are, where nothing else is said


class _Read(NamedTuple):
    """What is read of an AnnData: its runs, its peptides, which of these are used, and where the names of the formula are."""

    roles: Mapping[str, Role]
    obs: pd.DataFrame
    var: pd.DataFrame
    columns: IntArray
    names: Names


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
    told: bool = True,
) -> PeptideAnalysis:
    """Check all that :func:`donorwise.tl.lmm` is given for peptides; unless `told` the values are not looked at for what is odd.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.lmm`.
    """
    check_is_anndata(adata)
    if is_collapsed(adata):
        raise DataError(
            "features= needs every measurement of a peptide, and these rows are means over cells: give the AnnData that was "
            "collapsed, or leave features= out to model every peptide for itself."
        )
    response, parsed = resolve_response(adata, layer=layer, mask_var=mask_var), parse(formula)
    _check_bars(parsed)
    read = _read(adata, parsed, features, response)
    variables, protein = _proteins(read.var, features, read.columns)
    layout = lay_out(parsed, read.obs, read.var, read.names)
    source = PeptideSource(
        matrix=response.matrix, protein=protein, kind=layout.kind, groupings=layout.groupings,
        run_weights=check_weights(weights, read.obs), weights=_weights(adata, weights_layer),
    )  # fmt: skip
    groups, n_runs = group_columns(groupby), len(read.obs)
    tasks = tasks_by_group(parsed, layout.table, groups)
    tasks = [t if t.design is None else replace(t, design=t.design.by_row()) for t in tasks]
    if options is not None and options.robust:
        _check_scalar(tasks, options.robust)
    made = PeptideAnalysis(
        formula=parsed, groupby=tuple(groups), response=response.text, log_base=_log_base(adata, response.text, log_base),
        weights=_text_of(weights), variables=variables, source=source, obs=layout.table, n_cells=n_runs, tasks=tasks,
        sizes=(np.arange(len(layout.table)) < n_runs).astype(np.int64), donor=known_donor(adata, read.roles, of_runs(parsed, read.obs)),
        options=options or Options(), n_jobs=effective_jobs(n_jobs), features=features, weights_layer=weights_layer or "",
        mask_var=_text_of(mask_var),
    ).asking(contrasts)  # fmt: skip
    return replace(made, warnings=_said(adata, made, read)) if told else made


def _read(adata: ad.AnnData, parsed: ParsedFormula, features: str, response: Response) -> _Read:
    roles, var = find_roles(adata), as_frame(adata.var)
    obs = with_labels(cell_frame(adata), roles, parsed)
    columns = np.arange(adata.n_vars) if response.features is None else response.features
    return _Read(roles, obs, var, columns, split_names(parsed, obs, var, features))


def _said(adata: ad.AnnData, made: PeptideAnalysis, read: _Read) -> tuple[str, ...]:
    """What deserves a second look."""
    var, known = read.var.iloc[read.columns], known_columns(read.roles, read.obs)
    said = cautions.of_peptides(made, read.obs, var, columns=read.columns, names=read.names, roles=known)
    return (*said, *said_of_labels(adata, read.roles, made.formula))


def audit_peptides(adata: ad.AnnData, made: Analysis[Any, Any]) -> Audit:
    """What the design of the runs of an analysis can answer, and what is said of peptides, their values and the formula."""
    roles = find_roles(adata)
    obs = with_labels(cell_frame(adata), roles, made.formula)
    try:
        design = assemble_design(of_runs(made.formula, obs), obs)
    except DesignError as error:
        return Audit(made.formula.source, "", 0, len(obs), 0, (), (str(error), *made.warnings), (), "runs")
    known = known_columns(roles, obs)
    found = audit_design(
        design,
        obs,
        donor=made.donor or None,
        sample=known.get("sample"),
        batch=known.get("batch"),
        is_fit=False,
        what="runs",
    )
    return replace(found, formula=made.formula.source, warnings=made.warnings)


def _check_bars(parsed: ParsedFormula) -> None:
    """Raise where there is no random term, or levels have a known covariance."""
    if not parsed.bars:
        raise DesignError(
            f"The formula {parsed.source!r} has no random term, so it would take every measurement of every peptide for a "
            "replicate; add those of the peptides and of the donors, for instance (1 | peptide) + (1 | donor_id)."
        )
    if parsed.covs:
        bar = next(bar for bar in parsed.bars if bar.cov)
        raise DesignError(
            f"{bar.text!r}: models of peptides (features=) take no known covariance between levels. Write `({bar.columns.strip()} | "
            f"{':'.join(map(quote, bar.group))})`, or leave features= out to model every peptide for itself."
        )


def _check_scalar(tasks: Sequence[Task], robust: str) -> None:
    """Raise where a robust fit is asked of a random term with several columns."""
    terms = [term for task in tasks if task.design is not None for term in task.design.random_terms]
    for term in terms:
        if not is_scalar(term):
            raise DesignError(
                f"robust={robust!r} takes random terms of one column, and {term.bar.text!r} has {len(term.columns)}: write "
                f"(1 | {':'.join(map(quote, term.bar.group))}) in its place, or leave robust= out."
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
    """Base of the logarithms: as given, or as scanpy or ``dw.pp.pivot`` noted it of X, else that of intensities as usual."""
    if (asked := check_log_base(log_base)) is not None or text != keys.RESPONSE_X:
        return asked or _BASE
    noted = noted_base(adata) if keys.LOG1P in adata.uns else pivoted_base(adata)
    return _BASE if np.isnan(noted) else noted


def _text_of(given: Any) -> str:
    """What params say of an option that is the name of a column, an array, or nothing."""
    return given if isinstance(given, str) else keys.NO_WEIGHTS if given is None else keys.ARRAY_WEIGHTS


def _proteins(var: pd.DataFrame, features: str, columns: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """Names of the proteins, in the order in which they come, and the protein of every peptide, -1 for none."""
    if (count := list(var.columns).count(features)) != 1:
        several = f"{count} columns of this name" if count else "no such column"
        raise DesignError(f"features={features!r}: adata.var has {several}. {suggest(features, var.columns)}")
    used = var[features].iloc[columns]
    labels = used.astype(object).map(str).where(~unlabelled(used), None)
    codes, names = pd.factorize(labels)
    protein = np.full(len(var), -1, dtype=np.int64)
    protein[columns] = codes
    if not len(names):
        raise DataError(f"features={features!r}: none of the {len(used):,} peptides has a protein.")
    return tuple(map(str, names)), protein
