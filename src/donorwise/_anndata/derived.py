"""Tables worked out from a result, kept beside it: influence of the donors, power."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.read import check_result, read_results
from donorwise._anndata.sources import put_uns
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata as ad

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
    return hasattr(entry, "keys") and set(entry.keys()) in ({keys.PARAMS, _HITS, _DONORS}, {_TABLE})


def drop_derived(adata: ad.AnnData, key: str) -> None:
    """Remove what was worked out from the result `key`, which no longer holds for another."""
    for name in (f"{key}{keys.INFLUENCE_SUFFIX}", f"{key}{keys.POWER_SUFFIX}"):
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
    put_uns(adata, f"{key}{keys.INFLUENCE_SUFFIX}", {keys.PARAMS: dict(params), _HITS: hits, _DONORS: donors})


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
    present = results["variable"].cat.categories
    tables = [pd.DataFrame(entry[table]) for table in (_HITS, _DONORS)]
    hits, donors = (t[t["variable"].isin(present)].reset_index(drop=True) for t in tables)
    params = {k: v.item() if isinstance(v, np.generic) else v for k, v in entry[keys.PARAMS].items()}
    return InfluenceTables(params, hits, donors)


def write_power(adata: ad.AnnData, key: str, table: pd.DataFrame) -> None:
    """Store a table of power beside the result `key`."""
    put_uns(adata, f"{key}{keys.POWER_SUFFIX}", {_TABLE: table})


def read_power(adata: ad.AnnData, key: str) -> pd.DataFrame:
    """Read the table of power beside the result `key`.

    Raises
    ------
    DataError
        There is none.
    """
    name = f"{key}{keys.POWER_SUFFIX}"
    if name not in adata.uns:
        raise DataError(f"The power of studies like {key!r} is not known: run dw.tl.power first.")
    return pd.DataFrame(adata.uns[name][_TABLE]).reset_index(drop=True)
