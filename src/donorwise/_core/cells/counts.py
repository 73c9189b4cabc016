"""The pass of the generalised models: sums of counts, or of yes and no, by pattern and feature.

A pattern of cells with counts y and exposures e needs, for the negative binomial with a size r and mean e m,

    sum_i y_i,    sum_i (y_i + r) log(1 + e_i m / r),    sum_i log Gamma(y_i + r) - log Gamma(r),

of which the second is kept at nodes of log e (`donorwise._core.cells.nodes`) and the third as a histogram of the counts. All
of it is linear in the cells: it adds up, and zeros are never visited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import special

from donorwise._core.cells.chunks import SparseChunk
from donorwise._core.cells.collapse import accumulate
from donorwise._core.cells.count_kernels import (
    Kept,
    add_cells,
    add_csr_counts,
    add_dense_counts,
    add_tails,
    csr_maxima,
    dense_maxima,
    turn,
)
from donorwise._core.cells.measures import ByPattern, Measure
from donorwise._core.cells.nodes import Nodes, barycentric, chebyshev, loadings
from donorwise._core.cells.segments import check_codes
from donorwise._core.cells.threads import BUDGET, Budget, run_on_segments, run_ranges
from donorwise._typing import FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from donorwise._core.cells.chunks import Chunk
    from donorwise._core.cells.segments import Segments

_EXACT = 8  # counts that have a place of their own in any case
_TAIL_NUMBERS = range(4, 65, 2)
_TAIL_TOLERANCE = 1e-12  # of log Gamma(y + r) - log Gamma(r), relative to 1 + its size
_SIZES = 10.0 ** np.arange(-2, 3.01, 0.25)
_CHECKED = 400
_TABLE = 2**14  # whole counts whose loadings are looked up
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Tails:
    """Values of counts that stand for all: sum_i phi(y_i) = sum_h tail_h phi(value_h), where phi(0) = 0 and phi is smooth.

    A count up to `exact` has a place of its own, and one that is no whole number is shared by the two next to it; larger
    ones load on Chebyshev nodes of log y.

    Attributes
    ----------
    values
        Shape (H,). 1, 2, ..., `exact`, and the nodes.
    exact
        Number of whole values.
    largest
        Counts go up to here.
    """

    values: FloatArray
    exact: int
    largest: float

    @cached_property
    def kept(self) -> Kept:
        """What the kernels need of these."""
        at = np.log(self.values[self.exact :])
        last = min(np.floor(self.largest), _TABLE) if len(at) else 0.0
        table = loadings(at, np.log(np.arange(self.exact + 1, last + 1)))
        return _NO_TAILS._replace(
            exact=self.exact, tail_at=at, tail_weight=barycentric(len(at)), table=table.ravel(), largest=self.largest
        )

    def loadings(self, y: ArrayLike) -> FloatArray:
        """What counts (N,) load on the values, (N, H)."""
        y = np.ascontiguousarray(y, dtype=np.float64)
        if y.size and not (y.min() >= 0 and y.max() <= self.largest):
            raise DataError(f"Counts reach from {y.min():.6g} to {y.max():.6g}, not from 0 to {self.largest:.6g}.")
        width, above = 1 + self.values.size, np.flatnonzero(y)
        out = np.zeros(y.size * width)
        add_tails(self.kept, above.size, y[above], above * width, out, np.empty(self.values.size - self.exact))
        return out.reshape(y.size, width)[:, 1:]


def choose_tails(largest: float) -> Tails:
    """Values for counts up to `largest`: the fewest with which log Gamma(y + r) - log Gamma(r) is right to 1e-12 (relative).

    That is so for sizes r from 0.01 to 1000.
    """
    last = max(1, int(np.ceil(largest)))
    whole = np.arange(1.0, last + 1)
    for n in _TAIL_NUMBERS:
        if last <= _EXACT + n:
            return Tails(whole, last, largest)
        at = chebyshev(np.log(_EXACT), np.log(largest), n)
        if _tail_error(at, largest) <= _TAIL_TOLERANCE:
            break
    return Tails(np.concatenate([whole[:_EXACT], np.exp(at)]), _EXACT, largest)


def _tail_error(at: FloatArray, largest: float) -> float:
    x = np.linspace(np.log(_EXACT), np.log(largest), _CHECKED)

    def phi(x: FloatArray) -> FloatArray:
        return np.asarray(special.gammaln(np.exp(x)[:, None] + _SIZES) - special.gammaln(_SIZES))

    right = phi(x)
    return float((np.abs(right - loadings(at, x) @ phi(at)) / (1.0 + np.abs(right))).max())


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
        Shape (K, J). Cells (or trials) at the nodes of log exposure.
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
class Records(ByPattern):
    """Sums, cells at the values of the tails, and counts at the nodes, one under another: (K, 1 + H + J, G)."""

    numbers: FloatArray
    of_features: ClassVar[tuple[str, ...]] = ("numbers",)


@dataclass(frozen=True, slots=True)
class Counting(Measure[Records]):
    """What `Counted` has of the features; the weight of a cell is its exposure, where there are nodes.

    Attributes
    ----------
    nodes, tails
        None where they are not wanted.
    detected
        Whether a value above zero counts as one.
    bounded
        Whether the covariate of a cell is the most that a value may be.
    """

    nodes: Nodes | None = None
    tails: Tails | None = None
    detected: bool = False
    bounded: bool = False

    @property
    def kept(self) -> Kept:
        """What the kernels need."""
        kept = _NO_TAILS if self.tails is None else self.tails.kept
        at = np.zeros(0) if self.nodes is None else self.nodes.at
        return kept._replace(at=at, weight=barycentric(len(at)), detected=self.detected, bounded=self.bounded)

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


_NO_TAILS = Kept(*(np.zeros(0),) * 2, -1, *(np.zeros(0),) * 3, np.inf, detected=False, bounded=False)


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
        Shape (N,), positive. Exposure of each cell; 1 if None.
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
    n = int(matrix.shape[0])
    used = check_codes(codes, n_patterns, n)
    exposures = _check_numbers("exposure", exposure, used, positive=True)
    most = _check_numbers("trials", trials, used, positive=False)
    measure = Counting(nodes, tails, detected, bounded=trials is not None)
    if nodes is not None:
        nodes.check(np.log(exposures[used >= 0]))
    sums, shared = np.zeros(n_patterns), np.zeros((n_patterns, 0 if nodes is None else len(nodes.at)))
    add_cells(used, exposures, most, measure.kept, sums, shared)
    (found,) = accumulate(
        matrix, used, n_patterns, (measure,),
        weights=None if nodes is None else exposures, covariates=None if trials is None else most[:, None],
        features=features, n_jobs=n_jobs, chunk_size=chunk_size, progress=progress, budget=budget,
    )  # fmt: skip
    total, tail, own = np.split(found.numbers, [1, measure.width - shared.shape[1]], axis=1)
    _check_total(total[:, 0], measure, features, names)
    return Counted(np.bincount(used[used >= 0], minlength=n_patterns), sums, shared, total[:, 0], own, tail)


def _check_numbers(name: str, given: ArrayLike | None, codes: NDArray[np.int32], *, positive: bool) -> FloatArray:
    """Numbers (N,) of cells, ones if None, or a DataError."""
    if given is None:
        return np.ones(len(codes))
    array = np.ascontiguousarray(given, dtype=np.float64)
    if array.shape != codes.shape:
        raise DataError(f"{name} must have shape ({len(codes)},), one for each row; got {array.shape}.")
    own = array[codes >= 0]
    bad = ~np.isfinite(own) | (own <= 0 if positive else own < 0)
    if bad.any():
        kind = "positive" if positive else "not negative"
        raise DataError(
            f"{name} must be finite and {kind}; {bad.sum():,} of the {own.size:,} cells in use have others."
        )
    return array


def _check_total(total: FloatArray, measure: Counting, features: ArrayLike | None, names: Sequence[str] | None) -> None:
    """Raise where a value could not be counted."""
    bad = np.flatnonzero(~np.isfinite(total.sum(axis=0)))
    if not bad.size:
        return
    columns = np.arange(total.shape[1]) if features is None else np.asarray(features)
    shown = ", ".join(repr(str(names[i])) if names is not None else str(columns[i]) for i in bad[:_NAMES_SHOWN])
    more = ", ..." if bad.size > _NAMES_SHOWN else ""
    above = ""
    if measure.bounded:
        above = ", or more successes than trials"
    elif measure.tails is not None:
        above = f", or above {measure.tails.largest:.6g}"
    raise DataError(
        f"{bad.size} of {total.shape[1]} features have values that are no counts: missing, infinite, negative{above} "
        f"({'columns' if names is None else 'features'} {shown}{more}). Use the layer with raw counts, or leave these "
        "features out with mask_var=."
    )


@dataclass(frozen=True, slots=True)
class Largest(ByPattern):
    """Largest value of each feature, 0 where all are below, (K, G)."""

    value: FloatArray
    of_features: ClassVar[tuple[str, ...]] = ("value",)

    def merge(self, other: Largest) -> Largest:
        """The larger one."""
        return Largest(np.maximum(self.value, other.value))


@dataclass(frozen=True, slots=True)
class Maxima(Measure[Largest]):
    """The largest values of features."""

    def empty(self, segments: Segments, n_features: int) -> Largest:
        """Zeros."""
        return Largest(np.zeros((len(segments.n_obs), n_features)))

    def add(self, running: Largest, chunk: Chunk, n_jobs: int | None) -> None:
        """Look at the rows of a chunk."""
        if isinstance(chunk, SparseChunk):
            run_on_segments(partial(csr_maxima, *chunk, running.value), chunk.cells, chunk.data.size, n_jobs)
        else:
            run_on_segments(partial(dense_maxima, *chunk, running.value), chunk.cells, chunk.values.size, n_jobs)


def largest_value(
    matrix: Any,
    features: ArrayLike | None = None,
    *,
    codes: ArrayLike | None = None,
    n_jobs: int | None = 1,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> float:
    """Largest finite value of some features (all if None) in the rows whose code is not -1 (all if None); 0 if all are below."""
    used = np.zeros(matrix.shape[0], dtype=np.int32) if codes is None else np.minimum(codes, 0)
    (found,) = accumulate(
        matrix, used, 1, (Maxima(),), features=features, n_jobs=n_jobs, chunk_size=chunk_size, progress=progress,
        budget=budget,
    )  # fmt: skip
    return float(found.value.max(initial=0.0))
