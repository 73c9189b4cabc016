"""Rows and columns of a matrix that is not in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from donorwise._typing import IntArray
from donorwise.errors import DataError


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows and columns of a matrix that is not in memory; nothing is read before it is asked for.

    Attributes
    ----------
    matrix
        What `donorwise._core.cells.readers.open_reader` can read.
    rows, columns
        Positions that are kept, distinct, in their order; None for all.
    """

    matrix: Any
    rows: IntArray | None = None
    columns: IntArray | None = None
    ndim: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name, kept in (("rows", self.rows), ("columns", self.columns)):
            if kept is not None and len(np.unique(kept)) < len(kept):
                raise DataError(
                    f"The same {name} are selected twice, which needs them in memory: use adata.to_memory()."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of kept rows and columns."""
        n_rows, n_columns = self.matrix.shape
        return (
            int(n_rows) if self.rows is None else len(self.rows),
            int(n_columns) if self.columns is None else len(self.columns),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the values are stored as."""
        return np.dtype(self.matrix.dtype)

    def spread(
        self, codes: ArrayLike, weights: ArrayLike | None, covariates: ArrayLike | None
    ) -> tuple[ArrayLike, ArrayLike | None, ArrayLike | None]:
        """Codes, weights and covariates of all rows of `matrix`: rows that are not kept have code -1."""
        if self.rows is None:
            return codes, weights, covariates
        for name, given in (("codes", codes), ("weights", weights), ("covariates", covariates)):
            if given is not None and len(np.asarray(given)) != len(self.rows):
                raise DataError(f"{name} must have one entry for each of the {len(self.rows):,} rows of the matrix.")
        return (
            self._spread(codes, -1),
            None if weights is None else self._spread(weights, 1.0),
            None if covariates is None else self._spread(covariates, 0.0),
        )

    def _spread(self, given: ArrayLike, fill: float) -> ArrayLike:
        values = np.asarray(given)
        whole = np.full((self.matrix.shape[0], *values.shape[1:]), fill, dtype=values.dtype)
        whole[self.rows] = values
        return whole

    def column_numbers(self, features: ArrayLike | None) -> ArrayLike | None:
        """Columns of `matrix` that are the kept columns numbered `features`."""
        if self.columns is None or features is None:
            return self.columns if features is None else features
        return self.columns[np.asarray(features)]
