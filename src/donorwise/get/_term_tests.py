"""Tests of terms that were asked for after the fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_params, symbols_of
from donorwise._anndata.added import read_added
from donorwise._docs import documented
from donorwise.get._tests import choose_all, in_order, meant, passes, tidy, with_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import Groups


@documented
def joint_tests(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    term: str | Sequence[str] | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    alpha: float | None = None,
    gene_symbols: str | None = None,
    sort_by: str | None = "p_value",
    ascending: bool = True,
) -> pd.DataFrame:
    """Return the joint tests of :func:`donorwise.tl.joint_test` as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    term, group, variables, status
        {keep}
    {alpha_kept}
    {symbols_beside}
    {sort_by}
    {ascending}

    Returns
    -------
    One row per variable x group x term with the columns variable, group, term, statistic (F), num_df (coefficients), den_df
    (infinite where the statistic is chi-squared over num_df), p_value, adj_p_value (Benjamini and Hochberg within term and group)
    and status.

    Raises
    ------
    DataError
        There is no such result, term, group, variable or column of var, or nothing was tested; the message says what there is.
    DonorwiseError
        A cutoff or an option is none.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=600, n_genes=20, seed=1)
    >>> dw.tl.lmm(adata, "~ cell_type * condition + (1 | donor_id/cell_type)", ddf="kenward-roger", progress=False)
    >>> dw.tl.joint_test(adata, progress=False)
    >>> dw.get.joint_tests(adata)["term"].unique().tolist()
    ['cell_type', 'cell_type:condition']
    """
    return _read(adata, key, keys.JOINT_TESTS, "dw.tl.joint_test", term, group, variables, status, alpha,
                 gene_symbols, sort_by, ascending=ascending)  # fmt: skip


@documented
def variance_tests(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    term: str | Sequence[str] | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    alpha: float | None = None,
    gene_symbols: str | None = None,
    sort_by: str | None = "p_value",
    ascending: bool = True,
) -> pd.DataFrame:
    """Return the tests of random terms of :func:`donorwise.tl.test_variance` as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    term, group, variables, status
        {keep}
    {alpha_kept}
    {symbols_beside}
    {sort_by}
    {ascending}

    Returns
    -------
    One row per variable x group x term with the columns variable, group, term, statistic (twice the difference of restricted
    log-likelihoods), df (variances and covariances), p_value, adj_p_value (Benjamini and Hochberg within term and group), variance
    and sd (the estimate, where the term has one variance) and status.

    Raises
    ------
    DataError
        There is no such result, term, group, variable or column of var, or nothing was tested; the message says what there is.
    DonorwiseError
        A cutoff or an option is none.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=800, n_genes=20, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", ddf="kenward-roger", progress=False)
    >>> dw.tl.test_variance(adata, "donor_id", progress=False)
    >>> bool(dw.get.variance_tests(adata, status="boundary")["statistic"].eq(0).all())
    True
    """
    return _read(adata, key, keys.VARIANCE_TESTS, "dw.tl.test_variance", term, group, variables, status,
                 alpha, gene_symbols, sort_by, ascending=ascending)  # fmt: skip


def _read(
    adata: ad.AnnData,
    key: str,
    name: str,
    made_by: str,
    term: str | Sequence[str] | None,
    group: Groups,
    variables: str | Sequence[str] | None,
    status: str | Sequence[str] | None,
    alpha: float | None,
    gene_symbols: str | None,
    sort_by: str | None,
    *,
    ascending: bool,
) -> pd.DataFrame:
    """Rows of a table that was added to a result."""
    table = read_added(adata, key, name, made_by=made_by)
    symbols = symbols_of(adata, gene_symbols, read_params(adata, key))
    table = with_status(choose_all(table, term=term, group=group, variable=meant(symbols, variables)), status)
    table = symbols.beside(table[passes(table, alpha, None)])
    return tidy(in_order(table, sort_by, ascending=ascending))
