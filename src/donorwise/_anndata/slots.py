"""Numbers of collapsed rows, read from the columns and matrices that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata.obs import obs_frame

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import FloatArray, IntArray

# Rows of a matrix in a file that are read together.
_ROWS_READ = 512


def column_of(adata: ad.AnnData, name: str) -> FloatArray:
    """A numeric column of obs, (K,)."""
    return np.asarray(obs_frame(adata, [name])[name], dtype=np.float64)


def dense(matrix: Any) -> FloatArray:
    """A matrix in memory as an array."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def some_of(matrix: Any, rows: IntArray | None, features: IntArray | None) -> FloatArray:
    """Some rows and features as an array; of a matrix in a file little is read besides."""
    if isinstance(matrix, np.ndarray) or not hasattr(matrix, "chunks"):
        whole = dense(matrix)
        some = whole if rows is None else whole[rows]
        return some if features is None else np.take(some, features, axis=1)
    kept = np.arange(matrix.shape[0]) if rows is None else rows
    at = np.arange(matrix.shape[1]) if features is None else features
    span = slice(int(at.min()), int(at.max()) + 1) if len(at) else slice(0, 0)
    out = np.empty((len(kept), len(at)))
    for low in range(0, matrix.shape[0], _ROWS_READ):
        inside = np.flatnonzero((kept >= low) & (kept < low + _ROWS_READ))
        if len(inside):
            out[inside] = np.asarray(matrix[low : low + _ROWS_READ, span])[kept[inside] - low][:, at - span.start]
    return out
