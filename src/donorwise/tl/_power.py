"""Power of studies like the one that was fitted."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import check_is_anndata, copied, keys, read_results, write_power
from donorwise._anndata.recover import Recovered, recover
from donorwise._core.design.contrasts import resolve_contrasts
from donorwise._core.design.replicates import find_donors
from donorwise._core.engine.analysis import USUAL_CELLS
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.fitted_peptides import PeptideFit
from donorwise._core.engine.lmm import donor_term
from donorwise._core.engine.planners import CellPlanner, cells_of_patterns
from donorwise._core.engine.power import (
    POWER_STATUSES,
    Studies,
    carried_by_prior,
    own_df,
    planned_df,
    power_table,
    replication,
)
from donorwise._core.inference.moderation import refusal
from donorwise._core.jobs import Progress
from donorwise._core.models.glmm.families import RATIO_OF_LINK
from donorwise._docs import documented
from donorwise.errors import DesignError, DonorwiseError, DonorwiseWarning
from donorwise.get._tests import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray, Groups

_ODDS = (
    "log_fc= is for models of rates: estimates of {} are logarithms of odds ratios. Give effect=, such as 0.69 for twice the "
    "odds, log(2)."
)
_NO_FOLD_CHANGES = (
    "log_fc= is for models of rates (dw.tl.pseudobulk, counts in dw.tl.glmm): estimates of {} are differences of mean responses, and how far a fold change "
    "moves such a mean differs from feature to feature. Give effect= in units of the estimates; beside them, `log_fc` of "
    "dw.get.tests says which fold changes went with which estimates."
)


@documented
def power(
    data: ad.AnnData | LMMFit,
    *,
    n_donors: int | Sequence[int] = (6, 8, 12, 16, 24, 40, 60),
    n_cells: int | Sequence[int] | None = None,
    effect: float | Sequence[float] | None = None,
    log_fc: float | Sequence[float] | None = None,
    alpha: float | Sequence[float] = 0.05,
    moderated: bool | None = None,
    key: str = keys.LMM,
    contrast: Any = None,
    group: Groups = None,
    contrasts: Any = None,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | pd.DataFrame | None:
    """Predict the power of larger and smaller studies from the variances of a fitted one.

    Parameters
    ----------
    data
        AnnData that holds a result of :func:`donorwise.tl.lmm`, :func:`donorwise.tl.glmm` or
        :func:`donorwise.tl.pseudobulk`, with the cells that were fitted (it is fitted again), or a :class:`donorwise.LMMFit`.
    n_donors
        Numbers of donors, of all arms together: the arms (and samples, and covariates) keep the
        proportions of the fitted study. In a paired study, the number of pairs.
    n_cells
        Numbers of cells of each donor, all its samples together; None for 20, 100 and 500. For a result of peptides
        (``features=`` of :func:`donorwise.tl.lmm`) numbers of runs of each donor; None for those that the fitted ones have.
    effect
        True values of the contrast, in units of the response (0.5 if neither this nor `log_fc` is given); for a
        covariate such as age per unit of it. Every feature is given the same: so large a change is easily seen
        in a gene of few counts and hardly ever happens there, so plan by the rows of `expression` "middle" and "high".
    log_fc
        True log2 fold changes, in place of `effect`, for a result of :func:`donorwise.tl.pseudobulk` or of rates in
        :func:`donorwise.tl.glmm` (counts, and detection with ``link="cloglog"``), whose estimates are log rates. How far a fold change moves a mean of logarithms depends on how many counts a feature has and on what
        one count is worth in each cell, which logarithms do not say: for :func:`donorwise.tl.lmm` compare `estimate` and
        `log_fc` of the result's hits, and give ``effect=``.
    alpha
        Two-sided levels of the test, unadjusted. With a share s of features that change and power P, an
        FDR of q is about ``alpha = q s P / (1 - q)``: 0.005 for s = .1, q = .05 and P near 1.
    moderated
        Whether the tests will be moderated; None for as in the result (for an LMMFit, where it can be).
    {key}
    contrast
        AnnData: names of contrasts of the result. LMMFit: contrasts as for :meth:`donorwise.LMMFit.test`.
        None for all.
    group
        Groups of the result to plan for, None for all.
    contrasts, weights
        As in :func:`donorwise.tl.influence`; `weights` also for an LMMFit with weights.
    {n_jobs}
    {progress}
    {copy}

    Returns
    -------
    For an LMMFit the table; for an AnnData None (or the copy), the table being in
    ``adata.uns[f"{key}_power"]`` (read it with :func:`donorwise.get.power`, draw it with
    :func:`donorwise.pl.power`). One row per group, contrast, expression, n_donors, n_cells, effect and
    alpha: the mean power over features and its 10, 50 and 90% quantiles, df (the degrees of freedom),
    n_features, status (``"ok"``, or ``"too_few_donors"`` for fewer than one degree of freedom: df and power
    are NaN), kind (``"between-donor"``, ``"between-donor (change)"``, ``"within-donor"`` or ``"mixed"``: what the
    contrast compares) and
    unit (``"effect"`` or ``"log_fc"``: which was given). `expression` is ``all``, or the ``low``,
    ``middle`` or ``high`` third of the features by mean response (on a log1p scale one effect is a larger
    fold change in a rarer gene, so that thirds differ in more than variance).

    Raises
    ------
    DataError
        There is no such result, contrast or group; the AnnData is not the one that was fitted any more;
        weights have to be given; or no feature could be fitted.
    DesignError
        The model has no donors to add.
    DonorwiseError
        A number is out of range, or not a number.

    Warns
    -----
    DonorwiseWarning
        Some studies have too few donors for a test; or a contrast within donors has no random term of its
        own, so that its power is promised on the assumption that donors do not differ in it.

    Notes
    -----
    A study of n donors counts as n/D copies of the fitted one with its D donors, given m cells each:
    ``Var = (D/n) sigma2 c'(X'V⁻¹X)⁻¹c``, which for two arms of n/2 donors is ``(tau2 + sigma2/m) 4/n``,
    and power is that of a noncentral t with the degrees of freedom of the inner-outer rule (Pinheiro and
    Bates 2000, section 2.4.2; levels of a random slope are the replicates of its column), exact in
    balanced designs. Terms that cross donors, such as a batch, are
    taken to grow with the donors.

    For pseudobulk the variance between units stays, and that of sampling changes with the cells of a unit at the
    depths of the fitted ones: the expected count grows with them, and the part of the dispersion falls as one over them.
    For :func:`donorwise.tl.glmm` the variances of the random effects stay, and the information about each donor is worked out
    with so many more or fewer cells of the same rates and exposures.

    For proteins (``features=`` of :func:`donorwise.tl.lmm`) the peptides and what is missing of them are as in the fitted study, and
    `n_cells` are runs: with more of them the variance of the residuals, and of what every run has of its own (``(1 | run)``), is
    divided, and that of donors and peptides stays. Proteins that some donors lack have fewer degrees of freedom than the table.

    With a kernel the copies are not related to each other: new donors have relatives among themselves, as those of the
    fitted study have, and none in it. Neither donors nor families are the replicates then, so the degrees of freedom are
    no more than Kenward-Roger's in the fitted study, with so many cells of each donor, times n/D.

    An estimate of zero for a donor variance is often chance, and power from it too high. Where the
    features share a prior (:attr:`donorwise.LMMFit.prior`: one to three variances, 100 features)
    the power of each is averaged over its posterior instead. Moderation adds degrees of freedom, by how
    alike the features are under the prior (as in Smyth 2004): an approximation, in simulations within
    .06 of the power at alpha = .05. With fewer than 10 donors and alpha of .001 or less the prediction is too
    high, for Kenward-Roger tests too (a paired study of 6 donors: .19 predicted, .13 found).

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.power(adata, n_donors=(8, 16, 32), n_cells=50, effect=0.3, progress=False)
    >>> dw.get.power(adata, expression="all")["power"].is_monotonic_increasing
    True
    """
    if effect is not None and log_fc is not None:
        raise DonorwiseError("Give one of effect= and log_fc=, not both.")
    cells = None if n_cells is None else _numbers("n_cells", n_cells, 1)
    sizes = {"n_donors": _numbers("n_donors", n_donors, 2), "n_cells": cells or USUAL_CELLS}
    levels = _numbers("alpha", alpha, 0.0, 1.0)
    unit, given = ("effect", 0.5 if effect is None else effect) if log_fc is None else ("log_fc", log_fc)
    effects = _effects(unit, given)
    if isinstance(data, LMMFit):
        if log_fc is not None:
            raise DonorwiseError(_NO_FOLD_CHANGES.format("this fit"))
        plan = Studies(**sizes, effect=effects, alpha=levels)
        table, issues = _of_fit(data, contrast, plan, moderated is not False, weights)
        _warn(table, issues)
        return _categorical(table)
    check_is_anndata(data)
    if copy:
        data = copied(data)
    # what cannot be answered is said before anything is fitted
    results = choose(choose(read_results(data, key).results, "contrast", contrast), "group", group)
    found = recover(data, key, contrasts=contrasts, weights=weights, n_jobs=n_jobs)
    ratio = RATIO_OF_LINK.get(found.analysis.family.link, "")
    scale = 1 / np.log(2) if ratio == "rate_ratio" else np.nan
    if log_fc is not None and np.isnan(scale):
        text = _ODDS.format(repr(key)) if ratio else _NO_FOLD_CHANGES.format(repr(key)) + _doubling(results)
        raise DonorwiseError(text)
    # log_fc is the estimate times this
    effects = effects if unit == "effect" else tuple(value / scale for value in effects)
    plan = Studies(**sizes, effect=effects, alpha=levels)
    moderated = found.analysis.options.ddf == "moderated" if moderated is None else moderated
    table, issues = _by_group(found, results, plan, moderated, progress, as_they_are=cells is None)
    write_power(data, key, _categorical(table.assign(log_fc=table["effect"] * scale, unit=unit)))
    _warn(table, issues)
    return data if copy else None


def _of_fit(
    fit: LMMFit, contrast: Any, plan: Studies, moderated: bool, weights: FloatArray | None
) -> tuple[pd.DataFrame, list[str]]:
    """The table of one fit, and what the audit warns of."""
    if isinstance(fit, PeptideFit):
        raise DesignError(
            "Power of proteins needs the runs of each donor, which a fit of arrays does not have: put the peptides into an "
            "AnnData (runs x peptides), fit it with dw.tl.lmm(features=), and give that to dw.tl.power."
        )
    if not fit.donor:
        raise DesignError(f"{fit.formula!r} has no random term for the donors: there is nothing to plan more of.")
    names, L = resolve_contrasts(fit.design, contrast)
    term = donor_term(fit.design, fit.donor)
    kinds, issues = replication(fit.design, find_donors(fit.design, fit.design.frame, fit.donor), L)
    planner = CellPlanner(fit.design, cells_of_patterns(fit.design, fit.models, weights), term.codes)
    with one_blas_thread():
        table = power_table(fit, names, L, plan, planner, len(term.levels), moderated=moderated)
    shared = moderated and not refusal(fit.models)
    issues = [*issues, *(_of_prior(fit.design, names, L, plan, len(term.levels)) if shared else [])]
    kind = table["contrast"].map(dict(zip(names, kinds, strict=True)))
    return table.assign(group=keys.ALL, log_fc=np.nan, kind=kind, unit="effect"), issues


def _by_group(
    found: Recovered, results: pd.DataFrame, plan: Studies, moderated: bool, progress: bool, *, as_they_are: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The tables of the groups and contrasts that `results` holds, and what the audit warns of.

    With `as_they_are` numbers of cells are those that are usual for the analysis.
    """
    analysis, tables = found.analysis, []
    issues: list[str] = []
    wanted = {str(name): set(part["contrast"].astype(str)) for name, part in results.groupby("group", observed=True)}
    work = []
    for number, (own, contrasts) in enumerate(zip(analysis.statistics(), analysis.contrasts, strict=True)):
        asked = wanted.get(analysis.tasks[number].name, set())
        at = [] if contrasts is None else [i for i, name in enumerate(contrasts.names) if name in asked]
        if own is not None and contrasts is not None and at:
            cells = analysis.usual_cells(number) if as_they_are else plan.n_cells
            work.append((number, own, [contrasts.names[i] for i in at], contrasts.L[at], replace(plan, n_cells=cells)))
    total = sum(len(names) * len(own_plan.n_cells) for _, _, names, _, own_plan in work)
    with Progress(total=total, unit="study", desc="power", disable=not progress) as bar, one_blas_thread():
        for number, own, names, L, own_plan in work:
            n_donors = len(analysis.donors(number).names)
            fit = analysis.fit(number, own, lambda n: None)
            table = power_table(
                fit, names, L, own_plan, analysis.planner(number, own, fit), n_donors, moderated=moderated,
                update=bar.update,
            )  # fmt: skip
            if moderated and not refusal(fit.models):
                issues += _of_prior(fit.design, names, L, own_plan, n_donors)
            kinds, own_issues = analysis.replication(number, L)
            kind = table["contrast"].map(dict(zip(names, kinds, strict=True)))
            tables.append(table.assign(group=analysis.tasks[number].name, kind=kind))
            issues += own_issues
    return pd.concat(tables, ignore_index=True), issues


def _of_prior(design: Design, names: Sequence[str], L: FloatArray, plan: Studies, n_donors: int) -> list[str]:
    """Studies, the fitted one and planned ones, whose tests nothing but the prior would carry."""
    n_obs = int((design.codes >= 0).sum())
    found = []
    fitted = carried_by_prior(names, own_df(design, L, n_obs))
    if fitted:
        found.append(
            f"{fitted}: the fitted study ({n_donors:,} donors) says next to nothing about how donors differ in it; the power "
            "of larger ones rests on the prior that features share."
        )
    for n in plan.n_donors:
        df = np.array([planned_df(design, row, n / n_donors, n_obs * n / n_donors) for row in L])
        if carried := carried_by_prior(names, df):
            found.append(
                f"n_donors of {n:,}: nothing but the prior that features share would carry tests of {carried}, so that their "
                "power is that of the prior, an average over features and no promise for any; Kenward-Roger has next to none."
            )
    return found


def _doubling(results: pd.DataFrame) -> str:
    """The estimate that goes with a doubling in the stored tests; empty where they have no fold changes."""
    known = results[results["p_value"].notna() & results["log_fc"].notna() & (results["log_fc"] != 0)]
    moved = (known["estimate"] / known["log_fc"]).median()
    return f" A log_fc of 1 goes with an estimate of {moved:.2g} here (median)." if len(known) else ""


def _warn(table: pd.DataFrame, issues: Sequence[str]) -> None:
    """Say which studies have no test, and what the predictions take for granted."""
    few = sorted(table.loc[table["status"] == POWER_STATUSES[1], "n_donors"].unique())
    if few:
        listed = ", ".join(f"{n:,}" for n in few)
        issues = [
            *issues,
            f"n_donors of {listed}: too few for a test of every contrast; power is NaN where it has none.",
        ]
    for text in dict.fromkeys(issues):
        warnings.warn(text, DonorwiseWarning, stacklevel=3)


def _array(name: str, values: Any) -> FloatArray:
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise DonorwiseError(f"{name}={values!r}: give a number or a list of numbers.")
    return array


def _numbers(name: str, values: Any, low: float, high: float = np.inf) -> tuple[Any, ...]:
    array, whole = _array(name, values), high == np.inf
    allowed = (array >= low) & (array == np.round(array)) if whole else (array > low) & (array < high)
    if not allowed.all():
        what = f"whole numbers of at least {low:g}" if whole else f"numbers between {low:g} and {high:g}"
        raise DonorwiseError(f"{name}={values!r}: give {what}.")
    return tuple(dict.fromkeys(int(v) if whole else float(v) for v in array))


def _effects(name: str, values: Any) -> tuple[float, ...]:
    array = _array(name, values)
    if not (array != 0).all():
        raise DonorwiseError(f"{name}={values!r}: an effect must not be zero.")
    return tuple(dict.fromkeys(float(v) for v in array))


def _categorical(table: pd.DataFrame) -> pd.DataFrame:
    front = ["group", "contrast", "expression", "n_donors", "n_cells", "effect", "log_fc", "alpha"]
    table = table[[*front, *(c for c in table.columns if c not in front)]]
    texts = [*front[:3], "status", "kind", "unit"]
    return table.assign(
        **{c: pd.Categorical(table[c].astype(object), categories=list(dict.fromkeys(table[c]))) for c in texts}
    )
