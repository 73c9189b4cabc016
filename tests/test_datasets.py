from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import donorwise as dw
from donorwise.datasets._designs import COHORT_DESIGNS
from donorwise.errors import DonorwiseError

SMALL = {"n_donors": 12, "n_cells": 1_200, "n_genes": 80}


@pytest.fixture(scope="module", params=COHORT_DESIGNS)
def study(request: pytest.FixtureRequest) -> ad.AnnData:
    return dw.datasets.simulate_cohort(request.param, **SMALL)


def _samples(adata: ad.AnnData) -> pd.DataFrame:
    return adata.obs.drop_duplicates("sample_id").set_index("sample_id")


def _n_levels(samples: pd.DataFrame, column: str, *, within: str) -> pd.Series:
    return samples.groupby(within, observed=True)[column].nunique()


def test_contents(study: ad.AnnData) -> None:
    counts = study.layers["counts"]
    assert study.shape == (1_200, 80)
    assert counts.format == study.X.format == "csr"
    assert counts.has_sorted_indices
    assert (counts.data == np.rint(counts.data)).all() and counts.data.min() > 0
    assert not np.shares_memory(counts.indices, study.X.indices)
    np.testing.assert_array_equal(study.obs["total_counts"], counts.toarray().sum(axis=1))
    np.testing.assert_array_equal(study.obs["n_genes_by_counts"], (counts.toarray() > 0).sum(axis=1))
    np.testing.assert_allclose(np.exp(study.obs["log_depth"]), study.obs["total_counts"])
    assert study.obs["sample_id"].nunique() == len(study.obs[["donor_id", "sample_id"]].drop_duplicates())
    assert study.obs["donor_id"].nunique() == 12
    assert study.obs.groupby("sample_id", observed=True).size().std() > 0
    for column in study.obs.select_dtypes("category"):
        assert set(study.obs[column].cat.categories) == set(study.obs[column])
    for column in {"condition", "arm"} & set(study.obs):
        assert study.obs[column].cat.categories[0] in {"control", "placebo"}


def test_normalised_as_scanpy_does(study: ad.AnnData) -> None:
    expected = ad.AnnData(study.layers["counts"].copy())
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(study.X.toarray(), expected.X.toarray(), rtol=1e-6)
    assert study.uns["log1p"] == expected.uns["log1p"]


def test_round_trip(study: ad.AnnData, tmp_path: Path) -> None:
    study.write_h5ad(tmp_path / "study.h5ad")
    back = ad.read_h5ad(tmp_path / "study.h5ad")
    pd.testing.assert_frame_equal(back.obs, study.obs)
    pd.testing.assert_frame_equal(back.var, study.var)
    pd.testing.assert_frame_equal(back.varm["true_log_fc"], study.varm["true_log_fc"])
    assert list(back.uns["truth"].pop("cell_types")) == list(study.uns["truth"]["cell_types"])
    assert all(back.uns["truth"][name] == value for name, value in study.uns["truth"].items() if name != "cell_types")


def test_same_seed_same_data(study: ad.AnnData) -> None:
    design = study.uns["truth"]["design"]
    again = dw.datasets.simulate_cohort(design, **SMALL)
    other = dw.datasets.simulate_cohort(design, **SMALL, seed=1)
    assert (again.layers["counts"] != study.layers["counts"]).nnz == 0
    assert (other.layers["counts"] != study.layers["counts"]).nnz > 0
    pd.testing.assert_frame_equal(again.obs, study.obs)


def test_designs_have_their_structure(study: ad.AnnData) -> None:
    samples, design = _samples(study), study.uns["truth"]["design"]
    if design in {"case-control", "crossed"}:
        assert (_n_levels(samples, "condition", within="donor_id") == 1).all()
        assert (samples.drop_duplicates("donor_id")["condition"].value_counts() == 6).all()
    if design == "paired":
        assert (_n_levels(samples, "condition", within="donor_id") == 2).all()
        assert len(samples) == 24
    if design == "crossed":
        assert (_n_levels(samples, "batch", within="donor_id") >= 3).all()
        assert (_n_levels(samples, "donor_id", within="batch") >= 6).all()
        assert len(samples) < 12 * 4
    if design == "longitudinal":
        assert (_n_levels(samples, "arm", within="donor_id") == 1).all()
        visits = samples.groupby("donor_id", observed=True)["visit"]
        assert (visits.max() + 1 == visits.size()).all(), "who drops out does not come back"
        assert 2 <= visits.size().min() < visits.size().max() == 5
        assert samples["time"].between(0, 2.2).all()
        assert samples["time"].nunique() > 20
        assert (samples["time"][samples["visit"] == 0] == 0).all()
    if design == "stepped-wedge":
        treated = samples.assign(treated=samples["condition"] == "treated", period=samples["period"].cat.codes)
        by_site = treated.pivot_table(index="site", columns="period", values="treated", observed=True)
        assert set(np.unique(by_site)) == {0.0, 1.0}, "a site is treated as a whole"
        assert (by_site.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None), "and stays treated"
        assert by_site.sum(axis=1).nunique() == len(by_site) == 4, "each from a period of its own"
        assert by_site[0].sum() == 0
        assert (_n_levels(samples, "site", within="donor_id") == 1).all()


@pytest.mark.parametrize("design", COHORT_DESIGNS)
def test_truth_is_in_the_counts(design: str) -> None:
    """Without random effects, the log ratio of mean counts per unit of depth is the true effect."""
    quiet = dict.fromkeys(["donor_sd", "slope_sd", "sample_sd", "batch_sd"], 0.0)
    adata = dw.datasets.simulate_cohort(
        design, n_donors=8, n_cells=8_000, n_genes=60, depth=6_000.0, depth_shift=0.5, de_fraction=0.5, seed=3, **quiet
    )
    obs = adata.obs
    share = pd.DataFrame(adata.layers["counts"].toarray()).div(obs["total_counts"].to_numpy(), axis=0)
    if design == "longitudinal":
        exposed, reference = [(obs["arm"] == arm) & (obs["visit"] == 2) for arm in ("drug", "placebo")]
        exposure = obs["time"][exposed].mean()
    elif design == "stepped-wedge":
        middle = obs["period"] == "t1"
        exposed, reference = [middle & (obs["condition"] == level) for level in ("treated", "control")]
        exposure = 1.0
    else:
        reference = obs["condition"] == "control"
        exposed, exposure = ~reference, 1.0
    for cell_type in obs["cell_type"].cat.categories:
        mean = [share[(which & (obs["cell_type"] == cell_type)).to_numpy()].mean() for which in (exposed, reference)]
        estimate = np.log2(mean[0] / mean[1]) / exposure
        truth = adata.varm["true_log_fc"][cell_type].to_numpy()
        assert np.corrcoef(estimate, truth)[0, 1] > 0.9
        assert np.polyfit(truth, estimate, 1)[0] == pytest.approx(1.0, abs=0.1)
    assert np.log(obs["total_counts"][exposed].median() / obs["total_counts"][reference].median()) > 0.2


def test_donors_differ_as_stated() -> None:
    """The spread of donor means over donors follows `donor_sd`, which follows the argument."""
    adata = dw.datasets.simulate_cohort(
        n_donors=60, n_cells=12_000, n_genes=60, cell_types=["T cell"], de_fraction=0.0, depth=6_000.0, donor_sd=0.4
    )
    share = pd.DataFrame(adata.layers["counts"].toarray()).div(adata.obs["total_counts"].to_numpy(), axis=0)
    donor_means = share.groupby(adata.obs["donor_id"].to_numpy(), observed=True).mean()
    spread = np.log(donor_means).std().to_numpy()
    assert np.corrcoef(spread, adata.var["donor_sd"])[0, 1] > 0.8
    assert adata.var["donor_sd"].mean() == pytest.approx(0.4, rel=0.15)
    assert np.median(spread / adata.var["donor_sd"]) == pytest.approx(1.0, abs=0.15)


def test_effects_by_cell_type(study: ad.AnnData) -> None:
    effects, de_in = study.varm["true_log_fc"], study.var["de_in"]
    np.testing.assert_array_equal(study.var["is_de"], (effects != 0).any(axis=1))
    assert study.var["is_de"].sum() == 8
    assert {"all", "none"} < set(de_in.cat.categories)
    for cell_type in effects.columns:
        reacts = de_in.isin(["all", cell_type])
        np.testing.assert_array_equal(effects[cell_type] != 0, reacts)
        np.testing.assert_array_equal(effects[cell_type][reacts], study.var["true_log_fc"][reacts])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"design": "cross-over"}, "'paired', 'longitudinal'"),
        ({"n_donors": 1}, "n_donors=1: must be at least 2"),
        ({"n_genes": 0}, "n_genes"),
        ({"design": "paired", "n_donors": 9, "n_cells": 17}, "this design has 18 samples"),
        ({"cell_types": []}, "cell_types"),
        ({"cell_types": ["T", "T"]}, "distinct"),
        ({"cell_types": ["T/NK"]}, "without '/'"),
        ({"de_fraction": 1.5}, "between 0 and 1"),
        ({"donor_sd": -0.1}, "donor_sd=-0.1: must not be negative"),
        ({"depth_sd": float("nan")}, "depth_sd"),
        ({"depth": 0.0}, "depth"),
    ],
)
def test_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.datasets.simulate_cohort(**arguments)
