"""Which chunks of a matrix that is not in memory are read, and reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.cells.budget import BUDGET, Budget
from donorwise._core.cells.fetch import fetch
from donorwise._core.progress import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from donorwise._core.cells.fetch import Range
    from donorwise._core.cells.readers import Piece, Reader
    from donorwise._typing import BoolArray, IntArray

    Kept = Callable[[int, int], BoolArray]


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
    with tqdm(total=total, unit=unit, unit_scale=True, desc="collapse", disable=not progress) as bar:
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
