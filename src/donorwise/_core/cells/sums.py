"""Sums by pattern of what is computed of every value, such as the number of cells that it is above zero in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import sparse

from donorwise._core.cells.chunks import SparseChunk, loadable, sparse_arrays
from donorwise._core.cells.kernels import add_csr_sums, add_dense_sums, csc_sums, index_state
from donorwise._core.cells.measures import ByPattern, Measure
from donorwise._core.cells.segments import read_only
from donorwise._core.cells.threads import run_on_segments, run_ranges
from donorwise._typing import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._core.cells.chunks import Chunk
    from donorwise._core.cells.kernels import Segmented
    from donorwise._core.cells.segments import Segments
    from donorwise._typing import IntArray


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
            if not index_state(indices, indptr, indices.dtype.type(matrix.shape[0])):
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
