"""From an AnnData to a generalised model: responses, exposures and trials, one design per group; no cells are read yet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import (
    cell_depth,
    cell_frame,
    check_is_anndata,
    find_roles,
    is_collapsed,
    keys,
    resolve_response,
)
from donorwise._anndata.exposure import exposure_of, given_exposure, said_of, trials_of, tried
from donorwise._anndata.prepare import audit_cells, check_random, read_columns
from donorwise._anndata.prepare_count_rows import rows_data, rows_response
from donorwise._anndata.roles import known_columns, known_donor, said_of_labels, with_labels
from donorwise._anndata.values import CountData, examine_responses, said_of_values
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.cells.tails import choose_tails
from donorwise._core.design.binding import refuse_kernels
from donorwise._core.design.formula import parse
from donorwise._core.engine import cautions
from donorwise._core.engine.after_fit import separated
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import effective_jobs, pass_jobs
from donorwise._core.engine.count_sources import CellCountSource, cells_in_use
from donorwise._core.engine.exposures import check_exposed
from donorwise._core.engine.glmm import GlmmAnalysis
from donorwise._core.engine.groups import group_columns
from donorwise._core.engine.results import resolve_by_group, tasks_by_group
from donorwise._core.models.glmm.families import distribution
from donorwise._core.models.glmm.fit import fit_counts
from donorwise._core.models.glmm.model import MOST_PARAMETERS
from donorwise._core.models.lmm.blocks import parameters
from donorwise._typing import check_option
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._anndata.response import Response
    from donorwise._core.design.audit import Audit
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.tasks import Task
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import BoolArray, FloatArray, GroupBy

_WHAT = ("layer", "obsm", "obs_keys", "response")  # what is modelled
_CELLS_EACH = 20  # of a pattern on average, that say how they vary about its mean; otherwise cells stand for themselves


def prepare_glmm(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    *,
    family: str = "nb",
    link: str | None = None,
    response: str | None = None,
    groupby: GroupBy = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    exposure: str | FloatArray | None = None,
    offset: str | FloatArray | None = None,
    trials: str | FloatArray | None = None,
    contrasts: Any = None,
    options: Options | None = None,
    n_jobs: int | None = None,
    columns: Sequence[str] = (),
) -> GlmmAnalysis:
    """Check all that :func:`donorwise.tl.glmm` is given; `columns` are further columns of obs that will be read.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.glmm`.
    """
    check_is_anndata(adata)
    kind, parsed, roles = distribution(family, link), parse(formula), find_roles(adata)
    refuse_kernels(parsed, "dw.tl.glmm")
    if response is not None:
        check_option("response", response, ("detected",))
    effective_jobs(n_jobs)
    named: dict[str, Any] = {"layer": layer, "obsm": obsm, "obs_keys": obs_keys, "mask_var": mask_var}
    found = (
        rows_response(adata, kind, detected=response is not None, **named)
        if is_collapsed(adata)
        else resolve_response(adata, **named)
    )
    made = assemble_glmm(
        adata, parsed, found, kind, groupby=group_columns(groupby), exposure=exposure, offset=offset, trials=trials,
        detected=response is not None, contrasts=contrasts, options=options, n_jobs=n_jobs, columns=columns,
    )  # fmt: skip
    known = known_columns(roles, made.obs)
    depth = cell_depth(adata) if found.aligned_to_var else None
    said = cautions.of_counts(made, depth=depth, roles=known)
    return replace(made, warnings=(*made.warnings, *said, *said_of_labels(adata, roles, parsed)))


def assemble_glmm(
    adata: ad.AnnData,
    formula: str | ParsedFormula,
    response: Response,
    kind: Distribution,
    *,
    groupby: Sequence[str],
    exposure: str | FloatArray | None,
    offset: str | FloatArray | None,
    trials: str | FloatArray | None,
    detected: bool,
    contrasts: Any = None,
    options: Options | None = None,
    n_jobs: int | None = None,
    columns: Sequence[str] = (),
) -> GlmmAnalysis:
    """A generalised model of a response; values, of which alone it warns, are read when all else has been checked, once."""
    parsed, roles, collapsed = parse(formula), find_roles(adata), is_collapsed(adata)
    read = read_columns(adata, parsed, roles, groupby, columns, moments=False) if collapsed else None
    obs = with_labels(cell_frame(adata, read), roles, parsed)
    tasks = tasks_by_group(
        parsed, obs, groupby, rows=None if collapsed else tried(obs, trials), rows_each=_CELLS_EACH,
        residual=kind.has_residual(of_many=trials is not None),
    )  # fmt: skip
    check_random(tasks)
    check_variances(tasks)
    names, asked = resolve_by_group(tasks, contrasts, groupby)
    used, given = cells_in_use(tasks), {"exposure": exposure, "offset": offset, "trials": trials}
    if collapsed:
        data = rows_data(adata, response, kind, used, detected=detected, **given)
    else:
        data = _cells_data(adata, obs, response, kind, used, detected=detected, n_jobs=n_jobs, **given)
    return GlmmAnalysis(
        formula=parsed, groupby=tuple(groupby), response=response.text,
        log_base=math.e if kind.of_rates else math.nan, weights=keys.NO_WEIGHTS, variables=response.variables,
        source=data.source, obs=obs, n_cells=len(obs), tasks=tasks, donor=known_donor(adata, roles, parsed),
        options=options or Options(), n_jobs=effective_jobs(n_jobs), pass_jobs=pass_jobs(n_jobs), distribution=kind,
        exposure=data.exposure, offset=said_of(offset), trials=data.trials, detected=detected, names=tuple(names),
        contrasts=tuple(asked), of_genes=response.aligned_to_var, nodes=data.nodes, warnings=data.warnings,
    )  # fmt: skip


def _cells_data(
    adata: ad.AnnData,
    obs: pd.DataFrame,
    response: Response,
    kind: Distribution,
    used: BoolArray,
    *,
    exposure: str | FloatArray | None,
    offset: str | FloatArray | None,
    trials: str | FloatArray | None,
    detected: bool,
    n_jobs: int | None,
) -> CountData:
    """Counts of cells, or their yes and no, with exposures and trials that go with them; values are read once."""
    m = trials_of(obs, trials, kind, used, detected=detected)
    given = given_exposure(obs, kind, used, exposure, offset)
    of_depth = kind.exposed and response.aligned_to_var
    seen = examine_responses(
        adata, obs, response, kind, used, m, detected=detected, whole=of_depth and given == (None, None),
        n_jobs=pass_jobs(n_jobs),
    )  # fmt: skip
    e = exposure_of(obs, given, used, seen.total if of_depth else None, response.matrix.shape[1])
    low, high = np.log([e.values[used].min(), e.values[used].max()])
    nodes = choose_nodes(low, high, kind.smooth) if kind.smooth else None
    tails = choose_tails(float(seen.largest[used].max())) if kind.dispersed else None
    source = CellCountSource(
        matrix=response.matrix, features=response.features, distribution=kind, exposure=e.values, trials=m.values if m.text else None,
        nodes=nodes, tails=tails, detected=detected,
    )  # fmt: skip
    said = said_of_values(response, kind, float(seen.largest.max(initial=0.0)))
    return CountData(source=source, nodes=nodes, warnings=said, exposure=e.text, trials=m.text)


def check_variances(tasks: Sequence[Task]) -> None:
    """Raise where a model has more variances and covariances than there are axes for.

    Raises
    ------
    DesignError
        Says which terms have how many, and what to do.
    """
    for design in (task.design for task in tasks if task.design is not None):
        own = {t.label: len(parameters([len(t.columns)])) for t in design.random_terms}
        if sum(own.values()) > MOST_PARAMETERS:
            counted = ", ".join(f"{n} of `{label}`" for label, n in own.items())
            raise DesignError(
                f"The random part of `{design.formula}` has {sum(own.values())} variances and covariances ({counted}), and a "
                f"generalised model of many features has {MOST_PARAMETERS} at most: leave covariances out, as `||` does in "
                "place of `|`, or a term; or fit single features with dw.fit_glmm."
            )


def audit_counts(
    adata: ad.AnnData, formula: str | ParsedFormula, *, family: str, link: str | None, **response: Any
) -> Audit:
    """What a design can answer with a generalised model; see :meth:`DonorwiseAccessor.audit`.

    `response` are the other options of :func:`prepare_glmm` that say what is modelled.
    """
    kind = distribution(family, link)
    refuse_kernels(parse(formula), "dw.tl.glmm")
    of_genes = response["obsm"] is None and response["obs_keys"] is None
    exposed = response["exposure"] is not None or response["offset"] is not None
    if exposed:
        check_exposed(kind)
    seen = of_genes and response["trials"] is None  # successes of trials are no detection
    depth_in = kind.depth_in(of_genes=seen, exposure=exposed or (kind.exposed and of_genes))
    found = audit_cells(adata, formula, depth_in, moments=False)
    if all(response[name] is None for name in _WHAT):
        return found
    return replace(found, warnings=(*found.warnings, *_said_of_response(adata, formula, family, link, response)))


def _said_of_response(
    adata: ad.AnnData, formula: str | ParsedFormula, family: str, link: str | None, response: dict[str, Any]
) -> tuple[str, ...]:
    """Why values cannot be used, or how many features have no response in an arm, or nothing else."""
    try:
        made = prepare_glmm(adata, formula, family=family, link=link, **response)
        (statistics,), own = made.statistics(), made.contrasts[0]
    except DesignError:  # which the audit of the design has told
        return ()
    except DataError as error:
        return (str(error),)
    if statistics is None or own is None:
        return ()
    model = fit_counts(statistics.of_rows, statistics.counts)
    return tuple(separated(own.names, model.status(own.L).T).values())
