"""The single pass: cells x features in, statistics per pattern out."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from donorwise.collapse.checks import check_features, check_finite
from donorwise.collapse.containers import Job, accumulate, check_matrix
from donorwise.collapse.kernels import Moments
from donorwise.collapse.rows import extra_starts, prepare_rows, read_only
from donorwise.collapse.statistics import Collapsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from donorwise._typing import IntArray


def collapse(
    matrix: object,
    codes: ArrayLike,
    n_patterns: int,
    *,
    weights: ArrayLike | None = None,
    covariates: ArrayLike | None = None,
    features: ArrayLike | None = None,
    n_jobs: int = 1,
    names: Sequence[str] | None = None,
) -> Collapsed:
    """Exact sufficient statistics of a matrix for each pattern of its rows, in one pass.

    Zeros of a sparse matrix are never visited, the matrix is never copied, and everything is
    added up in float64. The result does not depend on `n_jobs` at all, and on the order of the
    rows and the container only by rounding.

    Parameters
    ----------
    matrix
        Shape (N, columns), cells x features: scipy sparse (CSR and CSC as they are, others
        through CSR), numpy array or pandas DataFrame of real numbers or bools.
    codes
        Shape (N,), integer. Pattern of each row, from 0 to ``n_patterns - 1``; -1 for rows to leave out.
    n_patterns
        Number of patterns, K; some may have no rows.
    weights
        Shape (N,), positive. 1 if None.
    covariates
        Shape (N, m). Variables that vary inside the patterns.
    features
        Column numbers of the G features to use, in the order of the result; all if None.
    n_jobs
        Number of threads; -1 for one per processor.
    names
        Names of the G features, for error messages; column numbers if None.

    Returns
    -------
    Collapsed
        Statistics of K patterns, m covariates and G features.

    Raises
    ------
    DataError
        If the container cannot be read, shapes do not agree, or a value in use is not finite.
    """
    n_rows, n_columns = check_matrix(matrix)
    columns = check_features(features, n_columns)
    rows, known = prepare_rows(codes, n_patterns, weights, covariates, n_rows)
    n_segments, m = rows.moment_sum.shape
    out = Moments(*(np.zeros(shape + (len(columns),)) for shape in ((n_segments,), (n_segments,), (n_segments, m))))
    accumulate(matrix, Job(rows, read_only(columns), out, n_jobs))
    check_finite(out.within_ss, columns, names)
    parts = Collapsed(
        n_obs=known.n_obs,
        weight=rows.weight.copy(),
        log_weight=known.log_weight,
        covariate_mean=known.covariate_mean,
        covariate_ss=known.covariate_ss,
        **out._asdict(),
    )
    return fold(parts, known.pieces)


def fold(parts: Collapsed, pieces: IntArray) -> Collapsed:
    """Merge, in place and in a fixed order, the second and later segments of large patterns into the first."""
    extra = extra_starts(pieces)
    for piece in range(1, int(pieces.max(initial=0))):
        large = np.flatnonzero(pieces > piece)
        merged = parts.take(large).merge(parts.take(extra[large] + piece - 1))
        for field in fields(Collapsed):
            getattr(parts, field.name)[large] = getattr(merged, field.name)
    return parts.take(slice(0, len(pieces)))
