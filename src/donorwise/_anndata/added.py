"""What is asked of a result after the fit, kept beside it in the same entry of ``uns``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.read import check_result, features_there, read_params, still_there
from donorwise._anndata.sources import put_uns
from donorwise._anndata.write import ROW, holds_derived, storable, storable_table, write_results
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import anndata as ad

    from donorwise._typing import FloatArray


def write_added(
    adata: ad.AnnData,
    key: str,
    name: str,
    table: pd.DataFrame,
    by: Sequence[str],
    params: Mapping[str, Any] | None = None,
) -> None:
    """Keep a table with the result `key`; rows that were there stay, unless the new ones have their values of `by`.

    Parameters
    ----------
    adata
        Changed in place.
    key, name
        Entry of ``uns``, and what the table is called in it.
    table
        Long table with the columns variable and group.
    by
        Columns by which rows are replaced, such as group and term.
    params
        Put among those of the result, with the table's name before theirs.
    """
    check_result(adata, key)
    entry = dict(adata.uns[key])
    if name in entry:
        table = _replaced(pd.DataFrame(entry[name]), table, by)
    entry[name] = storable_table(table.reset_index(drop=True))
    said = {f"{name}_{own}": storable(own, value) for own, value in (params or {}).items()}
    entry[keys.PARAMS] = {**entry[keys.PARAMS], **said}
    put_uns(adata, key, entry)


def read_added(adata: ad.AnnData, key: str, name: str, *, made_by: str) -> pd.DataFrame:
    """Read a table that was added to the result `key`, for the features that are still in the AnnData.

    Raises
    ------
    DataError
        There is none; the message names the tool that makes it.
    """
    check_result(adata, key)
    if name not in adata.uns[key]:
        raise DataError(f"{key!r} has none of these yet: run {made_by} first.")
    table, there = pd.DataFrame(adata.uns[key][name]), features_there(adata, read_params(adata, key))
    return (table if there is None else still_there(table, there, key)).reset_index(drop=True)


def write_columns(adata: ad.AnnData, key: str, columns: Mapping[str, FloatArray]) -> None:
    """Put columns beside the tests of a result, in the order of all its rows (see `read_every_test`)."""
    check_result(adata, key)
    entry = dict(adata.uns[key])
    entry[keys.RESULTS] = pd.DataFrame(entry[keys.RESULTS]).assign(**columns)
    put_uns(adata, key, entry)


def extend_results(
    adata: ad.AnnData, key: str, tables: Mapping[str, pd.DataFrame], params: Mapping[str, Any], changed: Collection[str]
) -> None:
    """Put in place of a result the same one with more contrasts; what was added to it stays.

    Parameters
    ----------
    adata
        Changed in place.
    key
        Entry of ``uns``.
    tables, params
        Those of the run that asked for all contrasts (see :class:`donorwise._core.engine.run.Result`).
    changed
        Contrasts that mean something else than they did: what was worked out of them is left out.
    """
    old = dict(adata.uns[key])
    names = [f"{key}{suffix}" for suffix in keys.DERIVED_SUFFIXES]
    derived = {} if changed else {name: adata.uns[name] for name in names if holds_derived(adata, name)}
    said = {name: value for name, value in old[keys.PARAMS].items() if name.startswith(keys.ADDED_TABLES)}
    write_results(adata, key, params=params, **tables)
    entry = dict(adata.uns[key])
    entry |= {name: _without(pd.DataFrame(old[name]), changed) for name in keys.ADDED_TABLES if name in old}
    entry[keys.PARAMS] = {**entry[keys.PARAMS], **said}
    entry[keys.RESULTS] = _with_columns(entry[keys.RESULTS], pd.DataFrame(old[keys.RESULTS]), changed)
    for name, value in {key: entry, **derived}.items():
        put_uns(adata, name, value)


def _without(table: pd.DataFrame, contrasts: Collection[str]) -> pd.DataFrame:
    """The rows that are of no such contrast."""
    return table[~table["contrast"].astype(str).isin(contrasts)] if "contrast" in table else table


def _with_columns(new: pd.DataFrame, old: pd.DataFrame, changed: Collection[str]) -> pd.DataFrame:
    """The tests with the columns that were worked out of the old ones, NaN for those that are new."""
    own = [name for name in keys.ADDED_COLUMNS if name in old]
    if not own:
        return new
    still = old[~old["contrast"].astype(str).isin(changed)]
    known = still[own].set_axis(pd.MultiIndex.from_frame(still[ROW].astype(str)))
    return new.assign(**known.reindex(pd.MultiIndex.from_frame(new[ROW].astype(str))).reset_index(drop=True))


def _replaced(old: pd.DataFrame, new: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rows of `old` whose values of `by` are not among those of `new`, then `new`; categories are those of both."""
    own, others = (pd.MultiIndex.from_frame(table[list(by)].astype(str)) for table in (new, old))
    texts = list(new.select_dtypes("category").columns)
    out = pd.concat([table.astype(dict.fromkeys(texts, object)) for table in (old[~others.isin(own)], new)])
    levels = {name: dict.fromkeys([*old[name].cat.categories, *new[name].cat.categories]) for name in texts}
    return out.assign(**{name: pd.Categorical(out[name], categories=list(own)) for name, own in levels.items()})
