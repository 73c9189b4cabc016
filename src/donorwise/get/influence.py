"""What the tests say without each donor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from donorwise._anndata import keys, read_influence, read_results
from donorwise._typing import check_option
from donorwise.get._select import choose, choose_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def influence(
    adata: ad.AnnData,
    *,
    by: Literal["hit", "donor"] = "hit",
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    donor: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what :func:`donorwise.tl.influence` found as a tidy DataFrame.

    Parameters
    ----------
    adata
        AnnData that holds the result.
    by
        ``"hit"``: one row per test; ``"donor"``: one row per test and donor left out.
    key
        Entry of ``uns`` that holds the result of :func:`donorwise.tl.lmm`.
    contrast, group, variables, donor
        Which rows to keep, one value or several; None keeps all.

    Returns
    -------
    By hit: variable, group, contrast; estimate, se, p_value and adj_p_value with all donors; max_p_loo, the
    largest p-value without any one donor; donor, the one that is left out there; estimate_loo, the
    estimate without that donor, and change, the difference it makes in standard errors; threshold, the largest
    p-value of a hit; n_lost, the number of donors without which p is above it; stays_hit, whether a hit
    is one without any of the donors. No rows where there were no hits. By donor: variable, group, contrast, donor; estimate, se, ci_low,
    ci_high, p_value and status without that donor.

    Raises
    ------
    DataError
        Nothing was computed yet, or there is no such contrast, group, variable or donor.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, effect_size=2, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", ddf="kenward-roger", progress=False)
    >>> dw.tl.influence(adata, variables=["gene_0001", "gene_0002"], progress=False)
    >>> hits = dw.get.influence(adata)
    >>> bool((hits["max_p_loo"] >= dw.get.influence(adata, by="donor", donor="D01")["p_value"]).all())
    True
    """
    check_option("by", by, ("hit", "donor"))
    tables = read_influence(adata, key)
    table = tables.hits if by == "hit" else tables.donors
    tested = read_results(adata, key).results
    for column, wanted in (("contrast", contrast), ("group", group)):
        if wanted is not None:  # one without hits has no rows here, and is in the result all the same
            table = table[table[column].isin(choose(tested, column, wanted)[column].unique())]
    return choose_all(table, variable=variables, donor=donor)
