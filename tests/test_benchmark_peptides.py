"""What the benchmark of peptides gives limma, and how it counts what was found."""

from __future__ import annotations

from functools import partial

import anndata as ad
import numpy as np
import pytest

import donorwise as dw

peptides = pytest.importorskip("benchmarks.calibration.peptides")


@pytest.fixture(scope="module")
def study() -> ad.AnnData:
    adata = dw.datasets.simulate_peptides(n_donors=2, runs_per_donor=2, n_proteins=12, missing=0.5, seed=3)
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def _peptide_values(study: ad.AnnData, protein: str, centred: bool, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Levels and weights (runs, peptides) of a protein, every peptide's mean taken off."""
    own = (study.var["protein"] == protein).to_numpy()
    values, weights = np.array(study.X)[:, own], np.array(study.layers["weights"])[:, own]
    for j in range(values.shape[1] if centred else 0):
        known = np.isfinite(values[:, j])
        if known.any():
            values[:, j] -= np.average(values[known, j], weights=weights[known, j] if weighted else None)
    return values, weights


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_levels_of_donors(study: ad.AnnData, centred: bool, weighted: bool) -> None:
    summary = peptides.weighted_means if weighted else peptides.medians
    found = peptides.donor_levels(study, partial(summary, centred=centred))
    assert found.shape == (12, 4)
    donors = study.obs["donor_id"].cat.categories
    for g, protein in enumerate(peptides.proteins(study).index):
        values, weights = _peptide_values(study, protein, centred, weighted)
        for d, donor in enumerate(donors):
            means = []
            for run in np.flatnonzero(study.obs["donor_id"] == donor):
                known = np.isfinite(values[run])
                if known.any():
                    own = values[run, known]
                    means.append(np.average(own, weights=weights[run, known]) if weighted else np.median(own))
            expected = np.mean(means) if means else np.nan
            assert found[g, d] == pytest.approx(expected, nan_ok=True)


def test_effects_found_are_counted() -> None:
    truth = np.array([[1.0] * 4 + [0.0] * 40])
    p = np.concatenate([[1e-6, 0.02, 0.2, np.nan], np.linspace(0.03, 1, 40)])
    found = peptides.powers([peptides.Tested(p, p, p > 2)], truth)
    assert found["p ≤ 0.05"] == 0.5
    assert found["at type I 0.05"] == 0.5  # up to the second null, at .055
    assert (found["power"], found["fdp"]) == (0.25, 0)


def test_shares_of_p_values() -> None:
    assert peptides.share([np.array([0.01, 0.5, np.nan]), np.array([0.5, 0.9])], 0.05) == "0.2500 ± 0.2500"
    assert peptides.share([np.full(2, np.nan)], 0.05) == ""
