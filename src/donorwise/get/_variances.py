"""The tables of variances: components, intraclass correlations, shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_results
from donorwise._docs import documented
from donorwise.get._tests import choose_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


@documented
def varcomp(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the variance components of every feature as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    group, variables, term
        {keep}

    Returns
    -------
    One row per variable x group x component with the columns variable, group, term (the grouping factor,
    or ``"Residual"``), column1, column2 (``""`` for a variance), variance and sd. A row with a column2 is a
    covariance, and its sd holds the correlation.

    Raises
    ------
    DataError
        There is no such result, group, variable or term; the message says which there are.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.get.varcomp(adata, variables="gene_0001")["term"].tolist()
    ['donor_id', 'Residual']
    """
    return choose_all(read_results(adata, key).varcomp, group=group, variable=variables, term=term)


@documented
def icc(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the intraclass correlations of every feature as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    group, variables, term
        {keep}

    Returns
    -------
    One row per variable x group x random term with the columns variable, group, term and icc: the share of
    the variance, beyond the fixed effects, that lies between the levels of the term.

    Raises
    ------
    DataError
        There is no such result, group, variable or term; the message says which there are.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> bool(dw.get.icc(adata)["icc"].dropna().between(0, 1).all())
    True
    """
    return choose_all(read_results(adata, key).icc, group=group, variable=variables, term=term)


@documented
def variance_partition(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    term: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return how the variance of every feature divides over the terms of the model.

    Parameters
    ----------
    {adata_result}
    {key}
    group, variables, term
        {keep}

    Returns
    -------
    One row per variable x group x term with the columns variable, group, term (``"fixed"``, each random term,
    ``"Residual"``) and fraction; the fractions of a variable in a group sum to 1.

    Raises
    ------
    DataError
        There is no such result, group, variable or term; the message says which there are.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> shares = dw.get.variance_partition(adata, variables="gene_0001")
    >>> shares["term"].tolist(), round(float(shares["fraction"].sum()), 10)
    (['fixed', 'donor_id', 'Residual'], 1.0)
    """
    return choose_all(read_results(adata, key).variance_partition, group=group, variable=variables, term=term)
