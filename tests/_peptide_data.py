"""Peptides of proteins, measured in several runs of some donors."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

FORMULA = "~ condition + (1 | peptide) + (1 | donor_id)"
WEIGHTED = {"features": "protein", "weights_layer": "weights"}


def peptides(n_proteins: int = 12, n_donors: int = 6, n_runs: int = 2, seed: int = 0) -> ad.AnnData:
    """Log2 intensities of 1 to 6 peptides for each protein, a third of them missing, with a weight for each.

    The first protein has one peptide, the second was not measured in one condition, and the last peptide has no protein. Of
    the weights one is missing and one is zero.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 7, n_proteins)
    counts[0] = 1
    protein = np.repeat(np.arange(n_proteins), counts)
    donor = np.repeat(np.arange(n_donors), n_runs)
    obs = pd.DataFrame(
        {
            "donor_id": [f"d{d}" for d in donor],
            "condition": np.where(donor < n_donors // 2, "control", "case"),
            "instrument": np.tile(["one", "two"], donor.size // 2),
            "quality": np.round(rng.uniform(0.5, 2, donor.size), 3),
        },
        index=[f"run {i}" for i in range(donor.size)],
    )
    names = np.array([f"P{p}" for p in protein], dtype=object)
    var = pd.DataFrame(
        {"protein": names, "Genes": [f"gene {p}" for p in protein], "some": np.arange(protein.size) % 5 > 0},
        index=[f"peptide {i}" for i in range(protein.size)],
    )
    var["charge"] = pd.Categorical(rng.choice(["2", "3"], protein.size))
    var.iloc[-1, 0] = np.nan
    of_donor, of_run = rng.normal(0, 0.4, (n_donors, n_proteins)), rng.normal(0, 0.2, (donor.size, n_proteins))
    weights = np.round(rng.uniform(0.3, 3, (donor.size, protein.size)), 3)
    noise = rng.normal(0, 0.3, weights.shape) / np.sqrt(weights)
    Y = 20 + rng.normal(0, 2, protein.size) + (of_donor[donor] + of_run)[:, protein] + noise
    Y[rng.random(Y.shape) < 1 / 3] = np.nan
    Y[np.ix_(obs["condition"] == "case", protein == 1)] = np.nan
    weights[0, 3], weights[1, 4] = np.nan, 0.0
    return ad.AnnData(Y, obs=obs, var=var, layers={"weights": weights})
