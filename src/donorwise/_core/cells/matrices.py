"""What is asked of a matrix of cells x features wherever it is: its shape, missing values, sums of rows, columns, a sample."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.chunks import check_real, column_reader, in_memory, refuse
from donorwise._core.cells.readers import has_reader, open_reader
from donorwise._core.cells.segments import check_features
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.stream import cut_ranges, fetch, read_chunks
from donorwise._core.cells.structure import check_structure
from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from donorwise._core.cells.readers import Piece, Reader
    from donorwise._core.cells.stream import Range

# Values of a matrix in memory that are looked at together.
_VALUES = 2**22
# Rows or columns from whose size that of the others is guessed.
_COSTS_LOOKED_AT = 2**16


def check_matrix(matrix: object) -> tuple[int, int]:
    """Shape of a matrix that can be read; a DataError otherwise."""
    known = in_memory(matrix) or isinstance(matrix, Stored) or has_reader(type(matrix))
    if not known or isinstance(matrix, np.ma.MaskedArray):
        refuse(matrix)
    if not in_memory(matrix):
        check_real(matrix.dtype)  # type: ignore[attr-defined]
    shape = matrix.shape  # type: ignore[attr-defined]  # every container with a handler has one
    if len(shape) != 2:
        raise DataError(f"The matrix must have two dimensions, cells x features; got shape {shape}.")
    check_structure(matrix)
    return shape


def missing_patterns(
    matrix: object, features: ArrayLike | None = None, *, block_numbers: int = _VALUES
) -> list[tuple[IntArray, BoolArray | None]]:
    """Group the columns of a dense matrix by the rows in which they are NaN.

    Parameters
    ----------
    matrix
        Shape (N, columns). Numpy array or DataFrame. A matrix that is not in memory is one group of columns
        without NaN: looking for them would read it twice (`collapse` refuses them).
    features
        Column numbers to look at; all if None.
    block_numbers
        How many numbers to look at together.

    Returns
    -------
    list of (columns, rows)
        `columns` are elements of `features`, in their order; `rows` has shape (N,) and is True
        where these columns have a value. The columns without NaN come first, with None for
        `rows`; the other groups follow in the order of their first column. Every column is in one group.

    Raises
    ------
    DataError
        If the matrix is not dense or does not hold numbers.
    """
    n_rows, n_columns = check_matrix(matrix)
    columns = check_features(features, n_columns)
    if not in_memory(matrix):
        return [(columns, None)] if len(columns) else []
    if not isinstance(matrix, np.ndarray | pd.DataFrame):
        raise DataError("Missing values can be kept only in a dense matrix, a numpy array or a DataFrame.")
    groups: dict[bytes, list[int]] = {b"": []}
    for column, key in _missing_rows(column_reader(matrix, columns), columns, n_rows, block_numbers):
        groups.setdefault(key, []).append(column)
    return [(np.array(group), _unpack(key, n_rows)) for key, group in groups.items() if group]


def _missing_rows(
    read: Callable[[IntArray], NDArray[Any]], columns: IntArray, n_rows: int, block_numbers: int
) -> Iterator[tuple[int, bytes]]:
    """Each column with the packed bits of its NaN rows, b"" if there are none."""
    width = max(1, block_numbers // max(1, n_rows))
    for low in range(0, len(columns), width):
        block = columns[low : low + width]
        missing = np.isnan(read(block))
        some = missing.any(axis=0)
        packed = np.packbits(missing[:, some].T, axis=1)
        keys = iter(packed)
        for column, has_missing in zip(block.tolist(), some.tolist(), strict=True):
            yield column, next(keys).tobytes() if has_missing else b""


def _unpack(key: bytes, n_rows: int) -> BoolArray | None:
    if not key:
        return None
    return np.unpackbits(np.frombuffer(key, dtype=np.uint8), count=n_rows) == 0


@singledispatch
def row_sums(matrix: Any) -> FloatArray:
    """Sums of the rows, shape (N,), in float64; one pass where the matrix is not in memory."""
    check_structure(matrix)
    return np.ravel(np.asarray(matrix.sum(axis=1, dtype=np.float64)))


@row_sums.register(Stored)
def _(matrix: Stored) -> FloatArray:
    reader, kept = open_reader(matrix.matrix), _kept(matrix)
    sums = np.zeros(reader.shape[0])
    for (low, high), pieces in read_kept(reader, matrix):
        rows = slice(None) if reader.by_columns else slice(low, high)
        for start, block in pieces:
            sums[rows] += block @ kept[start : start + block.shape[1]]
    return sums if matrix.rows is None else sums[matrix.rows]


@singledispatch
def read_columns(matrix: Any, columns: IntArray | None = None) -> FloatArray:
    """Some columns (all if None) as a dense array, shape (N, len(columns)); one pass where they are not in memory."""
    some = matrix if columns is None else matrix[:, columns]
    return np.asarray(some.toarray() if sparse.issparse(some) else some, dtype=np.float64)


@read_columns.register(Stored)
def _(matrix: Stored, columns: IntArray | None = None) -> FloatArray:
    reader = open_reader(matrix.matrix)
    wanted = np.asarray(matrix.column_numbers(np.arange(matrix.shape[1]) if columns is None else columns))
    values = np.zeros((reader.shape[0], len(wanted)))
    for (low, high), pieces in read_kept(reader, Stored(matrix.matrix, matrix.rows, wanted)):
        rows = slice(None) if reader.by_columns else slice(low, high)
        for start, block in pieces:
            inside = np.flatnonzero((wanted >= start) & (wanted < start + block.shape[1]))
            taken = block[:, wanted[inside] - start]
            values[rows, inside] = taken.toarray() if sparse.issparse(taken) else taken
    return values if matrix.rows is None else values[matrix.rows]


@singledispatch
def read_cells(matrix: Any, rows: IntArray, columns: IntArray | None = None) -> FloatArray | sparse.csc_array:
    """Some rows and columns (all if None), sparse by columns or an array; one pass where they are not in memory."""
    if sparse.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    part = matrix.iloc[rows].to_numpy() if isinstance(matrix, pd.DataFrame) else matrix[rows]
    return _by_columns([part if columns is None else part[:, columns]])


@read_cells.register(Stored)
def _(matrix: Stored, rows: IntArray, columns: IntArray | None = None) -> FloatArray | sparse.csc_array:
    reader = open_reader(matrix.matrix)
    kept = np.asarray(rows if matrix.rows is None else matrix.rows[rows])
    wanted = np.asarray(matrix.column_numbers(np.arange(matrix.shape[1]) if columns is None else columns))
    order, column_order = np.sort(kept), np.sort(wanted)
    if reader.by_columns:
        found = [block[order] for block in _taken(reader, matrix, column_order)]
        whole = sparse.hstack(found, format="csc") if sparse.issparse(found[0]) else np.hstack(found)
    else:
        whole = _by_columns([block[:, column_order] for block in _taken(reader, matrix, order)])
    return _by_columns([whole[np.searchsorted(order, kept)][:, np.searchsorted(column_order, wanted)]])


def _taken(reader: Reader, stored: Stored, items: IntArray) -> Iterator[Any]:
    """The rows (or columns) numbered `items`, ascending, of the whole matrix, in pieces."""
    whole = Stored(stored.matrix, None, items) if reader.by_columns else Stored(stored.matrix, items, None)
    for (low, high), pieces in read_kept(reader, whole):
        blocks = [block for _, block in pieces]
        side_by_side = sparse.hstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.hstack(blocks)
        own = items[(items >= low) & (items < high)] - low
        yield side_by_side[:, own] if reader.by_columns else side_by_side[own]


def _by_columns(parts: list[Any]) -> FloatArray | sparse.csc_array:
    """Rows under one another."""
    if sparse.issparse(parts[0]):
        return sparse.csc_array(sparse.vstack(parts, format="csc"))
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


@singledispatch
def stored_values(matrix: Any) -> Iterator[NDArray[Any]]:
    """All stored values, some at a time; the zeros of a sparse matrix are not among them.

    Of a `Stored` the whole matrix is read, what is not kept of it too.
    """
    values = matrix.data if sparse.issparse(matrix) else matrix
    step = max(1, _VALUES // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), step):
        yield values[start : start + step]


@stored_values.register(Stored)
def _(matrix: Stored) -> Iterator[NDArray[Any]]:
    for _, pieces in read_kept(open_reader(matrix.matrix), matrix):
        for _, block in pieces:
            yield block.data if sparse.issparse(block) else np.ravel(block)


@singledispatch
def sample_values(matrix: Any, size: int, *, n_places: int = 8) -> NDArray[Any]:
    """About `size` stored values, spread evenly; of a matrix that is not in memory from `n_places` chunks."""
    if sparse.issparse(matrix):
        stored = matrix.data if matrix.format in ("csr", "csc", "coo", "bsr") else matrix.tocsr().data
        return np.asarray(stored[:: max(1, stored.size // size)])
    rows = max(1, size // max(1, matrix.shape[1]))
    return np.asarray(matrix[:: max(1, matrix.shape[0] // rows)]).ravel()[: 2 * size]


@sample_values.register(Stored)
def _(matrix: Stored, size: int, *, n_places: int = 8) -> NDArray[Any]:
    reader = open_reader(matrix.matrix)
    n = reader.shape[reader.by_columns]
    cost = reader.cost(0, min(n, _COSTS_LOOKED_AT))
    n_items = max(1, int(size / n_places / max(1.0, cost.mean() / 8))) if n else 1
    found = [block for _, pieces in _read_places(reader, n_items, n_places) for _, block in pieces]
    values = [np.asarray(block.data if sparse.issparse(block) else block).ravel() for block in found]
    taken = [v[:: max(1, len(v) * n_places // size)] for v in values]
    return np.concatenate(taken) if taken else np.zeros(0, dtype=matrix.dtype)


@singledispatch
def sample_rows(matrix: Any, n_rows: int, *, n_places: int = 8) -> Any:
    """About `n_rows` whole rows, spread evenly, dense or sparse; none of a matrix that is read by columns."""
    if sparse.issparse(matrix) and matrix.format != "csr":
        matrix = matrix.tocsr()
    step = max(1, matrix.shape[0] // n_rows)
    return matrix.iloc[::step].to_numpy() if isinstance(matrix, pd.DataFrame) else matrix[::step]


@sample_rows.register(Stored)
def _(matrix: Stored, n_rows: int, *, n_places: int = 8) -> Any:
    reader = open_reader(matrix.matrix)
    if reader.by_columns:
        return np.empty((0, reader.shape[1]))
    found = []
    for _, pieces in _read_places(reader, max(1, n_rows // n_places), n_places):
        blocks = [block for _, block in pieces]
        found.append(sparse.hstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.hstack(blocks))
    if not found:
        return np.empty((0, reader.shape[1]))
    return sparse.vstack(found, format="csr") if sparse.issparse(found[0]) else np.vstack(found)


@singledispatch
def sample_row_sums(matrix: Any, *, n_rows: int = 100, n_places: int = 100) -> FloatArray | None:
    """Sums of the rows; of a matrix that is not in memory in `n_places` places, NaN for the others.

    None for one that is read by columns.
    """
    return row_sums(matrix)


@sample_row_sums.register(Stored)
def _(matrix: Stored, *, n_rows: int = 100, n_places: int = 100) -> FloatArray | None:
    reader, kept = open_reader(matrix.matrix), _kept(matrix)
    if reader.by_columns:
        return None
    sums = np.full(reader.shape[0], np.nan)
    for (low, high), pieces in _read_places(reader, n_rows, n_places):
        sums[low:high] = sum(block @ kept[start : start + block.shape[1]] for start, block in pieces)
    return sums if matrix.rows is None else sums[matrix.rows]


def _kept(stored: Stored) -> FloatArray:
    """1 for the kept columns of the whole matrix, else 0."""
    kept = np.zeros(stored.matrix.shape[1])
    kept[slice(None) if stored.columns is None else stored.columns] = 1.0
    return kept


def read_kept(reader: Reader, stored: Stored) -> Iterator[tuple[Range, list[Piece]]]:
    """Chunks with the kept rows, or columns, and the range of each."""
    kept = stored.columns if reader.by_columns else stored.rows
    wanted = np.full(reader.shape[reader.by_columns], kept is None)
    if kept is not None:
        wanted[kept] = True
    return read_chunks(reader, lambda low, high: wanted[low:high])


def _all(low: int, high: int) -> BoolArray:
    return np.ones(high - low, dtype=bool)


def _read_places(reader: Reader, n_items: int, n_places: int) -> Iterator[tuple[Range, list[Piece]]]:
    """Chunks of `n_items` rows or columns, spread evenly."""
    ranges, _ = cut_ranges(reader, _all, n_items)
    places = np.unique(np.linspace(0, len(ranges) - 1, min(n_places, len(ranges))).astype(int))
    yield from fetch(reader, [ranges[i] for i in places], n_jobs=1, n_bytes=0)
