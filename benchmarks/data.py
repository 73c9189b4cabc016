"""Data of the benchmarks: random, seeded, and shaped like single-cell cohorts."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from donorwise.datasets import simulate_cohort

_BLOCK_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class Size:
    """How large a cohort is."""

    cells: int = 100_000
    genes: int = 2_000
    donors: int = 20
    density: float = 0.08

    def __str__(self) -> str:
        return f"{self.cells:,} cells x {self.genes:,} genes, {self.donors} donors, {self.density:.0%} nonzero"


def cohort(size: Size, seed: int = 0) -> ad.AnnData:
    """Log-normalised expression, CSR float32 with int32 indices; half of the donors are cases.

    Every gene has donor effects of its own size, so that some variance components are at zero and
    some are not, as in real data.
    """
    rng = np.random.default_rng(seed)
    donor = rng.integers(0, size.donors, size.cells)
    effect = 1 + rng.normal(size=(size.donors, size.genes)) * rng.uniform(0, 0.2, size.genes)
    blocks = [
        _expression(rng, donor[low : low + _BLOCK_CELLS], np.clip(effect, 0.1, None).astype(np.float32), size.density)
        for low in range(0, size.cells, _BLOCK_CELLS)
    ]
    X = sparse.vstack(blocks, format="csr")
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    names = pd.Categorical.from_codes(donor, categories=[f"D{d:03d}" for d in range(size.donors)])
    condition = pd.Categorical.from_codes(donor % 2, categories=["control", "case"])
    obs = pd.DataFrame({"donor": names, "condition": condition}, index=np.arange(size.cells).astype(str))
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"gene{g}" for g in range(size.genes)]))
    adata.uns["log1p"] = {"base": None}
    return adata


def _expression(rng: np.random.Generator, donor: np.ndarray, effect: np.ndarray, density: float) -> sparse.csr_matrix:
    """Cells of known donors; entries are nonzero independently, so the gaps between them are geometric."""
    n_cells, n_genes = donor.size, effect.shape[1]
    n_entries = n_cells * n_genes
    n_gaps = int(n_entries * density + 10 * np.sqrt(n_entries * density) + 10)
    position = np.cumsum(rng.geometric(density, n_gaps)) - 1
    row, gene = np.divmod(position[position < n_entries], n_genes)
    value = np.log1p(rng.standard_exponential(row.size, dtype=np.float32) + np.float32(0.2))
    value *= effect[donor[row], gene]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n_cells))])
    return sparse.csr_matrix((value, gene.astype(np.int32), indptr), shape=(n_cells, n_genes))


def small_cohort(n_donors: int, n_features: int, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """A dense table of few rows, for which the pass over the data costs next to nothing.

    Every donor has 2 to 4 samples with 2 to 4 rows each, taken at different times and spread over
    10 batches; the effects of donor, time within donor, sample and batch differ in size by feature.

    Returns
    -------
    (Y (rows, features), obs)
    """
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(n_donors), rng.integers(2, 5, n_donors))
    time = (np.arange(donor.size) - np.searchsorted(donor, donor)).astype(float)
    sample = np.repeat(np.arange(donor.size), rng.integers(2, 5, donor.size))
    donor, time = donor[sample], time[sample]
    batch = rng.integers(0, 10, donor.size)
    Y = rng.normal(size=(donor.size, n_features))
    for codes in (donor, sample, batch):
        Y += _effects(rng, codes, n_features)
    Y += time[:, None] * _effects(rng, donor, n_features) / 2
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical([f"D{d:03d}" for d in donor]),
            "sample": pd.Categorical([f"S{s:04d}" for s in sample]),
            "batch": pd.Categorical([f"B{b}" for b in batch]),
            "condition": pd.Categorical.from_codes(donor % 2, categories=["control", "case"]),
            "time": time,
        }
    )
    return Y, obs


def wrapped(Y: np.ndarray, obs: pd.DataFrame) -> ad.AnnData:
    """A dense table as an AnnData of log-normalised values."""
    obs = obs.set_index(np.arange(len(obs)).astype(str))
    adata = ad.AnnData(Y, obs=obs, var=pd.DataFrame(index=[f"gene{g}" for g in range(Y.shape[1])]))
    adata.uns["log1p"] = {"base": None}
    return adata


def hits_cohort(n_features: int, n_donors: int, n_groups: int, seed: int = 0) -> ad.AnnData:
    """Four cells of every donor and cell type; half of the donors are cases, and 5% of the genes know it."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(n_donors), n_groups * 4)
    Y = rng.normal(size=(donor.size, n_features)) + 0.7 * _effects(rng, donor, n_features)
    changed = rng.random(n_features) < 0.05
    Y[:, changed] += (donor % 2)[:, None] * rng.uniform(0.7, 1.5, changed.sum())
    cell_type = np.tile(np.repeat(np.arange(n_groups), 4), n_donors)
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical([f"D{d:03d}" for d in donor]),
            "cell_type": pd.Categorical([f"T{t}" for t in cell_type]),
            "condition": pd.Categorical.from_codes(donor % 2, categories=["control", "case"]),
        }
    )
    return wrapped(Y, obs)


def counts_cohort(n_cells: int, n_genes: int, seed: int = 0) -> ad.AnnData:
    """Counts of one cell type of 20 donors in a layer, and their logarithms in X."""
    adata = simulate_cohort(n_donors=20, n_cells=n_cells, n_genes=n_genes, cell_types=["T cell"], depth_sd=0, seed=seed)
    adata.obs["donor"] = adata.obs["donor_id"].astype("category")
    adata.obs["condition"] = adata.obs["condition"].cat.rename_categories(["control", "case"])
    return adata


def _effects(rng: np.random.Generator, codes: np.ndarray, n_features: int) -> np.ndarray:
    """Effects of the levels of a factor on every row, their sd between 0 and 1 by feature."""
    return (rng.normal(size=(codes.max() + 1, n_features)) * rng.uniform(0, 1, n_features))[codes]
