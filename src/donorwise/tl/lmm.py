"""Linear mixed models across the features of an AnnData."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import cell_depth, check_free, check_is_anndata, copied, keys, write_results
from donorwise._typing import DDF, check_option
from donorwise.design.audit import audit, audit_design, few_donors
from donorwise.engine.arrays import effective_jobs
from donorwise.engine.groups import partition_rows, resolve_by_group, results_table, side_table
from donorwise.engine.run import fit_each
from donorwise.errors import DonorwiseWarning
from donorwise.inference.multiplicity import UNIVERSE
from donorwise.inference.tables import ddf_used, prior_table
from donorwise.lmm.result import LMMFit
from donorwise.tl._prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import BoolArray, Ddf, FloatArray
    from donorwise.engine.statistics import Task
    from donorwise.tl._prepare import Prepared

logger = logging.getLogger("donorwise")


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
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test every feature with a linear mixed model in which the donor is the replicate.

    The estimates are those of ``lme4::lmer`` for every feature (Bates et al. 2015), computed
    from one pass over the cells.

    Parameters
    ----------
    adata
        Cells x features, log-normalised; or cells collapsed by :func:`donorwise.pp.collapse`, whose weights
        then apply.
    formula
        ``"~ disease + sex + (1 | donor_id)"``; columns of ``adata.obs``. Random terms as in lme4:
        ``(1 | g)``, ``(x | g)``, ``(0 + x | g)``, ``(x || g)``, ``(1 | a/b)``, ``(1 | a:b)``.
    groupby
        Column of obs, for instance the cell type: every group is fitted for itself, from the same pass.
    layer, obsm, obs_keys
        Model a layer, a table of scores in ``obsm``, or columns of obs instead of X.
    mask_var
        Boolean column of var, or array: which features to fit.
    weights
        Precision weights of the cells: a column of obs or an array (n_obs,).
    contrasts
        As in :meth:`donorwise.LMMFit.test`; every coefficient but the intercept if None.
    ddf
        How a test allows for what is unknown about the variances. ``"moderated"``: averaged over the
        variance ratios that the data leave possible, with a prior that the features of a group share
        (see :meth:`donorwise.LMMFit.test`); calibrated on average over features, it needs 100 of them and
        one or two random terms, else Kenward-Roger takes its place, which the params and the log say. Every
        feature by itself: ``"kenward-roger"`` (Kenward and Roger 1997), ``"satterthwaite"``,
        ``"between-within"`` or ``"residual"``.
    reml
        REML, or maximum likelihood.
    key_added
        Entry of ``adata.uns`` for the results.
    n_jobs
        Threads; None takes scanpy's setting, -1 all cores.
    progress
        Show a progress bar.
    copy
        Return a copy with the results instead of writing into `adata`.

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` holds ``params``, ``results`` (one row per variable x
    group x contrast, with a status), ``varcomp``, ``icc``, ``variance_partition`` and, for moderated tests,
    ``prior``; read them with :func:`donorwise.get.lmm` and its neighbours.

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
    >>> dw.get.lmm(adata, group=adata.obs["cell_type"].cat.categories[0]).shape[0]
    50
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_option("ddf", ddf, DDF)
    check_free(adata, key_added)
    ready = prepare(
        adata, formula, groupby=groupby, layer=layer, obsm=obsm, obs_keys=obs_keys, mask_var=mask_var, weights=weights
    )
    response, tasks = ready.response, ready.tasks
    names, rows = resolve_by_group(tasks, contrasts)
    _warn(ready, _audit_warnings(adata, ready))
    jobs = effective_jobs(n_jobs)
    fits = fit_each(
        ready.collapse(jobs), response.variables, reml=reml, donor=ready.donor, n_jobs=jobs, progress=progress
    )
    scale = np.log(response.log_base) / np.log(2)
    used = _ddf_used(tasks, fits, ddf)
    results = results_table(tasks, fits, rows, names, response.variables, ddf=ddf, log2_scale=scale)
    params = _params(ready, fits, results, ddf=ddf, reml=reml) | {
        "formula": formula,
        "groupby": groupby or "",
        "contrasts": names,
        "ddf_used": {name: method for name, (method, _) in used.items()},
        "ddf_reasons": {name: reason for name, (_, reason) in used.items() if reason},
    }
    moderated = [
        f if f is not None and used[t.name][0] == "moderated" else None for t, f in zip(tasks, fits, strict=True)
    ]
    write_results(
        adata, key_added, results=results, varcomp=side_table(tasks, fits, LMMFit.varcomp),
        icc=side_table(tasks, fits, LMMFit.icc), variance_partition=side_table(tasks, fits, partition_rows),
        params=params, prior=side_table(tasks, moderated, lambda f: prior_table(f.prior)) if any(moderated) else None,
    )  # fmt: skip
    return adata if copy else None


def _audit_warnings(adata: ad.AnnData, ready: Prepared) -> list[str]:
    """The serious findings of the audit, rows left out, and single groups with few donors."""
    obs, donor, tasks = ready.obs, ready.donor, ready.tasks
    depth = cell_depth(adata) if ready.response.aligned_to_var else None
    designs = {t.name: t.design for t in tasks if t.design is not None}
    if len(tasks) == 1:
        found = [text for d in designs.values() for text in audit_design(d, obs, depth=depth, donor=donor).warnings]
    else:
        whole = audit(ready.formula, obs, depth=depth, donor=donor)  # without donors all cells together have no design
        few = {name: few_donors(d, obs, donor) for name, d in designs.items()}
        found = [*(whole.warnings if whole.n_donors else ()), *(f"{n}: {t}" for n, texts in few.items() for t in texts)]
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
    for task in ready.tasks:
        if task.reason:
            logger.warning("%s: %s", task.name, task.reason)


def _ddf_used(tasks: Sequence[Task], fits: Sequence[LMMFit | None], ddf: str) -> dict[str, tuple[str, str]]:
    """By group, the degrees of freedom in use and why they are not those asked for; said once per reason."""
    used = {t.name: ddf_used(f, ddf) for t, f in zip(tasks, fits, strict=True) if f is not None}
    for reason in dict.fromkeys(reason for _, reason in used.values() if reason):
        names = [name for name, (_, own) in used.items() if own == reason]
        where = "" if len(names) == len(used) else f" in {', '.join(names)}"
        logger.warning("Kenward-Roger degrees of freedom are used%s: %s.", where, reason)
    return used


def _params(
    ready: Prepared, fits: Sequence[LMMFit | None], results: pd.DataFrame, *, ddf: str, reml: bool
) -> dict[str, Any]:
    n_cells = sum(int((t.design.codes >= 0).sum()) for t in ready.tasks if t.design is not None)
    fit = next(f for f in fits if f is not None)
    return {
        "donor": fit.donor,
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
