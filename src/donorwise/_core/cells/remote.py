"""What a worker of a cluster does: read some cells, measure them, and merge what others measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from donorwise._core.cells.measures import ByPattern
from donorwise._core.cells.readers import DaskBlocks, DenseFile, SparseFile, source_file
from donorwise._core.cells.segments import CodedCells
from donorwise._core.cells.stream import fetch
from donorwise._typing import IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from donorwise._core.cells.readers import Reader


Task: TypeAlias = Callable[[Any, CodedCells, IntArray], tuple[ByPattern, ...]]
"""What a worker computes of some cells: of their matrix in memory, and the columns in use."""


@dataclass(frozen=True, slots=True)
class Share:
    """What some cells say about the patterns numbered `patterns`, ascending: a result for each measure."""

    patterns: IntArray
    results: tuple[ByPattern, ...]

    def __sizeof__(self) -> int:
        """Bytes of the arrays, by which the scheduler decides what to move."""
        return self.patterns.nbytes + sum(array.nbytes for own in self.results for array in own.arrays().values())


class Range(NamedTuple):
    """A range of rows that travels: a reader that can be pickled, and the rows as it numbers them."""

    reader: Reader
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class HDF5Element:
    """An array in an HDF5 file, opened by its path where it is read: an object of h5py cannot travel."""

    path: str
    name: str
    dtype: np.dtype[Any]

    def check(self) -> None:
        """Raise the DataError that says so if the file is not there."""
        if not os.path.isfile(self.path):
            raise DataError(
                f"A worker of the cluster finds no file {self.path}: every worker must have it at the same path, on a "
                "file system that they share."
            )

    def __getitem__(self, at: slice) -> NDArray[Any]:
        return np.asarray(_open(self.path, os.stat(self.path).st_mtime_ns)[self.name][at])


@lru_cache(maxsize=4)
def _open(path: str, changed: int) -> Any:
    """The open file; one that was changed since is opened anew."""
    import h5py

    return h5py.File(path, "r")


def can_travel(reader: Reader) -> bool:
    """Whether workers can read ranges of rows: of files they can open, and of dask arrays that have row blocks."""
    if not isinstance(reader, SparseFile | DenseFile | DaskBlocks) or reader.by_columns:
        return False
    arrays = () if isinstance(reader, DaskBlocks) else reader.arrays
    return all(not hasattr(a, "file") or source_file(a) is not None for a in arrays)


def cut_rows(reader: Any, low: int, high: int) -> Range:
    """Rows low..high-1, with no more of the matrix than they need."""
    if isinstance(reader, DaskBlocks):  # the blocks travel by themselves
        return Range(replace(reader, matrix=None), low, high)
    arrays: Any = tuple(
        HDF5Element(source_file(a) or "", a.name, a.dtype) if hasattr(a, "file") else a for a in reader.arrays
    )
    return Range(replace(reader, arrays=arrays, cuts=None), low, high)


def read(found: Range, blocks: Any = None) -> Any:
    """The rows as one matrix in memory; `blocks` are those of a dask array, computed."""
    reader, low, high = found
    if blocks is not None:
        pieces = reader.pieces(low, high, blocks)
    else:
        for array in reader.arrays:  # type: ignore[attr-defined]  # files have arrays
            if isinstance(array, HDF5Element):
                array.check()
        ((_, pieces),) = fetch(reader, [(low, high)], n_jobs=1, n_bytes=0)
    matrices = [matrix for _, matrix in pieces]
    if len(matrices) == 1:
        return matrices[0]
    return sparse.hstack(matrices, format="csr") if sparse.issparse(matrices[0]) else np.concatenate(matrices, axis=1)


def measure_ranges(
    ranges: Sequence[Range],
    cells: Sequence[CodedCells],
    columns: IntArray,
    starts: Sequence[int],
    places: IntArray,
    task: Task,
    blocks: Sequence[Any],
) -> list[Share]:
    """Read ranges of rows, one in memory at a time; a `Share` for each tile.

    Parameters
    ----------
    ranges, blocks
        See `read`.
    cells
        The cells of each range.
    columns
        The features.
    starts
        Where each tile begins among the patterns, and their number.
    places
        Place of each pattern in its tile.
    task
        What to compute.
    """
    shares: list[Share] = []
    for rows, own, computed in zip(ranges, cells, blocks, strict=True):
        present = np.unique(own.codes[own.codes >= 0])
        if not present.size:  # all of its patterns belong to another task
            continue
        place = np.append(np.full(own.n_patterns, -1), -1)
        place[present] = np.arange(present.size)
        few = own._replace(codes=place[own.codes].astype(np.int32), n_patterns=present.size)
        shares.append(Share(present, task(read(rows, computed), few, columns)))
        shares = [merge(shares)] if len(shares) > 1 else shares
    (found,) = shares
    tiles = [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return [Share(places[t], tuple(_copied(own.take(t)) for own in found.results)) for t in tiles]


def _copied(result: ByPattern) -> ByPattern:
    """Arrays that do not keep those alive of which they are views."""
    return type(result)(**{name: array.copy() for name, array in result.arrays().items()})


def pick(shares: Sequence[Share], at: int) -> Share:
    """One of several."""
    return shares[at]


def merge(shares: Sequence[Share]) -> Share:
    """Merge results of different cells, in their order."""
    patterns = np.unique(np.concatenate([share.patterns for share in shares]))
    merged = tuple(own.take(np.zeros(patterns.size, dtype=np.int64)) for own in shares[0].results)
    seen = np.zeros(patterns.size, dtype=bool)
    for share in shares:
        at = np.searchsorted(patterns, share.patterns)
        new = ~seen[at]
        for own, part in zip(merged, share.results, strict=True):
            own.put(at[new], part.take(new))
            own.put(at[~new], own.take(at[~new]).merge(part.take(~new)))
        seen[at] = True
    return Share(patterns, merged)
