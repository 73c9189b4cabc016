"""Files that are either complete or not there, and one run per file."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import anndata as ad
    import pandas as pd

logger = logging.getLogger("donorwise")

TABLES = (".parquet", ".csv", ".h5ad")


class OutputError(DonorwiseError):
    """A result cannot be written: no space, no permission, or another run is writing it."""


def check_output(path: Path, allowed: tuple[str, ...], inputs: Sequence[Path]) -> None:
    """Raise unless a file of this name can be written here; nothing is left behind.

    Raises
    ------
    DataError
        The ending is none of `allowed`, a package for it is missing, or it is one of the `inputs`.
    OutputError
        The folder is not there or cannot be written to.
    """
    if path.suffix not in allowed:
        raise DataError(f"--out {path}: the name must end in {' or '.join(allowed)}.")
    if path.suffix == ".parquet":
        _check_parquet()
    if path.exists() and any(own.exists() and path.samefile(own) for own in inputs):
        raise DataError(f"--out {path} is an input, which would be lost; choose another name.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file.")
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


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder, which takes the place of `path` when all is written.

    Raises
    ------
    OutputError
        Writing failed; `path` is as it was.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {reason(error)}. There is no partial file.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the data is on the disk: a rename must not overtake it when the power goes."""
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: BaseException) -> str:
    """The first line of an error, in the words of the system where it has any."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    return text.rstrip(".")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet or csv, by the ending of the name; both keep every digit."""
    with replaced(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False, engine="pyarrow")
        else:
            table.to_csv(temporary, index=False)


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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock`` for the length of a run; the log says if a run that died had left it.

    The system drops the lock of a process that dies, so a file left behind does not stop anyone. Its
    text (process and host) is for people and for the message of the run that comes second.

    Raises
    ------
    OutputError
        Another run holds it, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    name = path.with_name(f"{path.name}.lock")
    lock = FileLock(name, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"Another run{_holder(name)} is writing {path}; wait for it, or choose another --out."
        ) from None
    except OSError as error:
        raise OutputError(f"{name} could not be made: {reason(error)}.") from error
    try:
        if _holder(name):
            logger.warning("%s was left by a run that died%s; it is taken over.", name, _holder(name))
        with suppress(OSError):  # Windows lets nobody write to a file that is locked
            name.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        yield
    finally:
        # While it is still held: after that the file may be another run's.
        with suppress(OSError):
            name.unlink()
        lock.release()


def _holder(lock: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(lock.read_text())
        return f" (process {held['pid']} on {held['host']})"
    return ""


LIBRARIES = ("donorwise", "anndata", "formulaic", "numba", "numpy", "pandas", "scipy")


def run_manifest(command: str, chosen: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """What must be the same for a stopped run to be resumed; files may move between stop and resume."""
    computed = {name: value for name, value in chosen.items() if name not in ("source", "out")}
    inputs = source if isinstance(source, list) else [source]
    told = [{name: value for name, value in one.items() if name != "path"} for one in inputs]
    return {"command": command, "version": version("donorwise"), "options": computed, "input": told}


def run_record(command: str, chosen: Mapping[str, Any], source: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """Options, versions, the input (or inputs) and what came of it, as plain values."""
    return {
        "command": command,
        "options": {name: _plain(value) for name, value in chosen.items() if value not in (None, (), [], "")},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "input": source,
        "result": {"finished": datetime.now(tz=UTC).isoformat(timespec="seconds"), **result},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_record(record: Mapping[str, Any], out: Path) -> None:
    """Write the record beside its output."""
    import yaml

    with replaced(out.with_name(f"{out.name}.run.yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True), encoding="utf-8")
