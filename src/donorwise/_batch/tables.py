"""The tables of one group and of a whole run, in an AnnData without cells: it is written and read like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import keys, read_results, write_results
from donorwise._typing import STATUSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad

_FIELDS = ("n_cells", "method", "note", "failed", "donor")
SIDE = (keys.VARCOMP, keys.ICC, keys.VARIANCE_PARTITION)


@dataclass(frozen=True, slots=True)
class GroupResult:
    """What was found in one group.

    Attributes
    ----------
    tables
        ``results`` and those of ``varcomp``, ``icc``, ``variance_partition`` and ``prior`` that there are.
    n_cells
        Cells in use.
    method
        How its tests allow for the unknown variances; empty where nothing was fitted.
    note
        Why that is not what was asked for.
    failed
        Why nothing was fitted; empty for a group that was.
    donor
        The column that counted as the replicate.
    """

    tables: dict[str, pd.DataFrame]
    n_cells: int
    method: str = ""
    note: str = ""
    failed: str = ""
    donor: str = ""


def group_to_anndata(result: GroupResult, variables: Sequence[str]) -> ad.AnnData:
    """An AnnData that holds one group."""
    params = {f: getattr(result, f) for f in _FIELDS}
    return results_anndata(result.tables, params | {"response": keys.RESPONSE_X}, variables)


def group_from_anndata(adata: ad.AnnData) -> GroupResult:
    """Undo :func:`group_to_anndata`."""
    read = read_results(adata)
    tables = {keys.RESULTS: read.results, **{name: getattr(read, name) for name in SIDE}}
    tables |= {keys.PRIOR: read.prior} if read.prior is not None else {}
    chosen = {f: read.params[f] for f in _FIELDS}
    return GroupResult({name: table for name, table in tables.items() if len(table)}, **chosen)


def results_anndata(
    tables: Mapping[str, pd.DataFrame], params: Mapping[str, Any], variables: Sequence[str], key: str = keys.LMM
) -> ad.AnnData:
    """An AnnData without cells: `variables` in var, tables and params as ``dw.tl.lmm`` stores them.

    Parameters
    ----------
    tables
        ``results``, and any of the others; what is missing is stored empty.
    params
        Formula, options and counts.
    variables
        Names of the G features.
    key
        Entry of ``uns``.
    """
    import anndata as ad

    adata = ad.AnnData(var=pd.DataFrame(index=pd.Index(list(variables), dtype=object).astype(str)))
    empty = pd.DataFrame({"variable": pd.Categorical([]), "group": pd.Categorical([])})
    side = {name: tables.get(name, empty) for name in SIDE}
    write_results(adata, key, results=tables[keys.RESULTS], prior=tables.get(keys.PRIOR), params=params, **side)
    return adata


def stack(
    parts: Sequence[GroupResult], groups: Sequence[str], contrasts: Sequence[str], variables: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """One table of each kind from the groups', in the order given, with the levels of the whole run."""
    names = [keys.RESULTS, *SIDE, keys.PRIOR]
    found = {name: [part.tables[name] for part in parts if name in part.tables] for name in names}
    tables = {name: _concat(own) for name, own in found.items() if own}
    levels = {"variable": variables, "group": groups, "contrast": contrasts, "status": STATUSES}
    results = tables[keys.RESULTS]
    for column, categories in levels.items():
        results[column] = pd.Categorical(results[column], categories=list(categories))
    return tables


def _concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables under each other; text again where the parts have different levels."""
    plain = [
        table.astype({c: object for c in table.columns if isinstance(table[c].dtype, pd.CategoricalDtype)})
        for table in tables
    ]
    return pd.concat(plain, ignore_index=True)
