"""Intervals of the shares of variance of a stored model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import check_is_anndata, copied, keys, read_results
from donorwise._anndata.added import write_added
from donorwise._anndata.recover import recover_whole
from donorwise._anndata.unchanged import same_as
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.share_intervals import ask_intervals, check_draws
from donorwise._docs import documented
from donorwise.get._tests import choose_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._typing import FloatArray

_BY = ["variable", "group", "term"]


@documented
def variance_partition(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    variables: str | Sequence[str] | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
    random_state: int = 0,
    weights: FloatArray | None = None,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    """Find intervals for how the variance of every feature divides over the terms of the model.

    The shares themselves are there since the fit (:func:`donorwise.get.variance_partition`); this fits the models again,
    from one pass, and asks how well each share is known.

    Parameters
    ----------
    {adata_refit}
    {key}
    variables
        Features to look at; None for all. What all of them say of the variances is used in any case.
    level
        Coverage of the intervals.
    n_draws
        Draws for each feature. The ends of an interval of 95% from 2,000 draws have 2.5% beyond them, give or take 0.35%.
    random_state
        Of the draws, which all features share: intervals hang on it and the data alone.
    {weights_again}
    {n_jobs}
    {max_memory}
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. :func:`donorwise.get.variance_partition` has columns ``ci_low`` and ``ci_high`` then, NaN for features
    that were not looked at. Intervals of the same features that were there are replaced.

    Raises
    ------
    DataError
        There is no such result or variable, the AnnData is not the one that was fitted any more, or no group has a model
        whose variances lie on a grid: one with one to three variances and covariances of random effects.
    DonorwiseError
        An option is none.

    Notes
    -----
    Every draw takes variances of the random terms from their posterior, with the prior of moderated tests, which all
    features share (fewer than 100 share none, and all points of the grid of variances are as likely before the data); where
    the model has a residual variance, one from its law given these; and then what the fixed part, and each of its
    terms, contributes to the variance of the response.
    That is a quadratic form of the coefficients. A squared estimate is too large by its own variance, and draws from a normal
    posterior would add that once more, so draws are from the confidence distribution of the form: of a single column that
    of the size of a coefficient, which is zero in as many draws as the estimate has the other sign.

    An interval of a share may therefore begin at zero, and lie lower than the share as it is reported, which is that of
    the estimates. Of a random term whose estimated variance is zero it may begin above zero where the other features say
    that such variances are rare. Simulated, 16 donors of 15 cells, 95% intervals hold 94% to 97% of the true shares with 600
    features, and 93% to 97% with 60. Dispersions of counts are taken as known.

    Features with one value in all cells of a donor, models of more than three variances, and proteins without rows for
    some coefficient have no intervals (NaN).

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.variance_partition(adata, variables=["gene_0001", "gene_0002"], progress=False)
    >>> shares = dw.get.variance_partition(adata, variables="gene_0001")
    >>> bool((shares["ci_low"] <= shares["ci_high"]).all())
    True
    """
    check_is_anndata(adata)
    check_max_memory(max_memory)
    check_draws(level, n_draws, random_state)
    if copy:
        adata = copied(adata)
    names = choose_some(read_results(adata, key).variance_partition, "variable", variables)["variable"]
    found = recover_whole(adata, key, weights=weights, n_jobs=n_jobs)
    table = ask_intervals(
        found.analysis, list(dict.fromkeys(map(str, names))), level=level, n_draws=n_draws, seed=random_state,
        same=same_as(adata, key), max_memory=max_memory, progress=progress,
    )  # fmt: skip
    said = {"level": float(level), "n_draws": int(n_draws), "random_state": int(random_state)}
    write_added(adata, key, keys.VARIANCE_INTERVALS, table, _BY, said)
    return adata if copy else None
