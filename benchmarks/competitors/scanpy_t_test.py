"""Scanpy's t-test, which takes every cell for a replicate: the usual test, and the fastest."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numba
import scanpy as sc

if TYPE_CHECKING:
    import anndata as ad

NAME = "scanpy tl.rank_genes_groups, t-test"


def run(adata: ad.AnnData, *, n_jobs: int) -> None:
    numba.set_num_threads(n_jobs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(adata, "condition", method="t-test")
