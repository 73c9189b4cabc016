"""Matrices that are not in memory: one reader for each kind, found without importing the library it belongs to."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from scipy import sparse

from donorwise._core.cells.kernels import increasing
from donorwise._core.cells.structure import check_structure
from donorwise._core.cells.threads import can_inflate, inflate
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from donorwise._typing import IntArray

Piece = tuple[int, Any]
"""Number of the first column, and the matrix in memory."""

# What a sparse block of unknown content is taken to hold, for the size of a chunk.
_DENSITY = 0.1


class Reader(Protocol):
    """A matrix that is read in chunks of whole rows, or of whole columns.

    Attributes
    ----------
    where
        File and element, for error messages.
    shape
        (N, columns).
    by_columns
        Whether a chunk is a range of columns.
    cuts
        Where along that axis a chunk can begin or end without reading anything twice, ascending; None for anywhere.
    whole_blocks
        Whether a chunk has to begin and end there.
    """

    whole_blocks: ClassVar[bool]

    @property
    def where(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def by_columns(self) -> bool: ...

    @property
    def cuts(self) -> IntArray | None: ...

    def cost(self, low: int, high: int) -> IntArray:
        """Decompressed bytes of each of the rows (or columns) low..high-1."""

    def load(self, low: int, high: int) -> Any:
        """Read and decompress rows (or columns) low..high-1: the part that takes long."""

    def pieces(self, low: int, high: int, loaded: Any) -> list[Piece]:
        """The matrices in what `load` returned, side by side."""


@dataclass(frozen=True, slots=True)
class SparseFile:
    """A CSR or CSC matrix in an HDF5 or zarr group; `arrays` are its data, indices and indptr."""

    arrays: tuple[Any, Any, Any]
    shape: tuple[int, int]
    by_columns: bool
    where: str
    cuts: IntArray | None = None
    whole_blocks: ClassVar[bool] = False

    def cost(self, low: int, high: int) -> IntArray:
        """Bytes of data and indices."""
        sizes = np.diff(self._indptr(slice(low, high + 1)))
        if (sizes < 0).any():
            raise DataError(f"{self.where}/indptr falls. The file is truncated or corrupt; write it again.")
        return sizes * sum(a.dtype.itemsize for a in self.arrays[:2]) + 1

    def spans(self, low: int, high: int) -> list[slice]:
        """Where the chunk lies in each of `arrays`."""
        first, last = self._indptr(slice(low, low + 1)), self._indptr(slice(high, high + 1))
        span = slice(int(first[0]), int(last[0]))
        return [span, span, slice(low, high + 1)]

    def load(self, low: int, high: int) -> list[NDArray[Any]]:
        """Data, indices and indptr."""
        return _read(self.arrays, self.spans(low, high))

    def pieces(self, low: int, high: int, loaded: list[NDArray[Any]]) -> list[Piece]:
        """One CSR or CSC matrix."""
        data, indices, starts = loaded
        indptr = starts.astype(np.int64) - np.int64(starts[0])
        if indices.dtype.itemsize < indptr.dtype.itemsize and len(indices) <= np.iinfo(indices.dtype).max:
            indptr = indptr.astype(indices.dtype)  # or scipy would copy the indices to int64
        n_minor = self.shape[0 if self.by_columns else 1]
        if self.by_columns:
            return [(low, checked(sparse.csc_array((data, indices, indptr), shape=(n_minor, high - low)), self.where))]
        return [(0, checked(sparse.csr_array((data, indices, indptr), shape=(high - low, n_minor)), self.where))]

    def _indptr(self, span: slice) -> NDArray[np.int64]:
        try:
            return np.asarray(self.arrays[2][span]).astype(np.int64)
        except READ_ERRORS as error:
            raise DataError(
                f"{self.where}/indptr cannot be read ({error}). The file is truncated or corrupt."
            ) from error


@dataclass(frozen=True, slots=True)
class DenseFile:
    """A two-dimensional array in an HDF5 or zarr file."""

    arrays: tuple[Any]
    shape: tuple[int, int]
    where: str
    cuts: IntArray | None
    by_columns: bool = False
    whole_blocks: ClassVar[bool] = False

    def cost(self, low: int, high: int) -> IntArray:
        """Bytes of a row."""
        return np.full(high - low, self.shape[1] * self.arrays[0].dtype.itemsize + 1)

    def spans(self, low: int, high: int) -> list[slice]:
        """Where the chunk lies in each of `arrays`."""
        return [slice(low, high)]

    def load(self, low: int, high: int) -> list[NDArray[Any]]:
        """The rows."""
        return _read(self.arrays, self.spans(low, high))

    def pieces(self, low: int, high: int, loaded: list[NDArray[Any]]) -> list[Piece]:
        """One array."""
        return [(0, loaded[0])]


def _read(arrays: Sequence[Any], spans: Sequence[slice]) -> list[NDArray[Any]]:
    return [
        inflate(array, span) if can_inflate(array) else np.asarray(array[span])
        for array, span in zip(arrays, spans, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class DaskBlocks:
    """A dask array, whose blocks are computed whole: several row blocks at a time, or several column blocks."""

    matrix: Any
    shape: tuple[int, int]
    by_columns: bool
    cuts: IntArray
    where: str = "a dask array"
    whole_blocks: ClassVar[bool] = True

    def cost(self, low: int, high: int) -> IntArray:
        """Bytes of a row or column; what sparse blocks hold is a guess."""
        size = self.matrix.dtype.itemsize
        stored = (size + 4) * _DENSITY if sparse.issparse(self.matrix._meta) else size
        return np.full(high - low, int(self.shape[not self.by_columns] * stored) + 1)

    def load(self, low: int, high: int) -> list[list[Any]]:
        """The computed blocks, by rows of blocks."""
        first, last = np.searchsorted(self.cuts, [low, high])
        some = self.matrix.blocks[:, first:last] if self.by_columns else self.matrix.blocks[first:last]
        rows = [[some.blocks[i, j] for j in range(some.numblocks[1])] for i in range(some.numblocks[0])]
        return list(import_module("dask").compute(*rows))  # together, in the threads of dask

    def pieces(self, low: int, high: int, loaded: list[list[Any]]) -> list[Piece]:
        """A matrix for each column of blocks."""
        starts = np.cumsum([low if self.by_columns else 0, *(block.shape[1] for block in loaded[0])])
        columns = [_stack(column, self.where) for column in zip(*loaded, strict=True)]
        return list(zip(starts.tolist(), columns, strict=False))


@singledispatch
def _reader(matrix: object) -> Reader:
    raise DataError(f"Cannot read a matrix of type {type(matrix).__module__}.{type(matrix).__qualname__} in chunks.")


def has_reader(kind: type) -> bool:
    """Whether matrices of a class can be read in chunks; the class is registered when it is first seen."""
    unknown = _reader.dispatch(object)
    if _reader.dispatch(kind) is unknown:
        for base in kind.__mro__:
            handler = _HANDLERS.get((base.__module__.partition(".")[0], base.__name__))
            if handler is not None:
                _reader.register(kind, handler)
                break
    return _reader.dispatch(kind) is not unknown


def open_reader(matrix: object) -> Reader:
    """The reader of a matrix that is not in memory."""
    has_reader(type(matrix))
    return _reader(matrix)


def _sparse_dataset(matrix: Any) -> SparseFile:
    group, (n_rows, n_columns) = matrix.group, matrix.shape
    where, by_columns = describe(group), matrix.format == "csc"
    arrays = tuple(_element(group, name, where) for name in ("data", "indices", "indptr"))
    n_major, n_minor = (n_columns, n_rows) if by_columns else (n_rows, n_columns)
    n_stored = min(a.shape[0] for a in arrays[:2])
    known_zeros = {"indices": n_minor == 1, "indptr": n_stored == 0}
    for name, array in zip(("data", "indices", "indptr"), arrays, strict=True):
        if not known_zeros.get(name):
            _check_complete(array, f"{where}/{name}")
    file = SparseFile(arrays, (int(n_rows), int(n_columns)), by_columns, where)
    ends = [file._indptr(slice(at, at + 1)) for at in (0, n_major)]
    if arrays[2].shape[0] != n_major + 1 or ends[0][0] != 0 or ends[1][0] > n_stored:
        raise DataError(
            f"{where}/indptr does not fit a matrix of {n_rows:,} x {n_columns:,} with {n_stored:,} stored values. The "
            "file is truncated or corrupt; write it again."
        )
    return file


def _dense_file(matrix: Any) -> DenseFile:
    chunks = matrix.chunks
    cuts = None if chunks is None else np.append(np.arange(0, matrix.shape[0], chunks[0]), matrix.shape[0])
    return DenseFile((matrix,), tuple(matrix.shape), describe(matrix), cuts)


def _dask(matrix: Any) -> DaskBlocks:
    if not all(np.isfinite(sum(sizes)) for sizes in matrix.chunks):
        raise DataError("The blocks of the dask array have unknown sizes: call its compute_chunk_sizes() first.")
    by_columns = matrix.numblocks[0] == 1 and matrix.numblocks[1] > 1
    cuts = np.cumsum([0, *matrix.chunks[1 if by_columns else 0]])
    return DaskBlocks(matrix, (int(matrix.shape[0]), int(matrix.shape[1])), by_columns, cuts)


_HANDLERS: dict[tuple[str, str], Callable[[Any], Reader]] = {
    ("anndata", "BaseCompressedSparseDataset"): _sparse_dataset,
    ("h5py", "Dataset"): _dense_file,
    ("zarr", "Array"): _dense_file,
    ("dask", "Array"): _dask,
}

READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, zlib.error)
"""What h5py, zarr and their decompressors raise for files that are truncated or corrupt."""


def describe(element: Any) -> str:
    """File and element of an object of h5py or zarr."""
    if hasattr(element, "file"):
        return f"{element.file.filename}: {element.name}"
    path = getattr(element.store, "root", element.store)
    return f"{path}: /{element.path}"


def source_file(element: Any) -> str | None:
    """Path of the file from which another process can read an h5py element; None if there is none."""
    file = getattr(element, "file", None)
    if file is None or getattr(file, "mode", "") != "r" or not isinstance(file.filename, str):
        return None
    return os.path.abspath(file.filename) if os.path.isfile(file.filename) else None


def _element(group: Any, name: str, where: str) -> Any:
    try:
        return group[name]
    except READ_ERRORS as error:
        raise DataError(f"{where}/{name} cannot be opened ({error}). The file is truncated or corrupt.") from error


def _check_complete(array: Any, where: str) -> None:
    """Raise for a chunk that is missing, which zarr reads as zeros.

    Zarr leaves out chunks of zeros when it writes, but of a sparse matrix these are rare: positions and values differ
    from zero unless there is nothing stored, or one place only to store it in.
    """
    present = getattr(array, "nchunks_initialized", None)
    expected = getattr(array, "nchunks", None)
    if present is not None and expected is not None and present < expected:
        raise DataError(f"{where}: {expected - present:,} of {expected:,} chunks are missing. The store is incomplete.")


def checked(matrix: Any, where: str) -> Any:
    """The matrix, CSR or CSC, flagged as canonical if it is; a DataError for an index out of range."""
    check_structure(matrix, where, advice="The file is corrupt; write it again.")
    indices = matrix.indices.astype(matrix.indices.dtype.newbyteorder("="), copy=False)
    matrix.has_canonical_format = increasing(indices, matrix.indptr)
    return matrix


def _stack(blocks: tuple[Any, ...], where: str) -> Any:
    """Blocks one under another; sparse ones as CSR unless there is only one."""
    if not sparse.issparse(blocks[0]):
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    block = blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")
    block = block.copy() if block.format in ("csr", "csc") else block.tocsr()
    return checked(block, where)
