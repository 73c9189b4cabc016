"""Mixed models of all genes, from the AnnData to the table in ``uns``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import donorwise as dw

if TYPE_CHECKING:
    import anndata as ad

NAME = "donorwise tl.lmm, (1 | donor), Kenward-Roger"


def run(adata: ad.AnnData, *, n_jobs: int, ddf: str = "kenward-roger") -> None:
    dw.tl.lmm(adata, "~ condition + (1 | donor)", ddf=ddf, n_jobs=n_jobs, progress=False)
