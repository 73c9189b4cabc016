"""Numba loops of the counts: what each stored value adds to its feature's record, nothing but arithmetic.

A feature of a segment has a record of W = 1 + H + J numbers side by side: the sum of its values, its cells at the values of
the tails (small counts share a cache line with the sum), and the sums of values times what their cells load on the nodes.
The values of a row are staged: which dtype they have, and which of them count, is then no matter of the loops that add.
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
        Shape (J,). Nodes of log exposure and their barycentric weights; the first covariate of a cell is its exposure.
    exact, tail_at, tail_weight, table, largest
        Of the tails (see `donorwise._core.cells.counts.Tails`); without them `largest` is infinite, and `exact` is -1.
    detected
        Whether a value above zero counts as one.
    bound
        Covariate of a cell that is the most that its values may be; -1 for none.
    """

    at: FloatArray
    weight: FloatArray
    exact: int
    tail_at: FloatArray
    tail_weight: FloatArray
    table: FloatArray
    largest: float
    detected: bool
    bound: int


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
def _add_scaled(n: np.uint64, x: float, values: FloatArray, begin: np.uint64, to: FloatArray, first: np.uint64) -> None:
    """Add x times n numbers from ``values[begin]`` on to those from ``to[first]`` on."""
    whole = n - n % np.uint64(_LANES)
    for j in range(np.uint64(0), whole, np.uint64(_LANES)):
        add_scaled_four(to, first + j, x, values, begin + j)
    for j in range(whole, n):
        to[first + j] += x * values[begin + j]


@njit(nogil=True, cache=True)
def add_tails(kept: Kept, n: int, values: FloatArray, places: IntArray, to: FloatArray, room: FloatArray) -> None:
    """Add n counts above zero at ``places``, and what they load on the values of the tails behind them."""
    exact, table, n_nodes = kept.exact, kept.table, np.uint64(kept.tail_at.size)
    tail_at, tail_weight = kept.tail_at, kept.tail_weight
    n_table = table.size // max(1, kept.tail_at.size)
    for i in range(np.uint64(n)):
        y, first = values[i], np.uint64(places[i])
        whole = np.int64(y)
        part = y - whole
        to[first] += y
        if whole <= exact and part == 0.0:
            to[first + np.uint64(whole)] += 1.0
            continue
        beyond = first + np.uint64(exact + 1)
        if y < exact:
            if whole > 0:
                to[first + np.uint64(whole)] += 1.0 - part
            to[first + np.uint64(whole + 1)] += part
        elif part == 0.0 and whole - exact <= n_table:
            _add_scaled(n_nodes, 1.0, table, np.uint64(whole - exact - 1) * n_nodes, to, beyond)
        else:
            spread(tail_at, tail_weight, np.log(y), room)
            _add_scaled(n_nodes, 1.0, room, np.uint64(0), to, beyond)


@njit(nogil=True, cache=True)
def _add_totals(n: int, values: FloatArray, places: IntArray, to: FloatArray) -> None:
    for i in range(np.uint64(n)):
        to[np.uint64(places[i])] += values[i]


@njit(nogil=True, cache=True)
def _add_loaded(n: int, values: FloatArray, places: IntArray, to: FloatArray, offset: int, cell: FloatArray) -> None:
    """Add n values times the loadings `cell` (J,); those of the i-th begin at ``places[i] + offset``."""
    for i in range(np.uint64(n)):
        first = np.uint64(places[i]) + np.uint64(offset)
        _add_scaled(np.uint64(cell.size), values[i], cell, np.uint64(0), to, first)


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
def _sieve(n: int, values: FloatArray, places: IntArray, limit: float, detected: bool, to: FloatArray) -> int:
    """Bring values above zero, the ones to be added, to the front: their number. The sum of a feature with others is NaN."""
    odd = 0
    for i in range(n):  # LLVM makes vector instructions of this loop, but not of the next one
        odd += not 0.0 < values[i] <= limit
    if odd == 0 and not detected:
        return n
    kept = 0
    for i in range(n):
        y = values[i]
        if detected and y > 0.0:
            y = 1.0
        if 0.0 < y <= limit:
            values[kept], places[kept] = y, places[i]
            kept += 1
        elif y != 0.0:
            to[places[i]] = np.nan
    return kept


@njit(nogil=True, cache=True)
def _add_row(kept: Kept, cells: Segmented, row: int, n: int, room: _Room, to: FloatArray) -> None:
    """Add the first n values of the room, those of one cell."""
    limit = cells.covariates[row, kept.bound] if kept.bound >= 0 else kept.largest
    if kept.at.size and not cells.covariates[row, 0] > 0.0:
        limit = 0.0
    n = _sieve(n, room.values, room.places, limit, kept.detected, to)
    if kept.exact < 0:
        _add_totals(n, room.values, room.places, to)
    else:
        add_tails(kept, n, room.values, room.places, to, room.tail)
    if kept.at.size and n:
        spread(kept.at, kept.weight, np.log(cells.covariates[row, 0]), room.cell)
        offset = 1 + (0 if kept.exact < 0 else kept.exact + kept.tail_at.size)
        _add_loaded(n, room.values, room.places, to, offset, room.cell)


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
            if cell.size and exposure[i] > 0.0:
                spread(kept.at, kept.weight, np.log(exposure[i]), cell)
                for j in range(cell.size):
                    shared[k, j] += trials[i] * cell[j]
