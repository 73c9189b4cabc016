"""Counts summed per donor, across the features of an AnnData."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import (
    cell_frame,
    check_free,
    check_is_anndata,
    columns_read,
    copied,
    count_depth,
    find_roles,
    is_collapsed,
    keys,
    read_cells,
    read_counts,
    read_origin,
    resolve_response,
    write_results,
)
from donorwise._anndata.collapsed import COUNTS
from donorwise._core.design.audit import confounded, few_donors
from donorwise._core.design.formula import parse
from donorwise._core.engine.arrays import effective_jobs
from donorwise._core.engine.pseudobulk import (
    check_counts,
    check_depths,
    fit_pseudobulk,
    fit_units,
    icc_table,
    partition_table,
    results_table,
    varcomp_table,
)
from donorwise._core.engine.results import resolve_by_group, side_table, tasks_by_group, told_reasons
from donorwise._core.engine.tables import prior_table
from donorwise._core.engine.units import find_units, has_donor_term, merge_units, repeated_donors
from donorwise._core.inference.multiplicity import UNIVERSE
from donorwise._docs import documented
from donorwise.errors import DataError, DesignError, DonorwiseWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata import Response
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._core.engine.pseudobulk import LogRateFit
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._typing import BoolArray

logger = logging.getLogger("donorwise")

_SINGLE_CELLS = (
    "Most units are a single cell, so the noise between cells cannot be told from the differences between units."
)


@documented
def pseudobulk(
    adata: ad.AnnData,
    formula: str,
    *,
    layer: str | None = "counts",
    donor: str | None = None,
    sample: str | None = None,
    groupby: str | None = None,
    mask_var: str | BoolArray | None = None,
    depth: str | None = None,
    contrasts: Any = None,
    key_added: str = keys.PSEUDOBULK,
    n_jobs: int | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    r"""Test every gene on raw counts summed per donor, with the noise of counting accounted for.

    For every unit (a donor, or a sample of one) the log rate

    .. math:: y = \log\frac{C + 1/2}{L}, \qquad C = \sum x, \quad L = \sum \ell,

    of counts x in cells of depth :math:`\ell` has the sampling variance
    :math:`v = 1/(\hat\mu + 1/2) + \hat\varphi \sum \ell^2 / L^2`, with :math:`\hat\mu` the count that the
    fixed effects predict and :math:`\hat\varphi` the negative-binomial dispersion of the gene, by moments
    from the cells within units. Then :math:`y \sim N(X\beta, \tau^2 I + \mathrm{diag}(v))`, the model of
    Fay and Herriot (1979, JASA 74:269-277). The variance :math:`\tau^2` between units is integrated over
    its posterior, under a prior that the genes share (by expression) and that is learned from them.

    Parameters
    ----------
    adata
        Cells x genes; or cells collapsed by :func:`donorwise.pp.collapse` with ``counts_layer=``.
    formula
        ``"~ disease + sex"``; columns of ``adata.obs`` that describe donors or samples. Variables that
        vary within donors split them into several units; then add a term for the donor: the donor as a fixed
        effect where every donor has all conditions, or ``(1 | donor)``. Of random terms, one intercept is possible.
    {layer_counts}
    donor, sample
        Columns of obs; taken from ``adata.donorwise.setup`` or known by their usual names if None. Samples
        are units where ``sample`` is given, or where the formula has a term for the donor.
    {groupby}
    {mask_var}
    {depth}
    {contrasts}
    {key_added}
    {n_jobs}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` has the tables of :func:`donorwise.tl.lmm`; read them with
    ``dw.get.tests(adata, key="pseudobulk")`` and its neighbours. `estimate` is a difference of natural
    logarithms of rates, `log_fc` the same in log2. ``varcomp`` has the posterior mean of :math:`\tau^2`, the
    mean sampling variance as ``"Residual"``, and :math:`\hat\varphi` as ``"dispersion"``.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If obs cannot answer it, or a number in it differs from cell to cell.
    DataError
        If the layer does not hold raw counts, depths cannot be used, or `key_added` names an entry of others.

    Notes
    -----
    With fewer than 100 genes that have counts in a group no prior is learned: :math:`\tau^2` is estimated by
    REML and contrasts are tested with t, on the degrees of freedom that the design leaves.
    ``params["reasons"]`` says so.

    All genes of `mask_var` are tested, those with a handful of counts as well, and all of them are in the
    multiple-testing correction of a group and contrast. Which genes are worth a test is for the user to say,
    without a look at the groups compared; for instance those detected in 5% of the cells::

        adata.var["detected"] = np.ravel((adata.layers["counts"] > 0).mean(axis=0)) >= 0.05
        dw.tl.pseudobulk(adata, formula, mask_var="detected")

    The tests are calibrated on average over genes. By expression they are not quite: with few donors those of
    genes with few counts (below some 20 in all) are conservative, and those with many slightly the other way.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=200, seed=1)
    >>> dw.tl.pseudobulk(adata, "~ condition", groupby="cell_type", progress=False)
    >>> dw.get.tests(adata, key="pseudobulk", group="T cell").shape[0]
    200
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_free(adata, key_added)
    jobs = effective_jobs(n_jobs)
    collapsed = is_collapsed(adata)
    response = counts_response(adata, layer, depth, mask_var)
    parsed = parse(formula)
    units = units_of(adata, parsed, donor=donor, sample=sample, groupby=groupby)
    tasks = tasks_by_group(units.formula, units.table, groupby)
    names, rows = resolve_by_group(tasks, contrasts)
    if not collapsed:
        check_counts(response.matrix, response.text)
        cell_depth = count_depth(adata, response, depth)
    for text in unit_warnings(parsed, units, tasks, groupby):
        warnings.warn(text, DonorwiseWarning, stacklevel=2)
    for text in told_reasons({task.name: task.reason for task in tasks}):
        logger.warning(text)
    if collapsed:
        fits = _fit_collapsed(adata, response, units, tasks, rows, n_jobs=jobs, progress=progress)
    else:
        fits = fit_pseudobulk(
            response.matrix, response.variables, cell_depth, units, tasks, rows, features=response.features,
            n_jobs=jobs, progress=progress,
        )  # fmt: skip
    results = results_table(tasks, fits, rows, names, response.variables)
    params = _params(response, units, tasks, fits, results) | {
        "formula": formula,
        "groupby": groupby or "",
        "depth": depth or (read_origin(adata).depth if collapsed else "") or "",
        "contrasts": names,
    }
    side = [
        side_table(tasks, fits, partial(make, variables=response.variables))
        for make in (varcomp_table, icc_table, partition_table)
    ]
    priors = [None if fit is None else fit.prior for fit in fits]
    write_results(
        adata, key_added, results=results, varcomp=side[0], icc=side[1], variance_partition=side[2], params=params,
        prior=side_table(tasks, priors, prior_table) if any(priors) else None,
    )  # fmt: skip
    return adata if copy else None


def units_of(
    adata: ad.AnnData, parsed: ParsedFormula, *, donor: str | None, sample: str | None, groupby: str | None
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
    labels = [name for name in (donor, column, groupby) if name is not None]
    obs = cell_frame(adata, columns_read(adata, parsed, labels))
    return find_units(parsed, obs, donor=donor, sample=column, groupby=groupby, explicit=sample is not None)


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
        raise DataError("These rows were collapsed without counts: give counts_layer= to dw.pp.collapse.")
    if layer not in (COUNTS, origin.counts_layer):
        raise DataError(
            f"layer={layer!r} is not what was collapsed: these rows have the counts of {origin.counts_layer!r}. Leave "
            "layer= out, or collapse the cells again."
        )
    if depth is not None and depth != origin.depth:
        used = f"the column {origin.depth!r}" if origin.depth else "the sum of the counts"
        raise DataError(f"depth={depth!r}: these rows were collapsed with {used} for the depth; give depth= there.")
    return resolve_response(adata, layer=COUNTS, mask_var=mask_var)


def _fit_collapsed(
    adata: ad.AnnData,
    response: Response,
    units: Units,
    tasks: Sequence[Task],
    rows: Any,
    *,
    n_jobs: int,
    progress: bool,
) -> list[LogRateFit | None]:
    counts = read_counts(adata)
    if counts is None:
        raise DataError("These rows were collapsed without counts: give counts_layer= to dw.pp.collapse.")
    values = counts.values if response.features is None else counts.values.take_features(response.features)
    merged, depths = merge_units(values, counts.cubes, read_cells(adata).starts, units)
    check_depths(depths, units)
    return fit_units(
        merged, depths, units, tasks, rows, n_genes=len(response.variables), n_jobs=n_jobs, progress=progress
    )


def unit_warnings(parsed: ParsedFormula, units: Units, tasks: Sequence[Task], groupby: str | None) -> list[str]:
    """What deserves a second look before the tests: few donors, confounding, repeated units, cells left out."""
    found = [*confounded(units.formula, units.table, units.donor), *_thin(units, tasks)]
    repeated = repeated_donors(units, groupby)
    if repeated and not has_donor_term(parsed, units.donor):
        found.append(
            f"{repeated} donors have several units ({units.name}), and the formula takes them for replicates: a "
            "comparison between donors is then too sure of itself, and one within donors not sure enough. Add "
            f"(1 | {units.donor})."
        )
    n_dropped = int((units.codes < 0).sum())
    if n_dropped:
        found.append(
            f"{n_dropped:,} of {units.codes.size:,} cells are left out: the donor, the sample, the group or a variable of the "
            "formula is missing."
        )
    return found


def _thin(units: Units, tasks: Sequence[Task]) -> list[str]:
    """What few donors, or one cell a unit, mean for the contrasts of each group: a sentence, and the groups it is true of."""
    groups: dict[str, list[str]] = {}
    sizes = np.bincount(units.codes[units.codes >= 0], minlength=len(units.table))
    for task in tasks:
        if task.design is not None:
            texts = few_donors(task.design, units.table, units.donor)
            if np.median(sizes[task.design.codes >= 0]) < 2:
                texts.append(_SINGLE_CELLS)
            for text in texts:
                groups.setdefault(text, []).append(task.name)
    return [text if len(tasks) == 1 else f"{', '.join(names)}: {text}" for text, names in groups.items()]


def _params(
    response: Response,
    units: Units,
    tasks: Sequence[Task],
    fits: Sequence[LogRateFit | None],
    results: pd.DataFrame,
) -> dict[str, Any]:
    n_cells = sum(fit.n_obs for fit in fits if fit is not None)
    own = {t.name: f for t, f in zip(tasks, fits, strict=True) if f is not None}
    reasons = {t.name: t.reason for t in tasks if t.reason}
    few = {n: "Too few genes with counts for a shared prior: REML and t." for n, f in own.items() if f.prior is None}
    return {
        "method": keys.PSEUDOBULK,
        "donor": units.donor,
        "units": units.name,
        "response": response.text,
        "ddf": "shared prior" if any(f.prior is not None for f in own.values()) else "between-within",
        "reml": True,
        "weights": keys.NO_WEIGHTS,
        "n_cells": n_cells,
        "n_dropped": units.codes.size - n_cells,
        "version": version("donorwise"),
        "universe": UNIVERSE,
        "status_counts": dict(Counter(results["status"].astype(str))),
        "reasons": few | reasons,
        "log_base": math.e,
    }
