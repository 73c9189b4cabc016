"""Simulated eQTL studies: genotypes as of real people, and a truth that the expression holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats

import donorwise as dw
from donorwise._typing import FloatArray
from donorwise.errors import DonorwiseError

QUIET = dict.fromkeys(["donor_sd", "polygenic_sd", "population_sd", "slope_sd", "sample_sd"], 0.0)
SMALL: dict[str, Any] = {"n_donors": 20, "n_cells": 900, "n_genes": 60, "n_variants": 800, "n_chromosomes": 4}
Study = tuple[ad.AnnData, ad.AnnData]


@pytest.fixture(scope="module")
def study() -> Study:
    return dw.datasets.simulate_eqtls(
        **SMALL, condition=True, families="nuclear", populations=2, eqtl_fraction=0.5, interaction=0.5, missing=0.05
    )


@pytest.fixture(scope="module")
def many() -> Study:
    """A row per donor, 400 people who are not related."""
    return dw.datasets.simulate_eqtls(
        n_donors=400, n_cells=None, n_genes=200, n_variants=3_000, n_chromosomes=6, seed=1
    )


def _copies(study: Study, genes: pd.Index | list[str] | None = None) -> FloatArray:
    """Copies of `a1` of the eQTLs of genes that have one, (rows, genes)."""
    adata, genotypes = study
    eqtls = adata.var["eqtl"] if genes is None else adata.var.loc[genes, "eqtl"]
    return np.asarray(genotypes[:, eqtls].X, dtype=float)[genotypes.obs_names.get_indexer(adata.obs["donor_id"])]


def _slopes(x: FloatArray, y: FloatArray) -> FloatArray:
    """Of the columns of y on those of x."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return (x * y).sum(axis=0) / (x**2).sum(axis=0)


def _inflation(y: FloatArray, x: FloatArray, covariates: FloatArray) -> float:
    """Genomic lambda of regressions of every column of y on every column of x that varies."""
    x = x[:, np.ptp(x, axis=0) > 0]
    basis, _ = np.linalg.qr(covariates)
    y, x = (values - basis @ (basis.T @ values) for values in (y, x))
    r = (y / np.linalg.norm(y, axis=0)).T @ (x / np.linalg.norm(x, axis=0))
    df = len(y) - covariates.shape[1] - 1
    return float(np.median(r**2 / (1 - r**2) * df) / stats.f.median(1, df))


def test_contents(study: Study) -> None:
    adata, genotypes = study
    assert adata.shape == (900, 60) and genotypes.shape == (20, 800)
    assert set(adata.obs) == {
        "donor_id", "sample_id", "cell_type", "condition", "family", "population", "sex", "age",
        "total_counts", "n_genes_by_counts", "log_depth",
    }  # fmt: skip
    assert list(adata.obs["donor_id"].cat.categories) == list(genotypes.obs_names)
    assert list(adata.obs["condition"].cat.categories) == ["control", "stimulated"]
    per_donor = adata.obs.drop_duplicates("donor_id").set_index(adata.obs.drop_duplicates("donor_id")["donor_id"])
    for column in ("family", "population", "sex"):
        assert (per_donor[column].astype(str) == genotypes.obs.loc[per_donor.index, column].astype(str)).all()
    assert adata.obs.groupby("donor_id", observed=True)["condition"].nunique().eq(2).all()
    np.testing.assert_array_equal(adata.obs["total_counts"], adata.layers["counts"].toarray().sum(axis=1))
    var = adata.var
    np.testing.assert_array_equal(var["tss"], np.where(var["strand"] == "+", var["start"], var["end"]))
    assert (var["start"] < var["end"]).all() and var["start"].min() >= 1
    assert var["end"].max() <= 20_000 * 200 and genotypes.var["pos"].max() <= 20_000 * 200
    for table, column in ((var, "start"), (genotypes.var, "pos")):
        assert table.groupby("chrom", observed=True)[column].is_monotonic_increasing.all()
    assert set(var["chrom"]) == set(genotypes.var["chrom"]) == {"1", "2", "3", "4"}
    expected = ad.AnnData(adata.layers["counts"].copy())
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(adata.X.toarray(), expected.X.toarray(), rtol=1e-6)


def test_truth_columns_agree(study: Study) -> None:
    adata, genotypes = study
    var, there = adata.var, adata.var["eqtl"] != "none"
    assert there.sum() == 30
    np.testing.assert_array_equal(there, var["eqtl_in"] != "none")
    np.testing.assert_array_equal(there, var["effect"] != 0)
    assert var["effect"].abs()[there].between(0.15, 0.45).all()
    assert {-1.0, 1.0} == set(np.sign(var["effect"][there]))
    at = genotypes.var.loc[var["eqtl"][there]]
    np.testing.assert_array_equal(at["chrom"].astype(str), var["chrom"][there].astype(str))
    distance = np.abs(at["pos"].to_numpy() - var["tss"][there].to_numpy())
    assert distance.max() <= 1e6 and np.median(distance) < 2e5
    assert at["af"].between(0.1, 0.9).all()
    places = var["eqtl_in"].value_counts()
    types = list(adata.uns["truth"]["cell_types"])
    assert places["all"] == 15 and places["control"] + places["stimulated"] == 7 and places[types].sum() == 8
    for name in types:
        control, added = adata.varm["effect"][name], adata.varm["interaction"][name]
        active = var["eqtl_in"].isin(["all", "control", name])
        np.testing.assert_array_equal(control, np.where(active, var["effect"], 0.0))
        active = var["eqtl_in"].isin(["all", "stimulated", name])
        np.testing.assert_array_equal(control + added, np.where(active, var["effect"], 0.0))


def test_rows_without_noise_are_the_truth() -> None:
    """Nothing but eQTLs and the condition differs between donors."""
    made = dw.datasets.simulate_eqtls(
        **SMALL | {"n_cells": None, "n_donors": 40},
        cell_types=["T cell", "B cell"],
        condition=True,
        interaction=0.6,
        **QUIET,
    )
    adata, _ = made
    assert adata.n_obs == 40 * 2 * 2 and "total_counts" not in adata.obs
    there = adata.var_names[adata.var["eqtl"] != "none"]
    copies, values = _copies(made, there), np.asarray(adata[:, there].X)
    for name in ("T cell", "B cell"):
        effect = adata.varm["effect"].loc[there, name]
        for condition, expected in (
            ("control", effect),
            ("stimulated", effect + adata.varm["interaction"].loc[there, name]),
        ):
            rows = ((adata.obs["cell_type"] == name) & (adata.obs["condition"] == condition)).to_numpy()
            assert rows.sum() == 40
            np.testing.assert_allclose(_slopes(copies[rows], values[rows]), expected, atol=1e-10)
            resting = values[rows] - copies[rows] * expected.to_numpy()
            np.testing.assert_allclose(resting, np.tile(resting[:1], (40, 1)), atol=1e-10)
    without = adata[:, adata.var["eqtl"] == "none"]
    by_type = pd.DataFrame(without.X).groupby([without.obs[c].to_numpy() for c in ("cell_type", "condition")])
    assert by_type.std().max(axis=None) < 1e-10
    reacts = without.var["true_log_fc"].to_numpy()
    shift = by_type.mean().xs("stimulated", level=1).to_numpy() - by_type.mean().xs("control", level=1).to_numpy()
    np.testing.assert_allclose(
        shift[:, without.var["de_in"] == "all"], np.tile(reacts[without.var["de_in"] == "all"], (2, 1)) * np.log(2)
    )


def test_regression_of_donors_recovers_the_effects(many: Study) -> None:
    adata, _ = many
    assert adata.n_obs == 400 and adata.obs["donor_id"].is_unique and adata.X.dtype == np.float64
    assert list(adata.obs_names) == list(adata.obs["donor_id"])
    there = adata.var_names[adata.var["eqtl"] != "none"]
    slopes = _slopes(_copies(many, there), np.asarray(adata[:, there].X))
    assert len(there) == 60
    assert np.corrcoef(slopes, adata.var.loc[there, "effect"])[0, 1] > 0.98
    assert np.polyfit(adata.var.loc[there, "effect"], slopes, 1)[0] == pytest.approx(1.0, abs=0.03)
    spread = np.asarray(adata[:, adata.var["eqtl"] == "none"].X).std(axis=0)
    sd = np.hypot(adata.var["donor_sd"], adata.var["polygenic_sd"])[adata.var["eqtl"] == "none"]
    assert np.median(spread / sd) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("condition", [False, True])
def test_regression_of_cells_recovers_the_effects(condition: bool) -> None:
    """Rates of donors in a cell type are on the scale of the effects; log-normalised means rank like them."""
    made = dw.datasets.simulate_eqtls(
        n_donors=40, n_cells=8_000, n_genes=60, n_variants=1_000, depth=6_000.0, eqtl_fraction=0.5, interaction=0.5,
        condition=condition, cell_types=["T cell", "B cell"], seed=2, **QUIET,
    )  # fmt: skip
    adata, genotypes = made
    genes = adata.var_names[(adata.var["eqtl"] != "none") & (adata.var["mean"] > 5)]
    copies = np.asarray(genotypes[:, adata.var.loc[genes, "eqtl"]].X)
    estimates, means, truth = [], [], []
    for (name, level), rows in adata.obs.groupby(
        ["cell_type", "condition" if condition else "population"], observed=True
    ).groups.items():
        cells = adata[rows, genes]
        donor = cells.obs["donor_id"].to_numpy()
        counts = (
            pd.DataFrame(cells.layers["counts"].toarray()).groupby(donor, observed=True).sum().loc[genotypes.obs_names]
        )
        depth = cells.obs["total_counts"].groupby(donor, observed=True).sum().loc[genotypes.obs_names]
        estimates.append(_slopes(copies, np.log(counts.to_numpy() / depth.to_numpy()[:, None])))
        normalised = pd.DataFrame(cells.X.toarray()).groupby(donor, observed=True).mean().loc[genotypes.obs_names]
        means.append(_slopes(copies, normalised.to_numpy()))
        added = adata.varm["interaction"].loc[genes, name] if level == "stimulated" else 0.0
        truth.append(adata.varm["effect"].loc[genes, name] + added)
    estimate, mean, true = (np.concatenate(values) for values in (estimates, means, truth))
    assert np.polyfit(true, estimate, 1)[0] == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(true, estimate)[0, 1] > 0.98
    assert np.corrcoef(true, mean)[0, 1] > 0.95
    assert np.abs(estimate[true == 0]).mean() < 0.05


def test_frequencies(many: Study) -> None:
    _, genotypes = many
    assert set(np.unique(genotypes.X)) == {0, 1, 2}
    np.testing.assert_allclose(genotypes.var["af"], genotypes.X.mean(axis=0, dtype=float) / 2)
    af = genotypes.var["af"].to_numpy()
    assert np.mean((af > 0.02) & (af < 0.98)) > 0.98
    assert np.mean(af < 0.25) > 2 * np.mean(af > 0.75), "alleles that are counted are the younger ones"
    heterozygous = (genotypes.X == 1).mean(axis=0)
    assert np.mean(heterozygous) == pytest.approx(np.mean(2 * af * (1 - af)), rel=0.02), "Hardy and Weinberg"


def _decay(genotypes: ad.AnnData, bounds: list[float]) -> FloatArray:
    """Mean r² between variants of a chromosome by distance, less what chance gives."""
    total, pairs = np.zeros((2, len(bounds) - 1))
    for _, variants in genotypes.var.groupby("chrom", observed=True):
        r2 = np.corrcoef(np.asarray(genotypes[:, variants.index].X).T) ** 2
        rows, columns = np.triu_indices(len(variants), 1)
        distance = np.abs(variants["pos"].to_numpy()[rows] - variants["pos"].to_numpy()[columns])
        at = np.searchsorted(bounds, distance, side="right") - 1
        own = at < len(bounds) - 1
        total += np.bincount(at[own], r2[rows, columns][own], minlength=len(total))
        pairs += np.bincount(at[own], minlength=len(total))
    return np.asarray(total / pairs - 1 / (genotypes.n_obs - 1))


@pytest.mark.parametrize("ld_range", [5e4, 1e5, 3e5])
def test_ld_decays(ld_range: float) -> None:
    """Both of two variants come from one ancestor, and no hotspot is between them: exp(-d/l)^2 exp(-d/4l)."""
    _, genotypes = dw.datasets.simulate_eqtls(
        n_donors=300, n_cells=None, n_genes=1, n_variants=8_000, n_chromosomes=16, ld_range=ld_range
    )
    bounds = ld_range * np.array([0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 5.0, 10.0])
    found = _decay(genotypes, list(bounds))
    assert (np.diff(found[:-1]) < 0).all()
    expected = np.exp(-2.25 * (bounds[:-1] + bounds[1:])[:5] / 2 / ld_range)
    np.testing.assert_allclose(found[:5] / found[0], expected / expected[0], rtol=0.25, atol=0.01)
    assert 0.2 < found[0] < 0.4 and abs(found[-1]) < 1e-3


def test_chromosomes_are_independent(many: Study) -> None:
    r2 = np.corrcoef(np.asarray(many[1][:, 495:505].X).T) ** 2
    assert many[1].var["chrom"].iloc[[499, 500]].tolist() == ["1", "2"]
    assert r2[:5, 5:].max() < 0.03


def test_families_share_haplotypes() -> None:
    adata, genotypes = dw.datasets.simulate_eqtls(
        n_donors=122, n_cells=None, n_genes=5, n_variants=4_000, families="nuclear", n_children=2
    )
    obs = genotypes.obs
    assert obs["role"].value_counts().to_dict() == {"child": 60, "father": 30, "mother": 30, "unrelated": 2}
    age = adata.obs.set_index("donor_id")["age"]
    for child, row in obs[obs["role"] == "child"].iterrows():
        own, father, mother = (np.asarray(genotypes[n].X)[0] for n in (child, row["father"], row["mother"]))
        assert (own >= (father == 2).astype(int) + (mother == 2)).all()
        assert (own <= (father > 0).astype(int) + (mother > 0)).all()
        assert age[child] + 15 <= min(age[row["father"]], age[row["mother"]])
    K = dw.pp.relatedness(genotypes, method="vanraden", progress=False).to_numpy()
    expected = genotypes.obsp["pedigree"]
    child = (obs["role"] == "child").to_numpy()
    parents = ~np.outer(child, child) & (expected == 0.5)
    sibs = np.outer(child, child) & (expected == 0.5)
    assert parents.sum() == 240 and sibs.sum() == 60
    # Relatedness is relative to these donors, whose relatives lower all of it a little.
    assert K[parents].mean() == pytest.approx(0.5, abs=0.03)
    assert K[sibs].mean() == pytest.approx(0.5, abs=0.04)
    assert K[expected == 0].mean() == pytest.approx(0.0, abs=0.03)
    assert 0.02 < K[sibs].std() < 0.12


def test_populations_differ_by_fst() -> None:
    """Hudson's Fst, as a ratio of averages (Bhatia et al. 2013, Genome Res 23:1514, eq. 10)."""
    for fst in (0.05, 0.2):
        adata, genotypes = dw.datasets.simulate_eqtls(
            n_donors=200, n_cells=None, n_genes=5, n_variants=5_000, populations=2, fst=fst, families="nuclear", seed=4
        )
        founders = genotypes[genotypes.obs["father"] == ""]
        own = [founders[founders.obs["population"] == name] for name in ("pop1", "pop2")]
        assert [len(part) for part in own] == [50, 50]
        p, q = (np.asarray(part.X).mean(axis=0) / 2 for part in own)
        within = p * (1 - p) / 99 + q * (1 - q) / 99
        found = ((p - q) ** 2 - within).sum() / (p * (1 - q) + q * (1 - p)).sum()
        assert found == pytest.approx(fst, rel=0.15)
        assert genotypes.obs.query("family != ''").groupby("family")["population"].nunique().eq(1).all()
        assert adata.obs["population"].value_counts().to_dict() == {"pop1": 100, "pop2": 100}


def test_populations_inflate_plain_regression() -> None:
    options: dict[str, Any] = {
        "n_donors": 200,
        "n_cells": None,
        "n_genes": 150,
        "n_variants": 2_000,
        "eqtl_fraction": 0.0,
    }
    adata, genotypes = dw.datasets.simulate_eqtls(**options, populations=2)
    ones = np.ones((200, 1))
    assert _inflation(adata.X, genotypes.X, ones) > 1.2
    which = (adata.obs["population"] == "pop2").to_numpy(dtype=float)[:, None]
    assert _inflation(adata.X, genotypes.X, np.hstack([ones, which])) == pytest.approx(1.0, abs=0.04)
    adata, genotypes = dw.datasets.simulate_eqtls(**options)
    assert _inflation(adata.X, genotypes.X, ones) == pytest.approx(1.0, abs=0.04)


def test_families_inflate_plain_regression() -> None:
    """And the covariance that the truth has puts it right."""
    adata, genotypes = dw.datasets.simulate_eqtls(
        n_donors=300, n_cells=None, n_genes=150, n_variants=2_000, eqtl_fraction=0.0, families="nuclear", n_children=4,
        polygenic_sd=0.3, donor_sd=0.15,
    )  # fmt: skip
    ones = np.ones((300, 1))
    assert _inflation(adata.X, genotypes.X, ones) > 1.2
    V = 0.3**2 * genotypes.obsp["pedigree"] + 0.15**2 * np.eye(300)
    whiten = np.linalg.inv(np.linalg.cholesky(V))
    assert _inflation(whiten @ adata.X, whiten @ genotypes.X, whiten @ ones) == pytest.approx(1.0, abs=0.04)


def test_donors_differ_in_cells() -> None:
    def sizes(spread: float) -> pd.Series:
        return (
            dw.datasets.simulate_eqtls(**SMALL | {"n_cells": 4_000}, cells_sd=spread)[0].obs["donor_id"].value_counts()
        )

    assert np.log(sizes(0.8)).std() == pytest.approx(0.8, abs=0.3)
    assert np.log(sizes(0.0)).std() < 0.15


def test_missing_genotypes_and_seeds(study: Study) -> None:
    assert np.isnan(study[1].X).mean() == pytest.approx(0.05, abs=0.01)
    one, two, other = (dw.datasets.simulate_eqtls(**SMALL, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(a.obs, b.obs)
        pd.testing.assert_frame_equal(a.var, b.var)
    assert (one[0].layers["counts"] != two[0].layers["counts"]).nnz == 0
    np.testing.assert_array_equal(one[1].X, two[1].X)
    assert not np.array_equal(one[1].X, other[1].X)
    missing = dw.datasets.simulate_eqtls(**SMALL, seed=3, missing=0.5)
    np.testing.assert_array_equal(
        missing[0].X.toarray(), one[0].X.toarray(), err_msg="cells do not know what was genotyped"
    )


def test_round_trip(study: Study, tmp_path: Path) -> None:
    for name, adata in zip(("cells", "genotypes"), study, strict=True):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        back = ad.read_h5ad(tmp_path / f"{name}.h5ad")
        assert (back.obs.astype(str) == adata.obs.astype(str)).all(axis=None)
        assert (back.var.astype(str) == adata.var.astype(str)).all(axis=None)
        for key in adata.varm:
            pd.testing.assert_frame_equal(back.varm[key], adata.varm[key])


def test_little_of_everything() -> None:
    adata, genotypes = dw.datasets.simulate_eqtls(
        n_donors=3, n_cells=None, n_genes=2, n_variants=2, n_chromosomes=2, eqtl_fraction=1.0, interaction=1.0
    )
    assert adata.shape == (3, 2) and genotypes.shape == (3, 2)
    assert set(adata.var["eqtl_in"]) <= {"all", "none"}, (
        "one cell type and no condition leave nothing to be specific to"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_donors": 1}, "n_donors=1: must be at least 2"),
        ({"n_cells": 19}, "n_cells=19: this design has 20 samples"),
        ({"n_cells": 0}, "n_cells=0: must be at least 1"),
        ({"n_chromosomes": 0}, "n_chromosomes"),
        ({"n_variants": 3}, "n_chromosomes=4: must be from 1 to n_variants=3"),
        ({"cell_types": ["T", "T"]}, "distinct"),
        ({"families": "trios"}, "'unrelated', 'nuclear'"),
        ({"families": "nuclear", "n_children": 19}, "a family has 21 members"),
        ({"populations": 0}, "populations=0: must be at least 1"),
        ({"populations": 21}, "20 families and donors outside families"),
        ({"families": "nuclear", "populations": 6}, "populations=6: there are 5 families"),
        ({"fst": 1.0}, "fst=1.0: must be below 1"),
        ({"missing": 1.5}, "missing=1.5: must lie between 0 and 1"),
        ({"eqtl_fraction": -0.1}, "eqtl_fraction"),
        ({"interaction": 2}, "interaction=2"),
        ({"donor_sd": -1.0}, "donor_sd=-1.0: must not be negative"),
        ({"effect_size": float("nan")}, "effect_size"),
        ({"ld_range": 0.0}, "ld_range=0.0: must be positive"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=message):
        dw.datasets.simulate_eqtls(**SMALL | options)
