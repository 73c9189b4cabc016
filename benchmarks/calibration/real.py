"""Scenario F: cells of real donors with random labels, so that every gene is a true null."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.calibration.data import CountData

if TYPE_CHECKING:
    from pathlib import Path

_CELL_TYPE = "cd4nc"  # CD4 T cells, naive and central memory
_DETECTED = 0.05


@cache
def cells(file: Path) -> ad.AnnData:
    """CD4 T cells of all donors, with the counts in a layer and X log-normalised, as the file has them."""
    adata = ad.read_h5ad(file)
    adata = adata[adata.obs["cell_type"] == _CELL_TYPE].copy()
    adata.obs = pd.DataFrame({"donor": adata.obs["donor_id"].astype(str)}, index=adata.obs_names)
    depth = np.ravel(adata.layers["counts"].sum(axis=1))
    adata.obs["log_depth"] = np.log(depth) - np.log(depth).mean()
    adata.var["tested"] = np.ravel((adata.layers["counts"] > 0).mean(axis=0)) >= _DETECTED
    return adata


def relabelled(rng: np.random.Generator, n_per_arm: int, file: Path) -> CountData:
    """Donors drawn at random, half of them called cases."""
    whole = cells(file)
    donors = np.unique(whole.obs["donor"])
    chosen = rng.choice(donors, 2 * n_per_arm, replace=False)
    adata = whole[whole.obs["donor"].isin(chosen)].copy()
    case = adata.obs["donor"].isin(chosen[n_per_arm:]).to_numpy()
    adata.obs["condition"] = pd.Categorical.from_codes(case.astype(int), categories=["control", "case"])
    adata.obs["sample"] = adata.obs["donor"] = pd.Categorical(adata.obs["donor"])
    formula = "~ condition + log_depth + (1 | donor)"
    tested = adata.var["tested"].to_numpy()
    return CountData(adata, tested, np.zeros(adata.n_vars), formula, reduced="~ condition + (1 | donor)")
