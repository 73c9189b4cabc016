"""What cells say in sums: depths, means and tables of donors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from donorwise._anndata import keys
from donorwise._anndata.collapsed import collapsed_depth
from donorwise._anndata.labels import read_labels
from donorwise._anndata.obs import obs_frame
from donorwise._anndata.origin import N_CELLS, WEIGHT, is_collapsed
from donorwise._anndata.response import column_values, counts_layer, response_of
from donorwise._anndata.sources import matrix_of
from donorwise._core.engine.groups import group_labels
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._typing import FloatArray

COLUMNS = ("total_counts", "n_counts", "nCount_RNA", "total_umis", "n_umis", "nUMI", "n_count", "raw_sum")


def cell_depth(adata: ad.AnnData) -> FloatArray | None:
    """Return total counts per cell, shape (N,), or None where they cannot be told.

    They come from a column of obs with a usual name, else from a layer of counts, else from X where it
    holds counts. Of a matrix that is not in memory the counts of some cells are read, the others are NaN; None for one
    that is stored by columns.
    """
    if is_collapsed(adata):
        return collapsed_depth(adata)  # of the N cells behind the rows
    for column in COLUMNS:
        if column in adata.obs.columns:
            values = obs_frame(adata, [column])[column]
            if pd.api.types.is_numeric_dtype(values):
                return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    layer = counts_layer(adata)
    if layer is None:
        return None
    from donorwise._core.cells.matrices import sample_row_sums

    return sample_row_sums(matrix_of(adata, layer or None))


def count_depth(adata: ad.AnnData, response: Response, column: str | None) -> FloatArray:
    """Depth of every cell, shape (N,): a column of obs, or the sum of a matrix of counts over all its genes.

    Raises
    ------
    DataError
        The column is not numeric, or has values that are no depth.
    """
    if column is None:
        from donorwise._core.cells.matrices import row_sums

        return row_sums(response.matrix)
    values = obs_frame(adata, [column])[column]
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(f"depth={column!r} is not a numeric column of obs.")
    depth = values.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.isfinite(depth) & (depth >= 0))
    if bad.any():
        raise DataError(
            f"depth={column!r} must be finite and not negative; {int(bad.sum()):,} cells have other values (the first "
            f"is {adata.obs_names[int(np.flatnonzero(bad)[0])]!r})."
        )
    return np.asarray(depth)


def cell_values(
    adata: ad.AnnData, variable: str, *, columns: list[str], response: str = keys.RESPONSE_X
) -> pd.DataFrame:
    """Return one row per cell: `columns` of obs and the ``value`` of one variable.

    Raises
    ------
    DataError, DesignError
        The variable or a column is no longer there, or single cells are not.
    """
    if is_collapsed(adata):
        raise DataError(
            "Single cells are needed, and this AnnData has collapsed rows of them: use the AnnData of the cells."
        )
    cells = obs_frame(adata, columns)
    cells["value"] = column_values(response_of(adata, response, [variable]))[:, 0]
    return cells


def row_values(adata: ad.AnnData, variable: str, *, response: str, weights: str = "") -> pd.DataFrame:
    """The values of one variable, of cells or of collapsed rows, and what they count for.

    Parameters
    ----------
    adata
        Cells x features, or collapsed rows of them.
    variable
        A feature of `response`; collapsed rows have one response alone, whose means they hold.
    response
        As in ``params["response"]``.
    weights
        Column of obs with the weights of cells; empty for none.

    Returns
    -------
    A row for each row of the AnnData: ``value``, ``n_cells`` that it stands for, and ``weight`` in a mean.
    """
    collapsed = is_collapsed(adata)
    own = obs_frame(adata, [N_CELLS, WEIGHT] if collapsed else [name for name in [weights] if name])
    values = column_values(response_of(adata, keys.RESPONSE_X if collapsed else response, [variable]))[:, 0]
    weight = own[WEIGHT] if collapsed else own[weights] if weights else 1.0
    made = {"value": values, "n_cells": own[N_CELLS] if collapsed else 1, "weight": weight}
    return pd.DataFrame(made, index=own.index).astype({"weight": np.float64})


def donor_summary(
    adata: ad.AnnData,
    variable: str,
    *,
    donor: str,
    condition: str | None = None,
    groupby: str | None = None,
    response: str = keys.RESPONSE_X,
) -> pd.DataFrame:
    """Summarise one variable per donor, arm and group.

    Parameters
    ----------
    adata
        Cells x features.
    variable
        A feature of `response`.
    donor, condition, groupby
        Columns of obs.
    response
        As in ``params["response"]``.

    Returns
    -------
    One row per donor x condition x group that has cells, with the columns donor, condition, group,
    n_cells, mean, sd and detection (the share of cells above zero). Condition is ``""`` and group
    ``"all"`` where none was asked for.
    """
    columns = [c for c in (donor, condition, groupby) if c]
    cells = cell_values(adata, variable, columns=columns, response=response)
    table = pd.DataFrame(
        {
            "donor": cells[donor],
            "condition": cells[condition] if condition else "",
            "group": cells[groupby] if groupby else keys.ALL,
            "value": cells["value"],
        }
    )
    return summarise(table)


def summarise(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarise cells with the columns donor, condition, group and value; missing values are left out."""
    known = cells.dropna().assign(detected=lambda c: (c["value"] > 0).astype(np.float64))
    grouped = known.groupby(["donor", "condition", "group"], observed=True, sort=True)
    summary = grouped.agg(
        n_cells=("value", "size"), mean=("value", "mean"), sd=("value", "std"), detection=("detected", "mean")
    )
    return summary.reset_index()


def group_means(
    adata: ad.AnnData, variables: Sequence[str], *, response: str, groupby: Sequence[str], groups: Sequence[str]
) -> pd.DataFrame:
    """Return the mean of every variable over the cells of every group.

    Parameters
    ----------
    adata
        Cells x features, or collapsed rows of them, in memory or in a file, which is read once.
    variables
        Features of `response`.
    response
        As in ``params["response"]``.
    groupby, groups
        Columns of obs and names of the groups that they make; no column and one name for all cells together.

    Returns
    -------
    Variables x groups; cells without a value are left out, and a group without cells has NaN.
    """
    from donorwise._core.cells.collapse import collapse
    from donorwise._core.cells.matrices import missing_patterns

    source = response_of(adata, response, variables)
    codes = np.zeros(adata.n_obs, dtype=np.int32)
    if groupby:
        labels = group_labels(obs_frame(adata, groupby), groupby)
        codes = pd.Categorical(labels, categories=groups).codes.astype("i4")
    weights, cells_per_row = _row_weights(adata, codes, len(groups), response)
    if response.startswith(keys.LABELS_PREFIX):
        codes = np.where(read_labels(adata, response.removeprefix(keys.LABELS_PREFIX)).codes >= 0, codes, -1)
    columns = np.arange(len(source.variables)) if source.features is None else source.features
    means = np.full((len(groups), source.matrix.shape[1]), np.nan)
    whole = [(columns, None)]
    for some, seen in whole if sp.issparse(source.matrix) else missing_patterns(source.matrix, columns):
        kept = codes if seen is None else np.where(seen, codes, -1).astype(np.int32)
        found = collapse(source.matrix, kept, len(groups), weights=weights, features=some)
        means[:, some] = np.where(found.n_obs[:, None] > 0, found.mean / cells_per_row[:, None], np.nan)
    return pd.DataFrame(means[:, columns].T, index=list(source.variables), columns=list(groups))


def _row_weights(
    adata: ad.AnnData, codes: np.ndarray, n_groups: int, response: str
) -> tuple[FloatArray | None, FloatArray]:
    """Weights of the rows in a mean of cells, and by group what such a mean has to be divided by.

    Collapsed rows have means of X, but sums of counts, and one label for all their cells.
    """
    ones = np.ones(n_groups)
    if not is_collapsed(adata):
        return None, ones
    if response == keys.RESPONSE_X:
        return obs_frame(adata, [WEIGHT])[WEIGHT].to_numpy(dtype=np.float64), ones
    n_cells = obs_frame(adata, [N_CELLS])[N_CELLS].to_numpy(dtype=np.float64)
    if response.startswith(keys.LABELS_PREFIX):
        return n_cells, ones
    n_rows = np.bincount(codes[codes >= 0], minlength=n_groups)
    totals = np.bincount(codes[codes >= 0], weights=n_cells[codes >= 0], minlength=n_groups)
    return None, totals / np.maximum(n_rows, 1)


def donor_table(
    obs: pd.DataFrame, *, donor: str, sample: str | None = None, depth: FloatArray | None = None
) -> pd.DataFrame:
    """Tabulate donors: one row each, with what obs says about the donor and not about the cell.

    Parameters
    ----------
    obs
        N cells.
    donor, sample
        Columns of `obs`.
    depth
        Shape (N,). Total counts per cell.

    Returns
    -------
    Indexed by donor: n_cells, n_samples (with a `sample`), mean_depth (with a `depth`), and the columns
    of `obs` that are constant within donors, `sample` left out.
    """
    by_donor = obs.groupby(donor, observed=True, sort=True)
    table = pd.DataFrame({"n_cells": by_donor.size()})
    if sample is not None and sample != donor:
        table["n_samples"] = by_donor[sample].nunique()
    if depth is not None:
        table["mean_depth"] = pd.Series(depth, index=obs.index).groupby(obs[donor], observed=True).mean()
    for column in obs.columns.drop([donor] if sample is None else list({donor, sample})):
        if (by_donor[column].nunique(dropna=False) <= 1).all():
            values = by_donor[column].first()
            table[column] = (
                values.cat.remove_unused_categories() if isinstance(values.dtype, pd.CategoricalDtype) else values
            )
    return table
