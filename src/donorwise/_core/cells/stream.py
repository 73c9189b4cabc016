"""Chunks of a file read ahead, in a thread or in processes that open the file themselves."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.cells.readers import READ_ERRORS, source_file
from donorwise._core.cells.threads import BUDGET, Budget, can_inflate, n_threads
from donorwise._core.jobs import Progress
from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from donorwise._core.cells.readers import Piece, Reader
    from donorwise._typing import BoolArray, IntArray

    Kept = Callable[[int, int], BoolArray]

Range = tuple[int, int]

_IDLE_SECONDS = 120


class _Workers(NamedTuple):
    """How chunks are asked for, and how what comes back is turned into arrays."""

    submit: Callable[[int, int], Future[Any]]
    receive: Callable[[Any], Any]
    ahead: int


def fetch(
    reader: Reader,
    ranges: Sequence[Range],
    *,
    n_jobs: int,
    n_bytes: int,
    process_bytes: int = BUDGET.process_bytes,
) -> Iterator[tuple[Range, list[Piece]]]:
    """The chunks in their order; at most ``n_jobs + 1`` are held besides the one in use.

    Workers are threads where these can decompress at once (zarr, gzip in HDF5). With its other filters HDF5 has one
    thread at work, whatever Python does, so there workers are processes (from `process_bytes` on), which open the file
    by its path; they hand their chunks over in files that are removed at once (in shared memory where there is room).
    """
    with _source(reader, ranges, n_threads(n_jobs), n_bytes, process_bytes) as source:
        pending: deque[tuple[Range, Future[Any]]] = deque()
        todo = iter(ranges)
        for asked in todo:
            pending.append((asked, source.submit(*asked)))
            if len(pending) > source.ahead:
                yield _receive(reader, source, *pending.popleft())
        while pending:
            yield _receive(reader, source, *pending.popleft())


def _receive(reader: Reader, source: _Workers, asked: Range, future: Future[Any]) -> tuple[Range, list[Piece]]:
    with _said_where(reader, asked):
        try:
            loaded = source.receive(future.result())
        except BrokenExecutor as error:
            raise DonorwiseError(
                f"A process that reads {reader.where} was ended from outside, for lack of memory perhaps; use n_jobs=1."
            ) from error
    return asked, reader.pieces(*asked, loaded)


@contextmanager
def _said_where(reader: Reader, asked: Range) -> Iterator[None]:
    """Say in which file, and where, reading failed."""
    try:
        yield
    except DonorwiseError:
        raise
    except READ_ERRORS as error:
        low, high = asked
        raise DataError(
            f"{reader.where}: {'columns' if reader.by_columns else 'rows'} {low:,} to {high:,} cannot be read ({error}). "
            "The file is truncated or corrupt, or was changed; copy or write it again."
        ) from error


@contextmanager
def _source(reader: Reader, ranges: Sequence[Range], jobs: int, n_bytes: int, process_bytes: int) -> Iterator[_Workers]:
    arrays = getattr(reader, "arrays", ())
    compressed = [a for a in arrays if getattr(a, "compression", None)]  # else reading HDF5 is no more than copying
    inflated = all(can_inflate(a) for a in compressed)
    paths = {source_file(a) for a in arrays}
    path = next(iter(paths)) if len(paths) == 1 else None
    if jobs > 1 and path is not None and not inflated and n_bytes >= process_bytes:
        largest = n_bytes // max(1, len(ranges)) * 2
        with _processes(reader, path, min(jobs, len(ranges)), largest) as source:
            yield source
        return
    in_parallel = (compressed and inflated) or any(hasattr(a, "store") for a in arrays)  # gzip in HDF5, or zarr
    threads = min(jobs, max(1, len(ranges))) if in_parallel else 1
    pool = ThreadPoolExecutor(threads)
    try:
        yield _Workers(lambda low, high: pool.submit(reader.load, low, high), lambda loaded: loaded, threads)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _processes(reader: Any, path: str, jobs: int, largest: int) -> Iterator[_Workers]:
    from joblib.externals.loky import get_reusable_executor

    names = [a.name for a in reader.arrays]
    pool = get_reusable_executor(max_workers=jobs, timeout=_IDLE_SECONDS)
    folder = _folder((jobs + 2) * largest)
    try:
        yield _Workers(
            lambda low, high: pool.submit(_read, path, names, reader.spans(low, high), folder),
            _take,
            jobs + 1,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(n_bytes: int) -> str:
    """A new folder, in memory if it has room for `n_bytes`."""
    shared = "/dev/shm"
    roomy = os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 * n_bytes
    return tempfile.mkdtemp(prefix="donorwise-", dir=shared if roomy else None)


def _read(
    path: str, names: Sequence[str], spans: Sequence[slice], folder: str
) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    """In the worker: read a part of each element, straight into a file of its own."""
    file = _open(path, os.stat(path).st_mtime_ns)
    left = []
    for name, span in zip(names, spans, strict=True):
        element = file[name]
        shape = (len(range(*span.indices(element.shape[0]))), *element.shape[1:])
        handle, target = tempfile.mkstemp(dir=folder)
        os.close(handle)
        if all(shape):  # a file of no bytes cannot be mapped
            element.read_direct(np.memmap(target, element.dtype, "w+", shape=shape), span)
        left.append((target, element.dtype, shape))
    return left


@lru_cache(maxsize=1)
def _open(path: str, changed: int) -> Any:
    """The open file; one that was changed since is opened anew."""
    import h5py

    return h5py.File(path, "r")


def _take(left: list[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> list[np.ndarray[Any, Any]]:
    values = []
    for target, dtype, shape in left:
        values.append(np.asarray(np.memmap(target, dtype, "r", shape=shape)) if all(shape) else np.empty(shape, dtype))
        with suppress(OSError):  # where a mapped file cannot be removed, it goes with the folder
            os.unlink(target)
    return values


def read_chunks(
    reader: Reader,
    wanted: Kept,
    *,
    n_jobs: int = 1,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> Iterator[tuple[Range, list[Piece]]]:
    """Chunks that hold all wanted rows (or columns), with the range of each."""
    ranges, n_bytes = cut_ranges(reader, wanted, chunk_size, budget)
    unit = "feature" if reader.by_columns else "cell"
    total = sum(high - low for low, high in ranges)
    with Progress(total=total, unit=unit, unit_scale=True, desc="collapse", disable=not progress) as bar:
        for asked, pieces in fetch(reader, ranges, n_jobs=n_jobs, n_bytes=n_bytes, process_bytes=budget.process_bytes):
            yield asked, pieces
            bar.update(asked[1] - asked[0])


def cut_ranges(
    reader: Reader, wanted: Kept, chunk_size: int | None = None, budget: Budget = BUDGET
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
