from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise.datasets._proteins import numbers_of_peptides
from donorwise.errors import DonorwiseError

RATIOS = {"HUMAN": 0.0, "YEAST": 1.0, "ECOLI": -2.0}
QUIET = {"donor_sd": 0.0, "noise_sd": 1e-6, "missing": 0.0}


@pytest.fixture(scope="module")
def study() -> ad.AnnData:
    return dw.datasets.simulate_peptides(n_donors=5, runs_per_donor=2, n_proteins=300, run_sd=0.1, seed=2)


def test_contents(study: ad.AnnData) -> None:
    obs, var = study.obs, study.var
    assert study.n_obs == 20
    assert study.var_names.is_unique and study.obs_names.is_unique
    assert (obs.groupby("donor_id", observed=True).size() == 2).all()
    assert (obs.drop_duplicates("donor_id")["condition"].value_counts() == 5).all()
    assert obs["condition"].cat.categories[0] == "control"
    assert list(obs["run"]) == list(study.obs_names)
    assert var["protein"].nunique() == var["gene"].nunique() == 300
    assert var.groupby("protein").size().between(1, 20).all()
    assert (var.groupby("protein")[["true_log_fc", "donor_sd", "run_sd", "noise_sd"]].nunique() == 1).all(axis=None)
    assert var.drop_duplicates("protein")["is_de"].sum() == 30
    np.testing.assert_array_equal(var["is_de"], var["true_log_fc"] != 0)
    assert var.loc[var["is_de"], "true_log_fc"].abs().between(0.5, 1.5).all()
    assert study.uns["truth"]["formula"] == "~ condition + (1 | peptide) + (1 | donor_id) + (1 | run)"
    np.testing.assert_array_equal(np.isnan(study.X), np.isnan(study.layers["weights"]))
    assert np.isfinite(study.layers["true_variance"]).all()


def test_round_trip(tmp_path: Path) -> None:
    study = dw.datasets.simulate_peptides(n_proteins=20, species=RATIOS)
    study.write_h5ad(tmp_path / "study.h5ad")
    back = ad.read_h5ad(tmp_path / "study.h5ad")
    pd.testing.assert_frame_equal(back.obs, study.obs)
    pd.testing.assert_frame_equal(back.var, study.var)
    np.testing.assert_array_equal(back.X, study.X)
    assert back.uns["truth"] == study.uns["truth"]


def test_same_seed_same_data() -> None:
    first, again, other = (dw.datasets.simulate_peptides(n_proteins=30, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.X, again.X)
    np.testing.assert_array_equal(first.layers["weights"], again.layers["weights"])
    pd.testing.assert_frame_equal(first.var, again.var)
    assert first.shape != other.shape or not np.allclose(first.X, other.X, equal_nan=True)


def test_what_is_lost_or_reported_does_not_change_what_is_measured() -> None:
    whole = dw.datasets.simulate_peptides(n_proteins=30, missing=0.0, weights=None)
    assert np.isfinite(whole.X).all() and "weights" not in whole.layers
    for changed in ({}, {"missing_by": "intensity"}, {"weights": "noise"}):
        adata = dw.datasets.simulate_peptides(n_proteins=30, missing=0.4, **changed)
        left = np.isfinite(adata.X)
        assert 0.5 < left.mean() < 0.7
        np.testing.assert_array_equal(adata.X[left], whole.X[left])


@pytest.mark.parametrize("mean", [1.0, 2.5, 6.0, 10.5, 17.0, 20.0])
def test_numbers_of_peptides_have_their_mean(mean: float) -> None:
    probabilities = numbers_of_peptides(mean)
    assert probabilities @ np.arange(1, 21) == pytest.approx(mean)
    assert probabilities.sum() == pytest.approx(1)
    inner = probabilities[:5]
    if 1 < mean < 17:
        np.testing.assert_allclose(inner[1:] / inner[:-1], inner[1] / inner[0])


@pytest.mark.parametrize("species", [None, RATIOS])
def test_truth_is_in_the_intensities(species: dict[str, float] | None) -> None:
    adata = dw.datasets.simulate_peptides(n_proteins=80, de_fraction=0.5, species=species, **QUIET)
    case = (adata.obs["condition"] == "case").to_numpy()
    np.testing.assert_allclose(adata.X[case].mean(0) - adata.X[~case].mean(0), adata.var["true_log_fc"], atol=1e-4)
    np.testing.assert_allclose(adata.X[~case].mean(0), adata.var["level"], atol=1e-4)


def test_mixture_of_species() -> None:
    proteins = dw.datasets.simulate_peptides(n_proteins=100, species=RATIOS).var.drop_duplicates("protein")
    assert proteins["species"].value_counts().to_dict() == {"HUMAN": 50, "YEAST": 25, "ECOLI": 25}
    np.testing.assert_array_equal(proteins["true_log_fc"], proteins["species"].astype(str).map(RATIOS))
    alone = dw.datasets.simulate_peptides(n_proteins=5, species={"MOUSE": 0.5}).var
    assert set(alone["species"]) == {"MOUSE"} and (alone["true_log_fc"] == 0.5).all()


def test_spreads_are_those_asked_for() -> None:
    """Of the residuals, of donors about them and of peptides, each with the others away."""
    donors = dw.datasets.simulate_peptides(
        n_donors=60, n_proteins=100, de_fraction=0, donor_sd=0.5, noise_sd=1e-6, missing=0
    )
    sd = donors.X.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.median(sd / donors.var["donor_sd"]), 1, rtol=0.05)
    assert donors.var.drop_duplicates("protein")["donor_sd"].mean() == pytest.approx(0.5, rel=0.1)
    peptides = dw.datasets.simulate_peptides(n_proteins=400, peptide_sd=1.5, **QUIET)
    within = peptides.var["level"] - peptides.var.groupby("protein")["level"].transform("mean")
    free = len(within) - peptides.var["protein"].nunique()
    assert np.sqrt((within**2).sum() / free) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("errors", ["normal", "t3"])
def test_errors_have_their_variances(errors: str) -> None:
    adata = dw.datasets.simulate_peptides(
        n_donors=10, n_proteins=600, de_fraction=0, donor_sd=0.0, missing=0, noise_spread=1.5, errors=errors
    )  # fmt: skip
    ratio = (adata.X - adata.var["level"].to_numpy()) ** 2 / adata.layers["true_variance"]
    assert ratio.mean() == pytest.approx(1, abs=0.02 if errors == "normal" else 0.15)
    tail = {"normal": 0.0027, "t3": 0.0138}[errors]  # beyond three standard deviations
    assert (ratio > 9).mean() == pytest.approx(tail, rel=0.1)
    log_variance = np.log(adata.layers["true_variance"] / adata.var["noise_sd"].to_numpy() ** 2)
    assert log_variance.std() == pytest.approx(1.5, rel=0.05)
    assert np.corrcoef(np.broadcast_to(adata.var["level"], adata.shape).ravel(), log_variance.ravel())[0, 1] < -0.6


def test_errors_can_all_be_alike() -> None:
    adata = dw.datasets.simulate_peptides(n_proteins=10, noise_spread=0.0)
    np.testing.assert_allclose(adata.layers["true_variance"], np.tile(adata.var["noise_sd"] ** 2, (adata.n_obs, 1)))


@pytest.mark.parametrize(("weights", "low", "high"), [("informative", 0.9, 1.0), ("noise", -0.05, 0.05)])
def test_weights_know_the_variances_or_not(weights: str, low: float, high: float) -> None:
    adata = dw.datasets.simulate_peptides(n_proteins=300, weights=weights)
    known = np.isfinite(adata.X)
    log_weights, log_variance = np.log(adata.layers["weights"][known]), np.log(adata.layers["true_variance"][known])
    assert low < -np.corrcoef(log_weights, log_variance)[0, 1] < high
    assert log_weights.std() == pytest.approx(1.0, rel=0.25)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("by", ["random", "intensity"])
def test_so_many_are_missing(by: str, fraction: float) -> None:
    adata = dw.datasets.simulate_peptides(n_proteins=300, missing=fraction, missing_by=by)
    lost = np.isnan(adata.X)
    assert lost.mean() == pytest.approx(fraction, abs=0.015)
    level = np.broadcast_to(adata.var["level"], adata.shape)
    assert (level[~lost].mean() - level[lost].mean() > 1) == (by == "intensity")


def test_report_in_the_columns_of_diann(study: ad.AnnData) -> None:
    report = dw.datasets.diann_report(study)
    assert list(report) == [
        "Run", "Precursor.Id", "Protein.Group", "Genes", "Precursor.Normalised", "Quantity.Quality", "Q.Value", "Proteotypic",
    ]  # fmt: skip
    assert len(report) == np.isfinite(study.X).sum()
    for values, layer in (
        (np.log2(report["Precursor.Normalised"]), study.X),
        ((1 / report["Quantity.Quality"] - 1) ** 2, np.log(2) ** 2 / study.layers["weights"]),
    ):
        wide = report.assign(values=values).pivot(index="Run", columns="Precursor.Id", values="values")
        back = wide.reindex(index=study.obs_names, columns=study.var_names)
        np.testing.assert_allclose(back, layer)
    assert report["Q.Value"].between(0, 0.01).all() and report["Quantity.Quality"].between(0, 1).all()
    assert (report["Proteotypic"] == 1).all()
    proteins = report.drop_duplicates("Precursor.Id").set_index("Precursor.Id")["Protein.Group"]
    assert (proteins == study.var["protein"].reindex(proteins.index)).all()
    assert "Quantity.Quality" not in dw.datasets.diann_report(dw.datasets.simulate_peptides(n_proteins=3, weights=None))


def test_report_needs_proteins() -> None:
    with pytest.raises(DonorwiseError, match=r"no column 'gene': takes what dw\.datasets\.simulate_peptides makes"):
        dw.datasets.diann_report(ad.AnnData(np.ones((1, 1)), var=pd.DataFrame({"protein": ["P1"]}, index=["A"])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_donors": 0}, "n_donors=0: must be at least 1"),
        ({"runs_per_donor": 0}, "runs_per_donor=0"),
        ({"n_proteins": 0}, "n_proteins=0"),
        ({"n_peptides": 0.5}, r"n_peptides=0\.5: must be from 1 to 20"),
        ({"n_peptides": 21}, "n_peptides=21"),
        ({"donor_sd": -1.0}, r"donor_sd=-1\.0: must not be negative"),
        ({"noise_spread": float("nan")}, "noise_spread=nan"),
        ({"noise_sd": 0.0}, r"noise_sd=0\.0: must be positive"),
        ({"missing": 1.0}, r"missing=1\.0: must be below 1"),
        ({"missing": 30}, "missing=30: must lie between 0 and 1"),
        ({"de_fraction": 2}, "de_fraction=2"),
        ({"errors": "cauchy"}, "'t3'"),
        ({"missing_by": "chance"}, "'intensity'"),
        ({"weights": "good"}, "'informative'"),
        ({"species": {}}, "species={}: needs names, and a log2 ratio for each, such as {'YEAST': 1.0}"),
        ({"species": {"YEAST": float("inf")}}, "a log2 ratio for each"),
        ({"species": {"YEAST": "1"}}, "a log2 ratio for each"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.datasets.simulate_peptides(**arguments)
