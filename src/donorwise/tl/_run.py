"""From an analysis to ``uns``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from donorwise._anndata import write_results
from donorwise._core.engine.run import Memory, run
from donorwise.errors import DonorwiseWarning

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.engine.analysis import Analysis


def fit_and_write(
    adata: ad.AnnData, analysis: Analysis[Any, Any], key: str, *, max_memory: float | None, progress: bool
) -> None:
    """Warn the caller's caller, fit every group, and write tables and params as ``adata.uns[key]``."""
    for text in analysis.warnings:
        warnings.warn(text, DonorwiseWarning, stacklevel=3)
    result = run(analysis, Memory(), max_memory=max_memory, progress=progress)
    write_results(adata, key, params=result.params, **result.tables)
