"""How the rows of a matrix are cut into segments: the part of a collapse that needs no matrix.

Nothing here has an entry for every row but what was given, until `RowCutter` is asked for some rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.cells.budget import BUDGET
from donorwise._core.cells.checks import check_codes, check_covariates, check_weights
from donorwise._core.cells.kernels import Rows, add_by_segment, label_segments, sort_by_segment
from donorwise._typing import FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

# The cut of a pattern of many rows may depend on the data only: results must not change with the number of threads.
MAX_EXTRA_SEGMENTS = 64

_BLOCK_ROWS = 2**18


class RowInput(NamedTuple):
    """What is given of the N rows, checked: pattern (N,), weight (N,) or None, covariates (N, m) or None."""

    codes: NDArray[np.int32]
    weights: FloatArray | None
    covariates: FloatArray | None

    @property
    def n_covariates(self) -> int:
        """Number of covariates, m."""
        return 0 if self.covariates is None else self.covariates.shape[1]


class Segments(NamedTuple):
    """Per segment, what `Collapsed` holds and no response is needed for.

    `pieces` is the number of segments by pattern, `size` the most rows that one has, `origin` the covariates of its
    first row, `offset` their mean about it; `moment_sum` is that of `Rows`.
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


def check_rows(
    codes: ArrayLike, n_patterns: int, weights: ArrayLike | None, covariates: ArrayLike | None, n_rows: int
) -> RowInput:
    """What is given of the rows, or a DataError."""
    checked = check_codes(codes, n_patterns, n_rows)
    return RowInput(checked, check_weights(weights, checked), check_covariates(covariates, checked))


def summarise_rows(cells: RowInput, n_patterns: int, segment_rows: int = BUDGET.segment_rows) -> Segments:
    """Cut the rows into segments, and add up what is known of each; row after row, as the kernels do."""
    n_rows = _count(cells.codes, n_patterns)
    size = max(segment_rows, -(-int(n_rows.sum()) // MAX_EXTRA_SEGMENTS))
    pieces = -(-n_rows // size)
    n, m = n_patterns + int(np.maximum(pieces - 1, 0).sum()), cells.n_covariates
    n_obs, weight, log_weight = np.zeros(n, dtype=np.int64), np.zeros((n, 1)), np.zeros((n, 1))
    origin, offset, ss, moment_sum = np.zeros((n, m)), np.zeros((n, m)), np.zeros((n, m, m)), np.zeros((n, m))
    for by, w, c in _blocks(cells, pieces, size):
        fresh = n_obs[by] == 0
        origin[by[fresh][::-1]] = c[fresh][::-1]  # of several rows the first one stays
        n_obs += np.bincount(by, minlength=n)
        add_by_segment(by, w, weight)
        if cells.weights is not None:
            add_by_segment(by, np.log(w), log_weight)
        add_by_segment(by, w * (c - origin[by]), offset)
    offset /= np.where(weight > 0, weight, 1.0)
    for by, w, c in _blocks(cells, pieces, size) if m else ():
        centred = c - origin[by] - offset[by]
        add_by_segment(by, w * centred, moment_sum)
        products = (w * centred)[:, :, None] * centred[:, None]
        add_by_segment(by, products.reshape(-1, m * m), ss.reshape(n, m * m))
    return Segments(pieces, size, n_obs, weight[:, 0], log_weight[:, 0], origin, offset, ss, moment_sum)


def _count(codes: NDArray[np.int32], n_patterns: int) -> IntArray:
    counts = np.zeros(n_patterns, dtype=np.int64)
    for low in range(0, len(codes), _BLOCK_ROWS):
        part = codes[low : low + _BLOCK_ROWS]
        counts += np.bincount(part[part >= 0], minlength=n_patterns)
    return counts


def _blocks(cells: RowInput, pieces: IntArray, size: int) -> Iterator[tuple[NDArray[np.int32], FloatArray, FloatArray]]:
    """Segments (n,), weights (n, 1) and covariates (n, m) of the rows in use, a block of rows at a time."""
    seen = np.zeros(len(pieces), dtype=np.int64)
    extra = extra_starts(pieces)
    for low in range(0, len(cells.codes), _BLOCK_ROWS):
        part = slice(low, low + _BLOCK_ROWS)
        segment = label_segments(cells.codes[part], extra, size, seen)
        used = segment >= 0
        by = segment[used]
        w = np.ones(len(by)) if cells.weights is None else cells.weights[part][used]
        c = np.zeros((len(by), 0)) if cells.covariates is None else cells.covariates[part][used]
        yield by, w[:, None], c


class RowCutter:
    """The rows of chunks, in ascending order: cut as the whole is, which only the number of rows before them decides.

    Parameters
    ----------
    cells
        All rows.
    segments
        What is known of them.
    """

    def __init__(self, cells: RowInput, segments: Segments) -> None:
        self.segments = segments
        self._cells, self._seen = cells, np.zeros(len(segments.pieces), dtype=np.int64)

    def wanted(self, low: int, high: int) -> NDArray[np.bool_]:
        """Which of the rows low..high-1 are in use."""
        return self._cells.codes[low:high] >= 0

    def all(self) -> Rows:
        """All rows, if none were asked for yet."""
        return self(0, len(self._cells.codes))

    def __call__(self, low: int, high: int) -> Rows:
        """The rows low..high-1, numbered from 0; none before `low` can be asked for later."""
        cells, (pieces, size, *_) = self._cells, self.segments
        segment = label_segments(cells.codes[low:high], extra_starts(pieces), size, self._seen)
        order, starts = sort_by_segment(segment, len(self.segments.weight))
        weights = np.ones(len(segment)) if cells.weights is None else cells.weights[low:high]
        moment = self._moment(segment, order, weights, low)
        rows = Rows(
            segment, order, starts, weights, self.segments.weight, moment=moment, moment_sum=self.segments.moment_sum
        )
        return Rows(*(read_only(array) for array in rows))

    def _moment(self, segment: NDArray[np.int32], order: IntArray, weights: FloatArray, low: int) -> FloatArray:
        moment = np.zeros((len(segment), self._cells.n_covariates))
        if self._cells.covariates is not None:
            by, s = segment[order], self.segments
            centred = self._cells.covariates[low : low + len(segment)][order] - s.origin[by] - s.offset[by]
            moment[order] = weights[order, None] * centred
        return moment


def extra_starts(pieces: IntArray) -> IntArray:
    """Label of the second segment of each pattern (the first one is the pattern's own number)."""
    extra = np.maximum(pieces - 1, 0)
    return len(pieces) + np.cumsum(extra) - extra


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: one numba signature, whether or not the original can be written to."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
