"""The sequencing depth of every cell, from wherever the AnnData has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata.collapsed import collapsed_depth, is_collapsed
from donorwise._anndata.obs import obs_frame
from donorwise._anndata.response import counts_layer
from donorwise._anndata.sources import matrix_of
from donorwise.collapse.stored import Stored

if TYPE_CHECKING:
    import anndata as ad

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
    matrix = matrix_of(adata, layer or None)
    if isinstance(matrix, Stored):
        from donorwise.collapse.passes import sample_row_sums  # brings in the kernels

        return sample_row_sums(matrix)
    return np.ravel(np.asarray(matrix.sum(axis=1), dtype=np.float64))
