"""Tests of random terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import check_is_anndata, copied, keys
from donorwise._anndata.added import write_added
from donorwise._anndata.recover import recover_whole
from donorwise._anndata.unchanged import same_as
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.term_tests import ask_variances
from donorwise._docs import documented

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._typing import FloatArray


@documented
def test_variance(
    adata: ad.AnnData,
    terms: str | Sequence[str] | None = None,
    *,
    key: str = keys.LMM,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test random terms of a stored model: whether features differ between donors, and whether their responses do.

    The formula, the groups and all options are those of the result: its models are fitted again, from one pass.

    Parameters
    ----------
    {adata_refit}
    terms
        Random terms as the formula has them, ``"(1 | donor_id)"`` (or ``"donor_id"``, where it is the only one of it), all of whose
        variances are zero; or their slopes alone, ``"stim in (stim | donor_id)"`` (or ``"(0 + stim | donor_id)"``), which asks
        whether the response to ``stim`` differs between donors: the intercept stays. With :func:`donorwise.tl.pseudobulk` the
        units are a term as well. None for all of these.
    {key}
    {weights_again}
    {n_jobs}
    {max_memory}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. The tests are kept with the result, read by :func:`donorwise.get.variance_tests`; those of terms that were
    asked before are replaced.

    Raises
    ------
    DataError
        There is no such result, or the AnnData is not the one that was fitted any more.
    DesignError
        The model has no random term, or none that is called so.

    Notes
    -----
    `statistic` is twice the difference of restricted log-likelihoods with the same fixed effects, each at its own optimum. Zero is
    on the bound of a variance, so that the law of one variance with c covariances is the equal mixture of chi-squared with c
    and c + 1 degrees of freedom (Self and Liang 1987, J Am Stat Assoc 82:605; Stram and Lee 1994, Biometrics 50:1171); of several
    variances chi-squared with all parameters, `df`, is an upper bound. These are conservative with few donors. Where a
    Gaussian model has one variance, or two of which one has a kernel, the law for its own donors is simulated (Crainiceanu
    and Ruppert 2004, J R Stat Soc B 66:165), as for :func:`donorwise.get.heritability`.

    The dispersion of a negative binomial is not estimated again without the term: both likelihoods have that of the result, from what
    differs within donors. Statistics are larger than those of glmmTMB, then, which takes some of what differs between donors for
    dispersion when the term is gone (33.0 for its 29.4 in one case), and the level holds: simulated counts without variance between donors,
    200 features and 6 to 40 donors of 3 to 150 cells: .02 to .05 at .05, .003 to .017 at .01. Fewer than 100 features, whose
    dispersions share no prior, are the exception: .05 to .07 (.01 to .02 at .01) with 10 to 40 cells for each donor, and .10 (.034 at .01) with four.

    A term that a feature cannot tell of, as proteins with few measurements, is ``not_estimable``, and one whose variance is zero
    ``boundary``. P-values are adjusted within each term and group. They say whether a variance is zero, not whether it
    matters: `variance` and `sd` are the estimate, where the term has one.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=30, seed=1)
    >>> dw.tl.lmm(adata, "~ age + (1 | donor_id)", ddf="kenward-roger", progress=False)
    >>> dw.tl.test_variance(adata, progress=False)
    >>> table = dw.get.variance_tests(adata)
    >>> table["term"].unique().tolist(), table["df"].unique().tolist()
    (['(1 | donor_id)'], [1])
    """
    check_is_anndata(adata)
    check_max_memory(max_memory)
    if copy:
        adata = copied(adata)
    found = recover_whole(adata, key, weights=weights, n_jobs=n_jobs)
    same = same_as(adata, key)
    asked = ask_variances(found.analysis, terms, same=same, max_memory=max_memory, progress=progress)
    write_added(adata, key, keys.VARIANCE_TESTS, asked.table, ["group", "term"])
    return adata if copy else None
