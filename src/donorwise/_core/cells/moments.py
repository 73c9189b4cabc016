"""Measures of values: moments, and sums of products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.chunks import (
    BLOCK_NUMBERS,
    Csc,
    Csr,
    SparseChunk,
    Wanted,
    all_in_order,
    canonical,
    column_reader,
    is_ready,
    loadable,
    ready,
    refuse,
    slice_if_run,
    sparse_arrays,
)
from donorwise._core.cells.kernels import (
    SCRATCH,
    add_csr_sums,
    add_dense_sums,
    csc_sums,
    csr_has_duplicates,
    increasing,
)
from donorwise._core.cells.measures import ByPattern, Collapsed, Measure
from donorwise._core.cells.moment_kernels import (
    STAGED,
    WIDTH,
    Filled,
    add_csr,
    add_dense,
    csc_moments,
    csr_moments,
    dense_moments,
    finish_sums,
)
from donorwise._core.cells.segments import read_only
from donorwise._core.cells.threads import run_on_segments, run_ranges
from donorwise._typing import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._core.cells.chunks import Chunk
    from donorwise._core.cells.kernels import Segmented
    from donorwise._core.cells.segments import Segments
    from donorwise._typing import IntArray

_FINISH_BYTES = 2**26


class _Running(NamedTuple):
    """Running sums about each feature's first value, (S, WIDTH (G + SCRATCH)), and that value, (S, G + SCRATCH + STAGED).

    Those of the products with covariates are (S, m, G + SCRATCH, 2).
    """

    sums: FloatArray
    shift: FloatArray
    products: FloatArray


@dataclass(frozen=True, slots=True)
class Moments(Measure[Collapsed]):
    """Number of cells, mean, centred sums of squares, and the covariates' cross-products.

    Chunks are added row after row, as the kernels in memory do: the result does not depend on the chunks.

    Attributes
    ----------
    log_base
        Base b of values that are log_b(1 + x), of which the means of x are wanted, too; NaN for none.
    """

    log_base: float = float("nan")

    def empty(self, segments: Segments, n_features: int) -> Collapsed:
        """What is known without a response."""
        n, m = segments.moment_sum.shape
        return Collapsed(
            n_obs=segments.n_obs.copy(),
            weight=segments.weight.copy(),
            log_weight=segments.log_weight.copy(),
            mean=np.zeros((n, n_features)),
            within_ss=np.zeros((n, n_features)),
            covariate_mean=segments.covariate_mean,
            covariate_ss=segments.covariate_ss.copy(),
            covariate_y=np.zeros((n, m, n_features)),
            abundance=np.zeros((n, 0 if np.isnan(self.log_base) else n_features)),
        )

    def begin(self, out: Collapsed) -> _Running:
        """Sums of nothing."""
        (n, m, g) = out.covariate_y.shape
        shift = np.zeros((n, g + SCRATCH + STAGED))
        return _Running(np.zeros((n, WIDTH * (g + SCRATCH))), shift, np.zeros((n, m, g + SCRATCH, 2)))

    def add(self, running: _Running, chunk: Chunk, n_jobs: int | None) -> None:
        """Add the rows of a chunk."""
        if isinstance(chunk, SparseChunk):
            task = partial(add_csr, *chunk, *running, self._rate)
            run_on_segments(task, chunk.cells, chunk.data.size, n_jobs)
        else:
            task = partial(add_dense, *chunk, *running, self._rate)
            run_on_segments(task, chunk.cells, chunk.values.size, n_jobs)

    def end(self, running: _Running, out: Collapsed, segments: Segments, n_jobs: int | None) -> None:
        """Write the moments, last segments first, giving back the sums that have been used."""
        sums, shift, products = running
        step = max(1, _FINISH_BYTES // max(1, sums[:1].nbytes))
        for high in range(len(sums), 0, -step):
            low = max(0, high - step)
            own = slice(low, high)
            part = self._filled(out.take(own))
            args = (sums[own], shift[own], products[own], segments.weight[own], segments.moment_sum[own], part)
            run_ranges(partial(finish_sums, *args), np.ones(high - low, dtype=np.int64), n_jobs)
            del args
            sums.resize((low, sums.shape[1]), refcheck=False)

    def fill(
        self, out: Collapsed, matrix: Any, columns: IntArray, cells: Segmented, segments: Segments, n_jobs: int | None
    ) -> None:
        """Write the moments without running sums."""
        _fill(matrix, _Job(cells, read_only(columns), self._filled(out), n_jobs))

    def _filled(self, out: Collapsed) -> Filled:
        return Filled(out.mean, out.within_ss, out.covariate_y, out.abundance, self._rate)

    @property
    def _rate(self) -> float:
        return float(np.log2(self.log_base))


class _Job(NamedTuple):
    """What there is besides the matrix: cells, columns, output, number of threads."""

    cells: Segmented
    columns: IntArray
    out: Filled
    n_jobs: int | None


@singledispatch
def _fill(matrix: object, job: _Job) -> None:
    refuse(matrix)


@_fill.register(sparse.csr_matrix)
@_fill.register(sparse.csr_array)
def _(matrix: Csr, job: _Job) -> None:
    arrays = sparse_arrays(matrix)
    if not _csr_pass(arrays, matrix.shape[1], job) and csr_has_duplicates(*arrays[1:], matrix.shape[1]):
        _csr_pass(sparse_arrays(canonical(matrix)), matrix.shape[1], job)


@_fill.register(sparse.csc_matrix)
@_fill.register(sparse.csc_array)
def _(matrix: Csc, job: _Job) -> None:
    arrays = sparse_arrays(matrix)

    def task(first: int, last: int) -> None:
        if not csc_moments(*arrays, job.columns, job.cells, job.out, first, last):
            # Duplicates, or rows out of order, in which the weights must not be added up.
            block = canonical(matrix, job.columns[first:last])
            local = read_only(np.arange(len(job.columns)) - first)
            csc_moments(*sparse_arrays(block), local, job.cells, job.out, first, last)

    run_ranges(task, np.diff(matrix.indptr)[job.columns], job.n_jobs)


@_fill.register(sparse.spmatrix)
@_fill.register(sparse.sparray)
def _(matrix: sparse.spmatrix | sparse.sparray, job: _Job) -> None:
    _fill(matrix.tocsr(), job)


@_fill.register(np.ndarray)
def _(matrix: NDArray[Any], job: _Job) -> None:
    array = np.asarray(matrix)
    if is_ready(array) and all_in_order(job.columns, array.shape[1]):
        _dense_pass(array, job)
    else:
        _dense_by_blocks(column_reader(array, job.columns), job)


@_fill.register(pd.DataFrame)
def _(matrix: pd.DataFrame, job: _Job) -> None:
    _dense_by_blocks(column_reader(matrix, job.columns), job)


def _csr_pass(arrays: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], n_columns: int, job: _Job) -> bool:
    """One pass; whether the indices of every row increase strictly."""
    args = (*arrays, Wanted(job.columns, n_columns).position, job.cells, job.out)
    stored = np.concatenate([[0], np.cumsum(np.diff(arrays[2])[job.cells.order], dtype=np.int64)])
    cost = np.diff(stored[job.cells.starts])
    return all(run_ranges(lambda first, last: csr_moments(*args, first, last), cost, job.n_jobs))


def _dense_pass(matrix: NDArray[Any], job: _Job) -> None:
    args = (read_only(matrix), job.cells, job.out)
    cost = np.diff(job.cells.starts) * matrix.shape[1]
    run_ranges(lambda first, last: dense_moments(*args, first, last), cost, job.n_jobs)


def _dense_by_blocks(load: Callable[[IntArray | slice], NDArray[Any]], job: _Job) -> None:
    """Collapse the matrices ``load(columns)`` of a few columns each, in several threads."""
    n_features, n_cells = len(job.columns), len(job.cells.segment)
    width = max(8, BLOCK_NUMBERS // max(1, n_cells))

    def task(first: int, last: int) -> None:
        for low in range(first * width, min(last * width, n_features), width):
            part = slice(low, low + width)
            block = ready(load(slice_if_run(job.columns[part])))
            out = job.out.features(part)
            _dense_pass(block, _Job(job.cells, job.columns[part], out, n_jobs=1))

    run_ranges(task, np.full(-(-n_features // width), n_cells * width, dtype=np.int64), job.n_jobs)


@dataclass(frozen=True, slots=True)
class Totals(ByPattern):
    """Sums over the cells of K patterns, (K, q, G)."""

    total: FloatArray
    of_features: ClassVar[tuple[str, ...]] = ("total",)


def once(cells: Segmented) -> FloatArray:
    """Loadings (N, 1) with which every cell counts once."""
    return np.ones((len(cells.segment), 1))


@dataclass(frozen=True, slots=True)
class Sums(Measure[Totals]):
    """Sums of f(y) times q numbers of the cell.

    Attributes
    ----------
    value
        f, from an array of values to one of the same shape; f(0) = 0, as zeros of sparse matrices are not
        visited. What it gives is added up in float64, but computed in the dtype that it chooses.
    loadings
        The numbers, (N, q), of cells: of their weights, or of their covariates as they were given.
    n
        q.
    """

    value: Callable[[Any], NDArray[Any]]
    loadings: Callable[[Segmented], FloatArray] = once
    n: int = 1

    def empty(self, segments: Segments, n_features: int) -> Totals:
        """Zeros."""
        return Totals(np.zeros((len(segments.n_obs), self.n, n_features)))

    def add(self, running: Totals, chunk: Chunk, n_jobs: int | None) -> None:
        """Add the rows of a chunk."""
        numbers = (read_only(self.loadings(chunk.cells)), running.total)
        if isinstance(chunk, SparseChunk):
            values = read_only(loadable(self.value(chunk.data)))
            task = partial(add_csr_sums, *chunk._replace(data=values), *numbers)
        else:
            values = read_only(loadable(self.value(chunk.values)))
            task = partial(add_dense_sums, *chunk._replace(values=values), *numbers)
        run_on_segments(task, chunk.cells, values.size, n_jobs)

    def fill(
        self, out: Totals, matrix: Any, columns: IntArray, cells: Segmented, segments: Segments, n_jobs: int | None
    ) -> None:
        """Columns in CSC form are read as they are, where no entry is stored twice."""
        if sparse.issparse(matrix) and matrix.format == "csc":
            data, indices, indptr = sparse_arrays(matrix)
            if increasing(indices, indptr):
                values = read_only(loadable(self.value(data)))
                numbers = (read_only(columns), cells, read_only(self.loadings(cells)), out.total)
                task = partial(csc_sums, values, indices, indptr, *numbers)
                run_ranges(task, np.diff(indptr)[columns], n_jobs)
                return
        Measure.fill(self, out, matrix, columns, cells, segments, n_jobs)


def is_positive(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether values are above zero."""
    return np.asarray(values > 0)


DETECTED = Sums(is_positive)
"""Number of cells that a feature is above zero in."""

ADDED = Sums(np.asarray)
"""Sum of a feature over the cells."""
