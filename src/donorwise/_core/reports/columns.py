"""Columns of a table as numbers, labels and flags, and the rows that rules keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.design.design import combine, first_rows
from donorwise._core.reports.kinds import Rule
from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DataError

MISSING = ("", "na", "nan", "n/a", "#n/a", "null", "none", "filtered")
"""Words that stand for no number, in small letters; Spectronaut writes "Filtered"."""

_YES, _NO = ("+", "1", "1.0", "true", "t", "yes", "y"), ("", "-", "0", "0.0", "false", "f", "no", "n")


class Labels(NamedTuple):
    """Codes of rows, (N,), -1 where there is none, and what they mean, sorted."""

    codes: IntArray
    names: tuple[str, ...]


def as_numbers(column: pd.Series, source: str, decimal: str = ".") -> FloatArray:
    """A column as doubles, NaN where it is empty or says so.

    Raises
    ------
    DataError
        Some text is no number.
    """
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    codes, uniques = pd.factorize(column)
    text = pd.Series([str(own).strip() for own in uniques], dtype=object)
    plain = text.str.replace(".", "?", regex=False).str.replace(",", ".", regex=False) if decimal == "," else text
    numbers = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.isnan(numbers) & ~text.str.casefold().isin(MISSING).to_numpy(dtype=bool)
    if wrong.any():
        n = int(np.isin(codes, np.flatnonzero(wrong)).sum())
        raise DataError(_no_numbers(list(text[wrong][:3]), n, str(column.name), source, decimal))
    return np.append(numbers, np.nan)[codes]


def _no_numbers(some: Sequence[str], n: int, name: str, source: str, decimal: str) -> str:
    advice = "Correct them, or name another column."
    if decimal == "." and all("," in text for text in some):
        advice = "If the comma is the decimal sign, give decimal=','."
    elif decimal == "," and all("." in text for text in some):
        advice = "With decimal=',' a number has no point: leave decimal= out, or remove the marks of thousands."
    return (
        f"{source}: `{name}` holds text that is no number in {n:,} rows, such as {', '.join(map(repr, some))}. {advice}"
    )


def as_labels(column: pd.Series) -> Labels:
    """A column as text; whole numbers are written without a point, and blanks are missing."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, uniques = column.cat.codes.to_numpy(dtype=np.int64), column.cat.categories
    else:
        codes, uniques = pd.factorize(column)
    texts = np.array([_text(own) for own in uniques], dtype=object)
    names, place = np.unique(texts.astype(str), return_inverse=True)
    place = np.append(place.astype(np.int64), -1)
    if names.size and names[0] == "":
        names, place = names[1:], place - (place >= 0)
    return Labels(place[codes], tuple(map(str, names)))


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    return text if text.strip() else ""


def joined(parts: Sequence[Labels], n_rows: int, source: str, columns: Sequence[str]) -> Labels:
    """Names that columns make together, with underscores between them; -1 where one is missing.

    Raises
    ------
    DataError
        Two combinations would have one name.
    """
    if len(parts) == 1:
        return parts[0]
    known = np.logical_and.reduce([part.codes >= 0 for part in parts])
    rows = np.flatnonzero(known)
    codes, size = combine([(part.codes[rows], max(len(part.names), 1)) for part in parts], rows.size)
    first = rows[first_rows(codes, size)]
    texts = [np.array(part.names, dtype=object)[part.codes[first]] for part in parts]
    names, place = np.unique(
        np.array(["_".join(own) for own in zip(*texts, strict=True)], dtype=str), return_inverse=True
    )
    if names.size < size:
        twice = str(names[np.argmax(np.bincount(place))])
        raise DataError(f"{source}: different values of {' and '.join(columns)} make the same name, {twice!r}.")
    all_codes = np.full(n_rows, -1, dtype=np.int64)
    all_codes[rows] = place[codes]
    return Labels(all_codes, tuple(map(str, names)))


def used(labels: Labels) -> Labels:
    """The labels that rows have."""
    seen = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.names)) > 0
    place = np.append(np.cumsum(seen) - 1, -1)
    return Labels(place[labels.codes], tuple(name for name, own in zip(labels.names, seen, strict=True) if own))


def kept_by(column: pd.Series, rule: Rule, source: str, decimal: str = ".") -> BoolArray:
    """Which rows a rule keeps; those without a value go, but for flags, where it means no.

    Raises
    ------
    DataError
        The column is not of the kind that the rule is for.
    """
    if isinstance(rule, bool):
        return _flags(column, source) == rule
    if isinstance(rule, str) or not isinstance(rule, int | float | tuple):
        labels, wanted = as_labels(column), {rule} if isinstance(rule, str) else set(map(str, rule))
        return np.append([name in wanted for name in labels.names], False)[labels.codes]
    low, high = rule if isinstance(rule, tuple) else (None, rule)
    values = as_numbers(column, source, decimal)
    return (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))


def _flags(column: pd.Series, source: str) -> BoolArray:
    labels = as_labels(column)
    texts = [name.strip().casefold() for name in labels.names]
    odd = [name for name, text in zip(labels.names, texts, strict=True) if text not in _YES + _NO]
    if odd:
        raise DataError(f"{source}: `{column.name}` is no column of flags; it holds {', '.join(map(repr, odd[:3]))}.")
    return np.append([text in _YES for text in texts], False)[labels.codes].astype(bool)


def begins_with(labels: Labels, prefixes: Sequence[str]) -> BoolArray:
    """Which rows have a name (of several, with semicolons between them) that begins so, whatever the capitals."""
    starts = tuple(prefix.casefold() for prefix in prefixes)
    marked = [any(own.strip().startswith(starts) for own in name.casefold().split(";")) for name in labels.names]
    return np.append(marked, False)[labels.codes].astype(bool)


def constant_within(column: pd.Series, group: Labels, source: str, option: str, what: str) -> pd.Series:
    """The one value that the rows of every group have, by group; missing where none has any.

    Raises
    ------
    DataError
        Rows of one group have different values.
    """
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    codes, uniques = pd.factorize(column) if numeric else as_labels(column)
    known = codes >= 0
    value = np.full(len(group.names), -1, dtype=np.int64)
    value[group.codes[known][::-1]] = codes[known][::-1]
    wrong = np.flatnonzero(known & (codes != value[group.codes]))
    if wrong.size:
        n, first = np.unique(group.codes[wrong]).size, wrong[0]
        both = f"{uniques[value[group.codes[first]]]!s} and {uniques[codes[first]]!s}"
        raise DataError(
            f"{source}: `{column.name}` differs between rows of the same {what}, of {n:,} in all: {group.names[group.codes[first]]!r} has {both}. "
            f"Leave it out of {option}=, or make it the same."
        )
    return _taken(pd.Index(uniques), value, numeric)


def _taken(uniques: pd.Index, place: IntArray, numeric: bool) -> pd.Series:
    """Values by place, of which -1 is missing: text as categories, numbers as numbers."""
    if not numeric:
        return pd.Series(pd.Categorical.from_codes(place, list(uniques))).cat.remove_unused_categories()
    found = pd.Series(uniques.take(np.maximum(place, 0)) if len(uniques) else np.full(place.size, np.nan))
    return found.where(place >= 0) if (place < 0).any() else found
