"""Linear mixed models across the features of an AnnData."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import cell_depth, check_free, check_is_anndata, copied, keys, write_results
from donorwise._anndata.prepare import prepare
from donorwise._anndata.roles import known_columns
from donorwise._core.design.audit import audit, audit_design, few_donors
from donorwise._core.engine.arrays import check_max_memory, effective_jobs
from donorwise._core.engine.lmm import fit_statistics
from donorwise._core.engine.results import resolve_by_group, told_reasons
from donorwise._core.inference.multiplicity import UNIVERSE
from donorwise._core.progress import tqdm
from donorwise._docs import documented
from donorwise._typing import DDF, check_option
from donorwise.errors import DonorwiseWarning
from donorwise.tl._tables import GroupTables, group_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata.prepare import Prepared
    from donorwise._core.engine.results import Rows
    from donorwise._typing import BoolArray, Ddf, FloatArray

logger = logging.getLogger("donorwise")


@documented
def lmm(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    contrasts: Any = None,
    ddf: Ddf = "moderated",
    reml: bool = True,
    key_added: str = keys.LMM,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test every feature with a linear mixed model in which the donor is the replicate.

    The estimates are those of ``lme4::lmer`` for every feature (Bates et al. 2015), computed
    from one pass over the cells.

    Parameters
    ----------
    {adata_cells}
    formula
        ``"~ disease + sex + (1 | donor_id)"``; columns of ``adata.obs``. Random terms as in lme4:
        ``(1 | g)``, ``(x | g)``, ``(0 + x | g)``, ``(x || g)``, ``(1 | a/b)``, ``(1 | a:b)``.
    {groupby}
    {response}
    {mask_var}
    {weights}
    {contrasts}
    ddf
        How a test allows for what is unknown about the variances. ``"moderated"``: averaged over the
        variance ratios that the data leave possible, with a prior that the features of a group share
        (see :meth:`donorwise.LMMFit.test`); calibrated on average over features, it needs 100 of them and
        one or two random terms, else Kenward-Roger takes its place, which the params and the log say. Every
        feature by itself: ``"kenward-roger"`` (Kenward and Roger 1997), ``"satterthwaite"``,
        ``"between-within"`` or ``"residual"``.
    {reml}
    {key_added}
    {n_jobs}
    max_memory
        GB for the statistics of groups that share a pass over the cells: with less than all of them need, there are
        several passes (a group is never divided). None for one pass.
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` holds ``params``, ``results`` (one row per variable x
    group x contrast, with a status), ``varcomp``, ``icc``, ``variance_partition`` and, for moderated tests,
    ``prior``; read them with :func:`donorwise.get.tests` and its neighbours.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If obs cannot answer it; nothing is computed or changed then.
    DataError
        If the responses or weights cannot be used.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=50, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> dw.get.tests(adata, group=adata.obs["cell_type"].cat.categories[0]).shape[0]
    50
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_option("ddf", ddf, DDF)
    check_free(adata, key_added)
    check_max_memory(max_memory)
    ready = prepare(
        adata, formula, groupby=groupby, layer=layer, obsm=obsm, obs_keys=obs_keys, mask_var=mask_var, weights=weights
    )
    names, rows = resolve_by_group(ready.tasks, contrasts)
    _warn(ready, _audit_warnings(adata, ready))
    groups = _fit_groups(
        ready, rows, names, ddf=ddf, reml=reml, n_jobs=effective_jobs(n_jobs), max_memory=max_memory, progress=progress
    )
    tables = _stack([group.tables for group in groups.values()], [task.name for task in ready.tasks])
    _log_replaced(groups)
    fitted = {name: group for name, group in groups.items() if group.method}
    params = _params(ready, tables[keys.RESULTS], ddf=ddf, reml=reml) | {
        "donor": next(group.donor for group in fitted.values()),
        "formula": formula,
        "groupby": groupby or "",
        "contrasts": names,
        "ddf_used": {name: group.method for name, group in fitted.items()},
        "ddf_reasons": {name: group.reason for name, group in fitted.items() if group.reason},
    }
    write_results(adata, key_added, params=params, **tables)
    return adata if copy else None


def _fit_groups(
    ready: Prepared,
    rows: Sequence[Rows | None],
    names: Sequence[str],
    *,
    ddf: str,
    reml: bool,
    n_jobs: int,
    max_memory: float | None,
    progress: bool,
) -> dict[str, GroupTables]:
    """Fit group after group, keeping no more than its tables."""
    tasks, variables = ready.tasks, ready.response.variables
    found = {}
    n_fits = sum(t.design is not None for t in tasks) * len(variables)
    with tqdm(total=n_fits, unit="fit", desc="mixed models", disable=not progress) as bar:
        for numbers in ready.passes(max_memory):
            statistics = replace(ready, tasks=[tasks[i] for i in numbers]).collapse(n_jobs)
            for at, number in enumerate(numbers):
                own, statistics[at] = statistics[at], None
                fit = None
                if own is not None:
                    fit = fit_statistics(own, variables, reml=reml, donor=ready.donor, n_jobs=n_jobs, update=bar.update)
                found[tasks[number].name] = group_tables(tasks[number], fit, rows[number], names, ready.response, ddf)
    return found


def _stack(parts: Sequence[dict[str, pd.DataFrame]], groups: Sequence[str]) -> dict[str, pd.DataFrame]:
    """One table of each kind, group under group."""
    for part in parts:
        part[keys.RESULTS]["group"] = part[keys.RESULTS]["group"].cat.set_categories(groups)
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    return {kind: pd.concat([part[kind] for part in parts if kind in part], ignore_index=True) for kind in kinds}


def _audit_warnings(adata: ad.AnnData, ready: Prepared) -> list[str]:
    """The serious findings of the audit, rows left out, and single groups with few donors."""
    obs, donor, tasks = ready.obs, ready.donor, ready.tasks
    depth = cell_depth(adata) if ready.response.aligned_to_var else None
    designs = {t.name: t.design for t in tasks if t.design is not None}
    roles = known_columns(ready.roles, obs)
    if len(tasks) == 1:
        reports = [audit_design(d, obs, depth=depth, donor=donor, **roles) for d in designs.values()]
        found = [text for report in reports for text in report.warnings]
    else:
        # without donors all cells together have no design
        whole = audit(ready.formula, obs, depth=depth, donor=donor, **roles)
        few: dict[str, list[str]] = {}
        for name, design in designs.items():
            for text in few_donors(design, obs, donor):
                few.setdefault(text, []).append(name)
        overall = whole.warnings if whole.n_donors else ()
        found = [*overall, *(f"{', '.join(names)}: {text}" for text, names in few.items() if text not in overall)]
    n_used = sum(int((d.codes >= 0).sum()) for d in designs.values())
    n_unfitted = ready.n_cells - n_used - sum(d.n_dropped for d in designs.values())
    n_dropped = ready.n_cells - n_used - (n_unfitted if len(designs) < len(tasks) else 0)
    if n_dropped:
        found.append(
            f"{n_dropped:,} of {ready.n_cells:,} cells are left out: a variable of the formula or the group is missing."
        )
    return found


def _warn(ready: Prepared, found: Sequence[str]) -> None:
    if ready.raw_counts:
        found = [
            f"{ready.response.text} looks like raw counts. A linear mixed model needs log-normalised values: run "
            "sc.pp.normalize_total and sc.pp.log1p first, or name the layer that holds them.",
            *found,
        ]
    for text in found:
        warnings.warn(text, DonorwiseWarning, stacklevel=3)
    for text in told_reasons({task.name: task.reason for task in ready.tasks}):
        logger.warning(text)


def _log_replaced(groups: dict[str, GroupTables]) -> None:
    """Log why tests are not those asked for, once per reason."""
    fitted = {name: group.reason for name, group in groups.items() if group.method}
    for reason in dict.fromkeys(reason for reason in fitted.values() if reason):
        names = [name for name, own in fitted.items() if own == reason]
        where = "" if len(names) == len(fitted) else f" in {', '.join(names)}"
        logger.warning("Kenward-Roger degrees of freedom are used%s: %s.", where, reason)


def _params(ready: Prepared, results: pd.DataFrame, *, ddf: str, reml: bool) -> dict[str, Any]:
    n_cells = sum(int((t.design.codes >= 0).sum()) for t in ready.tasks if t.design is not None)
    return {
        "response": ready.response.text,
        "ddf": ddf,
        "reml": reml,
        "n_cells": n_cells,
        "n_dropped": ready.n_cells - n_cells,
        "weights": ready.weights_text,
        "version": version("donorwise"),
        "universe": UNIVERSE,
        "status_counts": dict(Counter(results["status"].astype(str))),
        "reasons": {t.name: t.reason for t in ready.tasks if t.reason},
        "log_base": ready.response.log_base,
    }
