"""The depth of every cell that a model of counts divides by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata.obs import obs_frame
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._anndata.response import Response
    from donorwise._typing import FloatArray


def count_depth(adata: ad.AnnData, response: Response, column: str | None) -> FloatArray:
    """Depth of every cell, shape (N,): a column of obs, or the sum of a matrix of counts over all its genes.

    Raises
    ------
    DataError
        The column is not numeric, or has values that are no depth.
    """
    if column is None:
        return np.ravel(np.asarray(response.matrix.sum(axis=1, dtype=np.float64)))
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
