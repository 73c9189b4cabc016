"""Tables in memory and in files, of which no more is read than is needed."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from donorwise._core.files import at_home, reason
from donorwise._core.reports.kinds import Plan
from donorwise.errors import DataError

_TEXT = (".tsv", ".csv", ".txt", ".xls")  # Spectronaut calls text so
_PARQUET = (".parquet", ".pq")
_PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_CHUNK = 1_000_000  # rows
_SEPARATORS = ("\t", ";", ",")


class Report(NamedTuple):
    """A table: what messages call it, the names of its columns, and how to get those of a plan."""

    source: str
    columns: tuple[str, ...]
    take: Callable[[Plan], pd.DataFrame]


def open_report(report: Any, decimal: str = ".") -> Report:
    """A DataFrame (pandas, or what has ``to_pandas``) or the path of a file, of which only the names are read.

    Raises
    ------
    DataError
        It is none of these, there is no such file, or it cannot be read.
    """
    if decimal not in (".", ","):
        raise DataError(f"decimal={decimal!r} must be '.' or ','.")
    if isinstance(report, str | os.PathLike):
        return _of_file(at_home(Path(report)), decimal)
    names = [str(name) for name in getattr(report, "column_names", getattr(report, "columns", ()))]
    if isinstance(report, pd.DataFrame):
        return _named("The table", names, lambda plan: _columns(report, names, _needed(plan)))
    if hasattr(report, "to_pandas") and hasattr(report, "select"):  # polars, pyarrow
        return _named("The table", names, lambda plan: report.select(_needed(plan)).to_pandas())
    raise DataError(
        f"A report is a DataFrame or the path of a file ({', '.join((*_PARQUET, *_TEXT))}), not {type(report).__name__}."
    )


def _named(source: str, names: Sequence[str], take: Callable[[Plan], pd.DataFrame]) -> Report:
    twice = pd.Index(names)[pd.Index(names).duplicated()]
    if len(twice):
        raise DataError(f"{source} has several columns of the name `{twice[0]}`: rename or drop all but one.")
    return Report(source, tuple(names), take)


def _columns(frame: pd.DataFrame, names: Sequence[str], needed: Sequence[str]) -> pd.DataFrame:
    return frame.iloc[:, [names.index(name) for name in needed]].set_axis(list(needed), axis=1)


def _needed(plan: Plan) -> list[str]:
    return list(dict.fromkeys((*plan.labels, *plan.numbers)))


def _of_file(path: Path, decimal: str) -> Report:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    plain = path.with_suffix("") if path.suffix in _PACKED else path
    if path.suffix in _PARQUET:
        return _of_parquet(path)
    if plain.suffix not in _TEXT:
        raise DataError(
            f"{path}: how to read it does not show from its name, which should end with one of "
            f"{', '.join((*_PARQUET, *_TEXT))} (text may be packed: {', '.join(_PACKED)})."
        )
    return _of_text(path, decimal)


def _of_parquet(path: Path) -> Report:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path.name} needs pyarrow: pip install 'donorwise[parquet]', or give a text file.") from error
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({reason(error)}). Is it whole?") from error
    texts = {field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)}

    def take(plan: Plan) -> pd.DataFrame:
        needed = _needed(plan)
        try:
            table = pq.read_table(path, columns=needed, read_dictionary=sorted(texts.intersection(plan.labels)))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as Parquet ({reason(error)}). Is it whole?") from error
        return table.to_pandas(ignore_metadata=True)

    return _named(str(path), schema.names, take)


def _of_text(path: Path, decimal: str) -> Report:
    try:
        with _PACKED.get(path.suffix, open)(path, "rt", encoding="utf-8-sig") as lines:
            header, first = lines.readline(), lines.readline()
    except (OSError, UnicodeDecodeError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as text ({reason(error)}).") from error
    separator = max(_SEPARATORS, key=header.count)
    n_names, n_fields = (len(next(csv.reader([line], delimiter=separator), ())) for line in (header, first))
    if n_fields > n_names:  # pandas would take the first columns for names of rows, and shift all others
        raise DataError(
            f"{path} has {n_names} columns in its first line and {n_fields} in the next one, with {separator!r} between them. "
            "Are commas both between columns and in numbers?"
        )
    how: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig", "keep_default_na": False, "index_col": False}
    names = [str(name) for name in pd.read_csv(path, nrows=0, **how).columns] if header.strip() else []

    def take(plan: Plan) -> pd.DataFrame:
        # Labels have no word that stands for "missing" ("NA" may be a run), numbers have several; see `as_numbers`.
        words = dict.fromkeys(plan.numbers, ["", "NA", "NaN"])
        labels: dict[Any, Any] = dict.fromkeys(plan.labels, "str")
        try:
            with pd.read_csv(
                path, usecols=_needed(plan), dtype=labels, decimal=decimal, na_values=words, chunksize=_CHUNK, **how
            ) as chunks:  # of text, which takes much memory until it is codes
                parts = [chunk.astype(dict.fromkeys(plan.labels, "category")) for chunk in chunks]
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:  # also of the parser, and of the encoding
            raise DataError(f"{path} cannot be read as a table ({reason(error)}). Is it whole?") from error
        found = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in plan.numbers}
        found |= {name: _plain(union_categoricals([part[name] for part in parts])) for name in plan.labels}
        return pd.DataFrame(found)

    return _named(str(path), names, take)


def _plain(column: pd.Categorical) -> pd.Series:
    """A column of labels; as numbers if all of them are whole numbers, as they are in other kinds of tables."""
    names = list(column.categories)
    written = [name for name in names if name]
    if not written or not all(len(own) < 16 and own.isdecimal() and str(int(own)) == own for own in written):
        return pd.Series(column)
    numbers = np.array([float(own or "nan") for own in names])[column.codes]
    return pd.Series(numbers if "" in names else numbers.astype(np.int64))
