"""The folder of a scan: what is in it, opened without reading the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from donorwise._core.files import reason
from donorwise.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

LEAD = "_lead.parquet"
"""The lead variant of every gene and group."""
COUNTS = "_counts.parquet"
"""How many tests there were by size of the statistic, those that were not kept as well."""
PARAMS = "_params.json"
"""Formula, options and counts."""
MANIFEST = "_manifest.json"
"""What a scan that has not come to its end is of."""

_GROUP = "group="


def group_folder(group: str) -> str:
    """Name of the folder with the tests of a group, in which no character has a meaning for a file system.

    Examples
    --------
    >>> group_folder("CD4 T/naive & co")
    'group=CD4%20T%2Fnaive%20%26%20co'
    """
    return _GROUP + quote(group, safe="")


def check_pyarrow() -> None:
    """Raise unless Parquet can be read and written.

    Raises
    ------
    DataError
        pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(
            "Parquet files, such as the tests of a scan in a folder, need the package pyarrow: pip install 'donorwise[parquet]'."
        ) from None


def check_folder(folder: Path) -> None:
    """Raise unless `folder` is that of a scan that ran to its end.

    Raises
    ------
    DataError
        It is not there, or is something else.
    """
    if folder.is_file():
        raise DataError(
            f"{folder} is a file, not the folder that a scan wrote with out=; of an .h5ad give the AnnData."
        )
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    missing = [name for name in (LEAD, COUNTS, PARAMS) if not (folder / name).is_file()]
    if missing and ((folder / MANIFEST).is_file() or next(folder.glob(f"{_GROUP}*"), None) is not None):
        raise DataError(
            f"The scan in {folder} has not come to its end: it has no {' and no '.join(missing)}. Run it again with the "
            "same out= and resume=True, and it goes on where it stopped."
        )
    if missing:
        raise DataError(f"{folder} is not the folder of a scan: it has no {' and no '.join(missing)}.")


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read ``_lead.parquet`` or ``_counts.parquet``.

    Raises
    ------
    DataError
        It cannot be read.
    """
    check_pyarrow()
    try:
        return pd.read_parquet(folder / name, engine="pyarrow")
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise _unreadable(folder / name, error) from error


def read_params(folder: Path) -> dict[str, Any]:
    """Read ``_params.json``.

    Raises
    ------
    DataError
        It is no JSON.
    """
    try:
        params = json.loads((folder / PARAMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder / PARAMS, error) from error
    return dict(params)


def open_tests(folder: Path, groups: list[str]) -> ds.Dataset:
    """Open the tests of `groups`, in this order; nothing of them is read but the form of the first file.

    Returns
    -------
    A dataset of all files, in which text is of the type string whatever the files say, and group the second column.
    Which files and row groups are read depends on what is asked of it.

    Raises
    ------
    DataError
        pyarrow is not installed, or the first file is none of Parquet.
    """
    check_pyarrow()
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    files = [
        (group, file) for group in groups for file in sorted((folder / group_folder(group)).glob("part-*.parquet"))
    ]
    system, parquet = LocalFileSystem(), ds.ParquetFileFormat()
    fragments = [
        parquet.make_fragment(str(file.resolve()), system, partition_expression=ds.field("group") == group)
        for group, file in files
    ]
    return ds.FileSystemDataset(fragments, _schema(files[0][1] if files else None), parquet, system)


def _schema(file: Path | None) -> pa.Schema:
    """The columns of a file, in types that do not depend on who wrote it, with the group that its folder names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file is None:
        return pa.schema([pa.field("gene", pa.string()), pa.field("group", pa.string())])
    try:
        own = pq.read_schema(file)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    fields = [pa.field(field.name, _plain(field.type)) for field in own if field.name != "group"]
    return pa.schema([*fields[:1], pa.field("group", pa.string()), *fields[1:]])


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(value) else value


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read: {reason(error)}. It is truncated or was changed; run the scan again.")
