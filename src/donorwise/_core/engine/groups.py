"""The groups that are fitted for themselves: the columns that make them, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.design import combine, first_rows
from donorwise._core.design.terms import check_column
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, GroupBy, IntArray, Label

BETWEEN = " | "
"""Between the levels of a group of several columns: ``"T cell | lung"``."""


def group_columns(groupby: Any) -> tuple[str, ...]:
    """The columns that `groupby` names (as `GroupBy`, if it is right), in its order.

    Raises
    ------
    DesignError
        It names something else than columns, or one twice.
    """
    if groupby is None or isinstance(groupby, str):
        return (groupby,) if groupby else ()
    names: tuple[Any, ...] = tuple(groupby) if isinstance(groupby, Iterable) else (groupby,)
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong:
        raise DesignError(
            f"groupby= names columns of obs, such as 'cell_type' or ['cell_type', 'tissue'], not {wrong[0]!r}."
        )
    if len(set(names)) < len(names):
        raise DesignError(f"groupby={list(names)!r} names a column twice.")
    return names


def stored_columns(columns: Sequence[str]) -> str | list[str]:
    """The columns as params hold them: empty text for none, the name of one, a list of several."""
    return columns[0] if len(columns) == 1 else list(columns) if columns else ""


def group_text(groupby: GroupBy) -> str:
    """The columns in words, as the groups themselves are called."""
    return BETWEEN.join(group_columns(groupby))


def group_name(label: Label) -> str:
    """What a group is called."""
    return BETWEEN.join(map(str, label)) if isinstance(label, tuple) else str(label)


def group_names(wanted: Any, known: Iterable[str]) -> list[str]:
    """Names of the groups that a caller names, one or several (as `Groups`, not None); those that are not `known` stay as they are.

    A tuple is a level of each column if there is such a group, and else several groups.

    Examples
    --------
    >>> group_names(("T cell", "lung"), ["T cell | lung", "B cell | lung"]), group_names([1, "2"], ["1", "2"])
    (['T cell | lung'], ['1', '2'])
    """
    if isinstance(wanted, tuple) and group_name(wanted) in set(known):
        return [group_name(wanted)]
    several = isinstance(wanted, Iterable) and not isinstance(wanted, str)
    return [group_name(label) for label in wanted] if several else [group_name(wanted)]


def group_labels(obs: pd.DataFrame, columns: Sequence[str]) -> pd.Categorical:
    """The group of every row, in the order of the columns' levels; the names are text, missing where a column is.

    Raises
    ------
    DesignError
        A column is not there, every row misses a value, or two groups have the same name.
    """
    for name in columns:
        check_column(obs, "groupby", name)
    parts = [obs[name].astype("category").cat.remove_unused_categories() for name in columns]
    codes, present = _combined([part.cat.codes.to_numpy() for part in parts], [len(p.cat.categories) for p in parts])
    given = stored_columns(columns)
    if present.shape[0] == 0:
        raise DesignError(f"Every value of groupby={given!r} is missing.")
    levels = [[str(level) for level in part.cat.categories] for part in parts]
    names = [BETWEEN.join(own[i] for own, i in zip(levels, row, strict=True)) for row in present]
    if len(set(names)) < len(names):
        raise DesignError(f"Levels of groupby={given!r} have the same name as text, such as 1 and '1'; rename them.")
    return pd.Categorical.from_codes(codes, categories=names)


def in_group(obs: pd.DataFrame, columns: Sequence[str], group: str) -> BoolArray:
    """Which rows are in a group; all of them where no columns make groups."""
    return np.asarray(group_labels(obs, columns) == group) if columns else np.ones(len(obs), dtype=bool)


def _combined(codes: Sequence[IntArray], sizes: Sequence[int]) -> tuple[IntArray, IntArray]:
    """Codes of the combinations that occur, -1 where a code is, and the codes (combinations, columns) of each."""
    complete = np.all([own >= 0 for own in codes], axis=0)
    out = np.full(complete.size, -1, dtype=np.int64)
    if not complete.any():
        return out, np.empty((0, len(codes)), dtype=np.int64)
    own, n = combine([(c[complete], size) for c, size in zip(codes, sizes, strict=True)], int(complete.sum()))
    out[complete] = own
    first = np.flatnonzero(complete)[first_rows(own, n)]
    return out, np.stack([c[first] for c in codes], axis=1).astype(np.int64)
