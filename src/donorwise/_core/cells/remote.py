"""What a worker of a cluster does: read some cells, say what they say, and add up what others said."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from donorwise._core.cells.fetch import fetch
from donorwise._core.cells.measures import Collapsed
from donorwise._core.cells.readers import DaskBlocks, DenseFile, SparseFile, source_file
from donorwise._typing import FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from donorwise._core.cells.readers import Reader


class Cells(NamedTuple):
    """Some cells and the features to use: `columns` of their matrix, all if None.

    Attributes
    ----------
    codes
        Shape (N,), integer. Pattern of each cell, from 0 to ``n_patterns - 1``; -1 for cells to leave out.
    weights, covariates
        Shapes (N,) and (N, m), or None.
    """

    codes: NDArray[Any]
    n_patterns: int
    weights: FloatArray | None = None
    covariates: FloatArray | None = None
    columns: IntArray | None = None


Sums: TypeAlias = dict[str, FloatArray]
Measure: TypeAlias = Callable[[Any, Cells], tuple[Collapsed, Sums]]
"""Statistics of a matrix in memory, and whatever else is added up, by pattern (K, ...)."""


@dataclass(frozen=True, slots=True)
class Partial:
    """What some cells say about the patterns numbered `patterns`, ascending."""

    patterns: IntArray
    collapsed: Collapsed
    sums: Sums

    def __sizeof__(self) -> int:
        """Bytes of the arrays, by which the scheduler decides what to move."""
        arrays = [self.patterns, *(getattr(self.collapsed, f.name) for f in fields(Collapsed)), *self.sums.values()]
        return sum(array.nbytes for array in arrays)


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
        parts = reader.parts(low, high, blocks)
    else:
        for array in reader.arrays:  # type: ignore[attr-defined]  # files have arrays
            if isinstance(array, HDF5Element):
                array.check()
        ((_, parts),) = fetch(reader, [(low, high)], n_jobs=1, n_bytes=0)
    matrices = [matrix for _, matrix in parts]
    if len(matrices) == 1:
        return matrices[0]
    return sparse.hstack(matrices, format="csr") if sparse.issparse(matrices[0]) else np.concatenate(matrices, axis=1)


def summarise_ranges(
    ranges: Sequence[Range],
    cells: Sequence[Cells],
    starts: Sequence[int],
    places: IntArray,
    measure: Measure,
    blocks: Sequence[Any],
) -> list[Partial]:
    """Read ranges of rows, one in memory at a time; a `Partial` for each tile.

    Parameters
    ----------
    ranges, blocks
        See `read`.
    cells
        The cells of each range.
    starts
        Where each tile begins among the patterns, and their number.
    places
        Place of each pattern in its tile.
    measure
        What to compute.
    """
    parts: list[Partial] = []
    for rows, own, computed in zip(ranges, cells, blocks, strict=True):
        present = np.unique(own.codes[own.codes >= 0])
        if not present.size:  # all of its patterns belong to another task
            continue
        place = np.append(np.full(own.n_patterns, -1), -1)
        place[present] = np.arange(present.size)
        few = own._replace(codes=place[own.codes], n_patterns=present.size)
        parts.append(Partial(present, *measure(read(rows, computed), few)))
        parts = [merge(parts)] if len(parts) > 1 else parts
    (found,) = parts
    tiles = [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    return [
        Partial(places[t], _own(found.collapsed.take(t)), {n: v[t].copy() for n, v in found.sums.items()})
        for t in tiles
    ]


def _own(collapsed: Collapsed) -> Collapsed:
    """Arrays that do not keep those alive of which they are views."""
    return Collapsed(**{field.name: getattr(collapsed, field.name).copy() for field in fields(Collapsed)})


def pick(parts: Sequence[Partial], at: int) -> Partial:
    """One of several."""
    return parts[at]


def merge(parts: Sequence[Partial]) -> Partial:
    """Merge statistics of different cells, in their order."""
    patterns = np.unique(np.concatenate([part.patterns for part in parts]))
    first = parts[0]
    collapsed = Collapsed(
        **{f.name: _zeros(getattr(first.collapsed, f.name), patterns.size) for f in fields(Collapsed)}
    )
    sums = {name: _zeros(values, patterns.size) for name, values in first.sums.items()}
    for part in parts:
        at = np.searchsorted(patterns, part.patterns)
        merged = collapsed.take(at).merge(part.collapsed)
        for field in fields(Collapsed):
            getattr(collapsed, field.name)[at] = getattr(merged, field.name)
        for name, values in part.sums.items():
            sums[name][at] += values
    return Partial(patterns, collapsed, sums)


def _zeros(like: NDArray[Any], n_patterns: int) -> NDArray[Any]:
    return np.zeros((n_patterns, *like.shape[1:]), dtype=like.dtype)
