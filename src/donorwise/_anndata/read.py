"""Taking results and settings out of ``uns``, as they were before any file held them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.obs import as_frame, computed, suggest
from donorwise._core.design.formula import parse
from donorwise._core.engine.groups import group_columns
from donorwise._core.models.glmm.families import RATIO_OF_LINK
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad


_FAMILIES_OF_0_1 = {
    keys.LMM: {"method": keys.LMM, "observations": "cells", "link": "identity", "prior_on": "ratio"},
    keys.PSEUDOBULK: {"observations": "units", "link": "log", "prior_on": "variance", "normalize": "depth"},
}


@dataclass(frozen=True, slots=True)
class Results:
    """One result of a model, restricted to the features that are still in the AnnData.

    Attributes
    ----------
    params
        Formula, options and counts, as plain Python values.
    results
        One row per variable x group x contrast.
    varcomp, icc, variance_partition
        Long tables: one row per variable x group x component.
    prior
        The prior on the variance ratios, one row per group x term x knot x ratio; None where the tests
        are not moderated.
    size_factors
        What the depths of units were multiplied by, one row per group x unit; None for models of cells, and for results
        of 0.1.
    heritability
        Shares of variance of the terms with a kernel, one row per variable x group x component; None where there are none.
    kernels
        The kernels of the formula, see :mod:`donorwise._core.engine.kernel_tables`; None where there are none.
    contrasts
        Weights of the contrasts, see :mod:`donorwise._core.engine.contrast_tables`; None where they are not known.
    """

    params: dict[str, Any]
    results: pd.DataFrame
    varcomp: pd.DataFrame
    icc: pd.DataFrame
    variance_partition: pd.DataFrame
    prior: pd.DataFrame | None = None
    size_factors: pd.DataFrame | None = None
    heritability: pd.DataFrame | None = None
    kernels: pd.DataFrame | None = None
    contrasts: pd.DataFrame | None = None

    @property
    def groupby(self) -> tuple[str, ...]:
        """The columns of obs that make the groups."""
        return group_columns(self.params["groupby"])

    @property
    def ratio(self) -> str:
        """What exp of an estimate is, ``"rate_ratio"`` or ``"odds_ratio"``; empty where it is no logarithm of a ratio."""
        return RATIO_OF_LINK.get(str(self.params["link"]), "")

    @property
    def donor_terms(self) -> list[str]:
        """Random terms whose levels are the donors, as the tables call them: independent ones, and those with a kernel."""
        bars = parse(self.params["formula"]).bars if self.params["donor"] else ()
        named = {
            bar.factor if bar.cov else ":".join(bar.group)
            for bar in bars
            if ":".join(bar.group) == self.params["donor"]
        }
        return [name for name in dict.fromkeys(self.icc["term"].astype(str)) if name in named]

    @property
    def of_counts(self) -> bool:
        """Whether counts in units of cells were modelled: the estimates are differences of log rates."""
        return bool(self.params["observations"] == "units")

    @property
    def features(self) -> str:
        """Column of var with the proteins that the variables are; empty where they are names of var, or stand elsewhere."""
        return str(self.params.get(keys.FEATURES, ""))


def read_results(adata: ad.AnnData, key: str = keys.LMM) -> Results:
    """Read the result stored as ``adata.uns[key]``.

    Raises
    ------
    DataError
        There is no such result (the message lists those there are), or none of its features
        is left in the AnnData.
    """
    check_result(adata, key)
    entry = adata.uns[key]
    params = _params(entry[keys.PARAMS])
    tables = {name: pd.DataFrame(entry[name]) for name in keys.TABLES}
    if keys.HERITABILITY in entry:
        tables[keys.HERITABILITY] = pd.DataFrame(entry[keys.HERITABILITY])
    there = features_there(adata, params)
    if there is not None:
        tables = {name: still_there(table, there, key) for name, table in tables.items()}
    others = (keys.PRIOR, keys.SIZE_FACTORS, keys.KERNELS, keys.CONTRASTS)
    further = {name: pd.DataFrame(entry[name]) for name in others if name in entry}
    whole = {name: table.reset_index(drop=True) for name, table in tables.items()}
    return Results(params=params, **whole, **further)


def read_tables(adata: ad.AnnData, key: str, names: Sequence[str], *, made_by: str) -> dict[str, pd.DataFrame]:
    """Read tables stored as ``adata.uns[key]`` by the tool `made_by`; features no longer in ``var`` are left out.

    Raises
    ------
    DataError
        There is no such entry; the message names those there are.
    """
    check_is_anndata(adata)
    check_text(key)
    present = [str(k) for k, entry in adata.uns.items() if _holds(entry, names)]
    if key not in present:
        _check_no_scan(adata, key)
        there = suggest(key, present) if present else f"There are none in this AnnData: run {made_by} first."
        raise DataError(f"adata.uns has no result {key!r} of {made_by}. {there}")
    check_format(adata.uns[key], key)
    known = features_there(adata, _params(adata.uns[key][keys.PARAMS]))
    tables = {name: pd.DataFrame(adata.uns[key][name]) for name in names}
    for name, table in tables.items():
        if "variable" in table and known is not None:
            tables[name] = still_there(table, known, key)
    return {name: table.reset_index(drop=True) for name, table in tables.items()}


def holds_tables(adata: ad.AnnData, key: str, names: Sequence[str]) -> bool:
    """Whether ``adata.uns[key]`` is an entry with these tables."""
    return key in adata.uns and _holds(adata.uns[key], names)


def read_params(adata: ad.AnnData, key: str = keys.LMM) -> dict[str, Any]:
    """Read only the params of a result."""
    check_result(adata, key)
    return _params(adata.uns[key][keys.PARAMS])


def list_results(adata: ad.AnnData) -> list[str]:
    """Return the keys of ``uns`` that hold a result of this package."""
    return [key for key, entry in adata.uns.items() if _is_result(entry)]


def check_is_anndata(adata: Any) -> None:
    """Raise unless this is an AnnData."""
    if hasattr(adata, "mod") and not isinstance(adata, pd.DataFrame):  # whose mod() is a method
        modalities = " or ".join(f"mdata[{str(name)!r}]" for name in adata.mod)
        raise DataError(
            f"A modality of a MuData is taken as its AnnData: give {modalities} in place of the MuData. If it lacks a "
            "column of cells: modality.obs['donor_id'] = mdata.obs['donor_id']."
        )
    if not all(hasattr(adata, name) for name in ("obs", "var", "uns", "n_obs")):
        raise DataError(f"The first argument must be an AnnData, not {type(adata).__name__}; read files with scanpy.")


def check_has_cells(adata: ad.AnnData) -> None:
    """Raise where an AnnData holds results and no cells, as commands write it: values cannot be read from that again."""
    if adata.n_obs == 0 and (results := list_results(adata)):
        raise DataError(
            "The cells are needed here, and this AnnData holds results without any (as the commands write them). Read the "
            f"AnnData of the cells, put the result into it, cells.uns[{results[0]!r}] = results.uns[{results[0]!r}], and "
            "use that."
        )


def check_result(adata: ad.AnnData, key: str) -> None:
    """Raise unless ``adata.uns[key]`` is a result of this package."""
    check_is_anndata(adata)
    check_text(key)
    if key in adata.uns and _is_result(adata.uns[key]):
        check_format(adata.uns[key], key)
        return
    _check_no_scan(adata, key)
    present = list_results(adata)
    there = suggest(key, present) if present else "There are none in this AnnData: run dw.tl.lmm first."
    raise DataError(f"adata.uns has no donorwise result {key!r}. {there}")


def _check_no_scan(adata: ad.AnnData, key: str) -> None:
    if holds_tables(adata, key, keys.SCAN_TABLES):
        raise DataError(
            f"adata.uns[{key!r}] is a scan over variants, not a model's tests: dw.get.scan(adata, key={key!r}) reads it."
        )


def check_text(key: object) -> None:
    """Raise unless a key of ``uns`` is text."""
    if not isinstance(key, str):
        raise DataError(f"key={key!r} must be text, the name of an entry of adata.uns.")


def check_format(entry: Any, name: str, place: str = "") -> None:
    """Raise where an entry of ``uns``, or what is at another `place`, was written in a form that this version does not know."""
    found = int(computed(entry[keys.FORMAT])) if keys.FORMAT in entry else 0
    if found > keys.FORMAT_VERSION:
        raise DataError(
            f"{place or f'adata.uns[{name!r}]'} was written by a newer donorwise (format {found}; this one reads up to "
            f"{keys.FORMAT_VERSION}): update donorwise, or run the analysis again."
        )


def read_settings(adata: ad.AnnData) -> dict[str, str]:
    """Read the names of the columns that play a role; empty where ``setup`` was not called."""
    stored = adata.uns.get(keys.SETTINGS, {})
    check_format(stored, keys.SETTINGS)
    return {role: str(computed(stored[role])) for role in keys.ROLES if role in stored}


def _is_result(entry: Any) -> bool:
    return _holds(entry, keys.TABLES)


def _holds(entry: Any, names: Sequence[str]) -> bool:
    return hasattr(entry, "keys") and {keys.PARAMS, *names} <= set(entry.keys())


def aligned_to_var(params: Mapping[str, Any]) -> bool:
    """Whether the features of a result are columns of X or of a layer: names of ``var``, or what a column of var calls them."""
    response = str(params["response"])
    return response == keys.RESPONSE_X or response.startswith(keys.LAYER_PREFIX)


def feature_names(adata: ad.AnnData, column: str) -> pd.Index:
    """What every row of ``var`` is called in results: its name, or (as proteins are) what a `column` says; missing for none."""
    if not column:
        return adata.var_names
    values = as_frame(adata.var[[column]])[column].astype(object)
    return pd.Index(values.where(values.isna(), values.map(str)))


def features_there(adata: ad.AnnData, params: Mapping[str, Any]) -> pd.Index | None:
    """The features that a result could be of now (missing for none); None where var does not say, or has lost the column for it."""
    column = str(params.get(keys.FEATURES, ""))
    if not aligned_to_var(params) or (column and column not in adata.var.columns):
        return None
    return feature_names(adata, column).unique()


def _params(stored: Any) -> dict[str, Any]:
    """Params as plain values; of results of 0.1, which did not say it, with what differs between families of models."""
    params = {str(name): plain(value) for name, value in stored.items()}
    return _FAMILIES_OF_0_1.get(str(params.get("method", keys.LMM)), {}) | params


def plain(value: Any) -> Any:
    """Undo what writing did: lists come back as arrays, numbers as numpy scalars, dicts as two lists."""
    if hasattr(value, "keys"):
        return dict(zip(plain(value["names"]), plain(value["values"]), strict=True))
    if isinstance(value, np.ndarray):
        return [str(v) if isinstance(v, str) else v for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, list) else value


def still_there(table: pd.DataFrame, names: pd.Index, key: str, column: str = "variable") -> pd.DataFrame:
    """Drop the rows of features that are not among `names` any more; uns does not follow a subset."""
    variable = table[column].cat
    present = variable.categories.isin(names)
    if present.all():
        return table
    if not present.any() and len(names):
        raise DataError(
            f"None of the features of the result {key!r} is in adata.var any more. Were they renamed since the fit?"
        )
    kept = table[present[variable.codes]].copy()
    kept[column] = kept[column].cat.remove_unused_categories()
    return kept
