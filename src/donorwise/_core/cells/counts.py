"""The pass of the generalised models: sums of counts, or of yes and no, by pattern and feature.

A pattern of cells with counts y and exposures e needs, for the negative binomial with a size r and mean e m,

    sum_i y_i,    sum_i (y_i + r) log(1 + e_i m / r),    sum_i log Gamma(y_i + r) - log Gamma(r),

of which the second is kept at nodes of log e (`donorwise._core.cells.nodes`) and the third as a histogram of the counts. All
of it is linear in the cells: it adds up, and zeros are never visited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from donorwise._core.cells.chunks import SparseChunk
from donorwise._core.cells.collapse import accumulate
from donorwise._core.cells.count_kernels import Kept, add_cells, add_csr_counts, add_dense_counts, turn
from donorwise._core.cells.measures import ByPattern, Measure
from donorwise._core.cells.nodes import barycentric
from donorwise._core.cells.segments import check_codes
from donorwise._core.cells.tails import NO_TAILS
from donorwise._core.cells.threads import BUDGET, Budget, run_on_segments, run_ranges
from donorwise._typing import FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from donorwise._core.cells.chunks import Chunk
    from donorwise._core.cells.nodes import Nodes
    from donorwise._core.cells.segments import Segments
    from donorwise._core.cells.tails import Tails

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Counted(ByPattern):
    """What the cells of K patterns say about counts (or successes) of G features; sums, so mergeable and exact.

    Attributes
    ----------
    n_obs
        Shape (K,), int64. Cells.
    exposure
        Shape (K,). Sum of exposures (times trials).
    shared
        Shape (K, J). Cells (or trials) at the nodes of log exposure, those that have some.
    total
        Shape (K, G). Sum of the counts.
    own
        Shape (K, J, G). Counts at the nodes; (K, 0, G) without nodes.
    tail
        Shape (K, H, G). Cells at the values of the tails; (K, 0, G) without them.
    """

    n_obs: IntArray
    exposure: FloatArray
    shared: FloatArray
    total: FloatArray
    own: FloatArray
    tail: FloatArray
    of_features: ClassVar[tuple[str, ...]] = ("total", "own", "tail")


@dataclass(frozen=True, slots=True)
class CellSums(ByPattern):
    """What `Counted` has of the cells themselves, whatever their counts."""

    n_obs: IntArray
    exposure: FloatArray
    shared: FloatArray


@dataclass(frozen=True, slots=True)
class Records(ByPattern):
    """Sums, cells at the values of the tails, and counts at the nodes, one under another: (K, 1 + H + J, G)."""

    numbers: FloatArray
    of_features: ClassVar[tuple[str, ...]] = ("numbers",)


@dataclass(frozen=True, slots=True)
class Counting(Measure[Records]):
    """What `Counted` has of the features; the first covariate of a cell is its exposure, where there are nodes.

    Attributes
    ----------
    nodes, tails
        None where they are not wanted.
    detected
        Whether a value above zero counts as one.
    bounded
        Whether the next covariate of a cell, its trials, is the most that a value may be.
    """

    nodes: Nodes | None = None
    tails: Tails | None = None
    detected: bool = False
    bounded: bool = False

    @property
    def kept(self) -> Kept:
        """What the kernels need."""
        kept = NO_TAILS if self.tails is None else self.tails.kept
        at = np.zeros(0) if self.nodes is None else self.nodes.at
        bound = int(self.nodes is not None) if self.bounded else -1
        return kept._replace(at=at, weight=barycentric(len(at)), detected=self.detected, bound=bound)

    @property
    def width(self) -> int:
        """Numbers by feature, W."""
        n_nodes = 0 if self.nodes is None else len(self.nodes.at)
        return 1 + n_nodes + (0 if self.tails is None else len(self.tails.values))

    def empty(self, segments: Segments, n_features: int) -> Records:
        """Zeros."""
        return Records(np.zeros((len(segments.n_obs), self.width, n_features)))

    def begin(self, out: Records) -> FloatArray:
        """The same memory, with the numbers of a feature side by side: (S, G W)."""
        return out.numbers.reshape(len(out.numbers), -1)

    def add(self, running: FloatArray, chunk: Chunk, n_jobs: int | None) -> None:
        """Add the rows of a chunk."""
        args = (self.kept, running, self.width)
        if isinstance(chunk, SparseChunk):
            run_on_segments(partial(add_csr_counts, *chunk, *args), chunk.cells, chunk.data.size, n_jobs)
        else:
            run_on_segments(partial(add_dense_counts, *chunk, *args), chunk.cells, chunk.values.size, n_jobs)

    def end(self, running: FloatArray, out: Records, segments: Segments, n_jobs: int | None) -> None:
        """Put features last."""
        cost = np.full(len(out.numbers), out.numbers[:1].size)
        run_ranges(partial(turn, out.numbers), cost, n_jobs)

    def cells(self, codes: NDArray[np.int32], n_patterns: int, exposure: FloatArray, trials: FloatArray) -> CellSums:
        """Sums over cells with these patterns (-1 for none), exposures and trials, (N,)."""
        kept = self.kept
        sums, shared = np.zeros(n_patterns), np.zeros((n_patterns, len(kept.at)))
        add_cells(codes, exposure, trials, kept, sums, shared)
        return CellSums(np.bincount(codes[codes >= 0], minlength=n_patterns), sums, shared)

    def counted(self, records: Records, cells: CellSums) -> Counted:
        """What was found, by its parts; views."""
        total, tail, own = np.split(records.numbers, [1, self.width - cells.shared.shape[1]], axis=1)
        return Counted(cells.n_obs, cells.exposure, cells.shared, total[:, 0], own, tail)


def count_cells(
    matrix: Any,
    codes: ArrayLike,
    n_patterns: int,
    *,
    exposure: ArrayLike | None = None,
    trials: ArrayLike | None = None,
    nodes: Nodes | None = None,
    tails: Tails | None = None,
    detected: bool = False,
    features: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    n_jobs: int | None = 1,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> Counted:
    """What the generalised models need of a matrix for each pattern of its rows, in one pass.

    Parameters
    ----------
    matrix, codes, n_patterns, features, names, n_jobs, chunk_size, progress, budget
        As for :func:`donorwise._core.cells.collapse.collapse`; values are counts, or successes: not below zero.
    exposure
        Shape (N,). Exposure of each cell, 1 if None; in one without, where it is 0, nothing can be counted.
    trials
        Shape (N,). The most that a value may be: cells with a larger one are refused. If None, every cell has one for
        `Counted.shared`, and nothing is refused.
    nodes
        Nodes of log exposure at which counts are wanted, too.
    tails
        Values for which the histogram of the counts is wanted, too.
    detected
        Whether a value above zero counts as one.

    Raises
    ------
    DataError
        If the container cannot be read, shapes do not agree, or a value in use is not finite, negative, above its
        trials, or above the largest one of `tails`.
    """
    used = check_codes(codes, n_patterns, matrix.shape[0])
    exposures, most = _check_numbers("exposure", exposure, used), _check_numbers("trials", trials, used)
    measure = Counting(nodes, tails, detected, bounded=trials is not None)
    if nodes is not None:
        nodes.check(np.log(exposures[(used >= 0) & (exposures > 0)]))
    numbers = ([] if nodes is None else [exposures]) + ([] if trials is None else [most])
    (found,) = accumulate(
        matrix, used, n_patterns, (measure,), covariates=np.stack(numbers, axis=1) if numbers else None,
        features=features, n_jobs=n_jobs, chunk_size=chunk_size, progress=progress, budget=budget,
    )  # fmt: skip
    counted = measure.counted(found, measure.cells(used, n_patterns, exposures, most))
    check_total(counted.total, measure, features, names)
    return counted


def bytes_of_counts(n_patterns: int, n_features: int, n_nodes: int, n_tails: int, *, n_threads: int = 1) -> int:
    """Memory of `count_cells`, its result included, by the numbers of patterns, features, nodes and values of the tails.

    Sums are put in their final order in place: besides the result there is a copy of one pattern for each thread. What
    chunks of a file take comes on top (`Budget.chunk_bytes`).
    """
    per_feature = 8 * (1 + n_nodes + n_tails)
    return (n_patterns + n_threads) * n_features * per_feature + 8 * n_patterns * (2 + n_nodes)


def _check_numbers(name: str, given: ArrayLike | None, codes: NDArray[np.int32]) -> FloatArray:
    """Numbers (N,) of cells, ones if None, or a DataError."""
    if given is None:
        return np.ones(len(codes))
    array = np.ascontiguousarray(given, dtype=np.float64)
    if array.shape != codes.shape:
        raise DataError(f"{name} must have shape ({len(codes)},), one for each row; got {array.shape}.")
    own = array[codes >= 0]
    n_bad = int((~np.isfinite(own) | (own < 0)).sum())
    if n_bad:
        raise DataError(f"{name} must be finite, zero or more; {n_bad:,} of the {own.size:,} cells in use have others.")
    return array


def check_total(total: FloatArray, measure: Counting, features: ArrayLike | None, names: Sequence[str] | None) -> None:
    """Raise where a value could not be counted."""
    bad = np.flatnonzero(~np.isfinite(total.sum(axis=0)))
    if not bad.size:
        return
    columns = np.arange(total.shape[1]) if features is None else np.asarray(features)
    shown = ", ".join(repr(str(names[i])) if names is not None else str(columns[i]) for i in bad[:_NAMES_SHOWN])
    more = ", ..." if bad.size > _NAMES_SHOWN else ""
    above = ", or more successes than trials" if measure.bounded else ""
    if measure.tails is not None:
        above = f", or above {measure.tails.largest:.6g}"
    if measure.nodes is not None:
        above += ", or above zero in a cell without exposure"
    raise DataError(
        f"{bad.size} of {total.shape[1]} features have values that are no counts: missing, infinite, negative{above} "
        f"({'columns' if names is None else 'features'} {shown}{more}). Use the layer with raw counts, or leave these "
        "features out with mask_var=."
    )
