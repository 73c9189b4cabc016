"""One handler for each container a matrix of cells x features may come in."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.kernels import (
    SCRATCH,
    Moments,
    Rows,
    csc_moments,
    csr_has_duplicates,
    csr_moments,
    dense_moments,
)
from donorwise._core.cells.readers import has_reader
from donorwise._core.cells.rows import read_only
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.threads import run_ranges
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from donorwise._typing import IntArray

Csr: TypeAlias = sparse.csr_matrix | sparse.csr_array
Csc: TypeAlias = sparse.csc_matrix | sparse.csc_array

# Columns that have to be converted are so in blocks of about this many numbers per thread.
_BLOCK_NUMBERS = 2**21


class Job(NamedTuple):
    """What to collapse besides the matrix: segments of rows, columns, output, number of threads."""

    rows: Rows
    columns: IntArray
    out: Moments
    n_jobs: int


@singledispatch
def accumulate(matrix: object, job: Job) -> None:
    """Fill ``job.out`` with the moments of the segments ``job.rows`` of the columns ``job.columns``."""
    refuse(matrix)


def refuse(matrix: object) -> NoReturn:
    """Raise the DataError for a container without a handler."""
    kind = type(matrix)
    name = f"{kind.__module__}.{kind.__qualname__}"
    raise DataError(
        f"Cannot read a matrix of type {name}; use a scipy sparse matrix, a numpy array or a DataFrame in memory, a "
        "backed h5ad, a zarr array, or a dask array of sparse or dense blocks."
    )


def in_memory(matrix: object) -> bool:
    """Whether the matrix can be passed to `accumulate`."""
    return accumulate.dispatch(type(matrix)) is not accumulate.dispatch(object)


def check_matrix(matrix: object) -> tuple[int, int]:
    """Shape of a matrix that has a handler; a DataError otherwise."""
    known = in_memory(matrix) or isinstance(matrix, Stored) or has_reader(type(matrix))
    if not known or isinstance(matrix, np.ma.MaskedArray):
        refuse(matrix)
    if not in_memory(matrix):
        _check_real(matrix.dtype)  # type: ignore[attr-defined]
    shape = matrix.shape  # type: ignore[attr-defined]  # every container with a handler has one
    if len(shape) != 2:
        raise DataError(f"The matrix must have two dimensions, cells x features; got shape {shape}.")
    return shape


@accumulate.register(sparse.csr_matrix)
@accumulate.register(sparse.csr_array)
def _(matrix: Csr, job: Job) -> None:
    arrays = sparse_arrays(matrix)
    if not _csr_pass(arrays, matrix.shape[1], job) and csr_has_duplicates(*arrays[1:], matrix.shape[1]):
        _csr_pass(sparse_arrays(canonical(matrix)), matrix.shape[1], job)


@accumulate.register(sparse.csc_matrix)
@accumulate.register(sparse.csc_array)
def _(matrix: Csc, job: Job) -> None:
    arrays = sparse_arrays(matrix)

    def task(first: int, last: int) -> None:
        if not csc_moments(*arrays, job.columns, job.rows, job.out, first, last):
            # Duplicates, or rows out of order, in which the weights must not be added up.
            block = canonical(matrix, job.columns[first:last])
            local = read_only(np.arange(len(job.columns)) - first)
            csc_moments(*sparse_arrays(block), local, job.rows, job.out, first, last)

    run_ranges(task, np.diff(matrix.indptr)[job.columns], job.n_jobs)


@accumulate.register(sparse.spmatrix)
@accumulate.register(sparse.sparray)
def _(matrix: sparse.spmatrix | sparse.sparray, job: Job) -> None:
    accumulate(matrix.tocsr(), job)


@accumulate.register(np.ndarray)
def _(matrix: NDArray[Any], job: Job) -> None:
    array = np.asarray(matrix)
    if is_ready(array) and all_in_order(job.columns, array.shape[1]):
        _dense_pass(array, job)
    else:
        _dense_by_blocks(column_reader(array, job.columns), job)


@accumulate.register(pd.DataFrame)
def _(matrix: pd.DataFrame, job: Job) -> None:
    _dense_by_blocks(column_reader(matrix, job.columns), job)


def column_reader(matrix: NDArray[Any] | pd.DataFrame, columns: IntArray) -> Callable[[IntArray | slice], NDArray[Any]]:
    """A function that reads some of `columns` as real numbers, NaN where a value is missing."""
    if not isinstance(matrix, pd.DataFrame):
        array = np.asarray(matrix)
        _check_real(array.dtype)
        return lambda some: array[:, some]
    dtypes = matrix.dtypes.iloc[columns]
    for name, dtype in dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
            raise DataError(f"Column {name!r} holds {dtype}, not real numbers; leave it out or convert it.")
    # Columns of one numpy dtype are views of the frame; others have to be converted.
    plain = dtypes.nunique() == 1 and isinstance(dtypes.iloc[0], np.dtype)
    how = {} if plain else {"dtype": np.float64, "na_value": np.nan}
    return lambda some: matrix.iloc[:, some].to_numpy(**how)


def _csr_pass(arrays: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], n_columns: int, job: Job) -> bool:
    """One pass; whether the indices of every row increase strictly."""
    args = (*arrays, positions(job.columns, n_columns), job.rows, job.out)
    stored = np.concatenate([[0], np.cumsum(np.diff(arrays[2])[job.rows.order], dtype=np.int64)])
    cost = np.diff(stored[job.rows.starts])
    return all(run_ranges(lambda first, last: csr_moments(*args, first, last), cost, job.n_jobs))


def positions(columns: IntArray, n_columns: int) -> NDArray[np.int32] | None:
    """Accumulator of each column (see `csr_moments`); None where each column has its own number."""
    if all_in_order(columns, n_columns):
        return None
    position = (len(columns) + np.arange(n_columns) % SCRATCH).astype(np.int32)
    position[columns] = np.arange(len(columns))
    return read_only(position)


def _dense_pass(matrix: NDArray[Any], job: Job) -> None:
    args = (read_only(matrix), job.rows, job.out)
    run_ranges(lambda first, last: dense_moments(*args, first, last), np.diff(job.rows.starts), job.n_jobs)


def _dense_by_blocks(load: Callable[[IntArray | slice], NDArray[Any]], job: Job) -> None:
    """Collapse the matrices ``load(columns)`` of a few columns each, in several threads."""
    n_features = len(job.columns)
    width = max(8, _BLOCK_NUMBERS // max(1, len(job.rows.segment)))

    def task(first: int, last: int) -> None:
        for low in range(first * width, min(last * width, n_features), width):
            part = slice(low, low + width)
            block = load(slice_if_run(job.columns[part]))
            if not is_ready(block):
                block = np.ascontiguousarray(block, dtype=np.float32 if block.dtype == np.float32 else np.float64)
            out = Moments(*(array[..., part] for array in job.out))
            _dense_pass(block, Job(job.rows, job.columns[part], out, n_jobs=1))

    run_ranges(task, np.ones(-(-n_features // width), dtype=np.int64), job.n_jobs)


def is_ready(array: NDArray[Any]) -> bool:
    """Whether the dense kernel reads the array as it is; compiling it for more kinds would take longer than it saves."""
    return array.dtype in (np.float32, np.float64) and array.flags.c_contiguous


def all_in_order(columns: IntArray, n_columns: int) -> bool:
    """Whether these are all columns, in order."""
    return np.array_equal(columns, np.arange(n_columns))


def slice_if_run(columns: IntArray) -> IntArray | slice:
    """Consecutive columns as a slice, which numpy and pandas read without a detour."""
    run = len(columns) and (np.diff(columns) == 1).all()
    return slice(int(columns[0]), int(columns[-1]) + 1) if run else columns


def sparse_arrays(matrix: Csr | Csc) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Data, indices and indptr, as the kernels read them."""
    data, indices, indptr = (np.ascontiguousarray(_loadable(a)) for a in (matrix.data, matrix.indices, matrix.indptr))
    return read_only(data), read_only(indices), read_only(indptr)


def _plain(matrix: Csr | Csc) -> Csr | Csc:
    """The same arrays in a new object: the flags of the given one may say "canonical" without being true."""
    kind = sparse.csr_array if matrix.format == "csr" else sparse.csc_array
    data = matrix.data if matrix.data.dtype == bool else _loadable(matrix.data)  # as scipy adds: True + True is True
    return kind((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def canonical(matrix: Csr | Csc, columns: IntArray | None = None) -> Csr | Csc:
    """A copy (of some columns) with sorted indices and duplicates added up."""
    plain = _plain(matrix)
    copy = plain.copy() if columns is None else plain[:, columns]
    copy.sum_duplicates()
    return copy


def _check_real(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "biuf":
        raise DataError(f"The matrix holds {dtype}, not real numbers.")


def _loadable(array: NDArray[Any]) -> NDArray[Any]:
    """The array in a dtype that numba can read, the same array in almost all cases."""
    dtype = array.dtype
    _check_real(dtype)
    if dtype.kind == "b":
        return array.view(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return array.astype(np.float64)
    return array.astype(dtype.newbyteorder("="), copy=False)
