"""Numba loops of every pass: cells by segment, the order of sparse indices, and sums of products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._typing import FloatArray, IntArray

SCRATCH = 64
"""Places beyond those of the features, for columns that are not wanted (see `add_csr_sums`)."""


class Segmented(NamedTuple):
    """Cells by segment, as the kernels read them (read-only arrays).

    A segment is a pattern, or a part of one: segments 0..K-1 are the first parts of the
    patterns, later ones are further parts of large patterns.

    Attributes
    ----------
    segment
        Shape (N,), int32. Segment of each cell, -1 for unused ones.
    order, starts
        Used cells sorted by segment (ascending inside one), and where each segment begins, shape (S + 1,).
    weights
        Shape (N,). Weight w of each cell.
    weight
        Shape (S,). Sum of w, added up in the order of the cells: a sum over the nonzeros of a
        feature in the same order equals it exactly if the feature has no zeros.
    covariates
        Shape (N, m). As they were given.
    moment
        Shape (N, m). w times the covariates, centred in each segment.
    moment_sum
        Shape (S, m). Sum of `moment`, about 0, added up in the order of the cells.
    """

    segment: NDArray[np.int32]
    order: IntArray
    starts: IntArray
    weights: FloatArray
    weight: FloatArray
    covariates: FloatArray
    moment: FloatArray
    moment_sum: FloatArray


def _prefetch(typingctx, array, index):
    """Ask the processor to fetch ``array[index]``: rows of one pattern lie scattered over memory."""

    def codegen(context, builder, signature, args):
        struct = context.make_array(signature.args[0])(context, builder, args[0])
        item = cgutils.get_item_pointer(context, builder, signature.args[0], struct, [args[1]], wraparound=False)
        address = builder.bitcast(item, ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        builder.call(
            builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind),
            [address, flag(0), flag(3), flag(1)],  # for reading, into all caches, data
        )
        return context.get_dummy_value()

    return types.void(array, index), codegen


def _add_four(typingctx, array, first, values):
    """Add four numbers to ``array[first:first + 4]`` by one vector instruction."""

    def codegen(context, builder, signature, args):
        struct = context.make_array(signature.args[0])(context, builder, args[0])
        item = cgutils.get_item_pointer(context, builder, signature.args[0], struct, [args[1]], wraparound=False)
        four = ir.VectorType(ir.DoubleType(), 4)
        address, added = builder.bitcast(item, four.as_pointer()), ir.Constant(four, ir.Undefined)
        for i in range(4):
            added = builder.insert_element(added, builder.extract_value(args[2], i), ir.IntType(32)(i))
        before = builder.load(address)
        before.align = builder.store(builder.fadd(before, added), address).align = 8
        return context.get_dummy_value()

    return types.void(array, first, values), codegen


prefetch: Any = intrinsic(_prefetch)
add_four: Any = intrinsic(_add_four)


@njit(nogil=True, cache=True, inline="always")
def fetch_ahead(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], cells: Segmented, r: int) -> None:
    """Fetch the row after the r-th in order, and of a later one where it is and its weight."""
    last = len(cells.order) - 1
    upcoming, later = cells.order[min(r + 1, last)], cells.order[min(r + 3, last)]
    prefetch(indptr, later)
    prefetch(cells.weights, later)
    for p in range(indptr[upcoming], indptr[upcoming + 1], 16):
        prefetch(data, p)
        prefetch(indices, p)


@njit(nogil=True, cache=True)
def label_segments(codes: NDArray[np.int32], extra: IntArray, size: int, seen: IntArray) -> NDArray[np.int32]:
    """Segment of each row: parts of `size` rows, the first labelled k, the others from extra[k].

    `seen` is the number of earlier rows of each pattern, which is brought up to date.
    """
    segment = np.empty(len(codes), np.int32)
    for row in range(len(codes)):
        k = codes[row]
        segment[row] = k
        if k >= 0:
            part = seen[k] // size
            if part > 0:
                segment[row] = extra[k] + part - 1
            seen[k] += 1
    return segment


@njit(nogil=True, cache=True)
def add_by_segment(segment: NDArray[np.int32], values: FloatArray, sums: FloatArray) -> None:
    """Add rows of `values` (n, q) to `sums` (S, q), in their order."""
    for row in range(len(segment)):
        for q in range(values.shape[1]):
            sums[segment[row], q] += values[row, q]


@njit(nogil=True, cache=True)
def sort_by_segment(segment: NDArray[np.int32], n_segments: int) -> tuple[IntArray, IntArray]:
    """Stable counting sort of the used rows: their order, and where each segment starts."""
    starts = np.zeros(n_segments + 1, np.int64)
    for s in segment:
        if s >= 0:
            starts[s + 1] += 1
    for s in range(n_segments):
        starts[s + 1] += starts[s]
    free = starts[:-1].copy()
    order = np.empty(starts[-1], np.int64)
    for row in range(len(segment)):
        s = segment[row]
        if s >= 0:
            order[free[s]] = row
            free[s] += 1
    return order, starts


@njit(nogil=True, cache=True)
def any_outside(indices: NDArray[Any], limit: np.integer[Any]) -> bool:
    """Whether an index is negative, or not below `limit` (of the same dtype).

    One loop, 32-bit sums and one dtype: LLVM makes vector instructions of that.
    """
    outside = np.uint32(0)
    for p in range(len(indices)):
        outside |= np.uint32((indices[p] < 0) | (indices[p] >= limit))
    return bool(outside > 0)


@njit(nogil=True, cache=True)
def increasing(indices: NDArray[Any], indptr: NDArray[Any]) -> bool:
    """Whether the indices of every row increase strictly; one loop over all rows, as in `any_outside`."""
    falls = np.uint32(0)
    own, before = indices[1:], indices[:-1]
    for p in range(len(own)):
        falls += np.uint32(own[p] <= before[p])
    for row in range(1, len(indptr) - 1):  # from one row to the next the indices may fall
        p = indptr[row]
        if 0 < p < indptr[row + 1]:
            falls -= np.uint32(indices[p] <= indices[p - 1])
    return falls == 0


@njit(nogil=True, cache=True)
def csr_has_duplicates(indices: NDArray[Any], indptr: NDArray[Any], n_columns: int) -> bool:
    """Whether a row stores one column more than once."""
    seen = np.full(n_columns, -1, np.int64)
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            if seen[indices[p]] == row:
                return True
            seen[indices[p]] = row
    return False


@njit(nogil=True, cache=True)
def add_csr_sums(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    loadings: FloatArray,
    sums: FloatArray,
    segments: IntArray,
) -> None:
    """Add values times the loadings (N, q) of their cells to the sums (S, q, G) of some segments.

    `position` maps a column to its feature, or beyond G if it is not wanted; None where column j is feature j.
    """
    n_features = np.uint64(sums.shape[2])
    for s in segments:
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = cells.order[r]
            fetch_ahead(data, indices, indptr, cells, r)
            for q in range(loadings.shape[1]):
                x, target = loadings[row, q], sums[s, q]
                for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                    j = np.uint64(indices[p])
                    g = j if position is None else np.uint64(position[j])
                    if position is None or g < n_features:
                        target[g] += x * np.float64(data[p])


@njit(nogil=True, cache=True)
def add_dense_sums(
    values: NDArray[Any], start: int, cells: Segmented, loadings: FloatArray, sums: FloatArray, segments: IntArray
) -> None:
    """Add C-ordered rows, whose columns are the features from `start` on, as `add_csr_sums` does."""
    for s in segments:
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = cells.order[r]
            y = values[row]
            for q in range(loadings.shape[1]):
                x, target = loadings[row, q], sums[s, q]
                for j in range(len(y)):
                    target[start + j] += x * np.float64(y[j])


@njit(nogil=True, cache=True)
def csc_sums(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    columns: IntArray,
    cells: Segmented,
    loadings: FloatArray,
    sums: FloatArray,
    first: int,
    last: int,
) -> None:
    """Sums (S, q, G) of the columns ``columns[first:last]``, as in `add_csr_sums`."""
    own = np.empty(sums.shape[:2])
    for g in range(first, last):
        own[:] = 0.0
        for p in range(np.uint64(indptr[columns[g]]), np.uint64(indptr[columns[g] + 1])):
            row = np.uint64(indices[p])
            s = cells.segment[row]
            if s >= 0:
                for q in range(loadings.shape[1]):
                    own[s, q] += loadings[row, q] * np.float64(data[p])
        sums[:, :, g] = own
