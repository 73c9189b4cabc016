"""The pass that turns cells into design patterns, alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise.collapse import collapse

if TYPE_CHECKING:
    import anndata as ad

    from donorwise.collapse import Collapsed

NAME = "donorwise collapse"


def run(adata: ad.AnnData, *, n_jobs: int) -> Collapsed:
    donor = adata.obs["donor"].cat
    return collapse(adata.X, donor.codes.to_numpy(), len(donor.categories), n_jobs=n_jobs)
