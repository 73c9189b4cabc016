"""Whether the p-values of a design and data set hold: the same tests under permuted labels."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from donorwise._anndata import check_free, check_is_anndata, copied, keys, write_tables
from donorwise._anndata.prepare import prepare_lmm
from donorwise._anndata.prepare_composition import prepare_composition
from donorwise._anndata.prepare_counts import prepare_glmm
from donorwise._anndata.prepare_units import prepare_pseudobulk
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import check_count
from donorwise._core.engine.calibration import FDR, calibrate_statistics, calibration_tables, make_plan
from donorwise._core.engine.groups import stored_columns
from donorwise._core.engine.results import told_reasons
from donorwise._core.jobs import Progress
from donorwise._docs import documented
from donorwise._typing import DDF, GLMM_DDF, ROBUST, check_option
from donorwise.errors import DesignError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.calibration import Calibration, Relabelling
    from donorwise._typing import BoolArray, Ddf, FloatArray, GlmmDdf, GroupBy, Robust

logger = logging.getLogger("donorwise")


class _Model(NamedTuple):
    """What makes the analysis of a model, which options it has of its own, and its degrees of freedom."""

    prepare: Callable[..., Analysis[Any, Any]]
    options: tuple[str, ...]
    ddf: tuple[str, ...]


def _lmm(
    adata: ad.AnnData, formula: str, *, ddf: str = "moderated", robust: str = "", **given: Any
) -> Analysis[Any, Any]:
    return prepare_lmm(adata, formula, options=Options(ddf, robust=robust), fold_changes=False, **given)


def _glmm(adata: ad.AnnData, formula: str, *, ddf: str = "moderated", **given: Any) -> Analysis[Any, Any]:
    return prepare_glmm(adata, formula, options=Options(ddf), **given)


def _pseudobulk(adata: ad.AnnData, formula: str, *, layer: str | None, **given: Any) -> Analysis[Any, Any]:
    return prepare_pseudobulk(adata, formula, layer="counts" if layer is None else layer, **given)


def _composition(
    adata: ad.AnnData, formula: str, *, layer: str | None, mask_var: Any, ddf: str = "moderated", **given: Any
) -> Analysis[Any, Any]:
    for name, value in {"layer": layer, "mask_var": mask_var}.items():
        if value is not None:
            raise _unused(name, "composition")
    return prepare_composition(adata, formula, options=Options(ddf), **given)


_RESPONSE, _OF_COUNTS = ("obsm", "obs_keys"), ("family", "link", "response", "exposure", "offset", "trials")
_OF_PEPTIDES = ("features", "weights_layer", "robust")
_MODELS = {
    "lmm": _Model(_lmm, ("ddf", *_RESPONSE, "weights", "kernels", "relmat", "levels", *_OF_PEPTIDES), DDF),
    "glmm": _Model(_glmm, ("ddf", *_RESPONSE, *_OF_COUNTS), GLMM_DDF),
    "pseudobulk": _Model(_pseudobulk, ("donor", "sample", "depth", "normalize"), DDF),
    "composition": _Model(_composition, ("ddf", "sample", "cell_type"), GLMM_DDF),
}
_NAMES = {"kenward-roger": "Kenward-Roger", "between-within": "Between-within"}


@documented
def calibrate(
    adata: ad.AnnData,
    formula: str,
    contrast: Any,
    *,
    groupby: GroupBy = None,
    n_permutations: int = 100,
    permute: str | None = None,
    strata: str | Sequence[str] | None = None,
    model: Literal["lmm", "glmm", "pseudobulk", "composition"] = "lmm",
    ddf: Ddf | GlmmDdf = "moderated",
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    features: str | None = None,
    weights_layer: str | None = None,
    robust: Robust | None = None,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
    family: Literal["nb", "poisson", "binomial"] | None = None,
    link: Literal["log", "logit", "cloglog"] | None = None,
    response: Literal["detected"] | None = None,
    exposure: str | FloatArray | None = None,
    offset: str | FloatArray | None = None,
    trials: str | FloatArray | None = None,
    donor: str | None = None,
    sample: str | None = None,
    depth: str | None = None,
    normalize: Literal["tmm", "median_ratio", "depth"] | None = None,
    cell_type: str | None = None,
    random_state: int = 0,
    key_added: str = keys.CALIBRATION,
    n_jobs: int | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Repeat the tests of a contrast with its labels permuted, where nothing is there to be found.

    With labels that mean nothing, a share alpha of the p-values should lie below alpha. Every
    permutation is refitted from the statistics of one pass over the cells.

    Parameters
    ----------
    {adata_cells}
    formula
        As in the tool that is calibrated; for :func:`donorwise.tl.lmm` the donor must be a grouping factor.
    contrast
        One contrast, as in :meth:`donorwise.LMMFit.test`, about one variable of the formula or an interaction.
    {groupby}
    n_permutations
        Number of different permutations. All of them are taken where the design has no more.
    permute
        Which variable of the contrast is permuted, where it is about several (``arm:sex``). By default the one that
        differs between donors only, if it is alone in that.
    strata
        Columns of obs: labels are exchanged within them only, for instance within sex or batch.
    model
        Which tests to calibrate: those of :func:`donorwise.tl.lmm`, of :func:`donorwise.tl.glmm`, of
        :func:`donorwise.tl.composition`, or of :func:`donorwise.tl.pseudobulk`, where donors (or their units) exchange labels
        with all the counts that they have. ``layer`` of pseudobulk is that of raw counts, ``"counts"`` if None.
    ddf
        Degrees of freedom to calibrate, as in :func:`donorwise.tl.lmm` or :func:`donorwise.tl.glmm`; those of pseudobulk
        are its own. Of composition there is one test for each cell type, so it takes many permutations to see a rate.
    {response}
    {mask_var}
    {weights}
    features, weights_layer, robust
        As in :func:`donorwise.tl.lmm`, for peptides: donors exchange labels with all that was measured of them.
    {kernels}
        For ``model="lmm"`` only.
    family, link, response, exposure, offset, trials
        As in :func:`donorwise.tl.glmm`, for ``model="glmm"`` only (``family`` is ``"nb"`` there if None).
    donor, sample, depth, normalize
        As in :func:`donorwise.tl.pseudobulk`, for ``model="pseudobulk"`` only (``normalize`` is ``"tmm"`` there if None);
        `sample` for ``model="composition"``, too. Size factors do not know the labels: they are the same under all
        permutations.
    cell_type
        As in :func:`donorwise.tl.composition`, for ``model="composition"`` only.
    random_state
        Seed of the permutations.
    {key_added}
    {n_jobs}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` holds ``params`` and tables, which
    :func:`donorwise.get.calibration` reads and :func:`donorwise.pl.qq` and
    :func:`donorwise.pl.pvalues` draw:

    - ``levels``: per group and alpha, the share of p-values below alpha over alpha: mean over
      permutations (`ratio`, 1 if calibrated), sd, smallest, largest, and with the observed labels.
    - ``permutations``: per group and permutation (0 is the observed labelling): genomic lambda, hits
      (adjusted p < .05), share below each alpha.
    - ``groups``: what was permuted, how many different permutations there are (`n_distinct`, the
      observed labels included), the smallest p-value that a permutation test could give, lambda.
    - ``variables``: per group and feature the p-value, and `permutation_p`: the share of the labellings
      with ``|t|`` at least the observed one (moderated: a p-value at most the observed one), the observed
      labelling counted (Phipson and Smyth 2010); exact where all permutations were taken.
    - ``curves``, ``histogram``: the distribution of p, observed and over permutations (5, 50, 95%).

    Raises
    ------
    FormulaError, DataError
        As in :func:`donorwise.tl.lmm`.
    DesignError
        If the contrast is not about one variable (or `permute`) whose labels belong to donors or to units
        inside them, they can be arranged in one way only, or no donors can change places under the kernels.

    Notes
    -----
    The design decides what moves. A variable with one value per donor: donors exchange their labels.
    A variable with several values per donor: all that a donor has of each value exchanges labels as a whole,
    which for two values means to flip them or not, and donors with one value stay as they are; samples of
    one value share the donor's response, so they never move one by one. Two arrangements that mirror each
    other count once.

    With kernels only those donors exchange labels that no kernel can tell apart: each two of them have the same
    covariance with every other. Where these have one label (as in families with one arm each), whole families exchange
    theirs, if they have the same covariances inside and none with others (`kind` is ``"between-family"``). Other
    permutations would be no null for what relatives share (Abney 2015, Genet Epidemiol 39:249), so a kernel without such
    donors, as estimates from genotypes usually are, is refused.

    Only the tested variable moves, all of its levels. Covariates such as sex or age stay with their
    donor: where they are unbalanced between the arms, `strata` keeps their relation to the labels. Where
    donors differ in their slope on a variable of more than two values, permuted labels take that
    difference away too.

    Real effects stay in the data. Most arrangements see them as differences between donors, which makes
    their tests a little conservative; those that move few labels still see a part of them, which shows
    in the largest ratios. Both matter with few donors and many strong effects.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=400, n_genes=120, de_fraction=0.0)
    >>> dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", "condition[T.disease]", progress=False)
    >>> dw.get.calibration(adata, table="groups")[["kind", "n_distinct", "exhaustive"]].values.tolist()
    [['between-donor', 10.0, True]]
    """
    check_is_anndata(adata)
    check_option("model", model, tuple(_MODELS))
    check_option("ddf", ddf, _MODELS[model].ddf)
    check_free(adata, key_added)
    if robust is not None:
        check_option("robust", robust, ROBUST)
    check_count("n_permutations", n_permutations, 1)
    check_count("random_state", random_state, 0)
    if copy:
        adata = copied(adata)
    strata = [strata] if isinstance(strata, str) else list(strata or ())
    own = {
        "obsm": obsm, "obs_keys": obs_keys, "weights": weights, "features": features, "weights_layer": weights_layer, "robust": robust,
        "kernels": kernels, "relmat": relmat, "levels": levels,
        "ddf": None if ddf == "moderated" else ddf,
        "family": family, "link": link, "response": response, "exposure": exposure, "offset": offset, "trials": trials,
        "donor": donor, "sample": sample, "cell_type": cell_type, "depth": depth, "normalize": normalize,
    }  # fmt: skip
    analysis = _MODELS[model].prepare(
        adata, formula, layer=layer, groupby=groupby, mask_var=mask_var, contrasts=contrast, n_jobs=n_jobs,
        columns=strata, **_own_options(model, own),
    )  # fmt: skip
    names = analysis.names
    if len(names) != 1:
        raise DesignError(f"calibrate takes one contrast, not {len(names)} ({', '.join(names)}).")
    plans, reasons = _plans(analysis, strata, permute, n_permutations=n_permutations, random_state=random_state)
    by_group = _calibrations(analysis, plans, progress=progress)
    tables = calibration_tables(by_group, analysis.variables, names[0])
    params = _params(
        analysis, formula=formula, contrast=names[0], permute=permute or "", strata=", ".join(strata), ddf=ddf,
        n_permutations=n_permutations, random_state=random_state, reasons=reasons,
    )  # fmt: skip
    write_tables(adata, key_added, tables=tables, params=params)
    _report(tables, n_permutations)
    return adata if copy else None


def _params(analysis: Analysis[Any, Any], **given: Any) -> dict[str, Any]:
    """What is stored beside the tables: what was asked, and of which models."""
    return {
        **given,
        "groupby": stored_columns(analysis.groupby),
        "response": analysis.response,
        "weights": analysis.weights,
        "donor": analysis.donor,
        "version": version("donorwise"),
        **analysis.own_params(),
    }


def _own_options(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, all of which must be the model's."""
    named = {name: value for name, value in given.items() if value is not None}
    for name in named:
        if name not in _MODELS[model].options:
            raise _unused(name, model)
    return named


def _unused(name: str, model: str) -> DonorwiseError:
    return DonorwiseError(f"{name}= has no meaning with model={model!r}; leave it out.")


def _plans(
    analysis: Analysis[Any, Any],
    strata: Sequence[str],
    permute: str | None,
    *,
    n_permutations: int,
    random_state: int,
) -> tuple[dict[str, Relabelling], dict[str, str]]:
    """What is permuted in each group, and why nothing is in the others."""
    found: dict[str, Relabelling] = {}
    reasons: dict[str, str] = {}
    for i, (task, own) in enumerate(zip(analysis.tasks, analysis.contrasts, strict=True)):
        if task.design is None or own is None:
            reasons[task.name] = task.reason or "The contrast cannot be answered here."
            continue
        try:
            found[task.name] = make_plan(
                task.design, analysis.obs, own.L[:1], donor=analysis.donor, donors=analysis.permuted_donors(i), permute=permute, strata=strata,
                n_permutations=n_permutations, seed=(random_state, i),
            )  # fmt: skip
        except DesignError as error:
            reasons[task.name] = str(error)
    if not found:
        listed = told_reasons(reasons)[:5]
        raise DesignError("\n  ".join(["No group can be calibrated:", *listed]) if len(reasons) > 1 else listed[0])
    for text in told_reasons(reasons):
        logger.warning(text)
    return found, reasons


def _calibrations(
    analysis: Analysis[Any, Any], plans: dict[str, Relabelling], *, progress: bool
) -> dict[str, Calibration | None]:
    """The calibration of every group, from one pass over the cells."""
    out: dict[str, Calibration | None] = {task.name: None for task in analysis.tasks}
    total = sum(len(plan.arrangements.labels) for plan in plans.values())
    with Progress(total=total, unit="permutation", desc="permutations", disable=not progress) as bar:
        for number, (task, own) in enumerate(zip(analysis.tasks, analysis.statistics(), strict=True)):
            if own is not None and task.name in plans:
                out[task.name] = calibrate_statistics(
                    own, analysis.fitting(number), plans[task.name], ddf=analysis.options.ddf, n_jobs=analysis.n_jobs,
                    update=bar.update,
                )  # fmt: skip
    for name, made in out.items():
        if made is not None and made.reason:
            logger.info("%s: %s degrees of freedom are calibrated: %s.", name, _NAMES[made.ddf], made.reason)
    return out


def _count(n: float) -> str:
    return f"{n:,.0f}" if n < 1e9 else f"{n:.1e}"


def _report(tables: dict[str, pd.DataFrame], n_permutations: int) -> None:
    """One line per group: what the permutations say; and where there are fewer than were asked for."""
    made = tables["groups"].loc[lambda t: t["n_permutations"] < n_permutations].groupby("n_permutations")["group"]
    for n, groups in made:
        logger.warning(
            "%s: %d of the %d permutations asked for, the design has no more; the ratios of so few scatter widely.",
            ", ".join(map(str, groups)), n, n_permutations,
        )  # fmt: skip
    at = tables["levels"][tables["levels"]["alpha"] == FDR].set_index("group")
    for own in tables["groups"].itertuples():
        level = at.loc[own.group]
        logger.info(
            "%s: %d of %s %s permutations of `%s`; observed/nominal at %g: %.2f (%.2f to %.2f), lambda %.2f (%.2f to "
            "%.2f); with the observed labels %.2f and %.2f. Smallest permutation p possible: %.2g.",
            own.group, own.n_permutations, _count(own.n_distinct - 1), own.kind, own.permuted, FDR, level["ratio"],
            level["ratio_min"], level["ratio_max"], own.lambda_median, own.lambda_low, own.lambda_high,
            level["ratio_observed"], own.lambda_observed, own.smallest_p,
        )  # fmt: skip
