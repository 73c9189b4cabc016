"""In how many cells of each pattern a feature is above zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from donorwise._core.cells.accumulate import collapse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from donorwise._typing import FloatArray, IntArray

# Values of a dense matrix that are compared with zero together.
_BLOCK = 8_000_000


def detected_cells(
    matrix: Any,
    codes: NDArray[np.int32],
    n_patterns: int,
    *,
    features: IntArray | None = None,
    n_jobs: int = 1,
    **chunks: Any,
) -> FloatArray:
    """Number of cells above zero, (K, G).

    Parameters
    ----------
    matrix, codes, n_patterns, features, n_jobs
        As for :func:`donorwise.collapse.collapse`.
    chunks
        ``chunk_size`` and ``progress``, for a matrix that is not in memory; it is read once more.
    """

    def count(positive: Any, some: IntArray | None, **options: Any) -> FloatArray:
        found = collapse(positive, codes, n_patterns, features=some, n_jobs=n_jobs, **options)
        return np.asarray(np.rint(found.mean * found.n_obs[:, None]))

    if sparse.issparse(matrix):
        return count(_positive(matrix), features)
    if not isinstance(matrix, np.ndarray):
        return count(_stored(matrix), features, **chunks)
    columns = np.arange(matrix.shape[1]) if features is None else features
    out = np.empty((n_patterns, columns.size))
    width = max(1, _BLOCK // max(1, len(codes)))
    for low in range(0, columns.size, width):
        out[:, low : low + width] = count(matrix[:, columns[low : low + width]] > 0, None)
    return out


def _positive(matrix: Any) -> Any:
    """A sparse matrix of whether values are above zero."""
    plain = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
    if not plain.has_canonical_format:
        plain = plain.copy()
        plain.sum_duplicates()
    return type(plain)((plain.data > 0, plain.indices, plain.indptr), shape=plain.shape)


def _stored(matrix: Any) -> Any:
    """Rows and columns of a matrix that is not in memory, to be read as whether values are above zero."""
    _register()
    return type(matrix)(_Positive(matrix.matrix), matrix.rows, matrix.columns)


@dataclass(frozen=True, slots=True)
class _Positive:
    """Whether the values of a matrix that is not in memory are above zero."""

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(bool)


class _PositiveReader:
    """A reader whose chunks are compared with zero after they were read."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def parts(self, low: int, high: int, loaded: Any) -> list[tuple[int, Any]]:
        """Matrices of bools, side by side."""
        found = self._reader.parts(low, high, loaded)
        return [(at, _positive(part) if sparse.issparse(part) else np.asarray(part) > 0) for at, part in found]


def _open_positive(positive: _Positive) -> Any:
    from donorwise._core.cells.readers import open_reader

    return _PositiveReader(open_reader(positive.matrix))


@cache
def _register() -> None:
    from donorwise._core.cells import readers

    readers._reader.register(_Positive, _open_positive)
