"""Matrices that users give for known covariances, checked and with names: what becomes a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.covariance import Kernel
from donorwise._core.wording import listing
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray

_SYMMETRIC = 1e-6  # of the largest entry, that an entry and its mirror image may differ by


def as_kernel(name: str, values: Any, levels: Any = None) -> Kernel:
    """A matrix that a user gave, checked and with names.

    Names are compared as text, so that donors 1, 2 and 3 of obs are those of an index of numbers. `levels` are the names of
    the rows of an array: a sequence, or one for each kernel by name.

    Raises
    ------
    DataError
        It is not a square, finite, symmetric matrix whose rows have names of their own.
    """
    if isinstance(values, Kernel):
        return values
    table = _as_table(name, values, levels)
    rows, columns = _names(name, table.index), _names(name, table.columns)
    if len(rows) != len(columns):
        raise DataError(_not_square(name, table.shape, levels_named=columns[:1]))
    if len(set(rows)) < len(rows):
        twice = pd.Index(rows)[pd.Index(rows).duplicated()][0]
        raise DataError(f"The kernel {name!r} has two rows named {twice!r}; every level has one.")
    if set(rows) != set(columns):
        raise DataError(
            f"The kernel {name!r} has other names on its rows ({listing(rows, 3)}) than on its columns "
            f"({listing(columns, 3)}); both are the levels of the grouping factor."
        )
    matrix = _numbers(name, table)[:, pd.Index(columns).get_indexer(pd.Index(rows))]
    _check_matrix(name, matrix, rows)
    return Kernel(name, tuple(rows), 0.5 * (matrix + matrix.T))


def _as_table(name: str, values: Any, levels: Any) -> pd.DataFrame:
    """A table with named rows and columns."""
    if isinstance(values, str):
        raise DataError(
            f"The kernel {name!r} is given as the text {values!r}; give the matrix itself. (Names of entries of obsp and "
            "uns are for AnnData.)"
        )
    own = levels.get(name) if isinstance(levels, Mapping) else levels
    if hasattr(values, "to_pandas") and hasattr(values, "dims"):  # xarray.DataArray
        if len(values.dims) != 2:
            raise DataError(
                f"The kernel {name!r} has the dimensions {tuple(values.dims)}; it has two, both of the levels."
            )
        values = values.to_pandas()
    if isinstance(values, pd.DataFrame) and not (own is not None and _unnamed(values)):
        return values
    array = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if array.ndim == 0:
        raise DataError(_no_matrix(name, values))
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise DataError(_not_square(name, array.shape))
    if own is None:
        others = f" (levels= has those of {listing(levels, 3)})" if isinstance(levels, Mapping) and levels else ""
        raise DataError(
            f"The kernel {name!r} is an array without names{others}: pass levels=, the level of each row in order, or a "
            "DataFrame whose index and columns are the levels."
        )
    if isinstance(own, str):
        raise DataError(
            f"levels={own!r} is a text; it is the names of the rows of the kernel {name!r} in order, one for each of its {len(array):,}."
        )
    labels = pd.Index(own)
    if len(labels) != len(array):
        raise DataError(f"levels= has {len(labels):,} names for the {len(array):,} rows of the kernel {name!r}.")
    return pd.DataFrame(array, index=labels, columns=labels)


def _no_matrix(name: str, value: Any) -> str:
    """That a kernel is a single thing, such as the path of a file or nothing, and no matrix."""
    text = (
        f"The kernel {name!r} is {value!r}, and not a matrix; give a DataFrame whose index and columns are the levels."
    )
    if isinstance(value, PathLike):
        text += f" dw.pp.read_relatedness({str(value)!r}) reads one from a file."
    return text


def _unnamed(table: pd.DataFrame) -> bool:
    """Whether rows and columns are numbered, as those of a table of an array are."""
    return isinstance(table.index, pd.RangeIndex) and isinstance(table.columns, pd.RangeIndex)


def _names(name: str, index: pd.Index) -> list[str]:
    """Names as text: those of combinations with a colon between them, whole numbers without a point."""
    if isinstance(index, pd.MultiIndex):
        parts = [_names(name, index.get_level_values(i)) for i in range(index.nlevels)]
        return [":".join(own) for own in zip(*parts, strict=True)]
    if index.isna().any():
        raise DataError(f"The kernel {name!r} has a row or column without a name; every level has one.")
    return [
        str(int(label)) if isinstance(label, float | np.floating) and label.is_integer() else str(label)
        for label in index
    ]


def _not_square(name: str, shape: Sequence[int], levels_named: Sequence[str] = ()) -> str:
    """That a matrix is not square, and what has happened if it has one column more than rows."""
    text = f"The kernel {name!r} has shape {tuple(shape)}; it must be a square matrix, level by level."
    if levels_named and shape[1] == shape[0] + 1:
        text += f" If its first column, {levels_named[0]!r}, holds the names, make it the index: K.set_index({levels_named[0]!r})."
    return text


def _numbers(name: str, table: pd.DataFrame) -> FloatArray:
    """Values as float64; what is missing is NaN."""
    try:
        if any(np.dtype(kind).kind == "c" for kind in table.dtypes if isinstance(kind, np.dtype)):
            raise TypeError
        return np.asarray(table.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError):
        raise DataError(f"The kernel {name!r} holds values that are not numbers.") from None


def _check_matrix(name: str, matrix: FloatArray, levels: Sequence[str]) -> None:
    """Raise unless a matrix is finite, symmetric and can be a similarity."""
    if not np.isfinite(matrix).all():
        a, b = np.argwhere(~np.isfinite(matrix))[0]
        raise DataError(
            f"The kernel {name!r} is missing or infinite for {levels[a]!r} and {levels[b]!r}; fill it, or leave the rows and "
            "columns of such levels out."
        )
    apart = np.abs(matrix - matrix.T)
    if apart.max(initial=0.0) > _SYMMETRIC * np.abs(matrix).max(initial=0.0):
        a, b = divmod(int(apart.argmax()), len(apart))
        raise DataError(
            f"The kernel {name!r} is not symmetric: {levels[a]!r} and {levels[b]!r} have {matrix[a, b]:.6g}, and the other "
            f"way round {matrix[b, a]:.6g}. If rows and columns are in different orders, name both; if it is a triangle, "
            "add the other one: K + K.T - np.diag(np.diag(K))."
        )
    if not matrix.any():
        raise DataError(f"The kernel {name!r} is zero throughout: it is the covariance of no effect.")
    if not np.diag(matrix).any():
        raise DataError(
            f"The kernel {name!r} has zeros on its diagonal, as distances have. A kernel is a similarity, with variances on "
            'its diagonal: dw.pp.similarity(distances, method="precomputed") makes one of them.'
        )
