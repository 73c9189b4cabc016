"""The table of sets of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import keys, read_gene_sets
from donorwise._core.engine.gene_sets import SET_STATUSES
from donorwise._docs import documented
from donorwise.get._tests import choose_all, in_order, passes, tidy, with_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import Groups


@documented
def gene_sets(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    sets: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    alpha: float | None = None,
    sort_by: str | None = "p_value",
    ascending: bool = True,
) -> pd.DataFrame:
    """Return the tests of sets of genes as a tidy DataFrame.

    Parameters
    ----------
    adata
        AnnData for which :func:`donorwise.tl.gene_sets` was run.
    {key}
    contrast, group, sets, status
        {keep}
    alpha
        Keep the sets with an adjusted p-value up to this; None keeps all.
    sort_by
        Column to sort by, missing values last; None keeps the order of the sets.
    {ascending}

    Returns
    -------
    One row per set x group x contrast with the columns set, group, contrast, n_genes, direction, correlation, df, statistic,
    p_value, adj_p_value and status, as :func:`donorwise.tl.gene_sets` describes them.

    Raises
    ------
    DataError
        No sets were tested, or there is no such contrast, group, set or column.
    DonorwiseError
        `alpha` or `status` is none.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=120, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.gene_sets(adata, {"first": adata.var_names[:20], "last": adata.var_names[-20:]}, progress=False)
    >>> dw.get.gene_sets(adata)["n_genes"].tolist()
    [20, 20]
    """
    table = choose_all(read_gene_sets(adata, key), contrast=contrast, group=group, set=sets)
    table = with_status(table, status, SET_STATUSES)
    return tidy(in_order(table[passes(table, alpha, None)], sort_by, ascending=ascending))
