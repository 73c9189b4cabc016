"""The single pass: cells x features in, statistics per pattern out."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.cells.budget import BUDGET, Budget
from donorwise._core.cells.checks import check_chunk_size, check_features, check_finite
from donorwise._core.cells.cluster import active_client, collapse_on
from donorwise._core.cells.kernels import Moments
from donorwise._core.cells.matrices import Job, accumulate, check_matrix, column_reader, in_memory
from donorwise._core.cells.measures import Collapsed
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.remote import Cells, Sums, can_travel
from donorwise._core.cells.rows import RowCutter, check_rows, extra_starts, read_only, summarise_rows
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.stream import stream
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from donorwise._typing import BoolArray, IntArray


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
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> Collapsed:
    """Exact sufficient statistics of a matrix for each pattern of its rows, in one pass.

    Zeros of a sparse matrix are never visited, the matrix is never copied, and everything is
    added up in float64. The result does not depend on `n_jobs` and `chunk_size` at all, and on the
    order of the rows and the container only by rounding.

    A matrix that is not in memory is read in chunks, once; no more than ``n_jobs + 3`` of them are held at a time.
    While it is read the running sums take ``32 + 16 m`` bytes per pattern and feature; of the cells there is nothing
    in memory but what is passed here. CSC files are read by columns. Where a client of
    ``dask.distributed`` is in use, its workers read (see `donorwise._core.cells.cluster`); the result then differs from
    that of one process by rounding.

    Parameters
    ----------
    matrix
        Shape (N, columns), cells x features: scipy sparse (CSR and CSC as they are, others
        through CSR), numpy array or pandas DataFrame of real numbers or bools. Or not in memory: a sparse dataset
        of anndata in HDF5 or zarr, a two-dimensional HDF5 dataset or zarr array, a dask array of sparse or dense
        blocks, or rows and columns of one of these (`Stored`). NaN are refused there.
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
        Number of threads; -1 for one per processor. Large HDF5 files are read by as many processes.
    names
        Names of the G features, for error messages; column numbers if None.
    chunk_size
        Rows (of a CSC file: columns) to read at a time; about 32 MB of decompressed values if None. Blocks of a
        dask array are computed whole.
    progress
        Show a progress bar while a matrix is read that is not in memory.
    budget
        Bounds of what is held, read and sent at a time.

    Returns
    -------
    Collapsed
        Statistics of K patterns, m covariates and G features.

    Raises
    ------
    DataError
        If the container cannot be read, shapes do not agree, or a value in use is not finite.
    """
    check_chunk_size(chunk_size)
    n_rows, n_columns = check_matrix(matrix)
    if isinstance(matrix, Stored):
        codes, weights, covariates = matrix.spread(codes, weights, covariates)
        return collapse(
            matrix.matrix, codes, n_patterns, weights=weights, covariates=covariates,
            features=matrix.column_numbers(features), n_jobs=n_jobs, names=names, chunk_size=chunk_size,
            progress=progress, budget=budget,
        )  # fmt: skip
    columns = check_features(features, n_columns)
    chunks: dict[str, Any] = {"chunk_size": chunk_size, "progress": progress, "budget": budget}
    client = None if in_memory(matrix) else active_client()
    reader = None if client is None else open_reader(matrix)
    if reader is not None and can_travel(reader):
        found, _ = collapse_on(
            client, reader, codes, n_patterns, moments_of, weights=weights, covariates=covariates, columns=columns,
            **chunks,
        )  # fmt: skip
    else:
        found = summarise(matrix, codes, n_patterns, weights, covariates, columns, n_jobs=n_jobs, **chunks)
    check_finite(found.within_ss, columns, names)
    return found


def moments_of(matrix: Any, cells: Cells) -> tuple[Collapsed, Sums]:
    """What a worker of a cluster computes for `collapse`."""
    return summarise(matrix, *cells), {}


def summarise(
    matrix: Any,
    codes: ArrayLike,
    n_patterns: int,
    weights: ArrayLike | None = None,
    covariates: ArrayLike | None = None,
    columns: IntArray | None = None,
    *,
    n_jobs: int = 1,
    chunk_size: int | None = None,
    progress: bool = False,
    budget: Budget = BUDGET,
) -> Collapsed:
    """`collapse`, without looking whether all values are finite."""
    columns = np.arange(matrix.shape[1]) if columns is None else columns
    cells = check_rows(codes, n_patterns, weights, covariates, matrix.shape[0])
    segments = summarise_rows(cells, n_patterns, budget.segment_rows)
    n, m = segments.moment_sum.shape
    out = Moments(*(np.zeros(shape + (len(columns),)) for shape in ((n,), (n,), (n, m))))
    cutter = RowCutter(cells, segments)
    if in_memory(matrix):
        accumulate(matrix, Job(cutter.all(), read_only(columns), out, n_jobs))
    else:
        stream(
            open_reader(matrix), cutter, read_only(columns), out, n_jobs=n_jobs, chunk_size=chunk_size,
            progress=progress, budget=budget,
        )  # fmt: skip
    parts = Collapsed(
        n_obs=segments.n_obs,
        weight=segments.weight,
        log_weight=segments.log_weight,
        covariate_mean=segments.covariate_mean,
        covariate_ss=segments.covariate_ss,
        **out._asdict(),
    )
    return fold(parts, segments.pieces)


def fold(parts: Collapsed, pieces: IntArray) -> Collapsed:
    """Merge, in place and in a fixed order, the second and later segments of large patterns into the first."""
    extra = extra_starts(pieces)
    for piece in range(1, int(pieces.max(initial=0))):
        large = np.flatnonzero(pieces > piece)
        merged = parts.take(large).merge(parts.take(extra[large] + piece - 1))
        for field in fields(Collapsed):
            getattr(parts, field.name)[large] = getattr(merged, field.name)
    return parts.take(slice(0, len(pieces)))


_BLOCK_NUMBERS = 2**22


def missing_patterns(
    matrix: object, features: ArrayLike | None = None, *, block_numbers: int = _BLOCK_NUMBERS
) -> list[tuple[IntArray, BoolArray | None]]:
    """Group the columns of a dense matrix by the rows in which they are NaN.

    Parameters
    ----------
    matrix
        Shape (N, columns). Numpy array or DataFrame. A matrix that is not in memory is one group of columns
        without NaN: looking for them would read it twice (`collapse` refuses them).
    features
        Column numbers to look at; all if None.
    block_numbers
        How many numbers to look at together.

    Returns
    -------
    list of (columns, rows)
        `columns` are elements of `features`, in their order; `rows` has shape (N,) and is True
        where these columns have a value. The columns without NaN come first, with None for
        `rows`; the other groups follow in the order of their first column. Every column is in one group.

    Raises
    ------
    DataError
        If the matrix is not dense or does not hold numbers.
    """
    n_rows, n_columns = check_matrix(matrix)
    columns = check_features(features, n_columns)
    if not in_memory(matrix):
        return [(columns, None)] if len(columns) else []
    if not isinstance(matrix, np.ndarray | pd.DataFrame):
        raise DataError("Missing values can be kept only in a dense matrix, a numpy array or a DataFrame.")
    groups: dict[bytes, list[int]] = {b"": []}
    for column, key in _missing_rows(column_reader(matrix, columns), columns, n_rows, block_numbers):
        groups.setdefault(key, []).append(column)
    return [(np.array(group), _unpack(key, n_rows)) for key, group in groups.items() if group]


def _missing_rows(
    read: Callable[[IntArray], NDArray[Any]], columns: IntArray, n_rows: int, block_numbers: int
) -> Iterator[tuple[int, bytes]]:
    """Each column with the packed bits of its NaN rows, b"" if there are none."""
    width = max(1, block_numbers // max(1, n_rows))
    for low in range(0, len(columns), width):
        block = columns[low : low + width]
        missing = np.isnan(read(block))
        some = missing.any(axis=0)
        packed = np.packbits(missing[:, some].T, axis=1)
        keys = iter(packed)
        for column, has_missing in zip(block.tolist(), some.tolist(), strict=True):
            yield column, next(keys).tobytes() if has_missing else b""


def _unpack(key: bytes, n_rows: int) -> BoolArray | None:
    if not key:
        return None
    return np.unpackbits(np.frombuffer(key, dtype=np.uint8), count=n_rows) == 0
