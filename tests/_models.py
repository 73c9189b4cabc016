"""Cohorts with the models that several tests look at: each is fitted once in a process, and a test gets a copy."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import donorwise as dw
from donorwise.errors import DonorwiseWarning

FORMULA = "~ condition + age + (1 | donor_id)"
LINES = "~ time * arm + age + (1 | donor_id)"
SLOPES = "~ time * arm + age + (time | donor_id)"

LONG_STATE = "colitis ulcerosa, severe and refractory (β)"
LONG_PATIENT = "University hospital South/Patient №{}, visit of 2021-04-01"
LONG_GENE = "HLA-DRB1*15:01:01:01_ENSG00000196126.11"


def model(name: str) -> ad.AnnData:
    """The cohort that the function of this name makes; the test may change it."""
    return _made(name).copy()


@cache
def _made(name: str) -> ad.AnnData:
    with warnings.catch_warnings():  # advice about these small simulations is tested elsewhere
        warnings.simplefilter("ignore", DonorwiseWarning)
        return globals()[name]()


def _lmm(adata: ad.AnnData, formula: str, **options: Any) -> None:
    dw.tl.lmm(adata, formula, progress=False, **options)


def case_control() -> ad.AnnData:
    """Three cell types with clear effects."""
    adata = dw.datasets.simulate_cohort(n_donors=10, n_cells=900, n_genes=60, de_fraction=0.3, effect_size=2.5, seed=2)
    _lmm(adata, FORMULA, groupby="cell_type")
    return adata


def paired() -> ad.AnnData:
    """Both conditions in every donor, one cell type."""
    adata = dw.datasets.simulate_cohort("paired", n_donors=5, n_cells=500, n_genes=12, cell_types=("T cell",), seed=2)
    _lmm(adata, "~ condition + (1 | donor_id/sample_id)")
    return adata


def visits() -> ad.AnnData:
    """Two arms over time, with colours: lines and slopes by donor, and lines by cell type."""
    adata = dw.datasets.simulate_cohort(
        "longitudinal", n_donors=8, n_cells=900, n_genes=6, cell_types=("T", "B"), seed=3
    )
    adata.obs["visit"] = adata.obs["visit"].astype("category")
    adata.uns["arm_colors"] = ["#117733", "#882255"]
    _lmm(adata, LINES)
    _lmm(adata, SLOPES, key_added="slopes")
    _lmm(adata, LINES, groupby="cell_type", key_added="by_type")
    return adata


def two_types() -> ad.AnnData:
    """Enough genes for moderated tests."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=700, n_genes=130, cell_types=("T cell", "B cell"), seed=2)
    _lmm(adata, "~ condition + sex + (1 | donor_id)", groupby="cell_type")
    return adata


def weighted() -> ad.AnnData:
    """A cell type with a slash, a gene without counts; cells alike by type, and weighted for the first genes."""
    adata = dw.datasets.simulate_cohort(
        n_donors=8, n_cells=600, n_genes=30, cell_types=("T cell", "B cell", "Monocyte"), effect_size=2.0
    )
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"T cell": "T/NK cell"})
    adata.X = adata.X.multiply(np.arange(30) != 3).tocsr()
    adata.obs["w"] = np.random.default_rng(0).uniform(0.5, 2.0, adata.n_obs)
    adata.var["early"] = np.arange(adata.n_vars) < 20
    _lmm(adata, FORMULA, groupby="cell_type")
    _lmm(adata, FORMULA, weights="w", mask_var="early", key_added="weighted")
    return adata


def one_arm() -> ad.AnnData:
    """B cells are of one arm only, and a gene is nowhere; pseudobulk as well."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=700, n_genes=40, de_fraction=0.3, effect_size=2.5, seed=2)
    adata = adata[(adata.obs["cell_type"] != "B cell") | (adata.obs["condition"] == "disease")].copy()
    kept = np.arange(adata.n_vars) > 0
    adata.X, adata.layers["counts"] = (m.multiply(kept).tocsr() for m in (adata.X, adata.layers["counts"]))
    _lmm(adata, FORMULA, groupby="cell_type")
    dw.tl.pseudobulk(adata, "~ condition + age", groupby="cell_type", progress=False)
    return adata


def gaps() -> ad.AnnData:
    """Three cell types, one of them in one donor only; a gene that is nowhere and one that B cells lack."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=600, n_genes=60, effect_size=2.0, seed=1)
    X = adata.X.toarray()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    types[np.flatnonzero(adata.obs["donor_id"] == adata.obs["donor_id"].iloc[0])[:9]] = "Rare"
    X[:, 3] = 0
    X[types == "B cell", 5] = 0
    adata.X = X
    adata.obs["cell_type"] = pd.Categorical(types, categories=["T cell", "B cell", "Rare", "Monocyte"])
    _lmm(adata, FORMULA, groupby="cell_type")
    _lmm(adata, FORMULA, key_added="one")
    return adata


def holes() -> ad.AnnData:
    """A cell type in one arm only, and a gene without values."""
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=500, n_genes=30, seed=3)
    adata = adata[(adata.obs["cell_type"] != "Monocyte") | (adata.obs["condition"] == "control")].copy()
    values = adata.X.toarray()
    values[:, 0] = np.nan
    adata.X = values
    _lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type")
    return adata


def long_names() -> ad.AnnData:
    """Names that are too long, everywhere, and one that looks like a formula; every tool has been used."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=700, n_genes=30, de_fraction=0.4, effect_size=3, seed=3)
    adata.obs["state"] = adata.obs["condition"].cat.rename_categories(
        ["healthy control without any former disease", LONG_STATE]
    )
    adata.obs["kind"] = adata.obs["cell_type"].cat.rename_categories(
        ["CD4⁺ αβ T cells, central & effector memory", "классический моноцит", "B cell"]
    )
    adata.obs["patient"] = adata.obs["donor_id"].cat.rename_categories(LONG_PATIENT.format)
    adata.var_names = [LONG_GENE, "$a_1$", *adata.var_names[2:]]
    formula = "~ state + (1 | patient)"
    _lmm(adata, formula, groupby="kind")
    dw.tl.influence(adata, variables=[LONG_GENE, "$a_1$"], progress=False)
    dw.tl.power(adata, n_donors=(8, 16), n_cells=(20,), progress=False)
    dw.tl.calibrate(adata, formula, f"state[T.{LONG_STATE}]", groupby="kind", n_permutations=3, progress=False)
    return adata
