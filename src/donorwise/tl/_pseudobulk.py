"""Counts summed per donor, across the features of an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from donorwise._anndata import check_free, check_is_anndata, copied, keys
from donorwise._anndata.prepare_units import prepare_pseudobulk
from donorwise._core.engine.arrays import check_max_memory
from donorwise._docs import documented
from donorwise.tl._run import fit_and_write

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import BoolArray, GroupBy


@documented
def pseudobulk(
    adata: ad.AnnData,
    formula: str,
    *,
    layer: str | None = "counts",
    donor: str | None = None,
    sample: str | None = None,
    groupby: GroupBy = None,
    mask_var: str | BoolArray | None = None,
    depth: str | None = None,
    normalize: Literal["tmm", "median_ratio", "depth"] = "tmm",
    contrasts: Any = None,
    key_added: str = keys.PSEUDOBULK,
    n_jobs: int | None = None,
    max_memory: float | None = None,
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
    {adata_cells_counts}
    formula
        ``"~ disease + sex"``; columns of ``adata.obs`` that describe donors or samples. Variables that
        vary within donors split them into several units; then add a term for the donor: the donor as a fixed
        effect where every donor has all conditions, or ``(1 | donor)``. Of random terms, one intercept is possible.
    {layer_counts}
    donor, sample
        Columns of obs; taken from ``adata.donorwise.setup`` or known by their usual names if None. Samples
        are units where ``sample`` is given, or where the formula has a term for the donor; without ``sample``
        those of a donor with the same values of what the formula tells apart within donors are one unit, since
        they share the donor's response.
    {groupby}
    {mask_var}
    {depth}
    normalize
        How the depths :math:`L` of a group's units are made comparable. ``"tmm"``: multiplied by factors that take out
        what their counts are made of (trimmed mean of M-values, Robinson and Oshlack 2010, Genome Biology 11:R25), without
        which a strong response of some genes makes all others "down". ``"median_ratio"``: by medians of ratios (Anders
        and Huber 2010). ``"depth"``: left as they are. Factors are from all genes (of rows: all that were
        collapsed), those left out by `mask_var` too; see
        :func:`donorwise.pp.size_factors`, also for when depths stay as they are (fewer than 100 genes).
    {contrasts}
    {key_added}
    {n_jobs}
    max_memory
        GB for the statistics of groups that share a pass over the cells, as in :func:`donorwise.tl.lmm`.
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` has the tables of :func:`donorwise.tl.lmm`; read them with
    ``dw.get.tests(adata, key="pseudobulk")`` and its neighbours. `estimate` is a difference of natural
    logarithms of rates, `log_fc` the same in log2. ``varcomp`` has the posterior mean of :math:`\tau^2`, the
    mean sampling variance as ``"Residual"``, and :math:`\hat\varphi` as ``"dispersion"``. The further table
    ``size_factors`` has the depth of every unit and the factor it was multiplied by.

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
    ``params["ddf_reasons"]`` and the log say so.

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
    check_max_memory(max_memory)
    analysis = prepare_pseudobulk(
        adata, formula, groupby=groupby, layer=layer, mask_var=mask_var, donor=donor, sample=sample, depth=depth,
        normalize=normalize, contrasts=contrasts, n_jobs=n_jobs,
    )  # fmt: skip
    fit_and_write(adata, analysis, key_added, max_memory=max_memory, progress=progress)
    return adata if copy else None
