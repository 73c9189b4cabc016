"""Threads and memory of a pass: reading ahead, decompressing, budgets."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numba import get_num_threads

from donorwise.errors import DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from donorwise._core.cells.kernels import Segmented
    from donorwise._typing import IntArray


class Budget(NamedTuple):
    """Bounds of a pass; the statistics do not depend on them, but for `segment_rows` by rounding.

    Attributes
    ----------
    segment_rows
        A pattern of more rows is cut, so that few patterns still keep many threads busy.
    chunk_bytes
        Decompressed values that are read at a time.
    plan_items
        Rows (or columns) whose sizes are looked at together.
    process_bytes
        Starting processes takes seconds: below this many bytes, decompressed, a thread reads faster.
    range_bytes
        Decompressed values that are in the memory of a task of a cluster.
    result_bytes
        Statistics that a task of a cluster may find; what they say of each tile is picked out where they are.
    message_bytes
        What goes from one worker of a cluster to another, and to the client, is no larger.
    """

    segment_rows: int = 16_384
    chunk_bytes: int = 2**25
    plan_items: int = 2**18
    process_bytes: int = 2**29
    range_bytes: int = 2**27
    result_bytes: int = 2**28
    message_bytes: int = 2**26


BUDGET = Budget()


T = TypeVar("T")

# More ranges than threads, so that a thread that falls behind does not hold up the others.
_RANGES_PER_THREAD = 8
# Below this much work a thread costs more than it saves.
_VALUES_PER_THREAD = 2**19


def n_threads(n_jobs: int) -> int:
    """Number of threads; as in joblib, -1 is one per processor and -2 one less."""
    if n_jobs == 0:
        raise DonorwiseError("n_jobs=0 has no meaning; use a positive number of threads, or -1 for all processors.")
    return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)


def run_ranges(task: Callable[[int, int], T], cost: IntArray, n_jobs: int | None) -> list[T]:
    """Results of ``task(first, last)`` over contiguous ranges of about equal cost that cover all items.

    `cost` is in values; for ``n_jobs=None`` numba's number of threads is used, where there is work for them.
    """
    if n_jobs is None:
        n_jobs = max(1, min(get_num_threads(), int(cost.sum()) // _VALUES_PER_THREAD))
    threads = min(n_threads(n_jobs), len(cost))
    if threads <= 1:
        return [task(0, len(cost))]
    ranges = _cut(cost, _RANGES_PER_THREAD * threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: task(*pair), ranges))


def run_on_segments(add: Callable[[IntArray], None], cells: Segmented, n_values: int, n_jobs: int | None) -> None:
    """Call `add` for all segments that have cells, several in each call; `n_values` is what all cells have."""
    size = np.diff(cells.starts)
    present = np.flatnonzero(size)
    per_cell = max(1, n_values // max(1, len(cells.segment)))
    run_ranges(lambda first, last: add(present[first:last]), size[present] * per_cell, n_jobs)


def _cut(cost: IntArray, n_ranges: int) -> list[tuple[int, int]]:
    reached = np.cumsum(cost + 1)
    inner = np.searchsorted(reached, np.linspace(0, reached[-1], n_ranges + 1)[1:-1]) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(inner, len(cost)), [len(cost)]]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


_DEFLATE, _SHUFFLE = 1, 2  # numbers of the filters (HDF5 specification, H5Z_FILTER_*)


def can_inflate(element: Any) -> bool:
    """Whether an element is an HDF5 dataset, open for reading only, that is compressed with gzip (and shuffled)."""
    filters = _filters(element)
    return _DEFLATE in filters and set(filters) <= {_DEFLATE, _SHUFFLE} and element.file.mode == "r"


def inflate(dataset: Any, span: slice) -> NDArray[Any]:
    """Rows of a dataset for which `can_inflate` is true: what ``dataset[span]`` is."""
    low, high, _ = span.indices(dataset.shape[0])
    out = np.empty((max(0, high - low), *dataset.shape[1:]), dtype=dataset.dtype)
    filters, sizes = _filters(dataset), dataset.chunks
    starts = [range(low // sizes[0] * sizes[0], high, sizes[0])]
    starts += [range(0, n, size) for n, size in zip(dataset.shape[1:], sizes[1:], strict=True)]
    for start in product(*starts) if out.size else ():
        chunk = _chunk(dataset, start, filters)
        if chunk is None:  # never written: HDF5 knows what it reads as
            return np.asarray(dataset[span])
        first = max(start[0], low)
        inner = (
            slice(first - start[0], high - start[0]),
            *(slice(0, n - s) for n, s in zip(out.shape[1:], start[1:], strict=True)),
        )
        block = chunk[inner]
        at = (first - low, *start[1:])
        out[tuple(slice(a, a + n) for a, n in zip(at, block.shape, strict=True))] = block
    return out


def _filters(element: Any) -> list[int]:
    """Numbers of the filters, in the order in which they were applied; empty for what is no chunked HDF5 dataset."""
    if getattr(element, "chunks", None) is None or not hasattr(element, "id"):
        return []
    properties = element.id.get_create_plist()
    return [int(properties.get_filter(i)[0]) for i in range(properties.get_nfilters())]


def _chunk(dataset: Any, start: tuple[int, ...], filters: list[int]) -> NDArray[Any] | None:
    """The chunk that begins at `start`, whole; None if it was never written."""
    try:
        skipped, raw = dataset.id.read_direct_chunk(start)
    except (RuntimeError, ValueError):
        if dataset.id.get_chunk_info_by_coord(start).byte_offset is None:
            return None
        raise
    n_bytes = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
    for i, kind in reversed(list(enumerate(filters))):
        if not skipped >> i & 1:
            raw = zlib.decompress(raw, bufsize=n_bytes) if kind == _DEFLATE else _unshuffle(raw, dataset.dtype.itemsize)
    return np.frombuffer(raw, dtype=dataset.dtype).reshape(dataset.chunks)


def _unshuffle(raw: bytes, size: int) -> bytes:
    """Values from their first bytes, then their second bytes, and so on."""
    return np.frombuffer(raw, dtype=np.uint8).reshape(size, -1).T.tobytes()
