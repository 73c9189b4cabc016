"""The pass over a matrix that is not in memory, chunk by chunk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from donorwise._core.cells.budget import BUDGET, Budget
from donorwise._core.cells.fetch import fetch
from donorwise._core.cells.kernels import (
    SCRATCH,
    WIDTH,
    Moments,
    Rows,
    add_csr,
    add_dense,
    csr_has_duplicates,
    finish_sums,
)
from donorwise._core.cells.matrices import (
    Job,
    accumulate,
    all_in_order,
    canonical,
    is_ready,
    positions,
    slice_if_run,
    sparse_arrays,
)
from donorwise._core.cells.rows import read_only
from donorwise._core.cells.threads import run_ranges
from donorwise._core.progress import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from donorwise._core.cells.fetch import Range
    from donorwise._core.cells.readers import Part, Reader
    from donorwise._core.cells.rows import RowCutter, Segments
    from donorwise._typing import BoolArray, FloatArray, IntArray

    Wanted = Callable[[int, int], BoolArray]

_FINISH_BYTES = 2**26


def stream(
    reader: Reader,
    cutter: RowCutter,
    columns: IntArray,
    out: Moments,
    *,
    n_jobs: int = 1,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> None:
    """Fill `out` from a matrix that is read in chunks.

    A chunk of rows is added to running sums about each feature's first value in the segment, row after row, as the
    kernels in memory do: the result does not depend on the chunks, and the work for a chunk is that of its values.
    A chunk of columns has all that there is to know about them.
    """
    if reader.by_columns:
        wanted = np.zeros(reader.shape[1], dtype=bool)
        wanted[columns] = True
        found = chunks(reader, lambda low, high: wanted[low:high], n_jobs, chunk_size, progress, budget)
        _stream_columns(found, Job(cutter.all(), columns, out, n_jobs))
    else:
        found = chunks(reader, cutter.wanted, n_jobs, chunk_size, progress, budget)
        _stream_rows(found, cutter, columns, out, n_jobs, reader.shape[1])


def chunks(
    reader: Reader, wanted: Wanted, n_jobs: int, chunk_size: int | None, progress: bool, budget: Budget = BUDGET
) -> Iterator[tuple[Range, list[Part]]]:
    """Chunks that hold all wanted rows (or columns), with the range of each."""
    ranges, n_bytes = plan(reader, wanted, chunk_size, budget)
    unit = "feature" if reader.by_columns else "cell"
    total = sum(high - low for low, high in ranges)
    with tqdm(total=total, unit=unit, unit_scale=True, desc="collapse", disable=not progress) as bar:
        for asked, parts in fetch(reader, ranges, n_jobs=n_jobs, n_bytes=n_bytes, process_bytes=budget.process_bytes):
            yield asked, parts
            bar.update(asked[1] - asked[0])


def plan(
    reader: Reader, wanted: Wanted, chunk_size: int | None = None, budget: Budget = BUDGET
) -> tuple[list[Range], int]:
    """Ranges to read, of `chunk_size` items or of about `budget.chunk_bytes`, and the bytes that they hold together.

    They begin and end where the reader can be cut; a range without a wanted item is left out.

    Parameters
    ----------
    reader
        What is read.
    wanted
        A function of low and high: which of the rows (or columns) low..high-1 are wanted.
    chunk_size
        Number of rows (or columns); None to go by size.
    budget
        How much to read, and to plan, at a time.
    """
    cuts = reader.cuts if chunk_size is None or reader.whole_blocks else None
    ranges, n_bytes = [], 0
    for start, stop in _blocks(reader.shape[reader.by_columns], cuts, chunk_size, budget.plan_items):
        reached = np.concatenate([[0], np.cumsum(reader.cost(start, stop))])
        edges = _edges(reached, chunk_size, None if cuts is None else cuts - start, budget.chunk_bytes)
        seen = np.concatenate([[0], np.cumsum(wanted(start, stop))])
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if seen[high] > seen[low]:
                ranges.append((start + low, start + high))
                n_bytes += int(reached[high] - reached[low])
    return ranges, n_bytes


def _blocks(n: int, cuts: IntArray | None, chunk_size: int | None, items: int) -> Iterator[Range]:
    """Ranges of about `items`, whole multiples of `chunk_size`: costs are looked at for so many at a time."""
    step = items if chunk_size is None else max(1, items // chunk_size) * chunk_size
    edges = np.append(np.arange(0, n, step), n)
    if cuts is not None:
        edges = np.unique(np.append(cuts[np.searchsorted(cuts, edges[:-1], side="right") - 1], n))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _edges(reached: IntArray, chunk_size: int | None, cuts: IntArray | None, chunk_bytes: int) -> IntArray:
    """Where chunks begin and end, from the bytes before each item."""
    n = len(reached) - 1
    if chunk_size is not None:
        edges = np.arange(0, n, chunk_size)
    else:
        targets = np.arange(chunk_bytes, reached[-1], chunk_bytes)
        edges = np.append(0, np.searchsorted(reached, targets, side="right") - 1)
    if cuts is not None:
        edges = np.maximum(0, cuts[np.searchsorted(cuts, edges, side="right") - 1])
    return np.unique(np.append(edges, n))


def _stream_columns(found: Iterator[tuple[Range, list[Part]]], job: Job) -> None:
    order = np.argsort(job.columns)
    ordered = job.columns[order]
    for _, parts in found:
        for start, block in parts:
            first, last = np.searchsorted(ordered, [start, start + block.shape[1]])
            local = read_only(ordered[first:last] - start)
            out = Moments(*(np.zeros((*a.shape[:-1], last - first)) for a in job.out))
            accumulate(block, Job(job.rows, local, out, job.n_jobs))
            for whole, part in zip(job.out, out, strict=True):
                whole[..., order[first:last]] = part


def _stream_rows(
    found: Iterator[tuple[Range, list[Part]]],
    cutter: RowCutter,
    columns: IntArray,
    out: Moments,
    n_jobs: int,
    n_columns: int,
) -> None:
    (n_segments, m), n_places = cutter.segments.moment_sum.shape, len(columns) + SCRATCH
    sums, products = np.zeros((n_segments, WIDTH * n_places)), np.zeros((n_segments, m, n_places, 2))
    position = positions(columns, n_columns)
    for asked, parts in found:
        job = Job(cutter(*asked), columns, out, n_jobs)
        for start, block in parts:
            if sparse.issparse(block):
                _add_csr(block, start, n_columns, position, job, sums, products)
            else:
                _add_dense(np.asarray(block), start, job, sums, products)
    _finish(sums, products, cutter.segments, out, n_jobs)


def _add_csr(
    block: Any, start: int, n_columns: int, position: Any, job: Job, sums: FloatArray, products: FloatArray
) -> None:
    block = block.tocsr()
    arrays = sparse_arrays(block)
    if not block.has_canonical_format and csr_has_duplicates(*arrays[1:], block.shape[1]):
        arrays = sparse_arrays(canonical(block))
    if block.shape[1] < n_columns:
        every = np.arange(n_columns, dtype=np.int32) if position is None else position
        position = read_only(every[start : start + block.shape[1]])
    present, cost = _present(job.rows)
    run_ranges(
        lambda first, last: add_csr(*arrays, position, job.rows, sums, products, present[first:last]), cost, job.n_jobs
    )


def _add_dense(block: Any, start: int, job: Job, sums: FloatArray, products: FloatArray) -> None:
    """Columns that are features one after another go as they are; others are taken out."""
    inside = np.flatnonzero((job.columns >= start) & (job.columns < start + block.shape[1]))
    if not len(inside):
        return
    present, cost = _present(job.rows)
    for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):
        local = job.columns[run] - start
        some = block if all_in_order(local, block.shape[1]) else block[:, slice_if_run(local)]
        if not is_ready(some):
            some = np.ascontiguousarray(some, dtype=np.float32 if some.dtype == np.float32 else np.float64)
        run_ranges(
            partial(_add_dense_range, read_only(some), int(run[0]), job.rows, sums, products, present), cost, job.n_jobs
        )


def _add_dense_range(
    values: Any,
    place: int,
    rows: Rows,
    sums: FloatArray,
    products: FloatArray,
    present: IntArray,
    first: int,
    last: int,
) -> None:
    add_dense(values, place, rows, sums, products, present[first:last])


def _present(rows: Rows) -> tuple[IntArray, IntArray]:
    """Segments that have rows, and how many."""
    size = np.diff(rows.starts)
    present = np.flatnonzero(size)
    return present, size[present]


def _finish(sums: FloatArray, products: FloatArray, segments: Segments, out: Moments, n_jobs: int) -> None:
    """Write the moments, last segments first, giving back the sums that have been used."""
    step = max(1, _FINISH_BYTES // max(1, sums[:1].nbytes))
    for high in range(len(sums), 0, -step):
        low = max(0, high - step)
        part = Moments(*(array[low:high] for array in out))
        args = (sums[low:high], products[low:high], segments.weight[low:high], segments.moment_sum[low:high], part)
        run_ranges(partial(finish_sums, *args), np.ones(high - low, dtype=np.int64), n_jobs)
        del args
        sums.resize((low, sums.shape[1]), refcheck=False)
