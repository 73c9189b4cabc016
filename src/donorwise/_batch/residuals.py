"""Residuals of a stored result in a file, written as they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from donorwise._anndata import read_results
from donorwise._anndata.block_files import Patch, write_layers
from donorwise._anndata.made_values import LAYERS, Place, note_made
from donorwise._anndata.read import aligned_to_var
from donorwise._anndata.recover import recover
from donorwise._core.engine.residuals import fit_removal
from donorwise.tl._residuals import MADE, asked, tell_left_out, what_is_removed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata as ad

    from donorwise._anndata.recover import Recovered


def write_residuals(
    adata: ad.AnnData,
    key: str,
    out: Path,
    *,
    remove: Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
    fitted: bool = False,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    progress: bool = False,
) -> int:
    """Write what :func:`donorwise.tl.residuals` makes, as layers of the cells and the features that were fitted.

    Parameters
    ----------
    adata, key
        The cells with a result, whose matrices may be in a file.
    out
        ``.h5ad`` or ``.zarr``; the file has obs, var, the layer residuals, and a note of what was removed.
    remove, variables
        As there; features are in the order of `adata`.
    fitted
        Whether to add the layer fitted.
    n_jobs, max_memory, progress
        As there; of the values a block at a time is in memory.

    Returns
    -------
    The number of cells.
    """
    found = recover(adata, key, variables=_in_order(adata, asked(adata, key, variables)), n_jobs=n_jobs)
    varcomp = read_results(adata, key).varcomp
    removal = fit_removal(found.analysis, varcomp, remove, max_memory=max_memory, progress=progress)
    frame, names = _frame(adata, found), MADE[: 1 + fitted]
    place = Place(LAYERS, names, found.analysis.source.columns, frame.var_names, "float32")
    note_made(frame, key, place, names, what_is_removed(remove))
    blocks = removal.blocks(progress=progress)
    patches = (Patch(own.rows, own.columns, (own.residuals, own.fitted)[: len(names)]) for own in blocks)
    write_layers(out, frame, names, patches, place.dtype)
    tell_left_out(removal)
    return int(adata.n_obs)


def _in_order(adata: ad.AnnData, names: list[str] | None) -> list[str] | None:
    """Names in the order of var, as far as they are there: so a block of columns is one in the file, too."""
    place = {name: number for number, name in enumerate(adata.var_names)}
    return names and sorted(names, key=lambda name: place.get(name, len(place)))


def _frame(adata: ad.AnnData, found: Recovered) -> ad.AnnData:
    """The cells, and the features that are read."""
    import anndata as ad

    if aligned_to_var(found.params):
        var = pd.DataFrame(adata.var).iloc[found.analysis.source.columns]
    else:
        var = pd.DataFrame(index=pd.Index(found.analysis.variables, dtype=object))
    return ad.AnnData(obs=pd.DataFrame(adata.obs), var=var)
