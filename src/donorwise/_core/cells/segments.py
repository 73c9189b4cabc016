"""Cells cut into segments of their patterns, and checks of what is given of them: the part of a pass without a matrix.

Nothing here has an entry for every cell but what was given, until `Cutter` is asked for some cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.cells.kernels import Segmented, add_by_segment, label_segments, sort_by_segment
from donorwise._core.cells.threads import BUDGET
from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

_NAMES_SHOWN = 5
_BLOCK_ROWS = 2**18


def check_codes(codes: ArrayLike, n_patterns: int, n_rows: int) -> NDArray[np.int32]:
    """Codes as int32, or a DataError."""
    array = np.asarray(codes)
    if array.shape != (n_rows,) or array.dtype.kind not in "iu":
        raise DataError(
            f"codes must be {n_rows} integers, one for each row of the matrix; got {array.dtype} of shape {array.shape}."
        )
    if n_rows and (array.min() < -1 or array.max() >= n_patterns):
        raise DataError(
            f"codes must lie between -1 and {n_patterns - 1}; they reach from {array.min()} to {array.max()}."
        )
    return np.ascontiguousarray(array, dtype=np.int32)


def check_weights(weights: ArrayLike | None, codes: NDArray[np.int32]) -> FloatArray | None:
    """Weights as float64, positive and finite where a row is in use."""
    if weights is None:
        return None
    array = np.ascontiguousarray(weights, dtype=np.float64)
    if array.shape != codes.shape:
        raise DataError(f"weights must have shape ({len(codes)},), one for each row; got {array.shape}.")
    n_bad = _count_bad(array, codes, lambda w: (w > 0) & np.isfinite(w))
    if n_bad:
        raise DataError(f"weights must be positive and finite; {n_bad} of the rows in use have others.")
    return array


def check_covariates(covariates: ArrayLike | None, codes: NDArray[np.int32]) -> FloatArray | None:
    """Covariates as float64 of shape (N, m), finite where a row is in use; None if there are none."""
    if covariates is None:
        return None
    array = np.asarray(covariates, dtype=np.float64, order="C")
    if array.ndim != 2 or len(array) != len(codes):
        raise DataError(f"covariates must have shape ({len(codes)}, m), one row for each row; got {array.shape}.")
    n_bad = _count_bad(array, codes, _finite_rows)
    if n_bad:
        raise DataError(f"covariates must be finite; {n_bad} of the rows in use hold NaN or infinity.")
    return array if array.shape[1] else None


def _finite_rows(values: FloatArray) -> BoolArray:
    return np.asarray(np.isfinite(values).all(axis=1))


def _count_bad(values: FloatArray, codes: NDArray[np.int32], good: Callable[[FloatArray], BoolArray]) -> int:
    """Number of rows in use whose values are not good."""
    blocks = (slice(low, low + _BLOCK_ROWS) for low in range(0, len(codes), _BLOCK_ROWS))
    return sum(int((~good(values[b]) & (codes[b] >= 0)).sum()) for b in blocks)


def check_features(features: ArrayLike | None, n_columns: int) -> IntArray:
    """Columns to use, as int64 (all of them if None), distinct and in range."""
    if features is None:
        return np.arange(n_columns)
    array = np.asarray(features)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(f"features must be a list of column numbers; got {array.dtype} of shape {array.shape}.")
    array = array.astype(np.int64)
    if array.size and (array.min() < 0 or array.max() >= n_columns):
        raise DataError(f"features must lie between 0 and {n_columns - 1}; got {array.min()} to {array.max()}.")
    if len(np.unique(array)) < len(array):
        raise DataError("features must not name a column twice.")
    return array


def check_finite(within_ss: FloatArray, columns: IntArray, names: Sequence[str] | None) -> None:
    """Raise unless the sums of squares are finite, that is, unless all values were."""
    with np.errstate(invalid="ignore", over="ignore"):
        bad = np.flatnonzero(~np.isfinite(within_ss.sum(axis=0)))
    if not len(bad):
        return
    shown = ", ".join(repr(str(names[i])) if names is not None else str(columns[i]) for i in bad[:_NAMES_SHOWN])
    more = ", ..." if len(bad) > _NAMES_SHOWN else ""
    raise DataError(
        f"{len(bad)} of {len(columns)} features hold NaN, infinite or overflowing values in the rows in use "
        f"({'columns' if names is None else 'features'} {shown}{more}). Leave these features out with mask_var=, or "
        "give them values. The tools keep a missing value (NaN) in a dense matrix in memory (adata.to_memory()), where its "
        "cells are dropped for that feature."
    )


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise unless a chunk can have this many rows or columns."""
    if chunk_size is not None and chunk_size < 1:
        raise DataError(f"chunk_size={chunk_size} must be a positive number of rows, or None for about 32 MB.")


# The cut may depend on the data only: results must not change with the number of threads.
MAX_EXTRA_SEGMENTS = 64


class CodedCells(NamedTuple):
    """What is known of N cells besides their values.

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

    @property
    def n_covariates(self) -> int:
        """Number of covariates, m."""
        return 0 if self.covariates is None else self.covariates.shape[1]

    def between(self, low: int, high: int) -> CodedCells:
        """The cells low..high-1."""
        some = (None if given is None else given[low:high] for given in (self.weights, self.covariates))
        return CodedCells(self.codes[low:high], self.n_patterns, *some)


class Segments(NamedTuple):
    """Per segment, what is known without a response.

    `pieces` is the number of segments by pattern, `size` the most cells that one has, `origin` the covariates of its
    first cell, `offset` their mean about it; `moment_sum` is that of `Segmented`, the others those of `Collapsed`.
    """

    pieces: IntArray
    size: int
    n_obs: IntArray
    weight: FloatArray
    log_weight: FloatArray
    origin: FloatArray
    offset: FloatArray
    covariate_ss: FloatArray
    moment_sum: FloatArray

    @property
    def covariate_mean(self) -> FloatArray:
        """Means of the covariates, (S, m)."""
        return self.origin + self.offset


def check_cells(
    codes: ArrayLike, n_patterns: int, weights: ArrayLike | None, covariates: ArrayLike | None, n_cells: int
) -> CodedCells:
    """What is given of the cells, or a DataError."""
    checked = check_codes(codes, n_patterns, n_cells)
    return CodedCells(checked, n_patterns, check_weights(weights, checked), check_covariates(covariates, checked))


def cut_segments(cells: CodedCells, segment_rows: int = BUDGET.segment_rows) -> Segments:
    """Cut the cells into segments, and add up what is known of each; cell after cell, as the kernels do."""
    n_cells = _count(cells)
    size = max(segment_rows, -(-int(n_cells.sum()) // MAX_EXTRA_SEGMENTS))
    pieces = -(-n_cells // size)
    n_obs = _segment_sizes(n_cells, pieces, size)
    n, m = len(n_obs), cells.n_covariates
    weight, log_weight = n_obs.astype(np.float64)[:, None], np.zeros((n, 1))
    if cells.weights is not None:
        weight = np.zeros((n, 1))
        for by, w, _ in _blocks(cells, pieces, size):
            add_by_segment(by, w, weight)
            add_by_segment(by, np.log(w), log_weight)
    of_covariates = _centre(cells, pieces, size, weight) if m else (np.zeros((n, *shape)) for shape in _NO_COVARIATES)
    return Segments(pieces, size, n_obs, weight[:, 0], log_weight[:, 0], *of_covariates)


_NO_COVARIATES = ((0,), (0,), (0, 0), (0,))


def _centre(
    cells: CodedCells, pieces: IntArray, size: int, weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Origin, offset, cross-products and moment sums of the covariates."""
    n, m = len(weight), cells.n_covariates
    fresh = np.ones(n, dtype=bool)
    origin, offset, ss, moment_sum = np.zeros((n, m)), np.zeros((n, m)), np.zeros((n, m, m)), np.zeros((n, m))
    for by, w, c in _blocks(cells, pieces, size):
        new = fresh[by]
        origin[by[new][::-1]] = c[new][::-1]  # of several cells the first one stays
        fresh[by] = False
        add_by_segment(by, w * (c - origin[by]), offset)
    offset /= np.where(weight > 0, weight, 1.0)
    for by, w, c in _blocks(cells, pieces, size):
        centred = c - origin[by] - offset[by]
        add_by_segment(by, w * centred, moment_sum)
        products = (w * centred)[:, :, None] * centred[:, None]
        add_by_segment(by, products.reshape(-1, m * m), ss.reshape(n, m * m))
    return origin, offset, ss, moment_sum


def _count(cells: CodedCells) -> IntArray:
    counts = np.zeros(cells.n_patterns + 1, dtype=np.int64)
    for low in range(0, len(cells.codes), _BLOCK_ROWS):
        counts += np.bincount(cells.codes[low : low + _BLOCK_ROWS] + 1, minlength=cells.n_patterns + 1)
    return counts[1:]


def _segment_sizes(n_cells: IntArray, pieces: IntArray, size: int) -> IntArray:
    """Number of cells of each segment."""
    extra = np.maximum(pieces - 1, 0)
    owner = np.repeat(np.arange(len(pieces)), extra)
    before = (np.arange(len(owner)) - (np.cumsum(extra) - extra)[owner] + 1) * size
    return np.concatenate([np.minimum(n_cells, size), np.minimum(n_cells[owner] - before, size)])


def _blocks(
    cells: CodedCells, pieces: IntArray, size: int
) -> Iterator[tuple[NDArray[np.int32], FloatArray, FloatArray]]:
    """Segments (n,), weights (n, 1) and covariates (n, m) of the cells in use, a block of cells at a time."""
    label = _Labeller(pieces, size)
    for low in range(0, len(cells.codes), _BLOCK_ROWS):
        part = slice(low, low + _BLOCK_ROWS)
        segment = label(cells.codes[part])
        used = segment >= 0
        by = segment[used]
        w = np.ones(len(by)) if cells.weights is None else cells.weights[part][used]
        c = np.zeros((len(by), 0)) if cells.covariates is None else cells.covariates[part][used]
        yield by, w[:, None], c


class _Labeller:
    """Segments of cells that come in order: which one depends on the number of cells of the pattern before."""

    def __init__(self, pieces: IntArray, size: int) -> None:
        self._extra, self._size, self._seen = extra_starts(pieces), size, np.zeros(len(pieces), dtype=np.int64)
        self._whole = int(pieces.max(initial=0)) <= 1

    def __call__(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        if self._whole:
            return codes
        return label_segments(codes, self._extra, self._size, self._seen)


class Cutter:
    """The cells of chunks, in ascending order, cut as the whole is.

    Parameters
    ----------
    cells
        All cells.
    segments
        What is known of them.
    """

    def __init__(self, cells: CodedCells, segments: Segments) -> None:
        self._cells, self._segments = cells, segments
        self._label = _Labeller(segments.pieces, segments.size)

    def wanted(self, low: int, high: int) -> NDArray[np.bool_]:
        """Which of the cells low..high-1 are in use."""
        return np.asarray(self._cells.codes[low:high] >= 0)

    def all(self) -> Segmented:
        """All cells, if none were asked for yet."""
        return self(0, len(self._cells.codes))

    def __call__(self, low: int, high: int) -> Segmented:
        """The cells low..high-1, numbered from 0; none before `low` can be asked for later."""
        cells, known = self._cells.between(low, high), self._segments
        segment = self._label(cells.codes)
        order, starts = sort_by_segment(segment, len(known.weight))
        weights = np.ones(len(segment)) if cells.weights is None else cells.weights
        covariates = np.zeros((len(segment), 0)) if cells.covariates is None else cells.covariates
        moment = np.zeros(covariates.shape)
        if covariates.shape[1]:
            by = segment[order]
            moment[order] = weights[order, None] * (covariates[order] - known.origin[by] - known.offset[by])
        found = Segmented(
            segment, order, starts, weights, known.weight, covariates, moment=moment, moment_sum=known.moment_sum
        )
        return Segmented(*(read_only(array) for array in found))


def extra_starts(pieces: IntArray) -> IntArray:
    """Label of the second segment of each pattern (the first one is the pattern's own number)."""
    extra = np.maximum(pieces - 1, 0)
    return len(pieces) + np.cumsum(extra) - extra


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: one numba signature, whether or not the original can be written to."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
