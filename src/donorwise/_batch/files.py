"""Files in and out: opening inputs, writing results whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import os
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import open_source
from donorwise._anndata.block_files import check_block_file
from donorwise._core.files import real, replaced
from donorwise.errors import DataError, DonorwiseError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import anndata as ad
    import pandas as pd

_READERS = ("h5py", "numcodecs", "zarr")


def read_source(path: Path, *, obsp: Iterable[str] = ()) -> ad.AnnData:
    """Open ``.h5ad`` or ``.zarr``; the matrices stay in the file, and of obsp only these entries are read.

    Raises
    ------
    DataError
        The file is not one of these, or is damaged; the message names the file and the element.
    """
    if path.suffix not in (".h5ad", ".zarr"):
        raise DataError(f"{path}: an input must be an .h5ad file or a .zarr folder.")
    return open_source(path, obsp=obsp)


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


def fingerprint(path: Path, adata: ad.AnnData, kernels: Mapping[str, pd.DataFrame] | None = None) -> dict[str, Any]:
    """What tells an input from another: shape, checksums of obs and of the names of var, bytes, time of change.

    Of kernels from files of their own it is the checksum of each.
    """
    return {
        "path": str(path.resolve()),
        "n_obs": int(adata.n_obs),
        "n_vars": int(adata.n_vars),
        "obs_sha256": _checksum(pd.DataFrame(adata.obs)),
        "var_names_sha256": _checksum(pd.DataFrame(index=adata.var_names)),
        **state(files_in(path)),
        **({"kernels": {name: _checksum(table) for name, table in kernels.items()}} if kernels else {}),
    }


def files_in(path: Path) -> list[Path]:
    """A file itself, or all files in a folder."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def state(files: Sequence[Path]) -> dict[str, int]:
    """Bytes of files, and when the last of them was changed."""
    states = [file.stat() for file in files]
    return {"bytes": sum(s.st_size for s in states), "modified_ns": max((s.st_mtime_ns for s in states), default=0)}


def _checksum(table: pd.DataFrame) -> str:
    digest = hashlib.sha256(repr([str(c) for c in table.columns]).encode())
    digest.update(pd.util.hash_pandas_object(table.index.astype(str), index=False).to_numpy().tobytes())
    for _, column in table.items():
        values = column.astype(str) if column.dtype == object else column
        digest.update(pd.util.hash_pandas_object(values, index=False).to_numpy().tobytes())
    return digest.hexdigest()


TABLES = (".parquet", ".csv", ".h5ad")


def check_output(path: Path, allowed: tuple[str, ...], inputs: Sequence[Path]) -> Path:
    """The file that is written for this name, see :func:`donorwise._core.files.real`; nothing is left behind.

    Raises
    ------
    DataError
        The ending is none of `allowed`, a package for it is missing, or it is one of the `inputs`.
    OutputError
        The folder is not there or cannot be written to.
    """
    given, path = path, real(path)
    if path.suffix not in allowed:
        name = f"--out {given}" if given == path else f"--out {given} leads to {path}"
        raise DataError(f"{name}: the name must end in {' or '.join(allowed)}.")
    if path.suffix == ".parquet":
        _check_parquet()
    _check_inputs(path, inputs)
    if path.suffix == ".zarr":
        check_block_file(path)
    elif path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file.")
    _check_parent(path)
    return path


def check_output_folder(path: Path, inputs: Sequence[Path]) -> Path:
    """The same of a folder; what is in it is looked at by those who write there.

    Raises
    ------
    DataError
        It is one of the `inputs`.
    OutputError
        It is a file, or the folder that is to hold it is not there or cannot be written to.
    """
    path = real(path)
    _check_inputs(path, inputs)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; give the name of a folder.")
    _check_parent(path)
    return path


def _check_inputs(path: Path, inputs: Sequence[Path]) -> None:
    if path.exists() and any(own.exists() and path.samefile(own) for own in inputs):
        raise DataError(f"--out {path} is an input, which would be lost; choose another name.")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {path.parent} cannot be written to; choose another --out.")


def _check_parquet() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise DataError(
            "Writing .parquet needs the package pyarrow: install donorwise[parquet], or write .csv or .h5ad."
        ) from None


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet or csv, by the ending of the name; both keep every digit."""
    with replaced(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False, engine="pyarrow")
        else:
            # a carriage return ends a line for those who read it, and the writer quotes line feeds only
            returns = any(_has_return(column) for _, column in table.items())
            table.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)


def _has_return(column: pd.Series) -> bool:
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return not pd.api.types.is_numeric_dtype(values) and any("\r" in str(value) for value in values)


def write_anndata(adata: ad.AnnData, path: Path, *, compression: str = "gzip") -> None:
    """Write an AnnData as h5ad.

    The file is made in memory: the HDF5 library does not survive a disk that fills up under an open file,
    and may end the process with it.
    """
    import anndata as ad
    import h5py

    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        ad.io.write_elem(file, "/", adata, dataset_kwargs={"compression": compression})
        file.flush()
        image = file.id.get_file_image()
    with replaced(path) as temporary:
        temporary.write_bytes(image)


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, in the format of the name's ending."""
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
