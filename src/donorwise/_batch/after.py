"""A stored result together with the cells that it came from, and what is written of it after a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from donorwise._anndata import list_results
from donorwise._anndata.sources import put_uns
from donorwise._batch.files import read_source
from donorwise._core.wording import listing
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
        for own in [entry for entry in held.uns if entry == name or str(entry).startswith(f"{name}_")]:
            put_uns(adata, own, held.uns[own])
    return adata, name


def _read_results(path: Path) -> ad.AnnData:
    if path.suffix != ".h5ad":
        raise DataError(
            f"{path}: tables of tests do not say what was fitted; give the .h5ad that the command writes with --out NAME.h5ad."
        )
    return read_source(path)


def without_cells(adata: ad.AnnData, key: str) -> ad.AnnData:
    """A result, and what was worked out from it, in an AnnData without cells, as the commands write it."""
    import anndata as ad

    kept = {name: entry for name, entry in adata.uns.items() if name == key or str(name).startswith(f"{key}_")}
    return ad.AnnData(var=pd.DataFrame(adata.var), uns=kept)
