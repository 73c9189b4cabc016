"""The single pass: cells x features in, results by pattern out, for one measure or several."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.cells.chunks import Wanted, chunks_of, in_memory
from donorwise._core.cells.cluster import accumulate_on, active_client
from donorwise._core.cells.matrices import check_matrix
from donorwise._core.cells.measures import Collapsed
from donorwise._core.cells.moments import Moments
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.remote import can_travel
from donorwise._core.cells.segments import (
    CodedCells,
    Cutter,
    check_cells,
    check_chunk_size,
    check_features,
    check_finite,
    cut_segments,
    extra_starts,
)
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.stream import read_chunks
from donorwise._core.cells.threads import BUDGET, Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike

    from donorwise._core.cells.measures import ByPattern, Measure, R
    from donorwise._core.cells.readers import Reader
    from donorwise._core.cells.segments import Segments
    from donorwise._typing import IntArray

MOMENTS = Moments()


def collapse(
    matrix: object,
    codes: ArrayLike,
    n_patterns: int,
    *,
    weights: ArrayLike | None = None,
    covariates: ArrayLike | None = None,
    features: ArrayLike | None = None,
    log_base: float = float("nan"),
    n_jobs: int | None = 1,
    names: Sequence[str] | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> Collapsed:
    """Exact sufficient statistics of a matrix for each pattern of its rows, in one pass.

    Zeros of a sparse matrix are never visited, the matrix is never copied, and everything is
    added up in float64. The result does not depend on `n_jobs` and `chunk_size` at all, and on the
    order of the rows and the container only by rounding.

    A matrix that is not in memory is read in chunks, once; no more than ``n_jobs + 3`` of them are held at a time.
    While it is read the running sums take ``40 + 16 m`` bytes per pattern and feature; of
    the cells there is nothing in memory but what is passed here. CSC files are read by columns. Where a client of
    ``dask.distributed`` is in use, its workers read (see `donorwise._core.cells.cluster`); the result then differs from
    that of one process by rounding.

    Parameters
    ----------
    matrix
        Shape (N, columns), cells x features: scipy sparse (CSR and CSC as they are, others
        through CSR), numpy array or pandas DataFrame of real numbers or bools. Or not in memory: a sparse dataset
        of anndata in HDF5 or zarr, a two-dimensional HDF5 dataset or zarr array, a dask array of sparse or dense
        blocks, or rows and columns of one of these (`Stored`). NaN are refused there.
    codes
        Shape (N,), integer. Pattern of each row, from 0 to ``n_patterns - 1``; -1 for rows to leave out.
    n_patterns
        Number of patterns, K; some may have no rows.
    weights
        Shape (N,), positive. 1 if None.
    covariates
        Shape (N, m). Variables that vary inside the patterns.
    features
        Column numbers of the G features to use, in the order of the result; all if None.
    log_base
        Base of values that are logarithms, of which the `abundance` is wanted; NaN for none.
    n_jobs
        Number of threads; -1 for one per processor. Large HDF5 files are read by as many processes. None for numba's
        number of threads where the matrix is in memory, else for one.
    names
        Names of the G features, for error messages; column numbers if None.
    chunk_size
        Rows (of a CSC file: columns) to read at a time; about 32 MB of decompressed values if None. Blocks of a
        dask array are computed whole.
    progress
        Show a progress bar while a matrix is read that is not in memory.
    budget
        Bounds of what is held, read and sent at a time.

    Returns
    -------
    Collapsed
        Statistics of K patterns, m covariates and G features.

    Raises
    ------
    DataError
        If the container cannot be read, shapes do not agree, or a value in use is not finite.
    """
    (found,) = accumulate(
        matrix, codes, n_patterns, (Moments(log_base),), weights=weights, covariates=covariates, features=features,
        n_jobs=n_jobs, names=names, chunk_size=chunk_size, progress=progress, budget=budget,
    )  # fmt: skip
    return found


def accumulate(
    matrix: Any,
    codes: ArrayLike,
    n_patterns: int,
    measures: Sequence[Measure[Any]],
    *,
    weights: ArrayLike | None = None,
    covariates: ArrayLike | None = None,
    features: ArrayLike | None = None,
    n_jobs: int | None = 1,
    names: Sequence[str] | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
    client: Any = None,
) -> tuple[Any, ...]:
    """The results of several measures, in their order, from one pass over a matrix: see `collapse`.

    `client` is a ``dask.distributed.Client`` whose workers read; the one in use, if there is one, if None.
    """
    check_chunk_size(chunk_size)
    check_matrix(matrix)
    if isinstance(matrix, Stored):
        codes, weights, covariates = matrix.spread(codes, weights, covariates)
        features, matrix = matrix.column_numbers(features), matrix.matrix
    columns = check_features(features, matrix.shape[1])
    cells = check_cells(codes, n_patterns, weights, covariates, matrix.shape[0])
    chunks: dict[str, Any] = {"chunk_size": chunk_size, "progress": progress, "budget": budget}
    reader, client = _on_cluster(matrix, client)
    if reader is not None:
        task = partial(measure_cells, measures=tuple(measures))
        found = accumulate_on(client, reader, cells, task, columns=columns, **chunks)
    else:
        found = measure_cells(matrix, cells, columns, measures=measures, n_jobs=n_jobs, **chunks)
    check_moments(found, columns, names)
    return found


def check_moments(found: Sequence[ByPattern], columns: IntArray, names: Sequence[str] | None) -> None:
    """Raise unless all moments are finite, that is, unless all values were."""
    for result in found:
        if isinstance(result, Collapsed):
            check_finite(result.within_ss, columns, names)


def _on_cluster(matrix: Any, client: Any) -> tuple[Reader | None, Any]:
    """The reader that workers of a cluster can use, and their client; None where the matrix is read here."""
    client = None if in_memory(matrix) else client or active_client()
    reader = None if client is None else open_reader(matrix)
    return (reader, client) if reader is not None and can_travel(reader) else (None, None)


def measure_cells(
    matrix: Any,
    cells: CodedCells,
    columns: IntArray,
    *,
    measures: Sequence[Measure[Any]],
    n_jobs: int | None = 1,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> tuple[Any, ...]:
    """The results of several measures, without looking whether all values are finite; what a worker of a cluster does."""
    segments = cut_segments(cells, budget.segment_rows)
    cutter = Cutter(cells, segments)
    outs = [measure.empty(segments, len(columns)) for measure in measures]
    if in_memory(matrix):
        known = cutter.all()
        for measure, out in zip(measures, outs, strict=True):
            measure.fill(out, matrix, columns, known, segments, n_jobs)
    else:
        reader, jobs = open_reader(matrix), 1 if n_jobs is None else n_jobs
        stream = _stream_columns if reader.by_columns else _stream_rows
        read = partial(read_chunks, reader, n_jobs=jobs, chunk_size=chunk_size, progress=progress, budget=budget)
        stream(read, measures, outs, Wanted(columns, matrix.shape[1]), cutter, segments, jobs)
    return tuple(_fold(out, segments.pieces) for out in outs)


def _stream_rows(
    read: Callable[..., Iterator[Any]],
    measures: Sequence[Measure[Any]],
    outs: Sequence[ByPattern],
    wanted: Wanted,
    cutter: Cutter,
    segments: Segments,
    n_jobs: int,
) -> None:
    """Chunks of whole rows: the work for one is that of its values."""
    running = [measure.begin(out) for measure, out in zip(measures, outs, strict=True)]
    for asked, pieces in read(cutter.wanted):
        cells = cutter(*asked)
        for start, block in pieces:
            for chunk in chunks_of(block, start, wanted, cells):
                for measure, own in zip(measures, running, strict=True):
                    measure.add(own, chunk, n_jobs)
    for measure, own, out in zip(measures, running, outs, strict=True):
        measure.end(own, out, segments, n_jobs)


def _stream_columns(
    read: Callable[..., Iterator[Any]],
    measures: Sequence[Measure[Any]],
    outs: Sequence[ByPattern],
    wanted: Wanted,
    cutter: Cutter,
    segments: Segments,
    n_jobs: int,
) -> None:
    """Chunks of whole columns: one has all that there is to know about them."""
    order, cells = np.argsort(wanted.columns), cutter.all()
    ordered, used = wanted.columns[order], np.zeros(wanted.n, dtype=bool)
    used[wanted.columns] = True
    for _, pieces in read(lambda low, high: used[low:high]):
        for start, block in pieces:
            first, last = np.searchsorted(ordered, [start, start + block.shape[1]])
            for measure, out in zip(measures, outs, strict=True):
                part = measure.empty(segments, last - first)
                measure.fill(part, block, ordered[first:last] - start, cells, segments, n_jobs)
                out.put_features(order[first:last], part)


def _fold(parts: R, pieces: IntArray) -> R:
    """Merge, in place and in a fixed order, the second and later segments of large patterns into the first."""
    extra = extra_starts(pieces)
    for piece in range(1, int(pieces.max(initial=0))):
        large = np.flatnonzero(pieces > piece)
        parts.put(large, parts.take(large).merge(parts.take(extra[large] + piece - 1)))
    return parts.take(slice(0, len(pieces)))
