"""AnnDatas written to files block by block, without all of their values in memory."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.files import locked, real, replaced
from donorwise.errors import DataError, OutputError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._typing import FloatArray, IntArray

# Rows and features of a chunk, 1 MB: groups of rows and blocks of features are both read with little waste.
_CHUNK = (256, 512)
_PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_CACHE = 2**26  # bytes of chunks of HDF5 that wait for the rest of their values


class Patch(NamedTuple):
    """Values (n, c) of each of several layers, for some rows (n,) and columns (c,)."""

    rows: IntArray
    columns: IntArray
    values: Sequence[FloatArray]


def check_block_file(path: str | os.PathLike[str]) -> Path:
    """The path, if such a file can be written there.

    Raises
    ------
    DataError
        The ending is neither ``.h5ad`` nor ``.zarr``.
    OutputError
        The folder is not there, or something else has this name.
    """
    out = real(Path(path))
    if out.suffix not in (".h5ad", ".zarr"):
        raise DataError(f"out={str(path)!r}: the name must end in .h5ad or .zarr.")
    if not out.parent.is_dir():
        raise OutputError(f"The folder {out.parent} does not exist; make it first.")
    if out.exists() and not (_is_store(out) if out.suffix == ".zarr" else out.is_file()):
        kind = "a zarr store" if out.suffix == ".zarr" else "a file"
        raise OutputError(f"{out} is there and is not {kind}, so it is not replaced; choose another name.")
    return out


def _is_store(path: Path) -> bool:
    """Whether this is a zarr group, or a folder with nothing in it."""
    names = {own.name for own in path.iterdir()} if path.is_dir() else {"file"}
    return not names or bool(names & {"zarr.json", ".zgroup"})


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
    with locked(path), replaced(path) as temporary:
        low = 0
        for block in blocks:
            if low == 0:
                _write_frame(temporary, block, var)
            _write_columns(temporary, block, low, len(var))
            low += block.n_vars


def write_layers(
    path: Path, frame: ad.AnnData, names: Sequence[str], patches: Iterator[Patch], dtype: str = "float32"
) -> None:
    """Write an AnnData with layers that come in parts.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr``; what is there is replaced when all is written.
    frame
        Everything but the layers.
    names
        What these are called.
    patches
        Their values, each at most once; those of no patch are NaN. The shape of the first decides that of the chunks.
    dtype
        Of the layers.
    """
    with replaced(path) as temporary:
        _write_frame(temporary, frame, frame.var)
        first = next(patches)
        with _opened(temporary) as root:
            chunks = _chunks_like(first)
            elements = [_create(root, f"layers/{name}", frame.shape, dtype, chunks, value=np.nan) for name in names]
            for patch in chain([first], patches):
                for element, values in zip(elements, patch.values, strict=True):
                    _put(element, patch, values)
        _consolidate(temporary)


def _chunks_like(patch: Patch) -> tuple[int, int]:
    """As large as others, and no wider than what comes at once, so that few chunks are written twice."""
    n_columns = min(patch.columns.size, _CHUNK[1])
    return _CHUNK[0] * _CHUNK[1] // n_columns, n_columns


def _put(element: Any, patch: Patch, values: FloatArray) -> None:
    """Write the rectangle around a patch, which has values of others where the patch has gaps."""
    low, high = (tuple(int(end(own)) for own in (patch.rows, patch.columns)) for end in (np.min, np.max))
    where = tuple(slice(start, stop + 1) for start, stop in zip(low, high, strict=True))
    full = values.shape == tuple(own.stop - own.start for own in where)
    whole = np.empty(values.shape, element.dtype) if full else np.asarray(element[where])
    whole[np.ix_(patch.rows - low[0], patch.columns - low[1])] = values
    element[where] = whole


def _write_frame(path: Path, block: ad.AnnData, var: pd.DataFrame) -> None:
    """Everything but X and the layers."""
    import anndata as ad

    frame = ad.AnnData(obs=block.obs, var=var, obsm=dict(block.obsm), uns=dict(block.uns))
    frame.write_h5ad(path) if path.suffix == ".h5ad" else frame.write_zarr(path)


def _write_columns(path: Path, block: ad.AnnData, low: int, n_columns: int) -> None:
    layers = {name: matrix for name, matrix in block.layers.items() if name is not None}  # None: X, in anndata 0.13
    matrices = {"X": block.X} | {f"layers/{name}": matrix for name, matrix in layers.items()}
    with _opened(path) as root:
        for name, matrix in matrices.items():
            element = root[name] if low else _create(root, name, (block.n_obs, n_columns))
            element[:, low : low + block.n_vars] = np.asarray(matrix, dtype=np.float64)
    if not low:
        _consolidate(path)


def _consolidate(path: Path) -> None:
    """List the new arrays where a zarr store has a list of what is in it."""
    if path.suffix == ".h5ad":
        return
    import zarr

    if zarr.open_group(str(path), mode="r").metadata.consolidated_metadata is not None:
        zarr.consolidate_metadata(str(path))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The root of what is written."""
    if path.suffix == ".h5ad":
        import h5py

        with h5py.File(path, "r+", rdcc_nbytes=_CACHE) as file:
            yield file
        return
    import zarr

    yield zarr.open_group(str(path), mode="r+", use_consolidated=False)


def _create(
    root: Any,
    name: str,
    shape: tuple[int, int],
    dtype: str = "f8",
    chunks: tuple[int, int] = _CHUNK,
    value: float = 0.0,
) -> Any:
    """An array of anndata's kind (encoding "array", version 0.2.0), of one value so far."""
    with suppress(KeyError):
        del root[name]
    sizes = tuple(max(1, min(n, size)) for n, size in zip(shape, chunks, strict=True))
    if hasattr(root, "create_array"):
        element = root.create_array(name, shape=shape, dtype=dtype, chunks=sizes, fill_value=value)
    else:
        element = root.create_dataset(name, shape=shape, dtype=dtype, chunks=sizes, fillvalue=value, **_PACKED)
    element.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return element
