"""Putting results and settings into ``uns``, in forms that every file format keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.read import check_format, check_result, check_text, holds_tables, read_results
from donorwise._anndata.sources import in_file, put_uns
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad


def write_results(
    adata: ad.AnnData,
    key: str,
    *,
    results: pd.DataFrame,
    varcomp: pd.DataFrame,
    icc: pd.DataFrame,
    variance_partition: pd.DataFrame,
    params: Mapping[str, Any],
    prior: pd.DataFrame | None = None,
    size_factors: pd.DataFrame | None = None,
    heritability: pd.DataFrame | None = None,
    kernels: pd.DataFrame | None = None,
    contrasts: pd.DataFrame | None = None,
) -> None:
    """Store one result as ``adata.uns[key]``, replacing what was there.

    Parameters
    ----------
    adata
        Changed in place, and only once everything is known to be storable.
    key
        Entry of ``uns``.
    results
        One row per variable x group x contrast, with the columns ``keys.RESULT_COLUMNS``; those of proteins have
        ``keys.PEPTIDE_COLUMNS`` too.
    varcomp, icc, variance_partition
        Long tables with the columns variable and group first.
    params
        Formula, options and counts: text, numbers, booleans, lists of them, or dicts of text or numbers.
    prior, size_factors, heritability, kernels, contrasts
        Long tables of the shared prior, of the units' depths, of shares of variance, of kernels and of the weights of
        contrasts; None where there are none.

    Raises
    ------
    DataError
        `key` or a value cannot be stored.
    """
    missing = [c for c in keys.RESULT_COLUMNS if c not in results.columns]
    if missing:
        raise DataError(f"The results table lacks the columns {', '.join(missing)}.")
    tables = {
        keys.RESULTS: results[result_columns(results)],
        keys.VARCOMP: varcomp,
        keys.ICC: icc,
        keys.VARIANCE_PARTITION: variance_partition,
    }
    further = {
        keys.PRIOR: prior,
        keys.SIZE_FACTORS: size_factors,
        keys.HERITABILITY: heritability,
        keys.KERNELS: kernels,
        keys.CONTRASTS: contrasts,
    }
    tables |= {name: table for name, table in further.items() if table is not None}
    write_tables(adata, key, tables=tables, params=params)


def result_columns(results: pd.DataFrame) -> list[str]:
    """Columns of a table of results that are kept."""
    return [*keys.RESULT_COLUMNS, *(name for name in keys.PEPTIDE_COLUMNS if name in results.columns)]


def write_tables(adata: ad.AnnData, key: str, *, tables: Mapping[str, pd.DataFrame], params: Mapping[str, Any]) -> None:
    """Store tables and params as ``adata.uns[key]``, replacing what was there and all that was worked out from it.

    Raises
    ------
    DataError
        `key` is not free or a value cannot be stored; `adata` is as it was then.
    """
    check_free(adata, key)
    entry: dict[str, Any] = stamped({keys.PARAMS: {name: storable(name, value) for name, value in params.items()}})
    entry |= {name: storable_table(table) for name, table in tables.items()}
    put_uns(adata, key, entry)
    drop_derived(adata, key)


def stamped(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of ``uns`` that says the version of its form."""
    return {keys.FORMAT: keys.FORMAT_VERSION, **entry}


def copied(adata: ad.AnnData) -> ad.AnnData:
    """Return a copy for ``copy=True``.

    Raises
    ------
    DataError
        A matrix is in a file: the copy would read it.
    """
    if in_file(adata):
        raise DataError(
            "copy=True would read the whole matrix from its file. Leave it out: results go to adata.uns in memory, and the "
            "file stays as it is. Or take adata.to_memory() first, if there is room."
        )
    return adata.copy()


def check_key(key: object) -> None:
    """Raise unless `key` can name an entry of ``uns`` in a file."""
    if not isinstance(key, str):
        raise DataError(f"key_added={key!r} must be text, the name of an entry of adata.uns.")
    if not key or "/" in key:
        raise DataError(f"key_added={key!r} must be a name without '/': files treat '/' as a folder.")
    if key == keys.SETTINGS:
        raise DataError(f"key_added={key!r} is where adata.donorwise keeps its settings; choose another name.")


def check_free(adata: ad.AnnData, key: str) -> None:
    """Raise unless `key` can name a result: it is new, or what it names is from this package and may be replaced."""
    check_key(key)
    ours = any(holds_tables(adata, key, names) for names in keys.TABLES_OF_ENTRIES)
    if key in adata.uns and not (ours or holds_derived(adata, key)):
        raise DataError(
            f"adata.uns[{key!r}] holds something that this package did not write; choose another key_added."
        )


def write_settings(adata: ad.AnnData, settings: Mapping[str, str]) -> None:
    """Store the names of the columns that play a role."""
    put_uns(adata, keys.SETTINGS, stamped(settings))


def storable_table(table: pd.DataFrame) -> pd.DataFrame:
    """A table in a form that every file format keeps."""
    return pd.DataFrame({str(name): _storable_column(column) for name, column in table.items()}, copy=False)


def _storable_column(column: pd.Series) -> Any:
    """Text becomes categorical with text categories, first seen first; numbers become float64 or int64."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = column.dtype.categories
        if pd.api.types.is_string_dtype(categories) and not column.dtype.ordered:
            return column.array
        return pd.Categorical.from_codes(column.cat.codes.to_numpy(), categories=categories.astype(str))
    if pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=bool)
    if pd.api.types.is_integer_dtype(column.dtype) and not column.hasnans:
        return column.to_numpy(dtype=np.int64)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    codes, values = pd.factorize(column)
    if codes.size and codes.min() >= 0 and pd.api.types.is_string_dtype(values):
        return pd.Categorical.from_codes(codes, categories=values)
    texts = column.astype(str)
    return pd.Categorical(texts, categories=texts.unique())


def storable(name: str, value: Any) -> Any:
    """Plain types only; a dict becomes two lists, for its keys may hold '/'."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, np.ndarray, pd.Index)):
        return _storable_list(name, list(value))
    if hasattr(value, "items"):
        pairs = {str(k): v for k, v in value.items()}
        return {"names": _storable_list(name, list(pairs)), "values": _storable_list(name, list(pairs.values()))}
    raise DataError(f"The parameter {name!r} cannot be stored: {type(value).__name__}.")


def _storable_list(name: str, values: list[Any]) -> list[Any]:
    plain = [v.item() if isinstance(v, np.generic) else v for v in values]
    kinds = {type(v) for v in plain}
    if not (kinds <= {str} or kinds <= {bool} or kinds <= {int, float}):
        raise DataError(f"The parameter {name!r} mixes types: {', '.join(sorted(k.__name__ for k in kinds))}.")
    return plain


ROW = ["variable", "group", "contrast"]
_HITS, _DONORS, _TABLE = "hits", "donors", "table"


@dataclass(frozen=True, slots=True)
class InfluenceTables:
    """What ``dw.tl.influence`` left: its settings, a row per hit, and a row per hit and donor."""

    params: dict[str, Any]
    hits: pd.DataFrame
    donors: pd.DataFrame


def holds_derived(adata: ad.AnnData, name: str) -> bool:
    """Whether ``adata.uns[name]`` is a table worked out from a result."""
    entry = adata.uns.get(name)
    forms = ({keys.PARAMS, _HITS, _DONORS}, {_TABLE}, {keys.PARAMS, _TABLE})
    return hasattr(entry, "keys") and set(entry.keys()) - {keys.FORMAT} in forms


def drop_derived(adata: ad.AnnData, key: str) -> None:
    """Remove what was worked out from the result `key`, which no longer holds for another."""
    for name in (f"{key}{suffix}" for suffix in keys.DERIVED_SUFFIXES):
        if holds_derived(adata, name):
            del adata.uns[name]


def read_every_test(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """The results table of `key` with the features that have left the AnnData since."""
    check_result(adata, key)
    return pd.DataFrame(adata.uns[key][keys.RESULTS])


def write_influence(
    adata: ad.AnnData, key: str, *, hits: pd.DataFrame, donors: pd.DataFrame, params: Mapping[str, Any]
) -> None:
    """Store the influence of the donors on the result `key`, and each hit's largest p-value in its results."""
    entry = dict(adata.uns[key])
    results = pd.DataFrame(entry[keys.RESULTS]).drop(columns=keys.MAX_P_LOO, errors="ignore")
    largest = hits.set_index(pd.MultiIndex.from_frame(hits[ROW].astype(str)))[keys.MAX_P_LOO]
    at = pd.MultiIndex.from_frame(results[ROW].astype(str))
    entry[keys.RESULTS] = results.assign(**{keys.MAX_P_LOO: largest.reindex(at).to_numpy(dtype=np.float64)})
    put_uns(adata, key, entry)
    put_uns(adata, f"{key}{keys.INFLUENCE_SUFFIX}", stamped({keys.PARAMS: dict(params), _HITS: hits, _DONORS: donors}))


def read_influence(adata: ad.AnnData, key: str) -> InfluenceTables:
    """Read the influence of the donors on the result `key`, for the features that are still in the AnnData.

    Raises
    ------
    DataError
        There is none, or the result was replaced since.
    """
    check_result(adata, key)
    name = f"{key}{keys.INFLUENCE_SUFFIX}"
    results = read_results(adata, key).results
    if name not in adata.uns or keys.MAX_P_LOO not in results:
        raise DataError(f"The influence of the donors on {key!r} is not known: run dw.tl.influence first.")
    entry = adata.uns[name]
    check_format(entry, name)
    present = results["variable"].cat.categories
    tables = [pd.DataFrame(entry[table]) for table in (_HITS, _DONORS)]
    hits, donors = (t[t["variable"].isin(present)].reset_index(drop=True) for t in tables)
    params = {k: v.item() if isinstance(v, np.generic) else v for k, v in entry[keys.PARAMS].items()}
    return InfluenceTables(params, hits, donors)


def write_power(adata: ad.AnnData, key: str, table: pd.DataFrame) -> None:
    """Store a table of power beside the result `key`."""
    put_uns(adata, f"{key}{keys.POWER_SUFFIX}", stamped({_TABLE: table}))


def read_power(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """Read the table of power beside the result `key`.

    Raises
    ------
    DataError
        There is none.
    """
    return _read_table(
        adata, key, keys.POWER_SUFFIX, f"The power of studies like {key!r} is not known: run dw.tl.power first."
    )


def write_gene_sets(adata: ad.AnnData, key: str, table: pd.DataFrame, params: Mapping[str, Any]) -> None:
    """Store tests of sets of genes beside the result `key`, and how they were made."""
    said = {name: storable(name, value) for name, value in params.items()}
    put_uns(adata, f"{key}{keys.GENE_SETS_SUFFIX}", stamped({keys.PARAMS: said, _TABLE: storable_table(table)}))


def read_gene_sets(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """Read the tests of sets of genes beside the result `key`.

    Raises
    ------
    DataError
        There are none.
    """
    return _read_table(
        adata, key, keys.GENE_SETS_SUFFIX, f"No sets of genes were tested for {key!r}: run dw.tl.gene_sets first."
    )


def _read_table(adata: ad.AnnData, key: str, suffix: str, missing: str) -> pd.DataFrame:
    """The table beside the result `key`; `missing` is said where there is none."""
    check_text(key)
    name = f"{key}{suffix}"
    if name not in adata.uns:
        raise DataError(missing)
    check_format(adata.uns[name], name)
    return pd.DataFrame(adata.uns[name][_TABLE]).reset_index(drop=True)
