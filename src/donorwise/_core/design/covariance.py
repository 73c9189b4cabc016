"""Known covariances between the levels of a grouping factor: what ``gr(donor, cov=name)`` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.wording import listing
from donorwise.errors import DataError, DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import FloatArray

_SYMMETRIC = 1e-6  # of the largest entry, that an entry and its mirror image may differ by


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """The covariance of the effects of some levels, up to a variance: u ~ N(0, sigma2 K).

    Attributes
    ----------
    name
        What the formula calls it.
    levels
        Names of its n rows and columns.
    values
        Shape (n, n). K, symmetric and positive semidefinite.
    """

    name: str
    levels: tuple[str, ...]
    values: FloatArray

    def on(self, levels: Sequence[str]) -> FloatArray:
        """K of some levels, in their order.

        Raises
        ------
        DesignError
            The kernel does not have all of them.
        """
        place = {level: i for i, level in enumerate(self.levels)}
        missing = [level for level in levels if level not in place]
        if missing:
            raise DesignError(
                f"The kernel `{self.name}` lacks {len(missing):,} of the {len(levels):,} levels in use: {listing(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}. It has {len(self.levels):,} ({listing(self.levels[:3])}, ...); name its "
                "rows and columns as the column of obs does, or leave these levels out."
            )
        at = np.array([place[level] for level in levels], dtype=np.int64)
        return self.values[np.ix_(at, at)]


def as_kernel(name: str, values: Any, levels: Any = None) -> Kernel:
    """A matrix that a user gave, checked and with names.

    `levels` are the names of the rows of an array: a sequence, or one for each kernel by name.

    Raises
    ------
    DataError
        It is not a square, finite, symmetric matrix whose rows have names of their own.
    """
    if isinstance(values, Kernel):
        return values
    table = _as_table(name, values, levels)
    try:
        matrix = table.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"The kernel {name!r} holds values that are not numbers.") from None
    rows, columns = (list(map(str, names)) for names in (table.index, table.columns))
    if len(set(rows)) < len(rows):
        twice = pd.Index(rows)[pd.Index(rows).duplicated()][0]
        raise DataError(f"The kernel {name!r} has two rows named {twice!r}; every level has one.")
    if set(rows) != set(columns) or len(rows) != len(columns):
        raise DataError(
            f"The kernel {name!r} has other names on its rows ({listing(rows[:3])}, ...) than on its columns "
            f"({listing(columns[:3])}, ...); both are the levels of the grouping factor."
        )
    matrix = matrix[:, pd.Index(columns).get_indexer(pd.Index(rows))]
    _check_matrix(name, matrix, rows)
    return Kernel(name, tuple(rows), 0.5 * (matrix + matrix.T))


def _as_table(name: str, values: Any, levels: Any) -> pd.DataFrame:
    """A square table with named rows and columns."""
    if isinstance(values, pd.DataFrame):
        return values
    if hasattr(values, "to_pandas") and hasattr(values, "dims"):  # xarray.DataArray
        return pd.DataFrame(values.to_pandas())
    array = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise DataError(f"The kernel {name!r} has shape {array.shape}; it must be a square matrix, level by level.")
    own = levels.get(name) if hasattr(levels, "get") else levels
    if own is None:
        raise DataError(
            f"The kernel {name!r} is an array without names: pass levels=, the level of each row in order, or a DataFrame "
            "whose index and columns are the levels."
        )
    own = list(map(str, own))
    if len(own) != len(array):
        raise DataError(f"levels= has {len(own):,} names for the {len(array):,} rows of the kernel {name!r}.")
    return pd.DataFrame(array, index=own, columns=own)


def _check_matrix(name: str, matrix: FloatArray, levels: Sequence[str]) -> None:
    """Raise unless a matrix is finite and symmetric."""
    if not np.isfinite(matrix).all():
        a, b = np.argwhere(~np.isfinite(matrix))[0]
        raise DataError(f"The kernel {name!r} is missing or infinite for {levels[a]!r} and {levels[b]!r}.")
    apart = np.abs(matrix - matrix.T)
    if apart.max(initial=0.0) > _SYMMETRIC * np.abs(matrix).max(initial=0.0):
        a, b = divmod(int(apart.argmax()), len(apart))
        raise DataError(
            f"The kernel {name!r} is not symmetric: {levels[a]!r} and {levels[b]!r} have {matrix[a, b]:.6g}, and the other "
            f"way round {matrix[b, a]:.6g}. If rows and columns are in different orders, name both."
        )
