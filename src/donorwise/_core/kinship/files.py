"""Kernels in the files of GCTA, PLINK and GEMMA, and in square tables."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.kinship.tables import read_ids
from donorwise._typing import FloatArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ASYMMETRY = 1e-4
"""What rounding in a text file may do to the two halves, relative to the largest value."""


class KernelFile(NamedTuple):
    """What a file holds: K, (n, n); names of its rows, None where the file has none; what is known of it."""

    values: FloatArray
    names: tuple[str, ...] | None
    attrs: dict[str, Any]


class Layout(NamedTuple):
    """How a matrix of n rows may be written: square, or its lower half, with the diagonal or without."""

    diagonal: bool
    square: bool = True


_REL, _KING, _GRM = Layout(True), Layout(False), Layout(True, square=False)


def read_kernel_file(path: Path) -> KernelFile:
    """Read a file by the ending of its name; a prefix of GCTA's files will do.

    Raises
    ------
    DataError
        There is no such file, its ending is not known, it is not what its ending says, or K is not symmetric.
    """
    path = next((p for p in (path, _added(path, ".grm.bin"), _added(path, ".bin")) if p.is_file()), path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    reader = next((read for ending, read in _READERS.items() if path.name.endswith(ending)), None)
    if reader is None:
        raise DataError(
            f"{path}: how to read it does not show from its name; it should end with one of {', '.join(_READERS)}."
        )
    try:
        found = reader(path)
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    return found._replace(values=_symmetric(found.values, path))


def _added(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _grm_bin(path: Path) -> KernelFile:
    names = read_ids(path.with_suffix(".id"))
    counts = path.with_name(path.name.removesuffix(".bin") + ".N.bin")
    attrs: dict[str, Any] = {"method": "gcta"}
    if counts.is_file():
        attrs["n_variants"] = int(np.median(np.fromfile(counts, dtype=np.float32)))
    return KernelFile(_unpacked(path, len(names), _GRM), names, attrs)


def _grm_text(path: Path) -> KernelFile:
    names = read_ids(path.with_name(path.name.removesuffix(".gz") + ".id"))
    try:
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=np.float64).to_numpy()
    except ValueError as error:  # also an empty file
        raise DataError(f"{path} is no list of pairs of donors: {error}.") from error
    n = len(names)
    if table.shape != (n * (n + 1) // 2, 4) or table[:, :2].max() > n or table[:, :2].min() < 1:
        raise DataError(
            f"{path} should have {n * (n + 1) // 2:,} lines of four numbers for the {n:,} donors of its .id."
        )
    rows, columns = (table[:, i].astype(int) - 1 for i in (0, 1))
    values = np.zeros((n, n))
    values[rows, columns] = values[columns, rows] = table[:, 3]
    return KernelFile(values, names, {"method": "gcta", "n_variants": int(np.median(table[:, 2]))})


def _rel(path: Path) -> KernelFile:
    values, names = _plink(path, _REL)
    return KernelFile(values, names, {"method": "plink"})


def _king(path: Path) -> KernelFile:
    """Twice the kinship coefficients; the file's lower half leaves out those with oneself, which are 1/2."""
    values, names = _plink(path, _KING)
    return KernelFile(2 * values, names, {"method": "king", "scale": "twice the kinship coefficient"})


def _plink(path: Path, layout: Layout) -> tuple[FloatArray, tuple[str, ...]]:
    binary = path.suffix == ".bin"
    names = read_ids(_added(path.with_suffix("") if path.suffix in (".bin", ".gz") else path, ".id"))
    return (_unpacked if binary else _from_text)(path, len(names), layout), names


def _gemma(path: Path) -> KernelFile:
    """GEMMA keeps the order of the ``.fam``; its own files have no names."""
    kind = path.name.split(".")[-2]
    fam = path.with_name(path.name.removesuffix(f".{kind}.txt") + ".fam")
    values = _from_text(path, None, _REL)
    return KernelFile(
        values, read_ids(fam) if fam.is_file() else None, {"method": "centered" if kind == "cXX" else "standardized"}
    )


def _unpacked(path: Path, n: int, layout: Layout) -> FloatArray:
    """A binary file of float32 or float64, which of them its size tells."""
    sizes = {n * (n + 1) // 2 if layout.diagonal else n * (n - 1) // 2: False} | (
        {n * n: True} if layout.square else {}
    )
    found = path.stat().st_size
    for size, is_square in sizes.items():
        for dtype in (np.float32, np.float64):
            if found == size * np.dtype(dtype).itemsize:
                raw = np.fromfile(path, dtype=dtype).astype(np.float64)
                return _mirrored(raw.reshape(n, n)) if is_square else _of_half(raw, n, diagonal=layout.diagonal)
    raise DataError(
        f"{path} has {found:,} bytes, which is no matrix of the {n:,} donors of its .id: it is cut off, or the .id of other data."
    )


def _from_text(path: Path, n: int | None, layout: Layout) -> FloatArray:
    rows = [_numbers(line.split(), path, i) for i, line in enumerate(_lines(path))]
    lengths = [len(row) for row in rows]
    is_half = lengths == list(range(1, len(rows) + 1))
    size = len(rows) + (is_half and not layout.diagonal)
    if n is not None and size != n:
        raise DataError(
            f"{path} has {len(rows):,} rows for the {n:,} donors of its .id: it is cut off, or the .id of other data."
        )
    if is_half:
        return _of_half(np.concatenate(rows), size, diagonal=layout.diagonal)
    if lengths != [size] * size:
        raise DataError(
            f"{path} is neither a square nor one half of it: its {len(rows):,} rows have {min(lengths, default=0):,} to "
            f"{max(lengths, default=0):,} numbers."
        )
    return _mirrored(np.array(rows))


def _numbers(fields: Sequence[str], path: Path, row: int) -> FloatArray:
    try:
        return np.array(fields, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}, row {row + 1:,}: {error}.") from error


def _of_half(values: FloatArray, n: int, *, diagonal: bool) -> FloatArray:
    """The matrix whose lower half, row by row, is given; the coefficient with oneself is 1/2 where that has no diagonal."""
    whole = np.eye(n) / 2
    rows, columns = np.tril_indices(n, 0 if diagonal else -1)
    whole[rows, columns] = whole[columns, rows] = values
    return whole


def _mirrored(values: FloatArray) -> FloatArray:
    """A square whose upper half may have been written as zeros (PLINK's ``square0``)."""
    lower = np.tril(values, -1)
    return values if np.triu(values, 1).any() else values + lower.T


def _lines(path: Path) -> Iterator[str]:
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig") as lines
    ):
        yield from (line for line in lines if line.strip())


def _delimited(delimiter: str | None) -> Callable[[Path], KernelFile]:
    def read(path: Path) -> KernelFile:
        lines = _lines(path)
        rows = map(str.split, lines) if delimiter is None else csv.reader(lines, delimiter=delimiter)
        return _labelled(
            next(iter(rows), []), [(row[0], _numbers(row[1:], path, i)) for i, row in enumerate(rows, 1)], path
        )

    return read


def _labelled(header: list[str], rows: list[tuple[str, FloatArray]], path: Path) -> KernelFile:
    """A square table with names on both sides (R leaves the corner out), above it, or nowhere.

    Of every row but the first one its first field, and the numbers that follow it.
    """
    n, lengths = len(rows), {len(values) + 1 for _, values in rows}
    first = [name for name, _ in rows]
    if lengths == {n + 1} and len(header) in (n, n + 1):
        values = np.array([values for _, values in rows])
        if len(header) == n + 1 and _is_number(header[0]):
            return KernelFile(
                np.vstack([_numbers(header, path, 0), np.column_stack([_numbers(first, path, 1), values])]), None, {}
            )
        return KernelFile(_aligned(values, first, header[-n:], path), tuple(first), {})
    if lengths == {n} and len(header) == n:
        whole = np.column_stack([_numbers(first, path, 1), np.array([values for _, values in rows])])
        return KernelFile(whole, tuple(header), {})
    raise DataError(
        f"{path} is no square table: it has {n + bool(header):,} lines, of {min(lengths, default=len(header)):,} to "
        f"{max(lengths, default=len(header)):,} fields."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _aligned(values: FloatArray, rows: Sequence[str], columns: Sequence[str], path: Path) -> FloatArray:
    """With the columns in the order of the rows."""
    if list(rows) == list(columns):
        return values
    place = {name: i for i, name in enumerate(columns)}
    if len(place) < len(columns) or set(rows) != set(columns):
        others = [name for name in rows if name not in place]
        raise DataError(
            f"{path}: the names of rows and columns differ{f' (`{others[0]}` is a row only)' if others else ''}."
        )
    return values[:, [place[name] for name in rows]]


def _parquet(path: Path) -> KernelFile:
    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise DataError(f"{path.name} needs pyarrow: pip install 'donorwise[parquet]'.") from error
    if len(table.columns) and not pd.api.types.is_numeric_dtype(table.dtypes.iloc[0]):
        table = table.set_index(table.columns[0])
    if table.shape[0] != table.shape[1]:
        raise DataError(
            f"{path} is no square table: it has {table.shape[0]:,} rows and {table.shape[1]:,} columns of numbers."
        )
    columns = [str(name) for name in table.columns]
    names = columns if isinstance(table.index, pd.RangeIndex) else [str(name) for name in table.index]
    try:
        values = table.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} does not hold numbers alone ({error}).") from error
    return KernelFile(_aligned(values, names, columns, path), tuple(names), {})


def _symmetric(values: FloatArray, path: Path) -> FloatArray:
    """The mean of both halves, which rounding has made differ."""
    if len(values) < 2:
        raise DataError(f"{path} has {len(values)} donors.")
    if not np.isfinite(values).all():
        row, column = (int(at[0]) + 1 for at in np.nonzero(~np.isfinite(values)))
        raise DataError(f"{path} has no number in row {row:,}, column {column:,}.")
    apart = np.abs(values - values.T)
    if apart.max() > _ASYMMETRY * np.abs(values).max():
        row, column = divmod(int(apart.argmax()), len(apart))
        raise DataError(
            f"{path} is not symmetric: {values[row, column]:g} in row {row + 1:,}, column {column + 1:,}, and "
            f"{values[column, row]:g} in row {column + 1:,}, column {row + 1:,}."
        )
    return (values + values.T) / 2


_READERS: dict[str, Callable[[Path], KernelFile]] = {
    ".grm.bin": _grm_bin,
    ".grm.gz": _grm_text,
    ".grm": _grm_text,
    ".rel": _rel,
    ".rel.gz": _rel,
    ".rel.bin": _rel,
    ".king": _king,
    ".king.bin": _king,
    ".cXX.txt": _gemma,
    ".sXX.txt": _gemma,
    ".csv": _delimited(","),
    ".csv.gz": _delimited(","),
    ".tsv": _delimited("\t"),
    ".tsv.gz": _delimited("\t"),
    ".txt": _delimited(None),
    ".parquet": _parquet,
}
