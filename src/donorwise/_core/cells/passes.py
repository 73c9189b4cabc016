"""What else is asked of a matrix that is not in memory: sums of rows, single columns, a few of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from donorwise._core.cells.fetch import fetch
from donorwise._core.cells.readers import Reader, open_reader
from donorwise._core.cells.stream import chunks, plan
from donorwise._typing import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from donorwise._core.cells.fetch import Range
    from donorwise._core.cells.readers import Part
    from donorwise._core.cells.stored import Stored


# Rows or columns from whose size that of the others is guessed.
_COSTS_LOOKED_AT = 2**16


def row_sums(stored: Stored, *, n_jobs: int = 1, progress: bool = False) -> FloatArray:
    """Sums of the rows over the kept columns, shape (N,), in one pass."""
    reader = open_reader(stored.matrix)
    kept = np.ones(reader.shape[1]) if stored.columns is None else np.zeros(reader.shape[1])
    kept[slice(None) if stored.columns is None else stored.columns] = 1.0
    sums = np.zeros(reader.shape[0])
    for (low, high), parts in _pass(reader, stored, n_jobs, progress):
        for start, block in parts:
            rows = slice(None) if reader.by_columns else slice(low, high)
            sums[rows] += block @ kept[start : start + block.shape[1]]
    return sums if stored.rows is None else sums[stored.rows]


def read_columns(stored: Stored, columns: IntArray, *, n_jobs: int = 1) -> FloatArray:
    """Some of the kept columns, shape (N, len(columns)), dense, in one pass."""
    reader = open_reader(stored.matrix)
    wanted = np.asarray(stored.column_numbers(columns))
    values = np.zeros((reader.shape[0], len(wanted)))
    some = type(stored)(stored.matrix, stored.rows, wanted)
    for (low, high), parts in _pass(reader, some, n_jobs, progress=False):
        for start, block in parts:
            inside = np.flatnonzero((wanted >= start) & (wanted < start + block.shape[1]))
            taken = block[:, wanted[inside] - start]
            rows = slice(None) if reader.by_columns else slice(low, high)
            values[rows, inside] = taken.toarray() if sparse.issparse(taken) else taken
    return values if stored.rows is None else values[stored.rows]


def stored_values(stored: Stored, *, n_jobs: int = 1) -> Iterator[NDArray[Any]]:
    """All stored values of the matrix, kept or not, chunk by chunk; the zeros of a sparse one are not among them."""
    for _, parts in _pass(open_reader(stored.matrix), stored, n_jobs, progress=False):
        for _, block in parts:
            yield block.data if sparse.issparse(block) else np.ravel(block)


def sample_stored(stored: Stored, size: int, *, n_places: int = 8) -> NDArray[Any]:
    """About `size` stored values, from `n_places` chunks spread evenly over the matrix."""
    reader = open_reader(stored.matrix)
    n = reader.shape[reader.by_columns]
    cost = reader.cost(0, min(n, _COSTS_LOOKED_AT))
    n_items = max(1, int(size / n_places / max(1.0, cost.mean() / 8))) if n else 1
    found = [part for _, parts in _read_places(reader, n_items, n_places) for _, part in parts]
    values = [np.asarray(part.data if sparse.issparse(part) else part).ravel() for part in found]
    taken = [v[:: max(1, len(v) * n_places // size)] for v in values]
    return np.concatenate(taken) if taken else np.zeros(0, dtype=stored.dtype)


def sample_row_sums(stored: Stored, *, n_rows: int = 100, n_places: int = 100) -> FloatArray | None:
    """Sums of rows in `n_places` places, NaN for the others; None for a matrix that is read by columns."""
    reader = open_reader(stored.matrix)
    if reader.by_columns:
        return None
    kept = np.ones(reader.shape[1]) if stored.columns is None else np.zeros(reader.shape[1])
    kept[slice(None) if stored.columns is None else stored.columns] = 1.0
    sums = np.full(reader.shape[0], np.nan)
    for (low, high), parts in _read_places(reader, n_rows, n_places):
        sums[low:high] = sum(block @ kept[start : start + block.shape[1]] for start, block in parts)
    return sums if stored.rows is None else sums[stored.rows]


def _pass(reader: Reader, stored: Stored, n_jobs: int, progress: bool) -> Iterator[tuple[Range, list[Part]]]:
    kept = stored.columns if reader.by_columns else stored.rows
    wanted = np.full(reader.shape[reader.by_columns], kept is None)
    if kept is not None:
        wanted[kept] = True
    return chunks(reader, lambda low, high: wanted[low:high], n_jobs, None, progress)


def _all(low: int, high: int) -> BoolArray:
    return np.ones(high - low, dtype=bool)


def _read_places(reader: Reader, n_items: int, n_places: int) -> Iterator[tuple[Range, list[Part]]]:
    """Chunks of `n_items` rows or columns, spread evenly."""
    ranges, _ = plan(reader, _all, n_items)
    places = np.unique(np.linspace(0, len(ranges) - 1, min(n_places, len(ranges))).astype(int))
    yield from fetch(reader, [ranges[i] for i in places], n_jobs=1, n_bytes=0)
