"""A stored result together with the cells that it came from, and what is written of it after a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from donorwise._anndata import list_results, read_params, read_results
from donorwise._anndata.sources import put_uns
from donorwise._batch.files import read_source
from donorwise._core.wording import listing
from donorwise._typing import FITTED
from donorwise.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


def read_with_result(source: Path, results: Path | None, key: str | None) -> tuple[ad.AnnData, str]:
    """The cells (or collapsed rows) of a file with a result from another one, and the key of ``uns`` it is under.

    Parameters
    ----------
    source
        The ``.h5ad`` or ``.zarr`` that the models were fitted to; its matrices stay in the file.
    results
        The ``.h5ad`` that a command wrote; None where `source` holds the result.
    key
        Entry of ``uns``; None for the only one.

    Raises
    ------
    DataError
        There is no such result, or there are several and none is named.
    """
    adata = read_source(source)
    held = adata if results is None else _read_results(results)
    place, found = results or source, list_results(held)
    if not found:
        raise DataError(f"{place} holds no results of donorwise: name with --results the .h5ad that a command wrote.")
    if key is None and len(found) > 1:
        raise DataError(f"{place} holds the results {listing(found)}; choose one with --key.")
    name = key or found[0]
    if name not in found:
        raise DataError(f"{place} has no result {name!r}; it holds {listing(found)}.")
    if results is not None:
        for stale in _entries(adata, name):
            del adata.uns[stale]
        for own in _entries(held, name):
            put_uns(adata, own, held.uns[own])
    return adata, name


def _entries(adata: ad.AnnData, key: str) -> list[str]:
    """The entries of ``uns`` that are a result and what was worked out from it; not other results whose name goes on."""
    others = set(list_results(adata)) - {key}
    return [name for name in adata.uns if (name == key or str(name).startswith(f"{key}_")) and name not in others]


def _read_results(path: Path) -> ad.AnnData:
    if path.suffix != ".h5ad":
        raise DataError(
            f"{path}: tables of tests do not say what was fitted; give the .h5ad that the command writes with --out NAME.h5ad."
        )
    return read_source(path)


def without_cells(adata: ad.AnnData, key: str) -> ad.AnnData:
    """A result, and what was worked out from it, in an AnnData without cells, as the commands write it."""
    import anndata as ad

    return ad.AnnData(var=pd.DataFrame(adata.var), uns={name: adata.uns[name] for name in _entries(adata, key)})


def response_in(adata: ad.AnnData, key: str) -> str:
    """The element of the source that a result is of, as messages name it."""
    return str(read_params(adata, key)["response"])


def unfitted(adata: ad.AnnData, key: str) -> tuple[int, int] | None:
    """How many groups of a result have no fitted feature, for a reason that it knows, and how many there are; None for none."""
    read = read_results(adata, key)
    reasons, table = dict(read.params.get("reasons") or {}), read.results
    fitted = set(table["group"][table["status"].isin(FITTED)].astype(str))
    n = sum(name not in fitted for name in reasons)
    return (n, table["group"].nunique()) if n else None
