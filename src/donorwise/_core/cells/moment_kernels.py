"""Numba loops of the moments: nothing but arithmetic, no checks.

Every kernel accumulates, per segment s and feature g, over the stored entries v with weight w::

    n = sum w,   s1 = sum w (v - c),   s2 = sum w (v - c)^2,   c = the first such v

Hazard: sum w v^2 cancels, so the sums are taken about c. As c is one of the data, the variance
cannot be small against (c - mean)^2: at most a factor of the number of rows in the segment is
lost. And where all v are equal, s1 and s2 are exactly 0.

Where the values are logarithms, log_b(1 + x), the sums of w x are made besides: x = 2^(v log2 b) - 1. That x is computed
for some values at a time, which LLVM makes vector instructions of, before they are added one after another ("staged").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from donorwise._core.cells.exponential import exp2m1
from donorwise._core.cells.kernels import SCRATCH, add_four, fetch_ahead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._core.cells.kernels import Segmented
    from donorwise._typing import FloatArray, IntArray

WIDTH = 4  # n, s1, s2 and the sum of w x together: half a cache line
STAGED = 256  # values that are staged at a time: they stay in the L1 cache
_LANES = 8  # of the widest vectors; STAGED is a multiple
_CSC_BLOCK = 8  # columns finished together: their results share cache lines of the C-ordered output
_DENSE_BLOCK = 2048  # features whose accumulators fit the L2 cache


class Filled(NamedTuple):
    """Where the kernels write, zero before; the same arrays as in `Collapsed`, one row per segment.

    `rate` is the binary logarithm of the base of the values; NaN, and `abundance` without columns, where they have none.
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


class _Running(NamedTuple):
    """Accumulators: `sums`, and `shift` with c of each place and, behind them, the staged values; both as bits, too."""

    sums: FloatArray
    shift: FloatArray
    sums_bits: IntArray
    shift_bits: IntArray


@njit(nogil=True, cache=True, inline="always")
def _running(sums: FloatArray, shift: FloatArray) -> _Running:
    return _Running(sums, shift, sums.view(np.int64), shift.view(np.int64))


@njit(nogil=True, cache=True)
def _stage(data: NDArray[Any], low: int, high: int, rate: float, w: float, shift: FloatArray, x: FloatArray) -> None:
    """Values low..high-1 as float64 to the end of `shift` and, where they are logarithms, w x into `x`.

    A few more than that, where there are more, so that all are computed as whole vectors.
    """
    n = min(-(-(high - low) // _LANES) * _LANES, len(data) - low)
    begin, here = np.uint64(len(shift) - STAGED), np.uint64(low)
    if np.isnan(rate):
        for i in range(np.uint64(n)):
            shift[begin + i] = np.float64(data[here + i])
        return
    for i in range(np.uint64(n)):
        value = np.float64(data[here + i])
        shift[begin + i] = value
        x[i] = w * exp2m1(rate * value)


@njit(nogil=True, cache=True, inline="always")
def _add(to: _Running, place: np.uint64, staged: np.uint64, w: float, x: float) -> None:
    """Add one staged value, its x multiplied by w.

    Without a branch: whether an entry is the first of its kind is hard to predict. And what c is, is decided and
    moved as an integer, as the units for floating-point numbers are what this loop waits for.
    """
    first = np.uint64(WIDTH) * place
    origin = staged if to.sums_bits[first] == 0 else place
    to.shift_bits[place] = to.shift_bits[origin]
    d = to.shift[staged] - to.shift[origin]
    wd = w * d
    add_four(to.sums, first, (w, wd, wd * d, x))


@njit(nogil=True, cache=True)
def _finish(acc: FloatArray, a: int, c: float, total: float) -> tuple[float, float]:
    """Mean and sum of squares of the stored entries and the zeros, whose weight is total - n."""
    n, s1, s2 = acc[a], acc[a + 1], acc[a + 2]
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
    shift = np.empty(n_features + SCRATCH + STAGED)
    acc_c = np.empty((m, n_features + SCRATCH, 2))
    increasing = True
    for s in range(first, last):
        acc[:] = 0.0
        shift[:] = 0.0
        acc_c[:] = 0.0
        increasing &= _add_csr_rows(data, indices, indptr, position, cells, s, acc, shift, acc_c, out.rate)
        _finish_segment(acc, shift, acc_c, cells.weight, cells.moment_sum, out, s)
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
    shift: FloatArray,
    acc_c: FloatArray,
    rate: float,
) -> bool:
    """Add the rows of segment s to its accumulators; whether the indices of every row increase strictly."""
    increasing, to, x = True, _running(acc, shift), np.zeros(STAGED)
    begin = np.uint64(len(shift) - STAGED)
    for r in range(cells.starts[s], cells.starts[s + 1]):
        row = cells.order[r]
        w = cells.weights[row]
        fetch_ahead(data, indices, indptr, cells, r)
        previous = np.int64(-1)
        for low in range(indptr[row], indptr[row + 1], STAGED):
            high = min(low + STAGED, indptr[row + 1])
            _stage(data, low, high, rate, w, shift, x)
            for i in range(np.uint64(high - low)):
                j = indices[np.uint64(low) + i]
                increasing &= j > previous
                previous = np.int64(j)
                place = np.uint64(j) if position is None else np.uint64(position[np.uint64(j)])
                _add(to, place, begin + i, w, x[i])
        for q in range(cells.moment.shape[1]):
            product = cells.moment[row, q]
            for p in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
                j = indices[p]
                place = np.uint64(j) if position is None else np.uint64(position[np.uint64(j)])
                acc_c[q, place, 0] += product
                acc_c[q, place, 1] += product * (np.float64(data[p]) - shift[place])
    return increasing


@njit(nogil=True, cache=True)
def _finish_segment(
    acc: FloatArray,
    shift: FloatArray,
    acc_c: FloatArray,
    weight: FloatArray,
    moment_sum: FloatArray,
    out: Filled,
    s: int,
) -> None:
    if weight[s] > 0.0:
        for g in range(out.abundance.shape[1]):
            out.abundance[s, g] = acc[WIDTH * g + 3] / weight[s]
    for g in range(out.mean.shape[1]):
        out.mean[s, g], out.within_ss[s, g] = _finish(acc, WIDTH * g, shift[g], weight[s])
        for q in range(moment_sum.shape[1]):
            zeros = moment_sum[s, q] - acc_c[q, g, 0]
            out.covariate_y[s, q, g] = acc_c[q, g, 1] - shift[g] * zeros


@njit(nogil=True, cache=True)
def add_csr(
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    position: NDArray[np.int32] | None,
    cells: Segmented,
    sums: FloatArray,
    shift: FloatArray,
    products: FloatArray,
    rate: float,
    segments: IntArray,
) -> None:
    """Add a chunk of rows to the running sums of some segments: see `donorwise._core.cells.moments`.

    Row after row as in `csr_moments`, so the sums do not depend on where the chunks end.
    """
    for s in segments:
        _add_csr_rows(data, indices, indptr, position, cells, s, sums[s], shift[s], products[s], rate)


@njit(nogil=True, cache=True)
def add_dense(
    matrix: NDArray[Any],
    start: int,
    cells: Segmented,
    sums: FloatArray,
    shift: FloatArray,
    products: FloatArray,
    rate: float,
    segments: IntArray,
) -> None:
    """Add a chunk of C-ordered rows, whose columns are the features from `start` on, as `add_csr` does."""
    begin, x = np.uint64(shift.shape[1] - STAGED), np.zeros(STAGED)
    for s in segments:
        to, acc_c = _running(sums[s], shift[s]), products[s]
        for r in range(cells.starts[s], cells.starts[s + 1]):
            row = cells.order[r]
            y, w = matrix[row], cells.weights[row]
            for low in range(0, len(y), STAGED):
                high = min(low + STAGED, len(y))
                _stage(y, low, high, rate, w, to.shift, x)
                for i in range(np.uint64(high - low)):
                    _add(to, np.uint64(start + low) + i, begin + i, w, x[i])
            for q in range(cells.moment.shape[1]):
                product = cells.moment[row, q]
                for j in range(len(y)):
                    acc_c[q, start + j, 0] += product
                    acc_c[q, start + j, 1] += product * (np.float64(y[j]) - to.shift[start + j])


@njit(nogil=True, cache=True)
def finish_sums(
    sums: FloatArray,
    shift: FloatArray,
    products: FloatArray,
    weight: FloatArray,
    moment_sum: FloatArray,
    out: Filled,
    first: int,
    last: int,
) -> None:
    """Moments of the segments first..last-1 from their running sums; `weight` and `moment_sum` as in `Segmented`."""
    for s in range(first, last):
        _finish_segment(sums[s], shift[s], products[s], weight, moment_sum, out, s)


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
    n_places = _CSC_BLOCK * n_segments
    acc, acc_c = np.empty(WIDTH * n_places), np.empty((n_places, m, 2))
    shift, x, begin = np.empty(n_places + STAGED), np.zeros(STAGED), np.uint64(n_places)
    to, increasing = _running(acc, shift), True
    for block in range(first, last, _CSC_BLOCK):
        columns_end = min(block + _CSC_BLOCK, last)
        acc[:] = 0.0
        shift[:] = 0.0
        acc_c[:] = 0.0
        for g in range(block, columns_end):
            base = np.uint64((g - block) * n_segments)
            previous, end = np.int64(-1), indptr[columns[g] + 1]
            for low in range(indptr[columns[g]], end, STAGED):
                high = min(low + STAGED, end)
                _stage(data, low, high, out.rate, 1.0, shift, x)
                for i in range(np.uint64(high - low)):
                    row = np.uint64(indices[np.uint64(low) + i])
                    increasing &= bool(np.int64(row) > previous)
                    previous = np.int64(row)
                    s = cells.segment[row]
                    if s >= 0:
                        place, w = base + np.uint64(s), cells.weights[row]
                        _add(to, place, begin + i, w, w * x[i])
                        for q in range(m):
                            acc_c[place, q, 0] += cells.moment[row, q]
                            acc_c[place, q, 1] += cells.moment[row, q] * (shift[begin + i] - shift[place])
        for s in range(n_segments):
            for g in range(block, columns_end):
                done = (g - block) * n_segments + s
                if out.abundance.shape[1] and cells.weight[s] > 0.0:
                    out.abundance[s, g] = acc[WIDTH * done + 3] / cells.weight[s]
                out.mean[s, g], out.within_ss[s, g] = _finish(acc, WIDTH * done, shift[done], cells.weight[s])
                for q in range(m):
                    zeros = cells.moment_sum[s, q] - acc_c[done, q, 0]
                    out.covariate_y[s, q, g] = acc_c[done, q, 1] - shift[done] * zeros
    return increasing


@njit(nogil=True, cache=True)
def _add_abundance(y: NDArray[Any], w: float, rate: float, sums: FloatArray) -> None:
    """Add one row of dense entries, their logarithm taken back."""
    for g in range(len(sums)):
        sums[g] += w * exp2m1(rate * np.float64(y[g]))


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
