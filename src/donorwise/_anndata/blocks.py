"""A collapsed AnnData written to a file feature block by feature block: it is never in memory as a whole."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anndata as ad
    import pandas as pd

# Rows and features of a chunk, 1 MB: groups of rows and blocks of features are both read with little waste.
_CHUNK = (256, 512)


def check_block_file(path: str | os.PathLike[str]) -> Path:
    """The path, if such a file can be written there.

    Raises
    ------
    DataError
        The ending is neither ``.h5ad`` nor ``.zarr``, or the folder is not there.
    """
    out = Path(path)
    if out.suffix not in (".h5ad", ".zarr"):
        raise DataError(f"out={str(path)!r}: the name must end in .h5ad or .zarr.")
    if not out.parent.is_dir():
        raise DataError(f"The folder {out.parent} does not exist; make it first.")
    return out


def write_blocks(path: Path, blocks: Iterable[ad.AnnData], var: pd.DataFrame) -> None:
    """Write AnnDatas of the same rows, whose features follow one another, as one.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``; what is there is replaced when all is written.
    blocks
        The parts, with dense X and layers.
    var
        The features of all.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    _remove(temporary)
    try:
        low = 0
        for block in blocks:
            if low == 0:
                _write_frame(temporary, block, var)
            _write_columns(temporary, block, low, len(var))
            low += block.n_vars
        _remove(path)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _write_frame(path: Path, block: ad.AnnData, var: pd.DataFrame) -> None:
    """Everything but X and the layers."""
    import anndata as ad

    frame = ad.AnnData(obs=block.obs, var=var, obsm=dict(block.obsm), uns=dict(block.uns))
    frame.write_h5ad(path) if path.suffix == ".h5ad" else frame.write_zarr(path)


def _write_columns(path: Path, block: ad.AnnData, low: int, n_columns: int) -> None:
    layers = {name: matrix for name, matrix in block.layers.items() if name is not None}  # None: X, in anndata 0.13
    matrices = {"X": block.X} | {f"layers/{name}": matrix for name, matrix in layers.items()}
    root = _open(path)
    try:
        for name, matrix in matrices.items():
            element = root[name] if low else _create(root, name, (block.n_obs, n_columns))
            element[:, low : low + block.n_vars] = np.asarray(matrix, dtype=np.float64)
    finally:
        if path.suffix == ".h5ad":
            root.close()
        elif not low:
            _consolidate(path)


def _consolidate(path: Path) -> None:
    """List the new arrays where the store has a list of what is in it."""
    import zarr

    if zarr.open_group(str(path), mode="r").metadata.consolidated_metadata is not None:
        zarr.consolidate_metadata(str(path))


def _open(path: Path) -> Any:
    if path.suffix == ".h5ad":
        import h5py

        return h5py.File(path, "r+")
    import zarr

    return zarr.open_group(str(path), mode="r+", use_consolidated=False)


def _create(root: Any, name: str, shape: tuple[int, int]) -> Any:
    """An array of anndata's kind (encoding "array", version 0.2.0)."""
    with suppress(KeyError):
        del root[name]
    create = root.create_array if hasattr(root, "create_array") else root.create_dataset
    chunks = tuple(max(1, min(n, size)) for n, size in zip(shape, _CHUNK, strict=True))
    element = create(name, shape=shape, dtype="f8", chunks=chunks)
    element.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return element


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
