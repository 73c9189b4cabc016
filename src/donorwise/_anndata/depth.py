"""Depths of cells: what is known of them, and the sums that a model of counts needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata.collapsed import collapsed_depth
from donorwise._anndata.obs import obs_frame
from donorwise._anndata.origin import is_collapsed
from donorwise._anndata.response import counts_layer
from donorwise._anndata.sources import matrix_of
from donorwise.errors import DataError

if TYPE_CHECKING:
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
