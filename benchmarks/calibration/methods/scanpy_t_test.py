"""Scanpy's t-test, which takes every cell for a replicate."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import scanpy as sc
from benchmarks.calibration.data import CountData
from benchmarks.calibration.methods import Method

if TYPE_CHECKING:
    from typing import Any


def p_values(data: CountData) -> np.ndarray:
    adata = data.adata[:, data.tested].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(adata, "condition", groups=["case"], reference="control", method="t-test")
    found = sc.get.rank_genes_groups_df(adata, group="case").set_index("names")
    return found["pvals"].reindex(adata.var_names).to_numpy(dtype=np.float64)


def _has_cells(data: Any) -> bool:
    return isinstance(data, CountData)


METHODS = (Method("naive t (scanpy)", p_values, _has_cells),)
