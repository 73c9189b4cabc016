"""Joint tests of terms with several coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from donorwise._anndata import check_is_anndata, copied, keys
from donorwise._anndata.added import write_added
from donorwise._anndata.recover import recover_whole
from donorwise._anndata.unchanged import same_as
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.further import check_options
from donorwise._core.engine.term_tests import ask_jointly
from donorwise._docs import documented

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import Ddf, FloatArray, GlmmDdf


@documented
def joint_test(
    adata: ad.AnnData,
    terms: Any = None,
    *,
    key: str = keys.LMM,
    ddf: Ddf | GlmmDdf | None = None,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Test terms with several coefficients of a stored model: F tests that all of them are zero.

    The formula, the groups and all options are those of the result: its models are fitted again, from one pass.

    Parameters
    ----------
    {adata_refit}
    terms
        A term of the fixed part, or several: ``"disease"``, ``"disease:sex"``, ``"bs(age, df=4)"``. A dict names questions of
        any contrasts, or terms, that are all zero, ``{"any disease": [("disease", "MS", "control"), ...]}``. None for every
        term with more than one coefficient or, where there are none, for every term.
    {key}
    ddf
        How tests allow for what is unknown about the variances, as in the tool that fitted; None as there.
    {weights_again}
    {n_jobs}
    {max_memory}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. The tests are kept with the result, read by :func:`donorwise.get.joint_tests`; those of terms that were
    asked before are replaced.

    Raises
    ------
    DataError
        There is no such result, or the AnnData is not the one that was fitted any more.
    DesignError
        No group has one of the terms.
    DonorwiseError
        `ddf` is none of the models.

    Notes
    -----
    A moderated test is the exact one at given variances, its p-value averaged over what data and prior say of them: of Gaussian
    models the F test; of counts and yes/no data twice the log-likelihood that zeros cost, which is chi-squared and has an answer
    where estimates are infinite. Of one coefficient it is the test of :func:`donorwise.get.tests`. Kenward and Roger scale F
    (1997, Biometrics 53:983), Satterthwaite's degrees of freedom are pooled as the R package lmerTest does it, and
    ``"between-within"`` takes the fewest that the design gives one of the coefficients, so that a term of which one is between donors
    and others are within them is tested as if all were between: simulated null values of 6 to 12 donors, .02 to .04 at .05, and .05 to .08
    with correlated slopes. Of Gaussian models it is the rule of nlme, which counts rows, and not donors, for what is within donors where these have
    random slopes: .07 to .13 at .05 (``"kenward-roger"`` .01 to .03, moderated .04 to .05). Models of counts and of yes and no
    count donors there.

    A term has fewer coefficients in a group that lacks a level (`num_df` says how many), and none where all but one are lacking,
    which is ``not_estimable``. P-values are adjusted within each term and group.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=12, n_cells=1200, n_genes=120, seed=1)
    >>> dw.tl.lmm(adata, "~ cell_type + (1 | donor_id/cell_type)", progress=False)
    >>> dw.tl.joint_test(adata, "cell_type", progress=False)
    >>> dw.get.joint_tests(adata)["num_df"].unique().tolist() == [adata.obs["cell_type"].nunique() - 1]
    True
    """
    check_is_anndata(adata)
    check_max_memory(max_memory)
    if copy:
        adata = copied(adata)
    found = recover_whole(adata, key, weights=weights, n_jobs=n_jobs)
    own = found.analysis
    used = check_options(own.options, own.ddfs, ddf, own.options.min_effect).ddf
    same = same_as(adata, key)
    asked = ask_jointly(own, terms, used, same=same, max_memory=max_memory, progress=progress)
    said = {"ddf": used, "ddf_used": asked.ddf_used}
    write_added(adata, key, keys.JOINT_TESTS, asked.table, ["group", "term"], said)
    return adata if copy else None
