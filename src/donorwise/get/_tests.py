"""The table of tests, and how tables are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import keys, read_results, suggest
from donorwise._docs import documented
from donorwise._typing import STATUSES, check_option
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd


def choose(table: pd.DataFrame, column: str, wanted: str | Sequence[str] | None) -> pd.DataFrame:
    """Keep the rows whose categorical `column` is (one of) `wanted`; None keeps all of them.

    Raises
    ------
    DataError
        A wanted value does not occur; the message names close matches or lists what occurs.
    """
    if wanted is None:
        return table
    names = [wanted] if isinstance(wanted, str) else [str(w) for w in wanted]
    known = table[column].cat.categories
    for name in names:
        if name not in known:
            raise DataError(f"There is no {column} {name!r} in this result. {suggest(name, known)}")
    return table[table[column].isin(names)]


def choose_all(table: pd.DataFrame, **wanted: str | Sequence[str] | None) -> pd.DataFrame:
    """Keep the rows that are wanted in every column, tidied.

    Raises
    ------
    DataError
        A wanted value does not occur in its column.
    """
    for column, names in wanted.items():
        table = choose(table, column, names)
    return tidy(table)


def only_one(table: pd.DataFrame, column: str, wanted: str | None) -> str:
    """Return `wanted` if it occurs in `column`, or else the one value there is.

    Raises
    ------
    DataError
        `wanted` does not occur, or it is None and there are several values to choose from.
    """
    known = list(choose(table, column, wanted)[column].cat.categories)
    if wanted is not None:
        return wanted
    if len(known) != 1:
        raise DataError(f"This result has {len(known)} {column}s; choose one with {column}=. {suggest('', known)}")
    return str(known[0])


def present(table: pd.DataFrame, column: str) -> list[str]:
    """Values of a categorical column that occur, in the order of the categories."""
    return [str(name) for name in table[column].cat.remove_unused_categories().cat.categories]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Copy the chosen rows, with categories that do not occur in them left out and rows numbered from 0."""
    chosen = table.reset_index(drop=True).copy()
    for column in chosen.select_dtypes("category"):
        chosen[column] = chosen[column].cat.remove_unused_categories()
    return chosen


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
    it (per year). `statistic`, `se`, `df`, `p_value` and the interval are those of one t distribution: ``estimate
    / se`` is `statistic`, and p the two-sided tail of t beyond it. Of a moderated test, whose law is a mixture over
    what is not known of the variances, that is the t with the mixture's p-value and the width of its 95% interval:
    its `df` describes that shape, and is no count of donors or cells. Where p is nearly 1 an estimate beside the
    mixture's median makes `se` large or small.

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
