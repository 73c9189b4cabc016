"""Checks of what is passed to a collapse, each with an error that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

_NAMES_SHOWN = 5
_BLOCK_ROWS = 2**18


def check_codes(codes: ArrayLike, n_patterns: int, n_rows: int) -> NDArray[np.int32]:
    """Codes as int32, or a DataError."""
    array = np.asarray(codes)
    if array.shape != (n_rows,) or array.dtype.kind not in "iu":
        raise DataError(
            f"codes must be {n_rows} integers, one for each row of the matrix; got {array.dtype} of shape {array.shape}."
        )
    if n_rows and (array.min() < -1 or array.max() >= n_patterns):
        raise DataError(
            f"codes must lie between -1 and {n_patterns - 1}; they reach from {array.min()} to {array.max()}."
        )
    return np.ascontiguousarray(array, dtype=np.int32)


def check_weights(weights: ArrayLike | None, codes: NDArray[np.int32]) -> FloatArray | None:
    """Weights as float64, positive and finite where a row is in use."""
    if weights is None:
        return None
    array = np.ascontiguousarray(weights, dtype=np.float64)
    if array.shape != codes.shape:
        raise DataError(f"weights must have shape ({len(codes)},), one for each row; got {array.shape}.")
    n_bad = _count_bad(array, codes, lambda w: (w > 0) & np.isfinite(w))
    if n_bad:
        raise DataError(f"weights must be positive and finite; {n_bad} of the rows in use have others.")
    return array


def check_covariates(covariates: ArrayLike | None, codes: NDArray[np.int32]) -> FloatArray | None:
    """Covariates as float64 of shape (N, m), finite where a row is in use; None if there are none."""
    if covariates is None:
        return None
    array = np.asarray(covariates, dtype=np.float64, order="C")
    if array.ndim != 2 or len(array) != len(codes):
        raise DataError(f"covariates must have shape ({len(codes)}, m), one row for each row; got {array.shape}.")
    n_bad = _count_bad(array, codes, _finite_rows)
    if n_bad:
        raise DataError(f"covariates must be finite; {n_bad} of the rows in use hold NaN or infinity.")
    return array if array.shape[1] else None


def _finite_rows(values: FloatArray) -> BoolArray:
    return np.asarray(np.isfinite(values).all(axis=1))


def _count_bad(values: FloatArray, codes: NDArray[np.int32], good: Callable[[FloatArray], BoolArray]) -> int:
    """Number of rows in use whose values are not good."""
    blocks = (slice(low, low + _BLOCK_ROWS) for low in range(0, len(codes), _BLOCK_ROWS))
    return sum(int((~good(values[b]) & (codes[b] >= 0)).sum()) for b in blocks)


def check_features(features: ArrayLike | None, n_columns: int) -> IntArray:
    """Columns to use, as int64 (all of them if None), distinct and in range."""
    if features is None:
        return np.arange(n_columns)
    array = np.asarray(features)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(f"features must be a list of column numbers; got {array.dtype} of shape {array.shape}.")
    array = array.astype(np.int64)
    if array.size and (array.min() < 0 or array.max() >= n_columns):
        raise DataError(f"features must lie between 0 and {n_columns - 1}; got {array.min()} to {array.max()}.")
    if len(np.unique(array)) < len(array):
        raise DataError("features must not name a column twice.")
    return array


def check_finite(within_ss: FloatArray, columns: IntArray, names: Sequence[str] | None) -> None:
    """Raise unless the sums of squares are finite, that is, unless all values were."""
    with np.errstate(invalid="ignore", over="ignore"):
        bad = np.flatnonzero(~np.isfinite(within_ss.sum(axis=0)))
    if not len(bad):
        return
    shown = ", ".join(repr(str(names[i])) if names is not None else str(columns[i]) for i in bad[:_NAMES_SHOWN])
    more = ", ..." if len(bad) > _NAMES_SHOWN else ""
    raise DataError(
        f"{len(bad)} of {len(columns)} features hold NaN, infinite or overflowing values in the rows in use "
        f"({'columns' if names is None else 'features'} {shown}{more}). Leave these features out with mask_var=, or "
        "give them values. The tools keep a missing value (NaN) in a dense matrix in memory (adata.to_memory()), where its "
        "cells are dropped for that feature."
    )


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise unless a chunk can have this many rows or columns."""
    if chunk_size is not None and chunk_size < 1:
        raise DataError(f"chunk_size={chunk_size} must be a positive number of rows, or None for about 32 MB.")
