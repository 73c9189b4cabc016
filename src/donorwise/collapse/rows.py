"""How the rows of a matrix are cut into segments: the part of a collapse that needs no matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._typing import FloatArray, IntArray
from donorwise.collapse.checks import check_codes, check_covariates, check_weights
from donorwise.collapse.kernels import Rows, label_segments, sort_by_segment

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# A pattern of many rows is cut, so that few patterns still keep many threads busy. The cut may
# depend on the data only: results must not change with the number of threads.
MIN_SEGMENT_ROWS = 16_384
MAX_EXTRA_SEGMENTS = 64


class RowStatistics(NamedTuple):
    """Per segment, what `Collapsed` holds and no response is needed for; `pieces` is the number of segments by pattern."""

    pieces: IntArray
    n_obs: IntArray
    log_weight: FloatArray
    covariate_mean: FloatArray
    covariate_ss: FloatArray


def prepare_rows(
    codes: ArrayLike,
    n_patterns: int,
    weights: ArrayLike | None,
    covariates: ArrayLike | None,
    n_rows: int,
) -> tuple[Rows, RowStatistics]:
    """Cut the rows into segments and centre the covariates in each."""
    checked = check_codes(codes, n_patterns, n_rows)
    segment, pieces = cut(checked, n_patterns)
    n_segments = n_patterns + int(np.maximum(pieces - 1, 0).sum())
    order, starts = sort_by_segment(segment, n_segments)
    w = check_weights(weights, order, n_rows)
    c = check_covariates(covariates, order, n_rows)
    by = segment[order]
    weight = _sums(by, w[order, None], n_segments)[:, 0]
    moment, mean, ss = centre(c, w, order=order, by=by, weight=weight)
    rows = Rows(segment, order, starts, w, weight, moment=moment, moment_sum=_sums(by, moment[order], n_segments))
    log_weight = np.zeros(n_segments) if weights is None else _sums(by, np.log(w[order, None]), n_segments)[:, 0]
    return Rows(*(read_only(array) for array in rows)), RowStatistics(pieces, np.diff(starts), log_weight, mean, ss)


def cut(codes: NDArray[np.int32], n_patterns: int) -> tuple[NDArray[np.int32], IntArray]:
    """Segment of each row, and the number of segments of each pattern."""
    n_rows = np.bincount(codes[codes >= 0], minlength=n_patterns)
    size = max(MIN_SEGMENT_ROWS, -(-int(n_rows.sum()) // MAX_EXTRA_SEGMENTS))
    pieces = -(-n_rows // size)
    return label_segments(codes, extra_starts(pieces), size), pieces


def extra_starts(pieces: IntArray) -> IntArray:
    """Label of the second segment of each pattern (the first one is the pattern's own number)."""
    extra = np.maximum(pieces - 1, 0)
    return len(pieces) + np.cumsum(extra) - extra


def centre(
    covariates: FloatArray, weights: FloatArray, *, order: IntArray, by: NDArray[np.int32], weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Covariates about their segment's mean, times w; the means; the cross-products.

    Values are taken relative to the first row of the segment: a covariate that is constant
    there is exactly 0, and a large offset (a calendar year) costs no digits.
    """
    n_segments, (n_rows, m) = len(weight), covariates.shape
    w = weights[order, None]
    origin = np.zeros((n_segments, m))
    first = np.flatnonzero(np.diff(by, prepend=-1))
    origin[by[first]] = covariates[order[first]]
    shifted = covariates[order] - origin[by]
    per_weight = 1.0 / np.where(weight > 0, weight, 1.0)[:, None]
    offset = _sums(by, w * shifted, n_segments) * per_weight
    centred = shifted - offset[by]
    ss = np.empty((n_segments, m, m))
    for q in range(m):
        ss[:, q] = _sums(by, w * centred[:, [q]] * centred, n_segments)
    moment = np.zeros((n_rows, m))
    moment[order] = w * centred
    return moment, origin + offset, ss


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: one numba signature, whether or not the original can be written to."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _sums(by: NDArray[np.int32], values: FloatArray, n_segments: int) -> FloatArray:
    """Sums of the columns of `values` by segment; bincount adds row after row, as the kernels do."""
    sums = np.empty((n_segments, values.shape[1]))
    for q in range(values.shape[1]):
        sums[:, q] = np.bincount(by, weights=values[:, q], minlength=n_segments)
    return sums
