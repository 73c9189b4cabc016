"""Reading a cohort from a file, and knowing it again."""

from __future__ import annotations

import hashlib
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import open_source
from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad

_READERS = ("h5py", "numcodecs", "zarr")


def read_source(path: Path) -> ad.AnnData:
    """Open ``.h5ad`` or ``.zarr``; the matrices stay in the file.

    Raises
    ------
    DataError
        The file is not one of these, or is damaged; the message names the file and the element.
    """
    if path.suffix not in (".h5ad", ".zarr"):
        raise DataError(f"{path}: an input must be an .h5ad file or a .zarr folder.")
    return open_source(path)


@contextmanager
def reading(path: Path, element: str) -> Iterator[None]:
    """Say which file is damaged, and where, when it fails while its matrix is read.

    Raises
    ------
    DataError
        In place of the errors of the file formats; output has errors of its own.
    """
    try:
        yield
    except DonorwiseError:
        raise
    except Exception as error:
        if not _from_a_reader(error):
            raise
        cause = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(
            f"{path}: {element} cannot be read ({cause.rstrip('.')}). Is the file truncated or damaged?"
        ) from error


def _from_a_reader(error: BaseException) -> bool:
    """Whether a library of file formats raised it; what they raise for a damaged file can be anything."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(str(f.f_globals.get("__name__", "")).partition(".")[0] in _READERS for f in frames)


def fingerprint(path: Path, adata: ad.AnnData) -> dict[str, Any]:
    """What tells an input from another: shape, checksums of obs and of the names of var, bytes, time of change."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    states = [file.stat() for file in files]
    return {
        "path": str(path.resolve()),
        "n_obs": int(adata.n_obs),
        "n_vars": int(adata.n_vars),
        "obs_sha256": _checksum(pd.DataFrame(adata.obs)),
        "var_names_sha256": _checksum(pd.DataFrame(index=adata.var_names)),
        "bytes": sum(s.st_size for s in states),
        "modified_ns": max((s.st_mtime_ns for s in states), default=0),
    }


def _checksum(table: pd.DataFrame) -> str:
    digest = hashlib.sha256(repr([str(c) for c in table.columns]).encode())
    digest.update(pd.util.hash_pandas_object(table.index.astype(str), index=False).to_numpy().tobytes())
    for _, column in table.items():
        values = column.astype(str) if column.dtype == object else column
        digest.update(pd.util.hash_pandas_object(values, index=False).to_numpy().tobytes())
    return digest.hexdigest()
