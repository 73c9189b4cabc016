"""Matrices in files: how they are opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from donorwise._anndata.elements import (
    UnknownEncodingError,
    encoding,
    is_old,
    read_known,
    read_old,
    tell_left_out,
)
from donorwise._anndata.obs import suggest
from donorwise._core.files import aside, at_home
from donorwise.errors import DataError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import anndata as ad
    import pandas as pd

    from donorwise._typing import IntArray

_READ = ("obs", "var", "uns", "obsm", "varm")


def open_source(path: str | os.PathLike[str], *, obsp: Iterable[str] = ()) -> ad.AnnData:
    """Open an ``.h5ad`` or ``.zarr`` without reading X and the layers.

    Parameters
    ----------
    path
        A file or folder that ``write_h5ad`` or ``write_zarr`` made.
    obsp
        Entries of obsp to read, where they are there.

    Returns
    -------
    An AnnData with obs, var, uns, obsm and varm in memory. X and the layers are sparse datasets, HDF5 datasets or zarr
    arrays, of which nothing has been read; the file stays open as long as they are in use. The rest of obsp, varp and raw
    are left out.

    Raises
    ------
    DataError
        There is no such file, or an element is truncated, corrupt or missing; the message names file and element.
    """
    import anndata as ad

    path = at_home(Path(path))
    root = _open(path)
    if "mod" in root:
        raise DataError(
            f"{path} is a MuData with {', '.join(map(repr, root['mod']))}: write one of them as an AnnData first "
            "(mudata.read(path)[name].write_h5ad(...))."
        )
    if path.is_file() and is_old(root):
        return read_old(path)
    read = {
        n: own
        for n in _READ
        if n in root and (own := _or_left_out(path, n, lambda n=n: read_known(root, n, path))) is not None
    }
    for name in ("obs", "var"):
        if not isinstance(read.get(name), pd.DataFrame):
            raise DataError(f"{path} has no table {name!r}: it is not an AnnData file, or its writing was interrupted.")
    X = _or_left_out(path, "X", lambda: _unread(root["X"])) if "X" in root else None
    names = list(root["layers"].keys()) if "layers" in root else []
    found = {n: _or_left_out(path, f"layers/{n}", lambda n=n: _unread(root["layers"][n])) for n in names}
    layers = {name: matrix for name, matrix in found.items() if matrix is not None}
    pairs = [name for name in obsp if "obsp" in root and name in root["obsp"]]
    read["obsp"] = {n: _guard(path, f"obsp/{n}", lambda n=n: read_known(root["obsp"], n, path)) for n in pairs}
    return _guard(path, "the AnnData", lambda: ad.AnnData(X=X, layers=layers, **read))


def _or_left_out(path: Path, name: str, read: Any) -> Any:
    """What `read` gives; None, which the log says, where its encoding is unknown."""
    try:
        return _guard(path, name, read)
    except UnknownEncodingError as error:
        tell_left_out(name, path, error)
        return None


def matrix_of(adata: ad.AnnData, layer: str | None = None) -> Any:
    """Return X or a layer: as it is if it is in memory, else a `Stored` of which nothing has been read."""
    whole = adata._adata_ref if adata.is_view else adata
    matrix = whole.X if layer is None else whole.layers[layer]
    if matrix is None or isinstance(matrix, np.ndarray) or sp.issparse(matrix) or not adata.is_view:
        return as_stored((adata.X if layer is None else adata.layers[layer]) if adata.is_view else matrix)
    # what the view itself would give has been read from the file
    return as_stored(matrix, _positions(adata._oidx, whole.n_obs), _positions(adata._vidx, whole.n_vars))


def put_uns(adata: ad.AnnData, key: str, entry: Any) -> None:
    """Set ``adata.uns[key]``; a view of a file stays a view, where anndata would read its matrix to make a copy."""
    if adata.is_view and in_file(adata):
        adata._uns = {**adata._uns, key: entry}
    else:
        adata.uns[key] = entry


def in_file(adata: ad.AnnData) -> bool:
    """Whether X or a layer is not in memory."""
    from donorwise._core.cells.stored import Stored

    whole = adata._adata_ref if adata.is_view else adata
    return any(isinstance(as_stored(m), Stored) for m in (whole.X, *whole.layers.values()))


def files_behind(adata: ad.AnnData) -> list[Path | None]:
    """Files that X and the layers are read from when they are used; None for one that a dask array does not tell."""
    from donorwise._core.cells.stored import Stored

    whole = adata._adata_ref if adata.is_view else adata
    stored = [as_stored(matrix) for matrix in (whole.X, *whole.layers.values())]
    return [_file_of(own.matrix) for own in stored if isinstance(own, Stored)]


def _file_of(matrix: Any) -> Path | None:
    element = getattr(matrix, "group", matrix)
    name = element.file.filename if hasattr(element, "file") else getattr(getattr(element, "store", None), "root", None)
    return Path(name) if name is not None and Path(name).exists() else None


def as_stored(matrix: Any, rows: IntArray | None = None, columns: IntArray | None = None) -> Any:
    """Return rows and columns of a matrix that can be read in chunks as a `Stored`; anything else as it is."""
    if matrix is None or isinstance(matrix, np.ndarray | pd.DataFrame) or sp.issparse(matrix):
        return matrix
    from donorwise._core.cells.readers import has_reader
    from donorwise._core.cells.stored import Stored

    return Stored(matrix, rows, columns) if has_reader(type(matrix)) else matrix


def _positions(index: Any, n: int) -> IntArray | None:
    """What a view keeps of the n rows or columns of its parent, as positions; None for everything."""
    if isinstance(index, slice):
        return None if index == slice(None) else np.arange(n)[index]
    return np.arange(n)[np.asarray(index)]


def _open(path: Path) -> Any:
    if not path.exists():
        old = aside(path)
        if old.exists():
            raise DataError(
                f"{path} is set aside, as {old}: a run was interrupted while it replaced it. Rename it, or run again."
            )
        raise DataError(f"There is no file {path}. {suggest(path.name, [p.name for p in _neighbours(path)])}")
    if path.is_dir():
        import zarr

        return _guard(path, "the store", lambda: zarr.open_group(str(path), mode="r", use_consolidated=False))
    import h5py

    return _guard(path, "the file", lambda: h5py.File(path, "r"))


def _neighbours(path: Path) -> list[Path]:
    folder = path.parent
    return sorted(p for p in folder.iterdir() if p.suffix in (".h5ad", ".zarr")) if folder.is_dir() else []


def _unread(element: Any) -> Any:
    """A handle of a matrix in a file."""
    from anndata.io import sparse_dataset

    kind = element.attrs.get("encoding-type", "array")
    if kind in ("csr_matrix", "csc_matrix"):
        missing = [name for name in ("data", "indices", "indptr") if name not in element]
        if missing:
            raise DataError(f"it has no {' and no '.join(missing)}")
        flat = {name: element[name].ndim for name in ("data", "indices", "indptr")}
        wrong = [f"its {name} has {ndim} dimensions instead of one" for name, ndim in flat.items() if ndim != 1]
        if wrong:
            raise DataError(", ".join(wrong))
        return sparse_dataset(element)
    if kind not in ("array", "dataframe", "nullable-integer", "nullable-boolean", "dict"):
        raise UnknownEncodingError(encoding(element))
    if kind != "array" or not hasattr(element, "dtype"):
        raise DataError(f"it is stored as {kind!r}, not as a sparse matrix or an array")
    return element


def _guard(path: Any, element: str, read: Any) -> Any:
    """The result of `read`, or a DataError that names file and element."""
    from donorwise._core.cells.readers import READ_ERRORS

    try:
        return read()
    except (*READ_ERRORS, DataError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{path}: {element} cannot be read ({reason[0]}). The file is truncated or corrupt, or not an AnnData file; "
            "copy or write it again."
        ) from error
