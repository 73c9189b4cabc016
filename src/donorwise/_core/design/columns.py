"""Columns of obs as a design needs them: plain floats, or codes of a category."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.terms import pointer
from donorwise._core.wording import suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, IntArray

_TIMES = {
    **dict.fromkeys(("datetime", "datetime64", "date"), "date"),
    **dict.fromkeys(("timedelta", "timedelta64"), "duration"),
    "period": "period",
    "time": "time",
}


def check_obs(obs: object, names: Sequence[str], source: str) -> None:
    """Raise unless `obs` is a DataFrame that holds each of `names` once."""
    if not isinstance(obs, pd.DataFrame):
        raise DesignError(f"obs must be a pandas DataFrame with one row per observation, not {type(obs).__name__}.")
    for name in names:
        count = int(np.sum(obs.columns == name))
        if count > 1:
            raise DesignError(f"obs has {count} columns named `{name}`; names in a formula must be unique.")
        if count == 0:
            raise DesignError(_missing(name, [str(c) for c in obs.columns], source))


def read_column(column: pd.Series, name: str, *, categorical: bool) -> pd.Series:
    """Return a column as float64 (missing values NaN) or as an unordered categorical.

    Parameters
    ----------
    categorical
        Whether numbers are labels too, as in a grouping factor.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return column.cat.as_unordered() if dtype.ordered else column
    kind = _kind(column)
    if kind in ("complex", *_TIMES.values()) and not categorical:
        advice = "convert it to a number first, such as days since the first visit"
        raise DesignError(f"`{name}` holds {kind} values, which a model cannot use; {advice}.")
    if kind == "boolean":
        codes = column.astype("boolean").to_numpy(dtype=np.int8, na_value=-1)
        return pd.Series(pd.Categorical.from_codes(codes, categories=[False, True]), index=column.index)
    if kind == "number":
        values = pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
        return _labels_of_numbers(values) if categorical else values
    if kind != "string" and not categorical:
        advice = "convert it to numbers or to text (`obs[...].astype(str)`)"
        raise DesignError(f"`{name}` mixes types of values ({kind}); {advice}.")
    text = column if kind == "string" else column.where(column.isna(), column.astype(str))
    return text.astype("category")


def check_finite(values: np.ndarray, name: str) -> None:
    """Raise when a numeric column in use holds an infinite value."""
    n_infinite = int(np.isinf(values).sum())
    if n_infinite:
        raise DesignError(f"`{name}` is infinite in {n_infinite:,} rows; make these missing (NaN), or repair them.")


def complete_rows(columns: Sequence[pd.Series], n_rows: int) -> BoolArray:
    """Mark the rows in which no column misses a value."""
    complete = np.ones(n_rows, dtype=bool)
    for column in columns:
        complete &= column.notna().to_numpy()
    return complete


def used_categories(values: pd.Categorical) -> pd.Categorical:
    """Labels without the categories that no row has; none is missing."""
    seen = np.bincount(values.codes, minlength=len(values.categories)) > 0
    if seen.all():
        return values
    return pd.Categorical.from_codes((np.cumsum(seen) - 1)[values.codes], categories=values.categories[seen])


def label_codes(column: pd.Series) -> tuple[IntArray, int]:
    """Codes in the order of categories or values, missing values last, and their number."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, n = column.cat.codes.to_numpy().astype(np.int64), len(column.cat.categories)
    else:
        found, uniques = pd.factorize(column, sort=True)
        codes, n = found.astype(np.int64), len(uniques)
    return np.where(codes < 0, n, codes), n + 1


def _kind(column: pd.Series) -> str:
    dtype = column.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_complex_dtype(dtype):
        return "complex"
    if pd.api.types.is_numeric_dtype(dtype):
        return "number"
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal"):
        return "number"
    if inferred == "empty":
        return "number"
    return _TIMES.get(inferred, inferred)


def _labels_of_numbers(values: pd.Series) -> pd.Series:
    """Turn numbers into labels; whole numbers that became floats for lack of a value are whole again."""
    codes, levels = pd.factorize(values, sort=True)
    levels = np.asarray(levels, dtype=np.float64)
    if np.all(np.isfinite(levels)) and np.all(levels == np.round(levels)) and np.all(np.abs(levels) < 2**53):
        levels = levels.astype(np.int64)
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(levels)), index=values.index)


def _missing(name: str, available: list[str], source: str) -> str:
    """Say that a column is not in obs, with the names that come close and the place in the formula."""
    hint = "`dw.pp.log_depth(adata)` adds it." if name == "log_depth" else suggestion(name, available, "it has")
    message = f"`{name}` is not a column of obs; {hint}"
    place = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", source)
    return message + (pointer(source, place.start(), place.end()) if place else f"\n    {source}")
