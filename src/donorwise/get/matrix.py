"""Tests as a matrix: what enrichment methods and heatmaps read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from donorwise._anndata import keys, read_results
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._select import choose_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

# what says "no evidence" in each column
UNTESTED = {"statistic": 0.0, "estimate": 0.0, "log_fc": 0.0, "p_value": 1.0, "adj_p_value": 1.0}


def matrix(
    adata: ad.AnnData,
    values: Literal["statistic", "estimate", "log_fc", "p_value", "adj_p_value"] = "statistic",
    *,
    key: str = keys.LMM,
    contrast: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    fill: bool = True,
) -> pd.DataFrame:
    """Return one column of the tests as a DataFrame of groups (or contrasts) x features.

    Parameters
    ----------
    adata
        AnnData that holds a result. Features that are no longer in ``var`` are left out.
    values
        The column of :func:`donorwise.get.lmm` to lay out.
    key
        Entry of ``uns`` that holds the result.
    contrast, group, variables
        What to keep, one value or several; None keeps all.
    fill
        Let a test that was not possible say that there is no evidence: 0, or 1 for p-values. False leaves it
        missing.

    Returns
    -------
    One row per group x contrast and one column per feature, both in the order of the result, float64. The rows
    are named by the group where there is one contrast, by the contrast where there is one group or no ``groupby``,
    and else ``"group | contrast"``. Rows and features without any test are left out.

    Raises
    ------
    DataError
        There is no such result, contrast, group or variable, or nothing that was chosen has such a value.
    DonorwiseError
        `values` is not one of the columns.

    Notes
    -----
    Enrichment methods take it as it is: ``dc.mt.ulm(data=dw.get.matrix(adata), net=net)`` gives the activities of the
    regulators in decoupler's network (Badia-i-Mompel et al. 2022, Bioinformatics Advances 2, vbac016). They refuse
    missing values, hence `fill`.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> statistics = dw.get.matrix(adata, contrast="condition[T.disease]")
    >>> list(statistics.index) == list(adata.obs["cell_type"].cat.categories)
    True
    """
    check_option("values", values, tuple(UNTESTED))
    stored = read_results(adata, key)
    table = choose_all(stored.results, contrast=contrast, group=group, variable=variables)
    wide = table.pivot(index=["group", "contrast"], columns="variable", values=values)
    wide = wide.dropna(how="all").dropna(how="all", axis="columns")
    if wide.empty:
        raise DataError(f"None of the chosen tests of {key!r} has a {values}; dw.get.lmm says their status.")
    rows = _row_names(table, grouped=bool(stored.params["groupby"])).loc[wide.index]
    wide = wide.set_axis(pd.Index(rows, name=rows.name)).rename(columns=str)
    return wide.fillna(UNTESTED[values]) if fill else wide


def _row_names(table: pd.DataFrame, *, grouped: bool) -> pd.Series:
    """The name of each row, by group and contrast, called after what it tells."""
    pairs = table[["group", "contrast"]].drop_duplicates()
    group, contrast = pairs["group"].astype(str), pairs["contrast"].astype(str)
    if grouped and contrast.nunique() == 1:
        names = group
    elif group.nunique() == 1:
        names = contrast
    else:
        names = (group + " | " + contrast).rename("group | contrast")
    return names.set_axis(pd.MultiIndex.from_arrays([group, contrast]))
