"""Features of a dense matrix that miss the same rows share the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise.collapse.checks import check_features
from donorwise.collapse.containers import check_matrix, column_reader, in_memory
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from donorwise._typing import BoolArray, IntArray

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
