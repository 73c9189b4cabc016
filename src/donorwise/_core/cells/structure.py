"""Whether the arrays of a sparse matrix fit together: compiled loops and those of scipy read wherever they point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from donorwise._core.cells.kernels import any_outside
from donorwise._core.cells.threads import run_ranges
from donorwise.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 2**20  # numbers that a thread looks at together, or several times as many
_IN_MEMORY = "It is damaged, or was put together wrongly; matrix.check_format(full_check=True) of scipy looks for more."


def check_structure(matrix: Any, where: str = "The sparse matrix", *, advice: str = _IN_MEMORY) -> None:
    """Raise where positions of a sparse matrix lie outside it; one look at every position.

    Parameters
    ----------
    matrix
        Anything; what is no sparse matrix is not looked at.
    where, advice
        Beginning and end of the message.

    Raises
    ------
    DataError
        A row or column number, or the pointers to the rows (CSR) or columns (CSC), are impossible.
    """
    if not sparse.issparse(matrix):
        return
    if matrix.format == "coo":
        for numbers, n, axis in zip(matrix.coords, matrix.shape, ("row", "column"), strict=True):
            _check_numbers(numbers, n, f"{where}: {axis} numbers", advice)
    elif matrix.format in ("csr", "csc", "bsr"):
        _check_compressed(matrix, where, advice)


def _check_compressed(matrix: Any, where: str, advice: str) -> None:
    by_columns = matrix.format == "csc"
    height, width = matrix.blocksize if matrix.format == "bsr" else (1, 1)
    n_rows, n_columns = matrix.shape[0] // height, matrix.shape[1] // width
    n_major, n_minor = (n_columns, n_rows) if by_columns else (n_rows, n_columns)
    indptr, n_stored = matrix.indptr, min(len(matrix.indices), len(matrix.data))
    if len(indptr) != n_major + 1 or indptr[0] != 0 or indptr[-1] > n_stored:
        raise DataError(
            f"{where}: indptr does not fit {matrix.shape[0]:,} x {matrix.shape[1]:,} with {n_stored:,} stored values. {advice}"
        )
    if (indptr[1:] < indptr[:-1]).any():
        raise DataError(f"{where}: indptr falls. {advice}")
    _check_numbers(matrix.indices, n_minor, f"{where}: indices", advice)


def _check_numbers(numbers: NDArray[Any], n: int, what: str, advice: str) -> None:
    """Raise unless all of them lie in 0 to n - 1."""
    plain = numbers.dtype.newbyteorder("=") if n <= np.iinfo(numbers.dtype).max else np.int64
    values = np.ascontiguousarray(numbers.astype(plain, copy=False))
    limit, starts = values.dtype.type(n), np.arange(0, values.size + _BLOCK, _BLOCK)
    outside = run_ranges(
        lambda first, last: any_outside(values[starts[first] : starts[last]], limit), np.diff(starts), None
    )
    if any(outside):
        wrong = values[(values < 0) | (values >= n)][0]
        raise DataError(f"{what} lie outside 0 to {n - 1:,} ({wrong:,} is one). {advice}")
