"""Which hits hang on one donor."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import (
    check_is_anndata,
    copied,
    keys,
    read_every_test,
    read_results,
    write_influence,
)
from donorwise._anndata.recover import Recovered, check_whole, recover
from donorwise._anndata.unchanged import check_same
from donorwise._core.engine.arrays import effective_jobs
from donorwise._core.engine.influence import NUMBERS, leave_one_out, retest
from donorwise._core.engine.results import Contrasts
from donorwise._core.engine.run import of_covariates
from donorwise._core.jobs import Progress
from donorwise._core.wording import listing
from donorwise._docs import documented
from donorwise.errors import DataError, DonorwiseError
from donorwise.get._tests import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._core.engine.analysis import Analysis, F, S
    from donorwise._typing import FloatArray, Groups

logger = logging.getLogger("donorwise")

ROW = ["variable", "group", "contrast"]
_FULL = ["estimate", "se", "p_value", "adj_p_value"]


@documented
def influence(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    alpha: float = 0.05,
    variables: str | Sequence[str] | None = None,
    contrasts: Any = None,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Leave each donor out in turn and test every hit again.

    The numbers are those of :func:`donorwise.tl.lmm` (or :func:`donorwise.tl.pseudobulk`) on the AnnData without the
    donor, from one pass over all cells: the statistics of the other donors' patterns are what that fit would collapse.

    Parameters
    ----------
    {adata_refit}
    {key}
    contrast, group
        Which tests to look at; None for all, but for contrasts of covariates that differ from cell to cell
        (such as ``log_depth``), which are nobody's finding: name them to look at them.
    {alpha}
    variables
        Features to look at instead of the hits.
    contrasts
        As they were given to the tool, for a result of version 0.1: later ones hold the weights of their contrasts.
    {weights_again}
    {n_jobs}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. The results in ``adata.uns[key]`` get a column ``max_p_loo``, the largest p-value
    without any one donor (NaN for tests that were not looked at); the tables in
    ``adata.uns[f"{key}_influence"]`` are read with :func:`donorwise.get.influence`.

    Raises
    ------
    DataError
        There is no such result, contrast, group or variable; the AnnData is not the one that was fitted
        any more; or contrasts or weights have to be given.
    DonorwiseError
        `alpha` is not between 0 and 1.

    Notes
    -----
    A hit stays one without a donor if ``p <= alpha * k / m``, for k hits among the m features tested with
    its contrast and group: it would then still pass the Benjamini-Hochberg rule (1995), the p-values of
    the other features being as they are. Where a donor carries an arm alone the test has no answer
    without it (its status says why), which counts as p = 1.

    A moderated test learns its prior anew from all features without the donor, so that every feature is
    fitted as many times as there are donors; the other tests are done for the hits alone. A level of a
    variable that only the left-out donor has leaves the model; splines and scaled variables keep the
    form that all donors gave them.

    Without a donor a kernel is that of the others, and its variance is estimated anew.

    Losing a donor costs a hit degrees of freedom whoever it is: `n_lost` counts the donors without
    which it is lost. Where that is 1 the finding hangs on one donor; where it is many the hit has little
    to spare. A log line says how many hits are of which kind, and on whom they hang.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, effect_size=2, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", ddf="kenward-roger", progress=False)
    >>> dw.tl.influence(adata, variables="gene_0001", progress=False)
    >>> dw.get.influence(adata, by="donor").shape[0]
    8
    """
    check_is_anndata(adata)
    if not 0 < alpha < 1:
        raise DonorwiseError(f"alpha={alpha!r} must lie between 0 and 1, as 0.05 does.")
    if copy:
        adata = copied(adata)
    table = _chosen(adata, key, contrast, group)
    found = recover(adata, key, contrasts=contrasts, weights=weights)
    looked_at = _looked_at(table if contrast is not None else _without_covariates(table, found), variables, alpha)
    if len(looked_at):
        check_whole(adata, key, found)
    donors = _without_each(adata, key, found, looked_at, effective_jobs(n_jobs), progress)
    hits = _summary(looked_at, donors, _thresholds(adata, key, alpha), alpha)
    _report(hits, donors, alpha)
    write_influence(adata, key, hits=hits, donors=donors, params={"alpha": float(alpha)})
    return adata if copy else None


def _chosen(adata: ad.AnnData, key: str, contrast: str | Sequence[str] | None, group: Groups) -> pd.DataFrame:
    table = read_results(adata, key).results
    return choose(choose(table, "contrast", contrast), "group", group)


def _without_covariates(table: pd.DataFrame, found: Recovered) -> pd.DataFrame:
    """Leave out the contrasts of covariates that differ from cell to cell, unless there are no others."""
    names = of_covariates(
        found.analysis
    )  # of any group: in one of few cells such a covariate can look like one of donors
    left_out = table["contrast"].isin(names)
    if left_out.all() or not left_out.any():
        return table
    logger.info("Left out: %s, covariates of cells; name them in contrast= to look at them.", ", ".join(sorted(names)))
    return table[~left_out]


def _looked_at(table: pd.DataFrame, variables: str | Sequence[str] | None, alpha: float) -> pd.DataFrame:
    """The tests to repeat: of the variables that are named, or else the hits."""
    if variables is None:
        return table[table["adj_p_value"] <= alpha]
    named = choose(table, "variable", variables)
    tested = named[named["p_value"].notna()]
    if tested.empty:
        raise DataError("None of the variables was tested: look at the status column of dw.get.tests.")
    return tested


def _thresholds(adata: ad.AnnData, key: str, alpha: float) -> pd.DataFrame:
    """The largest p-value of a hit by group and contrast, alpha k / m, over all features of the result."""
    table = read_every_test(adata, key)
    tested = table[table["p_value"].notna()]
    counts = tested.assign(hit=tested["adj_p_value"] <= alpha).groupby(ROW[1:], observed=True)["hit"]
    k = counts.sum().clip(lower=1)
    return (alpha * k / counts.size()).rename("threshold").reset_index()


def _without_each(
    adata: ad.AnnData, key: str, found: Recovered, looked_at: pd.DataFrame, n_jobs: int, progress: bool
) -> pd.DataFrame:
    """Every test without every donor: ``variable, group, contrast, donor``, the numbers and the status."""
    if looked_at.empty:
        return _empty()
    stored = read_results(adata, key)
    alone = stored.prior is None and not found.analysis.pooled
    used = looked_at if alone else stored.results  # what is shared is learned from all of them
    at = pd.Index(found.analysis.variables).get_indexer([str(v) for v in used["variable"].unique()])
    analysis = replace(found.analysis.take_features(at), n_jobs=n_jobs, pass_jobs=n_jobs)
    groups = set(looked_at["group"].astype(str))
    work = [
        (number, own, contrasts)
        for number, (own, contrasts) in enumerate(zip(analysis.statistics(), analysis.contrasts, strict=True))
        if own is not None and contrasts is not None and analysis.tasks[number].name in groups
    ]
    tables, n_donors = [], sum(len(analysis.donors(number).names) for number, _, _ in work)
    with Progress(total=n_donors, unit="donor", desc="leaving out donors", disable=not progress) as bar:
        for number, own, contrasts in work:
            name = analysis.tasks[number].name
            repeated = _repeat(
                analysis, number, own, contrasts, looked_at[looked_at["group"] == name], found.params, key, bar
            )
            tables.append(repeated.assign(group=name))
    columns = [*ROW, "donor", *NUMBERS, "status"]
    table = pd.concat([t.astype(dict.fromkeys(["variable", "contrast", "donor", "status"], str)) for t in tables])
    return _categorical(table[columns].reset_index(drop=True))


def _repeat(
    analysis: Analysis[S, F],
    number: int,
    statistics: S,
    contrasts: Contrasts,
    asked: pd.DataFrame,
    params: dict[str, Any],
    key: str,
    bar: Any,
) -> pd.DataFrame:
    """The tests that are asked for in one group, without each donor."""
    used = np.isin(contrasts.names, asked["contrast"].astype(str))
    contrasts = Contrasts(tuple(np.array(contrasts.names, dtype=object)[used]), contrasts.L[used])
    names = pd.Index(analysis.variables)
    wanted = np.unique(names.get_indexer(asked["variable"].astype(str)))
    pairs = pd.MultiIndex.from_frame(asked[["variable", "contrast"]].astype(str))
    fit, ddf, least = analysis.fitting(number), analysis.options.ddf, analysis.options.min_effect
    everyone = retest(statistics, fit, contrasts, ddf=ddf, wanted=wanted, min_effect=least)
    again = everyone.set_index(pd.MultiIndex.from_frame(everyone[["variable", "contrast"]].astype(str)))["estimate"]
    check_same(again.reindex(pairs).to_numpy(), asked["estimate"].to_numpy(), key, params["method"])
    table = leave_one_out(
        statistics, fit, contrasts, analysis.donors(number), ddf=ddf, wanted=wanted, min_effect=least,
        n_jobs=analysis.n_jobs, update=bar.update,
    )  # fmt: skip
    return table[pd.MultiIndex.from_frame(table[["variable", "contrast"]].astype(str)).isin(pairs)]


def _categorical(table: pd.DataFrame) -> pd.DataFrame:
    for name in (*ROW, "donor", "status"):
        values = table[name].astype(str).astype(object)
        table[name] = pd.Categorical(values, categories=list(dict.fromkeys(values)))
    return table


def _empty() -> pd.DataFrame:
    numbers = {name: np.empty(0) for name in NUMBERS}
    return _categorical(pd.DataFrame({**dict.fromkeys([*ROW, "donor"], []), **numbers, "status": []}))


def _summary(looked_at: pd.DataFrame, donors: pd.DataFrame, thresholds: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """One row per test: the donor without whom its p-value is largest, and whether it is a hit still."""
    full = looked_at[[*ROW, *_FULL]].astype(dict.fromkeys(ROW, str))
    full = full.merge(thresholds.astype(dict.fromkeys(ROW[1:], str)), on=ROW[1:], how="left")
    loo = donors[[*ROW, "donor", "estimate", "p_value"]].astype(dict.fromkeys([*ROW, "donor"], str))
    loo = loo.rename(columns={"estimate": "estimate_loo"}).assign(max_p_loo=loo["p_value"].fillna(1.0))
    loo = loo.drop(columns="p_value").merge(full[[*ROW, "threshold"]], on=ROW)
    loo["lost"] = loo["max_p_loo"] > loo["threshold"]
    by_test = loo.groupby(ROW, sort=False)
    worst = loo.loc[by_test["max_p_loo"].idxmax()].drop(columns=["threshold", "lost"])
    out = full.merge(worst, on=ROW).merge(by_test["lost"].sum().rename("n_lost").reset_index(), on=ROW)
    out["change"] = (out["estimate_loo"] - out["estimate"]) / out["se"]
    out["stays_hit"] = (out["adj_p_value"] <= alpha) & (out["max_p_loo"] <= out["threshold"])
    columns = [*ROW, *_FULL, keys.MAX_P_LOO, "donor", "estimate_loo", "change", "threshold", "n_lost", "stays_hit"]
    out = out[columns].astype({"n_lost": np.int64, "stays_hit": bool})
    for name in (*ROW, "donor"):
        out[name] = pd.Categorical(out[name].astype(object), categories=list(dict.fromkeys(out[name])))
    return out


def _report(hits: pd.DataFrame, donors: pd.DataFrame, alpha: float) -> None:
    """Say how many hits hang on one donor, and on whom, and whom a test cannot do without."""
    needed = donors.loc[donors["p_value"].isna(), "donor"].unique()
    if len(needed):
        logger.warning("Some tests cannot be made without one of %s, which counts as p = 1.", listing(needed))
    found = hits[hits["adj_p_value"] <= alpha]
    if found.empty:
        if hits.empty:
            logger.warning("No hit at an adjusted p-value of %g to leave donors out of; name variables=.", alpha)
        return
    tested = donors[donors["p_value"].notna()]
    keys_of = [pd.MultiIndex.from_frame(table[ROW].astype(str)) for table in (found, tested)]
    without = ~keys_of[0].isin(keys_of[1])
    if without.any():
        logger.warning(
            "%d of %d hits have no test without any one of their donors: nothing but the prior that features share "
            "carries them.", without.sum(), len(found),
        )  # fmt: skip
        found = found[~without]
    if found.empty:
        return
    lost = found[found["n_lost"] > 0]
    alone = lost[lost["n_lost"] == 1]
    names = ", ".join(f"{donor} ({n})" for donor, n in alone["donor"].astype(str).value_counts().items())
    logger.info(
        "%d of %d hits hang on one donor%s; %d more would be lost without any one of several donors.",
        len(alone), len(found), f": {names}" if names else "", len(lost) - len(alone),
    )  # fmt: skip
