"""Tables of what was asked about a result: calibration, influence of single donors, power."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from donorwise._anndata import keys, read_influence, read_power, read_results, read_tables, symbols_of
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.get._tests import choose, choose_all, meant, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import Groups


@documented
def calibration(
    adata: ad.AnnData,
    *,
    key: str = keys.CALIBRATION,
    table: str = "levels",
    group: Groups = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return a table of :func:`donorwise.tl.calibrate`.

    Parameters
    ----------
    adata
        AnnData that holds a calibration (:func:`donorwise.tl.calibrate`).
    {key_calibration}
    table
        ``"levels"`` (observed over nominal at several alpha), ``"groups"`` (what was permuted),
        ``"permutations"`` (lambda, hits, shares per permutation), ``"variables"`` (permutation p-values),
        ``"curves"`` or ``"histogram"``.
    group
        {keep}
    {symbols_beside}

    Returns
    -------
    The table, as :func:`donorwise.tl.calibrate` describes it.

    Raises
    ------
    DataError
        There is no such calibration or group.
    DonorwiseError
        There is no such table.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", "condition[T.disease]", progress=False)
    >>> dw.get.calibration(adata)["alpha"].tolist()
    [0.05, 0.01, 0.001, 0.0001]
    """
    check_option("table", table, keys.CALIBRATION_TABLES)
    tables = read_tables(adata, key, keys.CALIBRATION_TABLES, made_by="dw.tl.calibrate")
    symbols = symbols_of(adata, gene_symbols, adata.uns[key][keys.PARAMS])
    return symbols.beside(tidy(choose(tables[table], "group", group)))


@documented
def influence(
    adata: ad.AnnData,
    *,
    by: Literal["hit", "donor"] = "hit",
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    donor: str | Sequence[str] | None = None,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Return what :func:`donorwise.tl.influence` found as a tidy DataFrame.

    Parameters
    ----------
    adata
        AnnData for which :func:`donorwise.tl.influence` was run.
    by
        ``"hit"``: one row per test; ``"donor"``: one row per test and donor left out.
    {key}
    contrast, group, variables, donor
        {keep}
    {symbols_beside}

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
    stored = read_results(adata, key)
    tested, symbols = stored.results, symbols_of(adata, gene_symbols, stored.params)
    for column, wanted in (("contrast", contrast), ("group", group)):
        if wanted is not None:  # one without hits has no rows here, and is in the result all the same
            table = table[table[column].isin(choose(tested, column, wanted)[column].unique())]
    return symbols.beside(choose_all(table, variable=meant(symbols, variables), donor=donor))


@documented
def power(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    expression: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what :func:`donorwise.tl.power` predicted as a tidy DataFrame.

    Parameters
    ----------
    adata
        AnnData for which :func:`donorwise.tl.power` was run.
    {key}
    contrast, group
        {keep}
    {expression}

    Returns
    -------
    One row per group, contrast, expression, n_donors, n_cells (of each donor), effect and alpha, with log_fc
    (the effect in log2 units), the mean power over features, its quantiles q10, median and q90, df, n_features,
    status, kind and unit, as :func:`donorwise.tl.power` describes them.

    Raises
    ------
    DataError
        Nothing was computed yet, or there is no such contrast, group or expression.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.power(adata, n_donors=(6, 20), n_cells=(50, 500), progress=False)
    >>> dw.get.power(adata, expression="all").shape[0]
    4
    """
    return choose_all(read_power(adata, key), contrast=contrast, group=group, expression=expression)
