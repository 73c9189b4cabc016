"""What is looked at in every value before a fit of counts, in one pass: whether it is one, sums of rows, and the largest."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from donorwise._core.cells.chunks import SparseChunk, Wanted, chunks_of
from donorwise._core.cells.matrices import read_kept
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.threads import run_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from donorwise._typing import BoolArray, FloatArray, IntArray


class Examined(NamedTuple):
    """What was seen in each of N rows.

    Attributes
    ----------
    total
        Shape (N,). Sum over the columns that were looked at.
    largest
        Shape (N,). Largest value of the features, 0 where all are below.
    n_bad
        Shape (N,). Values that are no whole numbers from 0 to the most that there can be.
    column, value
        Shape (N,). The first of them, and its column.
    """

    total: FloatArray
    largest: FloatArray
    n_bad: IntArray
    column: IntArray
    value: FloatArray


def examine(
    matrix: Any, most: FloatArray, features: IntArray | None = None, *, whole: bool = True, n_jobs: int | None = 1
) -> Examined:
    """Look at every value of a matrix once; zeros of a sparse one are not visited.

    Parameters
    ----------
    matrix
        Shape (N, M), in memory or not (a `Stored`).
    most
        Shape (N,). The most that a value of each row may be.
    features
        Columns that `largest` is of; all if None.
    whole
        Whether to look at the other columns as well.
    n_jobs
        Threads; None for numba's number.
    """
    stored = matrix if isinstance(matrix, Stored) else Stored(matrix)
    n_rows, n_columns = stored.matrix.shape
    places = np.arange(stored.shape[1])
    asked = places if whole or features is None else np.asarray(features)
    columns = asked if stored.columns is None else stored.columns[asked]
    chosen = np.isin(asked, places if features is None else features)
    limit = np.full(n_rows, np.inf)
    limit[slice(None) if stored.rows is None else stored.rows] = most
    none = np.zeros(n_rows, dtype=np.int64)
    seen = Examined(np.zeros(n_rows), np.zeros(n_rows), none, none.copy(), np.full(n_rows, np.nan))
    for first, start, block in _blocks(matrix):
        _add_block(block, first, start, Wanted(columns, n_columns), chosen, limit, seen, n_jobs)
    seen = seen._replace(column=asked[seen.column])
    return seen if stored.rows is None else Examined._make(values[stored.rows] for values in seen)


def _blocks(matrix: Any) -> Iterator[tuple[int, int, Any]]:
    """Parts in memory, each with its first row and its first column."""
    if not isinstance(matrix, Stored):
        yield 0, 0, matrix
        return
    reader = open_reader(matrix.matrix)
    for (low, _), pieces in read_kept(reader, matrix):
        for start, block in pieces:
            yield 0 if reader.by_columns else low, start, block


def _add_block(
    block: Any,
    first: int,
    start: int,
    wanted: Wanted,
    chosen: BoolArray,
    limit: FloatArray,
    seen: Examined,
    n_jobs: int | None,
) -> None:
    here = slice(first, first + block.shape[0])
    to, most = Examined._make(values[here] for values in seen), limit[here]
    no_cells: Any = None  # patterns do not matter
    for chunk in chunks_of(block, start, wanted, no_cells):
        if isinstance(chunk, SparseChunk):
            data, indices, indptr, position, _ = chunk
            add = partial(_look_at_csr, data, indices, indptr, position, chosen, most, to)
            run_ranges(add, np.diff(indptr).astype(np.int64), n_jobs)
        else:
            n, width = chunk.values.shape
            run_ranges(partial(_look_at_rows, chunk.values, chunk.start, chosen, most, to), np.full(n, width), n_jobs)


@njit(nogil=True, cache=True)
def _note(seen: Examined, i: int, g: int, y: float) -> None:
    """A value that cannot be used, of a row."""
    if seen.n_bad[i] == 0:
        seen.column[i] = g
        seen.value[i] = y
    seen.n_bad[i] += 1


@njit(nogil=True, cache=True)
def _look_at_csr(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    chosen: BoolArray,
    most: FloatArray,
    seen: Examined,
    low: int,
    high: int,
) -> None:
    """The stored values of some rows."""
    for i in range(low, high):
        total, largest, limit = 0.0, seen.largest[i], most[i]
        for p in range(indptr[i], indptr[i + 1]):
            g = int(indices[p] if position is None else position[indices[p]])
            if g < chosen.size:
                y = float(data[p])
                total += y
                if not (0.0 <= y <= limit and y < np.inf and y == np.floor(y)):
                    _note(seen, i, g, y)
                elif y > largest and chosen[g]:
                    largest = y
        seen.total[i] += total
        seen.largest[i] = largest


@njit(nogil=True, cache=True)
def _look_at_rows(
    values: NDArray[Any], start: int, chosen: BoolArray, most: FloatArray, seen: Examined, low: int, high: int
) -> None:
    """Rows whose columns are those from `start` on."""
    for i in range(low, high):
        total, largest, limit = 0.0, seen.largest[i], most[i]
        for j in range(values.shape[1]):
            y = float(values[i, j])
            total += y
            if not (0.0 <= y <= limit and y < np.inf and y == np.floor(y)):
                _note(seen, i, start + j, y)
            elif y > largest and chosen[start + j]:
                largest = y
        seen.total[i] += total
        seen.largest[i] = largest
