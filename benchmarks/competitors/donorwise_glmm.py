"""Generalised mixed models of the counts of all genes, from the AnnData to the table in ``uns``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import donorwise as dw

if TYPE_CHECKING:
    import anndata as ad

NAME = "donorwise tl.glmm, nb, (1 | donor), moderated"


def run(adata: ad.AnnData, *, n_jobs: int, formula: str = "~ condition + (1 | donor)", **options: Any) -> None:
    dw.tl.glmm(adata, formula, layer="counts", n_jobs=n_jobs, progress=False, **options)
