"""NEBULA-LN in Python: negative binomial gamma mixed models of the counts, gene by gene, on one core."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import anndata as ad

NAME = "edgepython glm_sc_fit (NEBULA), one core"


def missing() -> str:
    return "" if find_spec("edgepython") else "edgepython"


def run(adata: ad.AnnData, *, n_jobs: int) -> None:
    """Cells are put together by donor, as NEBULA wants them; a gene with hardly a count is left out, as it does."""
    from edgepython import glm_sc_fit

    adata = adata[np.argsort(adata.obs["donor"].cat.codes.to_numpy(), kind="stable")]
    counts = adata.layers["counts"].toarray().astype(np.float64)
    case = (adata.obs["condition"].cat.codes.to_numpy() > 0).astype(np.float64)
    design = np.column_stack([np.ones(len(case)), case])
    donor = adata.obs["donor"].astype(str).to_numpy()
    glm_sc_fit(counts.T, design=design, sample=donor, offset=counts.sum(axis=1), verbose=False)
