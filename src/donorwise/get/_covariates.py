"""How strongly covariates go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import check_has_cells, check_is_anndata
from donorwise._anndata.covariates import covariate_correlations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def covariates(
    adata: ad.AnnData, columns: str | Sequence[str], *, donor: str | None = None, sample: str | None = None
) -> pd.DataFrame:
    """Return how strongly covariates go together among the donors.

    Parameters
    ----------
    adata
        AnnData of cells, or of collapsed rows.
    columns
        Columns of obs, or a formula: its variables, grouping factors too, but for the donors and samples.
    donor
        Column of obs that is the donor; None for the declared or guessed one (``adata.donorwise.setup``).
    sample
        Column of obs with the samples of donors; None for the declared or guessed one, ``""`` for none.

    Returns
    -------
    A square DataFrame with a number from 0 to 1 for each pair of covariates; NaN where one has a single value. It is over a
    row for each donor (and sample), however many cells it has. A donor with cells of several levels of a covariate has a row
    for each; numbers that differ between cells are averaged. ``attrs["units"]`` says what the rows are, such as ``"12 donors"``.

    Raises
    ------
    DesignError
        A column is not there, there are fewer than two, or no column is known to be the donor.
    FormulaError
        The formula does not parse.

    Notes
    -----
    The number is ``sqrt(mean(rho**2))`` over the canonical correlations of the two, a factor being a column for each level, as
    of ``canCorPairs`` of variancePartition (Hoffman and Schadt 2016, BMC Bioinformatics 17:483): the absolute correlation of
    two numbers, and Cramér's V of two factors. With few donors a factor of many levels goes with everything.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=300, n_genes=5)
    >>> table = dw.get.covariates(adata, ["condition", "sex"])
    >>> table.shape, float(table.loc["sex", "sex"])
    ((2, 2), 1.0)
    """
    check_is_anndata(adata)
    check_has_cells(adata)
    return covariate_correlations(adata, columns, donor, sample)
