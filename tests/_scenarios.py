"""Scenarios, the analyses whose results are recorded: by name, with the data that they share.

A scenario gets an empty folder and returns what is to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import donorwise as dw

Scenario = Callable[[Path], Any]
SCENARIOS: dict[str, Scenario] = {}

FORMULA = "~ condition + (1 | donor_id)"
QUIET: dict[str, Any] = {"progress": False, "n_jobs": 1}
REFERENCE = Path(__file__).parent / "reference"
DDF = ("moderated", "kenward-roger", "satterthwaite", "between-within", "residual")


def scenario(function: Scenario) -> Scenario:
    """Keep a scenario under its name."""
    SCENARIOS[function.__name__] = function
    return function


@cache
def _simulated(design: str, n_genes: int, seed: int) -> ad.AnnData:
    options: dict[str, Any] = {"n_donors": 8, "n_cells": 900, "de_fraction": 0.2, "effect_size": 1.5, "seed": seed}
    adata = dw.datasets.simulate_cohort(design, n_genes=n_genes, **options)
    rng = np.random.default_rng(seed)
    adata.obs["mito"] = np.round(rng.uniform(0, 10, adata.n_obs) + adata.obs["donor_id"].cat.codes, 3)
    adata.obs["quality"] = np.round(rng.uniform(0.5, 2.0, adata.n_obs), 3)
    return adata


def simulated(design: str = "case-control", n_genes: int = 110, seed: int = 3) -> ad.AnnData:
    """A cohort of 8 donors and 900 cells, with a covariate and weights of cells."""
    return _simulated(design, n_genes, seed).copy()


def troubled(n_genes: int = 110) -> ad.AnnData:
    """Genes without spread, groups that lack an arm or donors, values of obs that are missing."""
    adata = simulated(n_genes=n_genes, seed=5)
    X = adata.X.toarray()
    X[:, 0], X[:, 1] = 0.0, 1.5
    X[adata.obs["donor_id"] != adata.obs["donor_id"].cat.categories[0], 2] = 0.0
    adata.X = X
    groups = adata.obs["cell_type"].astype(str)
    donors = adata.obs["donor_id"].cat.codes
    groups[(donors < 2) & (np.arange(adata.n_obs) % 4 == 0)] = "NK cell"
    groups[(np.arange(adata.n_obs) % 17 == 0) & (groups != "NK cell")] = np.nan
    adata.obs["cell_type"] = pd.Categorical(groups)
    one_arm = (adata.obs["cell_type"] == "B cell") & (adata.obs["condition"] == "disease")
    adata = adata[~one_arm].copy()
    adata.obs["sex"] = (
        adata.obs["sex"].astype(object).where(np.arange(adata.n_obs) % 29 != 0, np.nan).astype("category")
    )
    return adata


def reference(name: str) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Responses, obs and model of a case in ``tests/reference``."""
    folder = REFERENCE / name
    spec = json.loads((folder / "spec.json").read_text())
    obs = pd.read_csv(folder / "obs.csv", dtype=dict.fromkeys(spec["categories"], str))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column], categories=levels)
    return pd.read_csv(folder / "Y.csv"), obs, spec


def lmm(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> ad.AnnData:
    """Test, and give the AnnData back."""
    dw.tl.lmm(adata, formula, **QUIET, **options)
    return adata


def pseudobulk(adata: ad.AnnData, formula: str = "~ condition", **options: Any) -> ad.AnnData:
    """Test sums of counts, and give the AnnData back."""
    dw.tl.pseudobulk(adata, formula, **QUIET, **options)
    return adata
