"""Numba loops of the counts: what each stored value adds to its feature's record, nothing but arithmetic.

A feature of a segment has a record of W = 1 + J + H numbers side by side: the sum of its values, that of values times what
their cells load on the nodes, and its counts at the values of the tails. Rows are added one after another in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from donorwise._core.cells.kernels import fetch_ahead
from donorwise._core.cells.nodes import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._core.cells.kernels import Segmented
    from donorwise._typing import FloatArray, IntArray

_LANES = 4
_TURNED = 64  # features turned together: their records stay in the cache


class Kept(NamedTuple):
    """What is kept of a value.

    Attributes
    ----------
    at, weight
        Shape (J,). Nodes of log exposure and their barycentric weights; the weight of a cell is its exposure.
    exact, tail_at, tail_weight, table, largest
        Of the tails (see `donorwise._core.cells.counts.Tails`); without them `largest` is infinite, and `exact` is -1.
    detected
        Whether a value above zero counts as one.
    bounded
        Whether a value is at most the covariate of its cell.
    """

    at: FloatArray
    weight: FloatArray
    exact: int
    tail_at: FloatArray
    tail_weight: FloatArray
    table: FloatArray
    largest: float
    detected: bool
    bounded: bool


def _add_scaled_four(typingctx, target, first, x, values, begin):
    """Add x times ``values[begin:begin + 4]`` to ``target[first:first + 4]`` by vector instructions."""

    def codegen(context, builder, signature, args):
        four = ir.VectorType(ir.DoubleType(), 4)

        def address(kind, array, index):
            struct = context.make_array(kind)(context, builder, array)
            item = cgutils.get_item_pointer(context, builder, kind, struct, [index], wraparound=False)
            return builder.bitcast(item, four.as_pointer())

        scale = ir.Constant(four, ir.Undefined)
        for i in range(4):
            scale = builder.insert_element(scale, args[2], ir.IntType(32)(i))
        factor = builder.load(address(signature.args[3], args[3], args[4]), align=8)
        to = address(signature.args[0], args[0], args[1])
        before = builder.load(to, align=8)
        builder.store(builder.fadd(before, builder.fmul(scale, factor)), to, align=8)
        return context.get_dummy_value()

    return types.void(target, first, x, values, begin), codegen


add_scaled_four: Any = intrinsic(_add_scaled_four)


@njit(nogil=True, cache=True)
def _add_beyond(kept: Kept, y: float, to: FloatArray, first: np.uint64, room: FloatArray) -> None:
    """Add what a count loads on the values of the tails to ``to[first:]``, where it is not one of the exact ones."""
    floor = np.int64(y)
    if y <= kept.exact:
        part = y - floor
        if floor > 0:
            to[first + np.uint64(floor - 1)] += 1.0 - part
        to[first + np.uint64(floor)] += part
        return
    row = floor - kept.exact - 1
    found = room
    if y == floor and row < kept.table.shape[0]:
        found = kept.table[row]
    else:
        spread(kept.tail_at, kept.tail_weight, np.log(y), room)
    for h in range(found.size):
        to[first + np.uint64(kept.exact + h)] += found[h]


@njit(nogil=True, cache=True)
def add_tails(
    kept: Kept, n: int, values: FloatArray, places: IntArray, to: FloatArray, offset: int, room: FloatArray
) -> None:
    """Add what n counts above zero load on the values of the tails; those of the i-th begin at ``places[i] + offset``."""
    exact, begin = kept.exact, np.uint64(offset)
    for i in range(np.uint64(n)):
        y, first = values[i], np.uint64(places[i]) + begin
        whole = np.int64(y)
        if whole <= exact and y == whole:
            to[first + np.uint64(whole - 1)] += 1.0
        else:
            _add_beyond(kept, y, to, first, room)


@njit(nogil=True, cache=True)
def _add_loaded(n: int, values: FloatArray, places: IntArray, to: FloatArray, cell: FloatArray) -> None:
    """Add n values, and behind each of their places the value times the loadings `cell` (J,)."""
    size = np.uint64(cell.size)
    whole = size - size % np.uint64(_LANES)
    for i in range(np.uint64(n)):
        first, y = np.uint64(places[i]), values[i]
        to[first] += y
        first += np.uint64(1)
        for j in range(np.uint64(0), whole, np.uint64(_LANES)):
            add_scaled_four(to, first + j, y, cell, j)
        for j in range(whole, size):
            to[first + j] += y * cell[j]


class _Room(NamedTuple):
    """Arrays of a thread: the values of a row and their places, and the loadings of a cell and of a count."""

    values: FloatArray
    places: IntArray
    cell: FloatArray
    tail: FloatArray


@njit(nogil=True, cache=True)
def _room(kept: Kept, n: int) -> _Room:
    return _Room(np.empty(n), np.empty(n, np.int64), np.empty(kept.at.size), np.empty(kept.tail_at.size))


@njit(nogil=True, cache=True)
def _add_row(kept: Kept, cells: Segmented, row: int, n: int, room: _Room, to: FloatArray) -> None:
    """Add the first n values of the room, those of one cell."""
    limit = cells.covariates[row, 0] if kept.bounded else kept.largest
    kept_n = 0
    for i in range(n):
        y = room.values[i]
        if kept.detected and y > 0.0:
            y = 1.0
        if y > 0.0 and y <= limit:
            room.values[kept_n] = y
            room.places[kept_n] = room.places[i]
            kept_n += 1
        elif y != 0.0:
            to[room.places[i]] = np.nan
    if kept.at.size:
        spread(kept.at, kept.weight, np.log(cells.weights[row]), room.cell)
    _add_loaded(kept_n, room.values, room.places, to, room.cell)
    if kept.exact >= 0:
        add_tails(kept, kept_n, room.values, room.places, to, 1 + kept.at.size, room.tail)


@njit(nogil=True, cache=True)
def add_csr_counts(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    kept: Kept,
    records: FloatArray,
    width: int,
    segments: IntArray,
) -> None:
    """Add rows to the records (S, G W) of some segments; `position` as in `donorwise._core.cells.kernels`."""
    n_features = records.shape[1] // width
    room = _room(kept, n_features)
    for s in segments:
        to = records[s]
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row, n = cells.order[r], 0
            fetch_ahead(data, indices, indptr, cells, r)
            for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                j = np.uint64(indices[p])
                g = np.int64(j) if position is None else np.int64(position[j])
                if position is None or g < n_features:
                    room.values[n] = np.float64(data[p])
                    room.places[n] = g * width
                    n += 1
            _add_row(kept, cells, row, n, room, to)


@njit(nogil=True, cache=True)
def add_dense_counts(
    values: NDArray[Any],
    start: int,
    cells: Segmented,
    kept: Kept,
    records: FloatArray,
    width: int,
    segments: IntArray,
) -> None:
    """Add C-ordered rows, whose columns are the features from `start` on, as `add_csr_counts` does."""
    room = _room(kept, values.shape[1])
    for s in segments:
        to = records[s]
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = cells.order[r]
            for j in range(values.shape[1]):
                room.values[j] = np.float64(values[row, j])
                room.places[j] = (start + j) * width
            _add_row(kept, cells, row, values.shape[1], room, to)


@njit(nogil=True, cache=True)
def turn(numbers: FloatArray, first: int, last: int) -> None:
    """Records (G, W) of the segments first..last-1 into their place as (W, G), in place."""
    width, n_features = numbers.shape[1:]
    for s in range(first, last):
        records = numbers[s].copy().reshape((n_features, width))
        for low in range(0, n_features, _TURNED):
            for i in range(width):
                for g in range(low, min(low + _TURNED, n_features)):
                    numbers[s, i, g] = records[g, i]


@njit(nogil=True, cache=True)
def add_cells(
    codes: NDArray[np.int32], exposure: FloatArray, trials: FloatArray, kept: Kept, sums: FloatArray, shared: FloatArray
) -> None:
    """Add cells of patterns `codes` (N,), -1 for unused ones: exposure times trials to `sums` (K,), trials to `shared` (K, J)."""
    cell = np.empty(kept.at.size)
    for i in range(codes.size):
        k = codes[i]
        if k >= 0:
            sums[k] += exposure[i] * trials[i]
            if cell.size:
                spread(kept.at, kept.weight, np.log(exposure[i]), cell)
                for j in range(cell.size):
                    shared[k, j] += trials[i] * cell[j]


@njit(nogil=True, cache=True)
def csr_maxima(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    largest: FloatArray,
    segments: IntArray,
) -> None:
    """Largest values (S, G) of some segments."""
    n_features = largest.shape[1]
    for s in segments:
        to = largest[s]
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = cells.order[r]
            for p in range(indptr[row], indptr[row + 1]):
                g = np.int64(indices[p] if position is None else position[indices[p]])
                if g < n_features:
                    y = np.float64(data[p])
                    to[g] = y if to[g] < y < np.inf else to[g]


@njit(nogil=True, cache=True)
def dense_maxima(values: NDArray[Any], start: int, cells: Segmented, largest: FloatArray, segments: IntArray) -> None:
    """Largest values of rows whose columns are the features from `start` on."""
    for s in segments:
        to = largest[s]
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = values[cells.order[r]]
            for j in range(len(row)):
                y = np.float64(row[j])
                to[start + j] = y if to[start + j] < y < np.inf else to[start + j]
