"""Columns of obs, taken out of the AnnData as ordinary pandas data."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import anndata as ad


def suggest(name: str, known: Iterable[str], *, limit: int = 15) -> str:
    """End of an error message: what `name` may have meant, or else what there is."""
    names = [str(k) for k in known]
    if not names:
        return "There are none."
    close = get_close_matches(str(name), names, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return f"There are: {', '.join(repr(n) for n in names[:limit])}{more}."


def check_obs_columns(adata: ad.AnnData, columns: Iterable[str]) -> None:
    """Raise unless every one of `columns` is in ``adata.obs``."""
    known = list(adata.obs.columns)
    for column in columns:
        if known.count(column) > 1:
            raise DesignError(
                f"adata.obs has {known.count(column)} columns called {column!r}: give them different names."
            )
        if column not in known:
            raise DesignError(f"adata.obs has no column {column!r}. {suggest(column, known)}")


def obs_frame(adata: ad.AnnData, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return columns of ``adata.obs`` (all for None) as a DataFrame in memory, index kept.

    Raises
    ------
    DesignError
        A column is not there; the message names close matches.
    """
    names = list(adata.obs.columns) if columns is None else list(dict.fromkeys(columns))
    check_obs_columns(adata, names)
    frame = as_frame(adata.obs[names]).copy()
    for name, dtype in frame.dtypes.items():
        if isinstance(dtype, pd.ArrowDtype) or dtype == np.float16:
            frame[name] = _usual(frame[name])
    return frame


def _usual(column: pd.Series) -> pd.Series:
    """A column of pyarrow, or of half floats, in the form that every part of pandas and of the file formats knows."""
    dtype: Any = column.dtype
    kind = getattr(dtype, "kind", "f")
    if kind == "b":
        return column.astype("boolean") if column.hasnans else column.astype(bool)
    if kind in "iu":
        return column.astype("Int64") if column.hasnans else column.astype(np.int64)
    if kind == "f":
        return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index, name=column.name)
    if "dictionary" in str(dtype):
        return pd.Series(pd.Categorical(column.astype(object)), index=column.index, name=column.name)
    if kind == "U":  # not every anndata that is supported can write such categories
        return pd.Series(column.to_numpy(dtype=object, na_value=np.nan), index=column.index, name=column.name)
    return column


def as_frame(table: Any) -> pd.DataFrame:
    """Obs or var as a DataFrame; ad.experimental.read_lazy keeps them in xarray until they are asked for."""
    return pd.DataFrame(table if isinstance(table, pd.DataFrame) else table.to_memory())


def computed(value: Any) -> Any:
    """A value of ``uns``; ad.experimental.read_lazy keeps even texts there as dask arrays."""
    return value.compute() if hasattr(value, "compute") else value


def read_colors(adata: ad.AnnData, column: str) -> dict[str, str]:
    """Return the colours that ``uns`` keeps for the levels of a categorical column, as scanpy stores them."""
    stored = computed(adata.uns.get(f"{column}{keys.COLORS_SUFFIX}"))
    if stored is None or column not in adata.obs.columns:
        return {}
    values = obs_frame(adata, [column])[column]
    if not isinstance(values.dtype, pd.CategoricalDtype) or len(stored) < len(values.cat.categories):
        return {}
    return {str(level): str(color) for level, color in zip(values.cat.categories, stored, strict=False)}
