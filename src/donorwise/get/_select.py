"""Choosing rows of the long tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata import suggest
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def choose(table: pd.DataFrame, column: str, wanted: str | Sequence[str] | None) -> pd.DataFrame:
    """Keep the rows whose categorical `column` is (one of) `wanted`; None keeps all of them.

    Raises
    ------
    DataError
        A wanted value does not occur; the message names close matches or lists what occurs.
    """
    if wanted is None:
        return table
    names = [wanted] if isinstance(wanted, str) else [str(w) for w in wanted]
    known = table[column].cat.categories
    for name in names:
        if name not in known:
            raise DataError(f"There is no {column} {name!r} in this result. {suggest(name, known)}")
    return table[table[column].isin(names)]


def choose_all(table: pd.DataFrame, **wanted: str | Sequence[str] | None) -> pd.DataFrame:
    """Keep the rows that are wanted in every column, tidied.

    Raises
    ------
    DataError
        A wanted value does not occur in its column.
    """
    for column, names in wanted.items():
        table = choose(table, column, names)
    return tidy(table)


def only_one(table: pd.DataFrame, column: str, wanted: str | None) -> str:
    """Return `wanted` if it occurs in `column`, or else the one value there is.

    Raises
    ------
    DataError
        `wanted` does not occur, or it is None and there are several values to choose from.
    """
    known = list(choose(table, column, wanted)[column].cat.categories)
    if wanted is not None:
        return wanted
    if len(known) != 1:
        raise DataError(f"This result has {len(known)} {column}s; choose one with {column}=. {suggest('', known)}")
    return str(known[0])


def present(table: pd.DataFrame, column: str) -> list[str]:
    """Values of a categorical column that occur, in the order of the categories."""
    return [str(name) for name in table[column].cat.remove_unused_categories().cat.categories]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Copy the chosen rows, with categories that do not occur in them left out and rows numbered from 0."""
    chosen = table.reset_index(drop=True).copy()
    for column in chosen.select_dtypes("category"):
        chosen[column] = chosen[column].cat.remove_unused_categories()
    return chosen
