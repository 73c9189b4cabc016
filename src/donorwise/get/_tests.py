"""The table of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import keys, read_results, suggest
from donorwise._docs import documented
from donorwise._typing import STATUSES, check_option
from donorwise.errors import DataError
from donorwise.get._select import choose, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


@documented
def tests(
    adata: ad.AnnData,
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    sort_by: str | None = "p_value",
    ascending: bool = True,
) -> pd.DataFrame:
    """Return the tests of a model as a tidy DataFrame.

    Parameters
    ----------
    {adata_result}
    {key}
    contrast, group, variables, status
        {keep}
    sort_by
        Column to sort by, missing values last; None keeps the order of the features.
    ascending
        Direction of the sort.

    Returns
    -------
    One row per variable x group x contrast with the columns variable, group, contrast, estimate, se,
    ci_low, ci_high, statistic, df, p_value, adj_p_value, log_fc, status, n_donors and n_obs.
    `estimate` is in units of the response, `log_fc` in log2; those of a covariate such as age are per unit of
    it (per year). `df` says how much is known about the noise: near the number of donors where donors differ,
    up to that of cells where they hardly do. The p-value of a moderated test is that of a mixture of t
    distributions, of which (`statistic`, `df`) is a summary: a t test on these two gives another one, most of all
    with few donors.

    Raises
    ------
    DataError
        There is no such result, contrast, group or variable; the message says which there are.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> table = dw.get.tests(adata, contrast="condition[T.disease]", group="T cell")
    >>> table["p_value"].is_monotonic_increasing
    True
    """
    for name in [status] if isinstance(status, str) else status or ():
        check_option("status", name, STATUSES)
    table = read_results(adata, key).results
    for column, wanted in (("contrast", contrast), ("group", group), ("variable", variables)):
        table = choose(table, column, wanted)
    if status is not None:
        table = table[table["status"].isin(np.atleast_1d(np.asarray(status)))]
    if sort_by is not None:
        if sort_by not in table.columns:
            raise DataError(f"sort_by: there is no column {sort_by!r}. {suggest(sort_by, table.columns)}")
        table = table.sort_values(sort_by, ascending=ascending, kind="stable", na_position="last")
    return tidy(table)
