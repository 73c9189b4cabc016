"""Generalised linear mixed models across the features of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from donorwise._anndata import check_free, check_is_anndata, copied, keys
from donorwise._anndata.prepare_counts import prepare_glmm
from donorwise._core.engine.analysis import Options
from donorwise._core.engine.arrays import check_max_memory
from donorwise._docs import documented
from donorwise._typing import GLMM_DDF, check_option
from donorwise.tl._run import fit_and_write

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._typing import BoolArray, FloatArray, GlmmDdf, GroupBy


@documented
def glmm(
    adata: ad.AnnData,
    formula: str,
    *,
    family: Literal["nb", "poisson", "binomial"] = "nb",
    link: Literal["log", "logit", "cloglog"] | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    response: Literal["detected"] | None = None,
    exposure: str | FloatArray | None = None,
    offset: str | FloatArray | None = None,
    trials: str | FloatArray | None = None,
    groupby: GroupBy = None,
    mask_var: str | BoolArray | None = None,
    contrasts: Any = None,
    ddf: GlmmDdf = "moderated",
    key_added: str = keys.GLMM,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    r"""Test every feature with a mixed model for counts, or for yes and no, in which the donor is the replicate.

    With :math:`u \sim N(0, \Lambda)` the effects of donors, samples and the like, the response of a cell is

    .. math:: y \mid u \sim \mathrm{NB}(\mu, \mu + \mu^2 / r), \quad \mathrm{Poisson}(\mu) \quad\text{or}\quad
        \mathrm{Binomial}(m, \pi),

    with :math:`\log \mu = \log e + x'\beta + z'u` for an exposure :math:`e`, and
    :math:`\mathrm{logit}\, \pi = x'\beta + z'u` or :math:`\log(-\log(1 - \pi)) = \log e + x'\beta + z'u`. Cells of a
    pattern are summed in one pass, after which no cell is seen again, unless a covariate differs between them.

    Parameters
    ----------
    {adata_cells_counts}
    formula
        ``"~ disease + sex + (1 | donor_id)"``, as in :func:`donorwise.tl.lmm`. Sequencing depth belongs into the exposure
        and not into the formula. Random effects have three variances and covariances at most.
    family, link
        ``"nb"``: over-dispersed counts (negative binomial, variance :math:`\mu + \mu^2/r`, a size r for every
        feature). ``"poisson"``: counts without it. ``"binomial"``: 0 or 1, booleans, or k of m with `trials`; with
        ``link="cloglog"`` and an exposure its coefficients are logarithms of rates, which depth does not change.
    layer, obsm, obs_keys
        Model a layer, a table in ``obsm``, or columns of obs instead of X. Collapsed rows have one layer of counts.
    response
        ``"detected"`` asks whether a count is above zero, without a second matrix.
    exposure
        On the scale of counts: a column of obs, such as ``"effective_depth"`` of :func:`donorwise.pp.size_factors`, or
        an array. None takes each cell's total over all genes of the layer (1 for columns of obs and tables in ``obsm``).
        Collapsed rows have it in them, as
        ``depth=`` of :func:`donorwise.pp.collapse` gave it, and take no offset.
    offset
        The same on the logarithmic scale; with `exposure`, both.
    trials
        Of a binomial: a column of obs, or an array.
    {groupby}
    {mask_var}
    {contrasts}
    ddf
        How a test allows for what is unknown about the variances: ``"moderated"`` as in :func:`donorwise.tl.lmm`;
        ``"between-within"``, which takes the place of it below 100 features: at the estimates, with the degrees of
        freedom of the design; ``"wald"``, a z-test at the estimates, to compare with other programs.
    {key_added}
    {n_jobs}
    max_memory
        GB for the statistics of groups that share a pass over the cells, as in :func:`donorwise.tl.lmm`.
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` has the tables of :func:`donorwise.tl.lmm`; read them with
    ``dw.get.tests(adata, key="glmm")`` and its neighbours. `estimate` is a natural logarithm of a ratio of rates, or of
    odds; `log_fc` the former in log2. ``varcomp`` has the posterior means of the variances of the linear
    predictor and, for ``"nb"``, 1/r as ``"dispersion"``. Status ``separated``: all of the response, or none, is in some
    arm; the p-value is good, the estimate that of Jeffreys' prior, and the interval open.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If obs cannot answer it, or random effects have more variances than there can be; nothing is computed or changed then.
    DataError
        If responses, exposures or trials cannot be used: no counts, missing values, an exposure that is a logarithm, an
        offset that is none, more successes than trials.

    Notes
    -----
    Given the variances, c'beta = 0 is tested by the signed root of the likelihood ratio at the joint mode of effects and
    coefficients (Laplace), and its tail is averaged over the posterior of the variances, with a prior that the features
    share. Half the leverage of every pattern is added to its counts (Firth 1993, Biometrika 80:27). The size of a
    negative binomial is that of an adjusted profile (Cox and Reid 1987, JRSS B 49:1) under a shared prior, and taken for
    known.

    A Poisson count is above zero with probability :math:`1 - \exp(-\mu)`, and so detection with ``link="cloglog"`` corrects
    for depth too much where cells are over-dispersed and many of them have the feature: there take the counts.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_cells=1200, n_genes=120, seed=1)
    >>> dw.tl.glmm(adata, "~ condition + (1 | donor_id)", layer="counts", progress=False)
    >>> table = dw.get.tests(adata, key="glmm", exponentiate=True)
    >>> table.shape[0], "rate_ratio" in table
    (120, True)

    In which cells a gene is seen, with depth taken into account:

    >>> seen = {"family": "binomial", "link": "cloglog", "response": "detected"}
    >>> dw.tl.glmm(adata, "~ condition + (1 | donor_id)", layer="counts", **seen, key_added="seen", progress=False)
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_option("ddf", ddf, GLMM_DDF)
    check_free(adata, key_added)
    check_max_memory(max_memory)
    analysis = prepare_glmm(
        adata, formula, family=family, link=link, response=response, groupby=groupby, layer=layer, obsm=obsm,
        obs_keys=obs_keys, mask_var=mask_var, exposure=exposure, offset=offset, trials=trials, contrasts=contrasts,
        options=Options(ddf), n_jobs=n_jobs,
    )  # fmt: skip
    fit_and_write(adata, analysis, key_added, max_memory=max_memory, progress=progress)
    return adata if copy else None
