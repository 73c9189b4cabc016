"""Shares of cell types in samples, compared with the donor as the replicate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from donorwise._anndata import check_free, check_is_anndata, copied, keys
from donorwise._anndata.prepare_composition import prepare_composition
from donorwise._core.engine.analysis import Options
from donorwise._docs import documented
from donorwise._typing import GLMM_DDF, check_option
from donorwise.tl._run import fit_and_write

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import GlmmDdf, GroupBy


@documented
def composition(
    adata: ad.AnnData,
    formula: str,
    *,
    cell_type: str | None = None,
    sample: str | None = None,
    groupby: GroupBy = None,
    contrasts: Any = None,
    ddf: GlmmDdf = "moderated",
    key_added: str = keys.COMPOSITION,
    n_jobs: int | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    r"""Test whether cell types have other shares of the samples: a binomial mixed model for every type.

    Of the :math:`m_s` cells of sample s, :math:`y_{sk}` are of type k, and

    .. math:: y_{sk} \mid u \sim \mathrm{Binomial}(m_s, \pi_{sk}), \quad
        \mathrm{logit}\, \pi_{sk} = x_s'\beta_k + z_s'u_k, \quad u_k \sim N(0, \Lambda_k).

    The random effect of the sample is what makes shares differ more between samples than cells drawn at random would
    (over-dispersion), so that samples, or donors, are the replicates, and never their cells.

    Parameters
    ----------
    adata
        Cells x features, of which obs alone is read; or cells collapsed by :func:`donorwise.pp.collapse`, with the type
        and the sample in ``by=``.
    formula
        ``"~ disease + (1 | sample_id)"``. Where donors have several samples, ``"~ disease + (1 | donor_id)
        + (1 | sample_id)"``; where these are before and after a treatment, likewise. All that it names has one value in
        a sample, and some random term must tell apart the samples that it takes to be different.
    cell_type
        Column of obs that holds the types; None for the one that is declared, or has a usual name. Cells without a type
        are left out: give them a label, such as ``"unassigned"``, to count them among all cells.
    sample
        Column of obs that holds the samples; None likewise. Where it is not known, donors are the samples, or else the
        levels of the grouping factors. Cells of one sample of several donors are taken apart by donor.
    groupby
        Column of obs, for instance the tissue: shares are then of the sample's cells in each group.
    {contrasts}
    ddf
        How a test allows for what is unknown about the variances. ``"moderated"``, with 100 types or more, learns a prior
        of the variances from all. With fewer, ``"between-within"`` takes its place: the t distribution, with the degrees
        of freedom of the design, of the signed root of the likelihood ratio at the estimated variances. ``"wald"``: a
        z-test, to compare with other programs.
    {key_added}
    {n_jobs}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` has the tables of :func:`donorwise.tl.lmm`, with the types as variables;
    read them with ``dw.get.tests(adata, key="composition")``. `estimate` is the log odds ratio of the share, `n_obs` all
    cells. Status ``separated``: an arm has no cell of the type (or no other); the p-value is good, the estimate that of
    Jeffreys' prior, and the interval open. ``params["note"]`` says that shares are relative.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If obs cannot answer it, something differs between the cells of a sample, or cells would be replicates.
    DataError
        If `cell_type` does not tell kinds of cells apart.

    Notes
    -----
    Shares are relative: where one type has more cells, all others have smaller shares, whether or not there are fewer
    of them in the tissue. Where all types shift against one, which is often a large one, a warning says so: compare the
    shares among the others, ``adata[adata.obs["cell_type"] != "that type"]``, or of two types alone, the one that is
    asked about and one that is not expected to change (a reference): the odds ratio is then that of the two numbers.

    The types of a sample are tested one by one, and adjusted for their number (Benjamini and Hochberg) within each
    contrast and group. Given the variances, c'beta = 0 is tested by the signed root of the likelihood ratio at the joint
    mode of effects and coefficients (Laplace), with half the leverage of every sample added to its cells of the type and
    to the others (Firth 1993, Biometrika 80:27); see :func:`donorwise.tl.glmm`.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=20, seed=1)
    >>> dw.tl.composition(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.get.tests(adata, key="composition")["variable"].tolist()
    ['B cell', 'Monocyte', 'T cell']
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_option("ddf", ddf, GLMM_DDF)
    check_free(adata, key_added)
    analysis = prepare_composition(
        adata, formula, cell_type=cell_type, sample=sample, groupby=groupby, contrasts=contrasts, options=Options(ddf),
        n_jobs=n_jobs,
    )  # fmt: skip
    fit_and_write(adata, analysis, key_added, max_memory=None, progress=progress)
    return adata if copy else None
