"""Matrices in memory as the kernels read them: one handler for each container."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.kernels import SCRATCH, csr_has_duplicates, increasing
from donorwise._core.cells.segments import read_only
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from donorwise._core.cells.kernels import Segmented
    from donorwise._typing import IntArray

Csr: TypeAlias = sparse.csr_matrix | sparse.csr_array
Csc: TypeAlias = sparse.csc_matrix | sparse.csc_array

BLOCK_NUMBERS = 2**21
"""What has to be converted is so in blocks of about this many numbers."""


class Wanted(NamedTuple):
    """The columns of a matrix that are the G features, in their order; `n` is the number of columns."""

    columns: IntArray
    n: int

    @property
    def position(self) -> NDArray[np.int32] | None:
        """Feature of each column, or one of SCRATCH places beyond if it is not wanted; None where they are the same."""
        if all_in_order(self.columns, self.n):
            return None
        position = (len(self.columns) + np.arange(self.n) % SCRATCH).astype(np.int32)
        position[self.columns] = np.arange(len(self.columns))
        return read_only(position)


class SparseChunk(NamedTuple):
    """Rows in CSR form without duplicates; `position` as in `Wanted`, for the columns of these arrays."""

    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[Any]
    position: NDArray[np.int32] | None
    cells: Segmented


class DenseChunk(NamedTuple):
    """C-ordered rows of float32 or float64, whose columns are the features from `start` on."""

    values: NDArray[Any]
    start: int
    cells: Segmented


Chunk: TypeAlias = SparseChunk | DenseChunk


@singledispatch
def chunks_of(matrix: object, start: int, wanted: Wanted, cells: Segmented) -> Iterator[Chunk]:
    """The wanted values of a matrix in memory, whose columns are those from `start` on and whose rows are `cells`."""
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
    """Whether the matrix is in memory, in a container that has a handler."""
    return chunks_of.dispatch(type(matrix)) is not chunks_of.dispatch(object)


@chunks_of.register(sparse.csr_matrix)
@chunks_of.register(sparse.csr_array)
def _(matrix: Csr, start: int, wanted: Wanted, cells: Segmented) -> Iterator[Chunk]:
    arrays = sparse_arrays(matrix)
    if not increasing(*arrays[1:]) and csr_has_duplicates(*arrays[1:], matrix.shape[1]):
        arrays = sparse_arrays(canonical(matrix))
    position, width = wanted.position, matrix.shape[1]
    if width < wanted.n:
        every = np.arange(wanted.n, dtype=np.int32) if position is None else position
        position = read_only(every[start : start + width])
    yield SparseChunk(*arrays, position, cells)


@chunks_of.register(sparse.csc_matrix)
@chunks_of.register(sparse.csc_array)
def _(matrix: Csc, start: int, wanted: Wanted, cells: Segmented) -> Iterator[Chunk]:
    here = np.flatnonzero((wanted.columns >= start) & (wanted.columns < start + matrix.shape[1]))
    stored = np.cumsum(np.diff(matrix.indptr)[wanted.columns[here] - start]) // BLOCK_NUMBERS
    for part in np.split(here, np.flatnonzero(np.diff(stored)) + 1):
        block = canonical(matrix, wanted.columns[part] - start).tocsr()
        yield SparseChunk(*sparse_arrays(block), read_only(part.astype(np.int32)), cells)


@chunks_of.register(sparse.spmatrix)
@chunks_of.register(sparse.sparray)
def _(matrix: sparse.spmatrix | sparse.sparray, start: int, wanted: Wanted, cells: Segmented) -> Iterator[Chunk]:
    yield from chunks_of(matrix.tocsr(), start, wanted, cells)


@chunks_of.register(np.ndarray)
@chunks_of.register(pd.DataFrame)
def _(matrix: NDArray[Any] | pd.DataFrame, start: int, wanted: Wanted, cells: Segmented) -> Iterator[Chunk]:
    """Columns that are features one after another go together; as they are, where they are all that there are."""
    width = matrix.shape[1]
    here = np.flatnonzero((wanted.columns >= start) & (wanted.columns < start + width))
    read = column_reader(matrix, wanted.columns[here] - start)
    most = max(8, BLOCK_NUMBERS // max(1, matrix.shape[0]))
    for run in np.split(here, np.flatnonzero(np.diff(here) > 1) + 1) if len(here) else ():
        local = wanted.columns[run] - start
        if isinstance(matrix, np.ndarray) and is_ready(matrix) and all_in_order(local, width):
            yield DenseChunk(read_only(matrix), int(run[0]), cells)
            continue
        for low in range(0, len(run), most):
            values = ready(read(slice_if_run(local[low : low + most])))
            yield DenseChunk(read_only(values), int(run[low]), cells)


def column_reader(matrix: NDArray[Any] | pd.DataFrame, columns: IntArray) -> Callable[[IntArray | slice], NDArray[Any]]:
    """A function that reads some of `columns` as real numbers, NaN where a value is missing."""
    if not isinstance(matrix, pd.DataFrame):
        array = np.asarray(matrix)
        check_real(array.dtype)
        return lambda some: array[:, some]
    dtypes = matrix.dtypes.iloc[columns]
    for name, dtype in dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
            raise DataError(f"Column {name!r} holds {dtype}, not real numbers; leave it out or convert it.")
    # Columns of one numpy dtype are views of the frame; others have to be converted.
    plain = dtypes.nunique() == 1 and isinstance(dtypes.iloc[0], np.dtype)
    how = {} if plain else {"dtype": np.float64, "na_value": np.nan}
    return lambda some: matrix.iloc[:, some].to_numpy(**how)


def is_ready(array: NDArray[Any]) -> bool:
    """Whether dense kernels read the array as it is; compiling them for more kinds would take longer than it saves."""
    return array.dtype in (np.float32, np.float64) and array.flags.c_contiguous


def ready(array: NDArray[Any]) -> NDArray[Any]:
    """The array as dense kernels read it."""
    if is_ready(array):
        return array
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float32 else np.float64)


def all_in_order(columns: IntArray, n_columns: int) -> bool:
    """Whether these are all columns, in order."""
    return np.array_equal(columns, np.arange(n_columns))


def slice_if_run(columns: IntArray) -> IntArray | slice:
    """Consecutive columns as a slice, which numpy and pandas read without a detour."""
    run = len(columns) and (np.diff(columns) == 1).all()
    return slice(int(columns[0]), int(columns[-1]) + 1) if run else columns


def sparse_arrays(matrix: Csr | Csc) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Data, indices and indptr, as the kernels read them."""
    data, indices, indptr = (np.ascontiguousarray(loadable(a)) for a in (matrix.data, matrix.indices, matrix.indptr))
    return read_only(data), read_only(indices), read_only(indptr)


def canonical(matrix: Csr | Csc, columns: IntArray | None = None) -> Csr | Csc:
    """A copy (of some columns) with sorted indices and duplicates added up."""
    # The flags of the given object may say "canonical" without being true.
    kind = sparse.csr_array if matrix.format == "csr" else sparse.csc_array
    data = matrix.data if matrix.data.dtype == bool else loadable(matrix.data)  # as scipy adds: True + True is True
    plain = kind((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    copy = plain.copy() if columns is None else plain[:, columns]
    copy.sum_duplicates()
    return copy


def check_real(dtype: np.dtype[Any]) -> None:
    """Raise unless values of this dtype are real numbers or bools."""
    if dtype.kind not in "biuf":
        raise DataError(f"The matrix holds {dtype}, not real numbers.")


def loadable(array: NDArray[Any]) -> NDArray[Any]:
    """The array in a dtype that numba can read, the same array in almost all cases."""
    dtype = array.dtype
    check_real(dtype)
    if dtype.kind == "b":
        return array.view(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return array.astype(np.float64)
    return array.astype(dtype.newbyteorder("="), copy=False)
