"""Numba loops of the collapse: nothing but arithmetic, no checks.

Every kernel accumulates, per segment s and feature g, over the stored entries v with weight w::

    n = sum w,   s1 = sum w (v - c),   s2 = sum w (v - c)^2,   c = the first such v

Hazard: sum w v^2 cancels, so the sums are taken about c. As c is one of the data, the variance
cannot be small against (c - mean)^2: at most a factor of the number of rows in the segment is
lost. And where all v are equal, s1 and s2 are exactly 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._typing import FloatArray, IntArray
    from donorwise.collapse.rows import Rows

_WIDTH = 4  # n, s1, s2, c together: half a cache line
SCRATCH = 64
_CSC_BLOCK = 8  # columns finished together: their results share cache lines of the C-ordered output
_DENSE_BLOCK = 512  # features whose three accumulators fit the L1 cache


class Moments(NamedTuple):
    """Where the kernels write; the same arrays as in `Collapsed`, one row per segment."""

    mean: FloatArray
    within_ss: FloatArray
    covariate_y: FloatArray


@intrinsic
def _prefetch(typingctx, array, index):  # noqa: ANN001, ANN202 - numba's protocol
    """Ask the processor to fetch ``array[index]``: rows of one pattern lie scattered over memory."""

    def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
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


@njit(nogil=True, cache=True)
def label_segments(codes: NDArray[np.int32], extra: IntArray, size: int) -> NDArray[np.int32]:
    """Segment of each row: parts of `size` rows, the first labelled k, the others from extra[k]."""
    seen = np.zeros(len(extra), np.int64)
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
def _add(acc: FloatArray, a: np.uint64, v: float, w: float) -> None:
    """Add one entry. Without a branch: whether an entry is the first of its kind is hard to predict."""
    n, s1, s2, c = acc[a], acc[a + np.uint64(1)], acc[a + np.uint64(2)], acc[a + np.uint64(3)]
    c = v if n == 0.0 else c
    d = v - c
    wd = w * d
    acc[a] = n + w
    acc[a + np.uint64(1)] = s1 + wd
    acc[a + np.uint64(2)] = s2 + wd * d
    acc[a + np.uint64(3)] = c


@njit(nogil=True, cache=True)
def _finish(acc: FloatArray, a: int, total: float) -> tuple[float, float]:
    """Mean and sum of squares of the stored entries and the zeros, whose weight is total - n."""
    n, s1, s2, c = acc[a], acc[a + 1], acc[a + 2], acc[a + 3]
    if n == 0.0:
        return 0.0, 0.0
    mean = c + s1 / n
    ss = s2 - s1 * (s1 / n)
    if ss < 0.0:  # rounding; a NaN has to pass
        ss = 0.0
    return mean * (n / total), ss + mean * mean * n * ((total - n) / total)


@njit(nogil=True, cache=True)
def csr_moments(
    data: NDArray,
    indices: NDArray,
    indptr: NDArray,
    position: NDArray[np.int32] | None,
    rows: Rows,
    out: Moments,
    first: int,
    last: int,
) -> bool:
    """Moments of the segments first..last-1; whether the indices of every row increase strictly.

    `position` maps a column to its accumulator: its place in the output, or one of the SCRATCH
    places beyond for columns that are not wanted (a branch would be mispredicted too often, and
    one place shared by all would make each addition wait for the last). With None, which numba
    compiles apart, column j is feature j. Rows come sorted by segment, so one row of
    accumulators is enough and stays in the cache.
    """
    n_features, m = out.mean.shape[1], rows.moment.shape[1]
    acc = np.empty(_WIDTH * (n_features + SCRATCH))
    acc_c = np.empty((n_features + SCRATCH, m, 2))
    increasing = True
    for s in range(first, last):
        acc[:] = 0.0
        acc_c[:] = 0.0
        for r in range(rows.starts[s], rows.starts[s + 1]):
            row = rows.order[r]
            w = rows.weights[row]
            upcoming = rows.order[min(r + 1, len(rows.order) - 1)]
            for p in range(indptr[upcoming], indptr[upcoming + 1], 16):
                _prefetch(data, p)
                _prefetch(indices, p)
            previous = np.int64(-1)
            for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                j = indices[p]
                increasing &= j > previous
                previous = np.int64(j)
                g = np.uint64(j) if position is None else np.uint64(position[np.uint64(j)])
                _add(acc, np.uint64(_WIDTH) * g, np.float64(data[p]), w)
            if m > 0:
                for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                    g = np.uint64(indices[p]) if position is None else np.uint64(position[np.uint64(indices[p])])
                    d = np.float64(data[p]) - acc[np.uint64(_WIDTH) * g + np.uint64(3)]
                    for q in range(m):
                        acc_c[g, q, 0] += rows.moment[row, q]
                        acc_c[g, q, 1] += rows.moment[row, q] * d
        for g in range(n_features):
            out.mean[s, g], out.within_ss[s, g] = _finish(acc, _WIDTH * g, rows.weight[s])
            for q in range(m):
                zeros = rows.moment_sum[s, q] - acc_c[g, q, 0]
                out.covariate_y[s, q, g] = acc_c[g, q, 1] - acc[_WIDTH * g + 3] * zeros
    return increasing


@njit(nogil=True, cache=True)
def csr_has_duplicates(indices: NDArray, indptr: NDArray, n_columns: int) -> bool:
    """Whether a row stores one column more than once."""
    seen = np.full(n_columns, -1, np.int64)
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            if seen[indices[p]] == row:
                return True
            seen[indices[p]] = row
    return False


@njit(nogil=True, cache=True)
def csc_moments(
    data: NDArray,
    indices: NDArray,
    indptr: NDArray,
    columns: IntArray,
    rows: Rows,
    out: Moments,
    first: int,
    last: int,
) -> bool:
    """Moments of the columns ``columns[first:last]``; whether the rows of every column increase strictly."""
    n_segments, m = rows.moment_sum.shape
    acc = np.empty(_CSC_BLOCK * n_segments * _WIDTH)
    acc_c = np.empty((_CSC_BLOCK * n_segments, m, 2))
    increasing = True
    for low in range(first, last, _CSC_BLOCK):
        high = min(low + _CSC_BLOCK, last)
        acc[:] = 0.0
        acc_c[:] = 0.0
        for g in range(low, high):
            base = np.uint64((g - low) * n_segments)
            previous = np.int64(-1)
            for p in range(np.uint64(indptr[columns[g]]), np.uint64(indptr[columns[g] + 1])):
                row = np.uint64(indices[p])
                increasing &= indices[p] > previous
                previous = np.int64(indices[p])
                s = rows.segment[row]
                if s >= 0:
                    a = base + np.uint64(s)
                    v = np.float64(data[p])
                    _add(acc, np.uint64(_WIDTH) * a, v, rows.weights[row])
                    for q in range(m):
                        acc_c[a, q, 0] += rows.moment[row, q]
                        acc_c[a, q, 1] += rows.moment[row, q] * (v - acc[np.uint64(_WIDTH) * a + np.uint64(3)])
        for s in range(n_segments):
            for g in range(low, high):
                a = (g - low) * n_segments + s
                out.mean[s, g], out.within_ss[s, g] = _finish(acc, _WIDTH * a, rows.weight[s])
                for q in range(m):
                    zeros = rows.moment_sum[s, q] - acc_c[a, q, 0]
                    out.covariate_y[s, q, g] = acc_c[a, q, 1] - acc[_WIDTH * a + 3] * zeros
    return increasing


@njit(nogil=True, cache=True)
def dense_moments(
    matrix: NDArray,
    columns: IntArray | None,
    rows: Rows,
    out: Moments,
    first: int,
    last: int,
) -> None:
    """Moments of the segments first..last-1 of a row-major matrix: every entry is a stored one."""
    n_features, m = out.mean.shape[1], rows.moment.shape[1]
    d = np.empty(_DENSE_BLOCK)
    sums = np.empty((3 + m, _DENSE_BLOCK))  # c, s1, s2, and one sum of moment * (y - c) per covariate
    for s in range(first, last):
        begin, end = rows.starts[s], rows.starts[s + 1]
        for low in range(0, n_features, _DENSE_BLOCK):
            width = min(_DENSE_BLOCK, n_features - low)
            sums[:] = 0.0
            if begin < end:
                for b in range(width):
                    sums[0, b] = matrix[rows.order[begin], low + b if columns is None else columns[low + b]]
            for r in range(begin, end):
                row = rows.order[r]
                w = rows.weights[row]
                for b in range(width):
                    d[b] = matrix[row, low + b if columns is None else columns[low + b]] - sums[0, b]
                for b in range(width):
                    sums[1, b] += w * d[b]
                    sums[2, b] += w * d[b] * d[b]
                for q in range(m):
                    for b in range(width):
                        sums[3 + q, b] += rows.moment[row, q] * d[b]
            n = rows.weight[s] if end > begin else 1.0
            for b in range(width):
                ss = sums[2, b] - sums[1, b] * (sums[1, b] / n)
                out.mean[s, low + b] = sums[0, b] + sums[1, b] / n
                out.within_ss[s, low + b] = 0.0 if ss < 0.0 else ss
                for q in range(m):
                    out.covariate_y[s, q, low + b] = sums[3 + q, b]
