"""Linear mixed models across the features of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from donorwise._anndata import check_free, check_is_anndata, copied, keys
from donorwise._anndata.prepare import prepare_lmm
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import check_max_memory
from donorwise._docs import documented
from donorwise._typing import DDF, ROBUST, check_option
from donorwise.tl._run import fit_and_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

    from donorwise._typing import BoolArray, Ddf, FloatArray, GroupBy, Robust


@documented
def lmm(
    adata: ad.AnnData,
    formula: str,
    *,
    groupby: GroupBy = None,
    features: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
    weights_layer: str | None = None,
    log_base: str | float | None = None,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
    contrasts: Any = None,
    ddf: Ddf = "moderated",
    reml: bool = True,
    robust: Robust | None = None,
    key_added: str = keys.LMM,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test every feature with a linear mixed model in which the donor is the replicate.

    The estimates are those of ``lme4::lmer`` for every feature (Bates et al. 2015), computed
    from one pass over the cells. With `features` every protein is a model of its own, of all measurements of its peptides.

    Parameters
    ----------
    {adata_cells}
    formula
        ``"~ disease + sex + (1 | donor_id)"``; columns of ``adata.obs``. Random terms as in lme4:
        ``(1 | g)``, ``(x | g)``, ``(0 + x | g)``, ``(x || g)``, ``(1 | a/b)``, ``(1 | a:b)``, and with a known
        covariance between the levels ``(1 | gr(g, cov=name))``. With ``||`` nothing is
        correlated, the levels of a category neither: ``(0 + disease || donor_id)`` is a variance of its own for the
        donors of each level (in lme4 ``||`` does not separate levels).
    {groupby}
    features
        Column of var with the protein of each peptide, where `adata` holds log2 intensities of runs (or cells, or donors) x
        peptides (or precursors), NaN where nothing was measured: ``"~ condition + (1 | peptide) + (1 | donor_id)"`` is then
        fitted to each protein. Names in the formula are columns of obs or of var, and ``peptide`` means the names of var
        (unless var has a column of that name); one in both is an error. Random terms of several columns are fitted protein by protein, and
        independent levels; peptides without a protein are left out. `obsm`, `obs_keys`, `kernels`, `relmat`, `levels` and
        collapsed rows do not go with it. None for a model of every column for itself.
    {response}
    {mask_var}
    {weights}
    weights_layer
        With `features`: layer with the precision weight of each measurement, whose residual variance is ``sigma2 / weight``;
        without one (NaN or 0) a measurement is left out like a missing value. `weights` multiplies it.
    {log_base}
        With `features` they are logarithms of intensities: to base 2, where neither this nor ``uns["log1p"]`` says otherwise.
    {kernels}
        For `kernels` and `relmat` a text is the name of an entry of ``adata.obsp`` or ``adata.uns``, and so is the name in the
        formula where none is given; an AnnData of donors is one that has this entry. (The donors of ``obsp`` are those of
        obs, or its names.)
    {contrasts}
    ddf
        How a test allows for what is unknown about the variances. ``"moderated"``: averaged over the
        variance ratios that the data leave possible, with a prior that the features of a group share
        (see :meth:`donorwise.LMMFit.test`); calibrated on average over features, it needs 100 of them and
        one to three variances and covariances of random effects (three terms, or a slope that goes with the level),
        else Kenward-Roger takes its place, which the params and the log say. Every feature by itself: ``"kenward-roger"`` (Kenward and Roger 1997), ``"satterthwaite"``,
        ``"between-within"`` or ``"residual"``.
    {reml}
    robust
        With `features`: ``"huber"`` weighs outlying measurements down (Huber 1964), over and over until neither weights nor
        estimates change; these weights multiply those that are given. Random terms have one effect for each level then. None
        takes all measurements at their word.
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
    ``prior``; read them with :func:`donorwise.get.tests` and its neighbours. `statistic`, `se`, `df`, `p_value` and
    the interval agree with one another: a moderated test reports the t distribution that has the p-value of its
    posterior mixture and the width of the mixture's 95% interval. Its `df` describes that shape, and is no count
    of donors or cells. `estimate` is a difference of mean values, in their units. `log_fc` is a log2 fold
    change: the same weighing of the donors, of log2 of the mean over the cells of what the values are logarithms of,
    plus a prior count (see *Fold changes* in the methods); NaN where they are none, for an intercept, and for a number that differs
    from cell to cell.

    With `features` the variables of all tables are the proteins, in the order in which var has them, and ``results`` has three
    further columns: ``n_peptides``, those with a measurement; ``n_missing``, how many of their values in the runs in use are
    missing, beside the ``n_obs`` that are there; and ``formula``, the one that was fitted: a protein whose measurements
    cannot tell some random terms apart (one peptide; one run of each donor) is fitted without them, and its status is ``reduced``. The
    params have ``features``, ``weights_layer``, ``mask_var`` and ``robust``. `log_fc` is the estimate, in log2.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If obs cannot answer it; nothing is computed or changed then.
    DataError
        If the responses or weights cannot be used, or the values are not the logarithms that `log_base` says; if an option does
        not go with `features`, or `weights_layer` or `robust` is given without it.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=50, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> dw.get.tests(adata, group=adata.obs["cell_type"].cat.categories[0]).shape[0]
    50

    Proteins from peptides, here three for each of four:

    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> runs = pd.DataFrame({"donor_id": list("abcdef"), "condition": ["control", "case"] * 3}, index=list("123456"))
    >>> var = pd.DataFrame(
    ...     {"protein": np.repeat(["P1", "P2", "P3", "P4"], 3)}, index=[f"peptide {i}" for i in range(12)]
    ... )
    >>> X = rng.normal(20, 2, 12) + rng.normal(0, 0.3, (6, 12))
    >>> X[0, 0] = np.nan
    >>> peptides = ad.AnnData(X, obs=runs, var=var)
    >>> dw.tl.lmm(peptides, "~ condition + (1 | peptide) + (1 | donor_id)", features="protein", progress=False)
    >>> dw.get.tests(peptides, sort_by=None)[["variable", "n_obs", "n_peptides", "n_missing"]].values.tolist()
    [['P1', 17, 3, 1], ['P2', 18, 3, 0], ['P3', 18, 3, 0], ['P4', 18, 3, 0]]
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_option("ddf", ddf, DDF)
    check_free(adata, key_added)
    check_max_memory(max_memory)
    if robust is not None:
        check_option("robust", robust, ROBUST)
    analysis = prepare_lmm(
        adata, formula, groupby=groupby, features=features, layer=layer, obsm=obsm, obs_keys=obs_keys, mask_var=mask_var,
        weights=weights, weights_layer=weights_layer, log_base=log_base, kernels=kernels, relmat=relmat, levels=levels,
        contrasts=contrasts, options=Options(ddf, reml, robust or ""), n_jobs=n_jobs,
    )  # fmt: skip
    fit_and_write(adata, analysis, key_added, max_memory=max_memory, progress=progress)
    return adata if copy else None
