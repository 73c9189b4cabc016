"""Numba loops of the moments: nothing but arithmetic, no checks.

Every kernel accumulates, per segment s and feature g, over the stored entries v with weight w::

    n = sum w,   s1 = sum w (v - c),   s2 = sum w (v - c)^2,   c = the first such v

Hazard: sum w v^2 cancels, so the sums are taken about c. As c is one of the data, the variance
cannot be small against (c - mean)^2: at most a factor of the number of rows in the segment is
lost. And where all v are equal, s1 and s2 are exactly 0.

Where the values are logarithms, log_b(1 + x), the sums of w x are made besides: x = exp(v log b) - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from donorwise._core.cells.exponential import expm1, expm1_of
from donorwise._core.cells.kernels import SCRATCH, prefetch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._core.cells.kernels import Segmented
    from donorwise._typing import FloatArray, IntArray

WIDTH = 4  # n, s1, s2, c together: half a cache line
_CSC_BLOCK = 8  # columns finished together: their results share cache lines of the C-ordered output
_DENSE_BLOCK = 2048  # features whose accumulators fit the L2 cache
_TAKEN_BACK = 256  # values whose logarithm is taken back at a time: they stay in the L1 cache


class Filled(NamedTuple):
    """Where the kernels write, zero before; the same arrays as in `Collapsed`, one row per segment.

    `rate` is the natural logarithm of the base of the values; `abundance` has no columns where they have none.
    """

    mean: FloatArray
    within_ss: FloatArray
    covariate_y: FloatArray
    abundance: FloatArray
    rate: float

    def features(self, some: slice) -> Filled:
        """Views of some features."""
        mean, within_ss, covariate_y, abundance = (array[..., some] for array in self[:4])
        return Filled(mean, within_ss, covariate_y, abundance, self.rate)


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
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    out: Filled,
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
    n_features, m = out.mean.shape[1], cells.moment.shape[1]
    acc = np.empty(WIDTH * (n_features + SCRATCH))
    acc_c = np.empty((m, n_features + SCRATCH, 2))
    acc_a = np.empty(n_features + SCRATCH if out.abundance.shape[1] else 0)
    increasing = True
    for s in range(first, last):
        acc[:] = 0.0
        acc_c[:] = 0.0
        acc_a[:] = 0.0
        increasing &= _add_csr_rows(data, indices, indptr, position, cells, s, acc, acc_c, acc_a, out.rate)
        _finish_segment(acc, acc_c, acc_a, cells.weight, cells.moment_sum, out, s)
    return increasing


@njit(nogil=True, cache=True, inline="always")
def _add_csr_rows(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    s: int,
    acc: FloatArray,
    acc_c: FloatArray,
    acc_a: FloatArray,
    rate: float,
) -> bool:
    """Add the rows of segment s to its accumulators; whether the indices of every row increase strictly."""
    increasing, taken_back = True, np.empty(_TAKEN_BACK)
    for r in range(cells.starts[s], cells.starts[s + 1]):
        row = cells.order[r]
        w = cells.weights[row]
        upcoming = cells.order[min(r + 1, len(cells.order) - 1)]
        for p in range(indptr[upcoming], indptr[upcoming + 1], 16):
            prefetch(data, p)  # type: ignore[call-arg]
            prefetch(indices, p)
        previous = np.int64(-1)
        for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            j = indices[p]
            increasing &= j > previous
            previous = np.int64(j)
            place = np.uint64(j) if position is None else np.uint64(position[np.uint64(j)])
            _add(acc, np.uint64(WIDTH) * place, np.float64(data[p]), w)
        for q in range(cells.moment.shape[1]):
            x = cells.moment[row, q]
            for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                j = indices[p]
                place = np.uint64(j) if position is None else np.uint64(position[np.uint64(j)])
                d = np.float64(data[p]) - acc[np.uint64(WIDTH) * place + np.uint64(3)]
                acc_c[q, place, 0] += x
                acc_c[q, place, 1] += x * d
        if len(acc_a):
            # Two loops over some values: of the first LLVM makes vector instructions.
            for low in range(indptr[row], indptr[row + 1], _TAKEN_BACK):
                high = min(low + _TAKEN_BACK, indptr[row + 1])
                expm1_of(data[low:high], rate, taken_back)
                for p in range(np.uint64(low), np.uint64(high)):
                    j = indices[p]
                    place = np.uint64(j) if position is None else np.uint64(position[np.uint64(j)])
                    acc_a[place] += w * taken_back[p - np.uint64(low)]
    return increasing


@njit(nogil=True, cache=True)
def _finish_segment(
    acc: FloatArray,
    acc_c: FloatArray,
    acc_a: FloatArray,
    weight: FloatArray,
    moment_sum: FloatArray,
    out: Filled,
    s: int,
) -> None:
    if weight[s] > 0.0:
        for g in range(out.abundance.shape[1]):
            out.abundance[s, g] = acc_a[g] / weight[s]
    for g in range(out.mean.shape[1]):
        out.mean[s, g], out.within_ss[s, g] = _finish(acc, WIDTH * g, weight[s])
        for q in range(moment_sum.shape[1]):
            zeros = moment_sum[s, q] - acc_c[q, g, 0]
            out.covariate_y[s, q, g] = acc_c[q, g, 1] - acc[WIDTH * g + 3] * zeros


@njit(nogil=True, cache=True)
def add_csr(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    sums: FloatArray,
    products: FloatArray,
    abundance: FloatArray,
    rate: float,
    segments: IntArray,
) -> None:
    """Add a chunk of rows to the running sums of some segments: see `donorwise._core.cells.moments`.

    Row after row as in `csr_moments`, so the sums do not depend on where the chunks end.
    """
    for s in segments:
        _add_csr_rows(data, indices, indptr, position, cells, s, sums[s], products[s], abundance[s], rate)


@njit(nogil=True, cache=True)
def add_dense(
    matrix: NDArray[Any],
    start: int,
    cells: Segmented,
    sums: FloatArray,
    products: FloatArray,
    abundance: FloatArray,
    rate: float,
    segments: IntArray,
) -> None:
    """Add a chunk of C-ordered rows, whose columns are the features from `start` on, as `add_csr` does."""
    for s in segments:
        acc, acc_c = sums[s], products[s]
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = cells.order[r]
            y, w = matrix[row], cells.weights[row]
            for j in range(len(y)):
                _add(acc, np.uint64(WIDTH) * np.uint64(start + j), np.float64(y[j]), w)
            for q in range(cells.moment.shape[1]):
                x = cells.moment[row, q]
                for j in range(len(y)):
                    acc_c[q, start + j, 0] += x
                    acc_c[q, start + j, 1] += x * (np.float64(y[j]) - acc[WIDTH * (start + j) + 3])
            if abundance.shape[1]:
                _add_abundance(y, w, rate, abundance[s, start : start + len(y)])


@njit(nogil=True, cache=True)
def _add_abundance(y: NDArray[Any], w: float, rate: float, sums: FloatArray) -> None:
    """Add one row of dense entries, their logarithm taken back."""
    for g in range(len(sums)):
        sums[g] += w * expm1(rate * np.float64(y[g]))


@njit(nogil=True, cache=True)
def finish_sums(
    sums: FloatArray,
    products: FloatArray,
    abundance: FloatArray,
    weight: FloatArray,
    moment_sum: FloatArray,
    out: Filled,
    first: int,
    last: int,
) -> None:
    """Moments of the segments first..last-1 from their running sums; `weight` and `moment_sum` as in `Segmented`."""
    for s in range(first, last):
        _finish_segment(sums[s], products[s], abundance[s], weight, moment_sum, out, s)


@njit(nogil=True, cache=True)
def csc_moments(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    columns: IntArray,
    cells: Segmented,
    out: Filled,
    first: int,
    last: int,
) -> bool:
    """Moments of the columns ``columns[first:last]``; whether the rows of every column increase strictly."""
    n_segments, m = cells.moment_sum.shape
    acc = np.empty(_CSC_BLOCK * n_segments * WIDTH)
    acc_c = np.empty((_CSC_BLOCK * n_segments, m, 2))
    acc_a = np.empty(_CSC_BLOCK * n_segments if out.abundance.shape[1] else 0)
    increasing = True
    for low in range(first, last, _CSC_BLOCK):
        high = min(low + _CSC_BLOCK, last)
        acc[:] = 0.0
        acc_c[:] = 0.0
        acc_a[:] = 0.0
        for g in range(low, high):
            base = np.uint64((g - low) * n_segments)
            previous = np.int64(-1)
            for p in range(np.uint64(indptr[columns[g]]), np.uint64(indptr[columns[g] + 1])):
                row = np.uint64(indices[p])
                increasing &= indices[p] > previous
                previous = np.int64(indices[p])
                s = cells.segment[row]
                if s >= 0:
                    place = base + np.uint64(s)
                    v = np.float64(data[p])
                    _add(acc, np.uint64(WIDTH) * place, v, cells.weights[row])
                    for q in range(m):
                        acc_c[place, q, 0] += cells.moment[row, q]
                        acc_c[place, q, 1] += cells.moment[row, q] * (v - acc[np.uint64(WIDTH) * place + np.uint64(3)])
                    if len(acc_a):
                        acc_a[place] += cells.weights[row] * expm1(out.rate * v)
        for s in range(n_segments):
            for g in range(low, high):
                done = (g - low) * n_segments + s
                if len(acc_a) and cells.weight[s] > 0.0:
                    out.abundance[s, g] = acc_a[done] / cells.weight[s]
                out.mean[s, g], out.within_ss[s, g] = _finish(acc, WIDTH * done, cells.weight[s])
                for q in range(m):
                    zeros = cells.moment_sum[s, q] - acc_c[done, q, 0]
                    out.covariate_y[s, q, g] = acc_c[done, q, 1] - acc[WIDTH * done + 3] * zeros
    return increasing


@njit(nogil=True, cache=True)
def _add_row(y: NDArray[Any], w: float, c: FloatArray, s1: FloatArray, s2: FloatArray) -> None:
    """Add one row of dense entries; one-dimensional arrays, or LLVM finds no vector loop."""
    for g in range(len(c)):
        d = y[g] - c[g]
        wd = w * d
        s1[g] += wd
        s2[g] += wd * d


@njit(nogil=True, cache=True)
def _add_moments(y: NDArray[Any], moment: FloatArray, c: FloatArray, sums: FloatArray) -> None:
    """Add the products of one row of dense entries with each covariate."""
    for q in range(len(moment)):
        x, target = moment[q], sums[q]
        for g in range(len(c)):
            target[g] += x * (y[g] - c[g])


@njit(nogil=True, cache=True)
def dense_moments(matrix: NDArray[Any], cells: Segmented, out: Filled, first: int, last: int) -> None:
    """Moments of the segments first..last-1 of a C-ordered matrix, in which every entry is a stored one."""
    n_features, m = out.mean.shape[1], cells.moment.shape[1]
    for low in range(0, n_features, _DENSE_BLOCK):
        width = min(_DENSE_BLOCK, n_features - low)
        c, s1, s2, products = np.empty(width), np.empty(width), np.empty(width), np.empty((m, width))
        abundance = np.empty(width if out.abundance.shape[1] else 0)
        for s in range(first, last):
            begin, end = cells.starts[s], cells.starts[s + 1]
            if begin == end:
                continue
            for b in range(width):
                c[b], s1[b], s2[b] = matrix[cells.order[begin], low + b], 0.0, 0.0
                for q in range(m):
                    products[q, b] = 0.0
            abundance[:] = 0.0
            for r in range(begin, end):
                row = cells.order[r]
                y = matrix[row][low : low + width]
                _add_row(y, cells.weights[row], c, s1, s2)
                _add_moments(y, cells.moment[row], c, products)
                _add_abundance(y, cells.weights[row], out.rate, abundance)
            for b in range(len(abundance)):
                out.abundance[s, low + b] = abundance[b] / cells.weight[s]
            for b in range(width):
                excess = s1[b] / cells.weight[s]
                ss = s2[b] - s1[b] * excess
                out.mean[s, low + b] = c[b] + excess
                out.within_ss[s, low + b] = 0.0 if ss < 0.0 else ss  # rounding; a NaN has to pass
                for q in range(m):
                    out.covariate_y[s, q, low + b] = products[q, b]
