"""Small text files that PLINK and others write beside their data: names of donors and of variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def read_table(path: Path, *, names: Sequence[str], columns: Sequence[int], dtype: Mapping[str, Any]) -> pd.DataFrame:
    """Some columns of a text file without a header, each of its type.

    Raises
    ------
    DataError
        The file is not there, or does not have these columns, or they are not of these types.
    """
    try:
        table = pd.read_csv(
            path, sep=r"\s+", header=None, usecols=list(columns), names=list(names), dtype=dict(dtype), keep_default_na=False,
            index_col=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a table with {max(columns) + 1} columns ({error}).") from error
    return table


def read_ids(path: Path) -> tuple[str, ...]:
    """Names of the donors (IID) in a ``.fam``, ``.psam`` or ``.id``, whose header (if any) begins with ``#``.

    Raises
    ------
    DataError
        The file is not there, or has no such column.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [line.split() for line in lines if line.strip() and not line.startswith("##")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    column = 1
    if rows and rows[0][0].startswith("#"):
        header = [name.lstrip("#") for name in rows.pop(0)]
        if "IID" not in header:
            raise DataError(f"{path} has a header without IID: {' '.join(header)}.")
        column = header.index("IID")
    elif rows and len(rows[0]) == 1:  # PLINK 2 may leave the families out
        column = 0
    short = next((i for i, row in enumerate(rows) if len(row) <= column), None)
    if short is not None:
        raise DataError(f"{path} has no name of a donor in line {short + 1}.")
    return tuple(row[column] for row in rows)
