"""The pass over a matrix that the workers of a dask cluster read.

A task reads some rows, range after range, and finds the statistics of the patterns that are there. The patterns are
divided, in the order in which they appear, into tiles whose statistics fit a message; what the tasks say about a tile is
merged on the workers in a tree, in an order that the matrix alone decides: the result does not depend on the workers. In
a file sorted by donor a tile is met by a few tasks only.
"""

from __future__ import annotations

import sys
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from donorwise._core.cells.readers import DaskBlocks
from donorwise._core.cells.remote import cut_rows, measure_ranges, merge, pick
from donorwise._core.cells.stream import cut_ranges
from donorwise._core.cells.threads import BUDGET, Budget
from donorwise._core.jobs import Progress
from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from donorwise._core.cells.measures import ByPattern
    from donorwise._core.cells.readers import Reader
    from donorwise._core.cells.remote import Share, Task
    from donorwise._core.cells.segments import CodedCells
    from donorwise._typing import IntArray

VALUES_PER_STATISTIC = 4
"""A task goes on reading, beyond `Budget.range_bytes`, until it has this many bytes of values for a byte of its statistics."""
FAN_IN = 8
_PATTERN_BYTES = 64  # of what goes with the results of a pattern


def active_client() -> Any | None:
    """The client of ``dask.distributed`` that is in use here; None if there is none, or inside of a task."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    inside = hasattr(distributed.worker.thread_state, "execution_state")  # whoever waits there may wait for itself
    return None if inside or client.asynchronous or client.status != "running" else client


def check_client(client: Any) -> Any:
    """The client that was given, or a DataError."""
    if not all(hasattr(client, name) for name in ("submit", "compute", "cancel")):
        raise DataError(f"client={client!r} is not a dask.distributed.Client.")
    if client.asynchronous:
        raise DataError("client= must not be asynchronous: make it with dask.distributed.Client(address).")
    if client.status != "running":
        raise DataError(f"The client given as client= is {client.status}; connect a new one.")
    return client


class _Batch(NamedTuple):
    """Rows to read and patterns to keep, with their places in their tiles; those of a tile begin at its start."""

    ranges: list[tuple[int, int]]
    patterns: IntArray
    places: IntArray
    tiles: IntArray
    starts: IntArray


@dataclass(frozen=True, slots=True)
class _Tree:
    """Futures of one tile that wait for their siblings, by level; the first level last."""

    client: Any
    name: str
    levels: list[list[Any]] = field(default_factory=lambda: [[]])

    def add(self, future: Any, level: int = 0) -> None:
        """Take the next part; merge as soon as there are enough."""
        if level == len(self.levels):
            self.levels.append([])
        self.levels[level].append(future)
        if len(self.levels[level]) == FAN_IN:
            self.add(self._merge(self.levels[level]), level + 1)
            self.levels[level].clear()

    def finish(self) -> Any:
        """The future of all parts, merged in their order."""
        left = [future for level in reversed(self.levels) for future in level]
        while len(left) > 1:
            left = [self._merge(left[i : i + FAN_IN]) for i in range(0, len(left), FAN_IN)]
        return left[0]

    def _merge(self, futures: list[Any]) -> Any:
        if len(futures) == 1:
            return futures[0]
        return self.client.submit(merge, list(futures), key=f"{self.name}-{uuid.uuid4().hex}", pure=False)


def accumulate_on(
    client: Any,
    reader: Reader,
    cells: CodedCells,
    task: Task,
    *,
    columns: IntArray,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> tuple[Any, ...]:
    """What `task` says of the rows of a matrix, by pattern, computed by the workers of a cluster.

    Values that are not finite are not refused.

    Parameters
    ----------
    client
        A ``dask.distributed.Client``.
    reader
        Of a matrix for which `donorwise._core.cells.remote.can_travel`.
    cells
        What is known of its rows.
    task
        Computes the results of some rows; a function that the workers can import.
    columns
        Shape (G,). Columns of the matrix in use.
    chunk_size, progress, budget
        As for :func:`donorwise._core.cells.collapse.collapse`.

    Returns
    -------
    What `task` does, for all patterns.

    Raises
    ------
    DataError
        What a worker cannot read, as it says.
    DonorwiseError
        Workers were ended again and again.
    """
    nothing = task(sparse.csr_array((0, reader.shape[1])), cells.between(0, 0)._replace(n_patterns=1), columns)
    out = tuple(result.take(np.zeros(cells.n_patterns, dtype=np.int64)) for result in nothing)
    per_pattern = _PATTERN_BYTES + sum(array.nbytes for result in nothing for array in result.arrays().values())
    tiles = _Tiles(cells.n_patterns, max(1, budget.message_bytes // per_pattern))
    batches = _batches(reader, cells.codes, tiles, per_pattern, chunk_size, budget)
    finals = _submit(client, reader, cells, columns, batches, task)
    try:
        _gather(client, finals, tiles, out, progress=progress)
    finally:
        client.cancel(list(finals))
    return out


class _Tiles:
    """Patterns numbered in the order in which they appear, `size` to a tile."""

    def __init__(self, n_patterns: int, size: int) -> None:
        self.size = size
        self.rank = np.full(n_patterns, -1)
        self._order = np.zeros(n_patterns, dtype=np.int64)
        self._n = 0

    def see(self, patterns: IntArray) -> IntArray:
        """Patterns by their rank, new ones after all that were seen."""
        new = patterns[self.rank[patterns] < 0]
        self.rank[new] = self._n + np.arange(new.size)
        self._order[self._n : self._n + new.size] = new
        self._n += new.size
        return patterns[np.argsort(self.rank[patterns])]

    def patterns(self, tile: int, places: IntArray) -> IntArray:
        """The patterns at some places of a tile."""
        return self._order[tile * self.size + places]


def _batches(
    reader: Reader, codes: NDArray[Any], tiles: _Tiles, per_pattern: int, chunk_size: int | None, budget: Budget
) -> Iterator[_Batch]:
    """As many rows as the budget allows; those whose statistics are larger than its result are read several times.

    Where the cells are in no order, every range meets most patterns, and only long ones are worth their statistics.
    """
    reached = np.concatenate([[0], np.cumsum(reader.cost(0, reader.shape[0]))])
    most = max(1, budget.result_bytes // per_pattern)
    ranges: list[tuple[int, int]] = []
    patterns = np.zeros(0, dtype=np.int64)
    for low, high in cut_ranges(reader, lambda low, high: codes[low:high] >= 0, chunk_size, budget)[0]:
        seen = np.unique(codes[low:high])
        seen = seen[seen >= 0]
        joined = np.union1d(patterns, seen)
        n_bytes = reached[high] - reached[ranges[0][0] if ranges else low]
        mixed = 2 * (joined.size - patterns.size) <= seen.size  # in one order or another, most have been here before
        roomy = n_bytes <= max(budget.range_bytes, VALUES_PER_STATISTIC * joined.size * per_pattern)
        if ranges and not (chunk_size is None and roomy and (joined.size <= most or mixed)):
            yield from _split(ranges, patterns, tiles, most)
            ranges, joined = [], seen
        if ranges and ranges[-1][1] == low and reached[high] - reached[ranges[-1][0]] <= budget.range_bytes:
            low = ranges.pop()[0]
        ranges.append((low, high))
        patterns = joined
    if ranges:
        yield from _split(ranges, patterns, tiles, most)


def _split(ranges: list[tuple[int, int]], patterns: IntArray, tiles: _Tiles, most: int) -> Iterator[_Batch]:
    ordered = tiles.see(patterns)
    for first in range(0, ordered.size, most):
        some = ordered[first : first + most]
        rank = tiles.rank[some]
        numbers, starts = np.unique(rank // tiles.size, return_index=True)
        yield _Batch(ranges, some, rank % tiles.size, numbers, np.append(starts, some.size))


def _submit(
    client: Any, reader: Any, cells: CodedCells, columns: IntArray, batches: Iterator[_Batch], task: Task
) -> dict[Any, int]:
    """The tile of every final future; batches are submitted in the order in which they are best done."""
    run = uuid.uuid4().hex[:8]
    trees: dict[int, _Tree] = {}
    for i, batch in enumerate(batches):
        n = len(batch.patterns)
        place = np.full(cells.n_patterns + 1, -1, dtype=np.int16 if n < 2**15 else np.int32)
        place[batch.patterns] = np.arange(n)  # the last entry is that of code -1
        found = client.submit(
            measure_ranges,
            [cut_rows(reader, low, high) for low, high in batch.ranges],
            [
                cells.between(low, high)._replace(codes=place[cells.codes[low:high]], n_patterns=n)
                for low, high in batch.ranges
            ],
            columns,
            batch.starts.tolist(),
            batch.places,
            task,
            [_blocks(client, reader, low, high) for low, high in batch.ranges],
            key=f"donorwise-read-{run}-{i}",
            pure=False,
        )
        for at, tile in enumerate(batch.tiles.tolist()):
            tree = trees.setdefault(tile, _Tree(client, f"donorwise-merge-{run}"))
            tree.add(client.submit(pick, found, at, key=f"donorwise-pick-{run}-{i}-{at}", pure=False))
    return {tree.finish(): tile for tile, tree in trees.items()}


def _blocks(client: Any, reader: Any, low: int, high: int) -> list[list[Any]] | None:
    """Futures of the blocks of a dask array, by rows of blocks; None for a file."""
    if not isinstance(reader, DaskBlocks):
        return None
    first, last = np.searchsorted(reader.cuts, [low, high])
    blocks = reader.matrix.blocks[first:last].to_delayed()
    futures = iter(client.compute(blocks.ravel().tolist()))
    return [[next(futures) for _ in row] for row in blocks]


def _gather(client: Any, finals: dict[Any, int], tiles: _Tiles, out: tuple[ByPattern, ...], *, progress: bool) -> None:
    """Write every tile where it belongs as soon as it is done; one at a time is here."""
    from distributed import KilledWorker, as_completed

    with Progress(total=len(finals), unit="block", desc="collapse", disable=not progress) as bar:
        for future in as_completed(list(finals), loop=client.loop):
            try:
                share: Share = future.result()
            except KilledWorker as error:
                raise DonorwiseError(
                    f"Workers of the cluster were ended while they read, for lack of memory perhaps ({error}). Give them "
                    "more memory, or fewer threads each."
                ) from error
            patterns = tiles.patterns(finals[future], share.patterns)
            for whole, part in zip(out, share.results, strict=True):
                whole.put(patterns, part)
            bar.update()
