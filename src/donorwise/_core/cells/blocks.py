"""Values of cells as dense blocks, a few at a time, wherever the matrix is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from donorwise._core.cells.chunks import BLOCK_NUMBERS, slice_if_run
from donorwise._core.cells.matrices import check_matrix, read_kept
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.stored import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._typing import BoolArray, FloatArray, IntArray


class Block(NamedTuple):
    """Values (n, c) of some rows (n,) of a matrix and some of the columns that are read, by their place among these, (c,)."""

    rows: IntArray
    columns: IntArray
    values: FloatArray


class _Piece(NamedTuple):
    """A part in memory, and the row and the column of the whole that each of its own is; -1 for what is not wanted."""

    matrix: Any
    rows: IntArray
    columns: IntArray


def dense_blocks(matrix: Any, columns: IntArray, wanted: BoolArray, most: int = BLOCK_NUMBERS) -> Iterator[Block]:
    """Blocks of about `most` numbers at most that together are the wanted rows, each value once.

    Parameters
    ----------
    matrix
        Shape (N, M). As for :func:`donorwise._core.cells.collapse.collapse`; missing values stay as they are.
    columns
        Columns to read.
    wanted
        Shape (N,). Rows to read.
    most
        Numbers of a block.

    Raises
    ------
    DataError
        The matrix cannot be read.
    """
    check_matrix(matrix)
    for piece in _pieces(matrix, columns, wanted):
        yield from _blocks(piece, most)


def _pieces(matrix: Any, columns: IntArray, wanted: BoolArray) -> Iterator[_Piece]:
    """Chunks of a file, or the whole of a matrix in memory."""
    rows = np.where(wanted, np.arange(wanted.size), -1)
    if not isinstance(matrix, Stored):
        yield _Piece(matrix, rows, _places(columns, matrix.shape[1]))
        return
    reader = open_reader(matrix.matrix)
    n_rows, n_columns = reader.shape
    own = rows if matrix.rows is None else np.full(n_rows, -1)
    if matrix.rows is not None:
        own[matrix.rows] = rows
    numbers = np.asarray(matrix.column_numbers(columns))
    place = _places(numbers, n_columns)
    for (low, high), pieces in read_kept(reader, Stored(matrix.matrix, np.flatnonzero(own >= 0), np.sort(numbers))):
        for start, block in pieces:
            at = own if reader.by_columns else own[low:high]
            yield _Piece(block, at, place[start : start + block.shape[1]])


def _places(columns: IntArray, n: int) -> IntArray:
    """Place of each of n columns among those that are read; -1 for the others."""
    out = np.full(n, -1)
    out[columns] = np.arange(columns.size)
    return out


def _blocks(piece: _Piece, most: int) -> Iterator[Block]:
    """A part in memory, cut by columns where it is stored by these, then by rows."""
    columns = np.flatnonzero(piece.columns >= 0)
    rows = np.flatnonzero(piece.rows >= 0)
    for some in _runs_of_columns(piece.matrix, columns, most):
        matrix, inner = _by_rows(piece.matrix, some)
        step = max(1, most // max(1, some.size))
        for low in range(0, rows.size, step):
            at = rows[low : low + step]
            yield Block(piece.rows[at], piece.columns[some], _dense(matrix, at, inner))


def _by_rows(matrix: Any, columns: IntArray) -> tuple[Any, IntArray]:
    """What rows can be taken of, and where the columns are in it."""
    if not sparse.issparse(matrix) or matrix.format == "csr":
        return matrix, columns
    if matrix.format == "csc":
        return matrix[:, columns].tocsr(), np.arange(columns.size)
    return matrix.tocsr(), columns


def _runs_of_columns(matrix: Any, columns: IntArray, most: int) -> list[IntArray]:
    """Columns that are looked at together: as many as have about `most` stored values."""
    if not columns.size:
        return []
    if not (sparse.issparse(matrix) and matrix.format == "csc"):
        return [columns]
    stored = np.cumsum(np.diff(matrix.indptr)[columns]) // most
    return np.split(columns, np.flatnonzero(np.diff(stored)) + 1)


def _dense(matrix: Any, rows: IntArray, columns: IntArray) -> FloatArray:
    """Some rows and columns as an array of doubles."""
    own = matrix[slice_if_run(rows)][:, slice_if_run(columns)]
    return np.asarray(own.toarray() if sparse.issparse(own) else own, dtype=np.float64)
