"""What is done with a result of proteins: donors left out, labels exchanged, studies planned; each against a naive twin."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise._anndata.recover import recover
from donorwise._core.engine.power import Known
from donorwise.errors import DesignError, DonorwiseWarning

FORMULA = "~ condition + (1 | peptide) + (1 | donor_id)"
PAIRED = "~ condition + (1 | peptide) + (1 | donor_id) + (1 | donor_id:condition)"
CONTRAST = "condition[T.b]"
ROW = ["variable", "contrast"]
NUMBERS = ["estimate", "se", "ci_low", "ci_high", "p_value"]


def peptides(
    n_proteins: int = 12, n_donors: int = 6, n_runs: int = 2, *, paired: bool = False, seed: int = 0
) -> ad.AnnData:
    """Runs x peptides, a quarter missing, one to seven peptides a protein, with weights."""
    rng = np.random.default_rng(seed)
    n_peptides = 1 + np.arange(n_proteins) % 7
    protein = np.repeat(np.arange(n_proteins), n_peptides)
    donor = np.repeat(np.arange(n_donors), n_runs)
    arm = np.arange(donor.size) % 2 if paired else donor % 2
    w = rng.lognormal(0, 0.5, (donor.size, protein.size))
    Y = 20 + rng.normal(0, 2, protein.size) + rng.normal(0, 0.4, (n_donors, n_proteins))[donor][:, protein]
    Y += rng.normal(0, 0.3, (donor.size, n_proteins))[:, protein] + rng.normal(0, 0.5, Y.shape) / np.sqrt(w)
    Y[rng.random(Y.shape) < 0.25] = np.nan
    obs = pd.DataFrame({"donor_id": [f"d{i}" for i in donor], "condition": np.array(["a", "b"])[arm]})
    obs["run"] = obs.index = [f"run{i}" for i in range(donor.size)]
    var = pd.DataFrame({"protein": [f"P{i:03d}" for i in protein]}, index=[f"pep{i}" for i in range(protein.size)])
    return ad.AnnData(Y, obs=obs, var=var, layers={"quality": w})


def fit(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.lmm(adata, formula, progress=False, **({"features": "protein", "weights_layer": "quality"} | options))
    return dw.get.tests(adata, sort_by=None).astype(dict.fromkeys([*ROW, "status"], str)).set_index(ROW)


def without(adata: ad.AnnData, donor: str) -> ad.AnnData:
    rest = adata[adata.obs["donor_id"] != donor].copy()
    rest.uns.clear()
    return rest


@pytest.mark.parametrize(
    ("n_proteins", "formula", "options"),
    [
        (110, FORMULA, {}),
        (12, FORMULA, {"ddf": "kenward-roger"}),
        (12, PAIRED, {"ddf": "satterthwaite", "weights_layer": None}),
    ],
    ids=["moderated", "kenward-roger", "paired"],
)
def test_leaving_a_donor_out_is_fitting_the_others(n_proteins: int, formula: str, options: dict[str, Any]) -> None:
    adata = peptides(n_proteins, paired=formula == PAIRED)
    names = ["P000", "P001", "P005"]
    fit(adata, formula, **options)
    dw.tl.influence(adata, variables=names, progress=False)
    table = dw.get.influence(adata, by="donor").astype(dict.fromkeys([*ROW, "donor", "status"], str))
    assert len(table) == 6 * len(names)
    for donor in ("d0", "d3"):
        own = table[table["donor"] == donor].set_index(ROW)
        again = fit(without(adata, donor), formula, **options).loc[own.index]
        assert list(own["status"]) == list(again["status"])
        for column in NUMBERS:
            np.testing.assert_allclose(own[column], again[column], rtol=1e-6, atol=1e-9, err_msg=f"{donor} {column}")


def test_a_protein_that_only_one_donor_of_an_arm_has_hangs_on_it() -> None:
    adata = peptides()
    own = (adata.var["protein"] == "P004").to_numpy()
    lost = adata.obs["donor_id"].isin(["d3", "d5"]).to_numpy()  # of d1, d3, d5 in arm b
    adata.X[np.ix_(lost, own)] = np.nan
    fit(adata, ddf="kenward-roger")
    dw.tl.influence(adata, variables=["P004", "P006"], progress=False)
    table = dw.get.influence(adata, by="donor").astype({"variable": str, "donor": str})
    assert len(table) == 12
    status = table.set_index(["variable", "donor"])["status"].astype(str)
    assert (
        status["P004", "d1"] == "not_estimable"
        and np.isnan(table["p_value"][status.to_numpy() == "not_estimable"]).all()
    )
    assert (status["P006"] != "not_estimable").all()


def _arrangements(paired: bool) -> list[list[int]]:
    """Donors of arm b, or donors whose arms are swapped, up to what mirrors itself; the observed one left out."""
    every = [c for k in range(4) for c in combinations(range(6), k)] if paired else list(combinations(range(6), 3))
    kept = [c for c in every if len(c) < 3 or c[0] == 0] if paired else [c for c in every if c[0] == 0]
    observed = () if paired else (0, 2, 4)
    return [list(c) for c in kept if c != observed]


@pytest.mark.parametrize("paired", [False, True], ids=["between donors", "within donors"])
def test_permuted_labels_give_what_fits_of_relabelled_runs_give(paired: bool) -> None:
    adata, formula = peptides(paired=paired, n_proteins=8), PAIRED if paired else FORMULA
    options = {"features": "protein", "weights_layer": "quality", "ddf": "kenward-roger"}
    dw.tl.calibrate(adata, formula, CONTRAST, progress=False, **options)
    groups = dw.get.calibration(adata, table="groups").iloc[0]
    expected = []
    for moved in _arrangements(paired):
        again = adata.copy()
        donor = adata.obs["donor_id"].str[1:].astype(int)
        arm = (adata.obs["condition"] == "b").to_numpy() ^ donor.isin(moved) if paired else ~donor.isin(moved)
        again.obs["condition"] = np.array(["a", "b"])[np.asarray(arm, dtype=int)]
        expected.append((fit(again, formula, **options)["p_value"] < 0.05).mean())
    made = dw.get.calibration(adata, table="permutations")
    assert groups["kind"] == ("within-donor" if paired else "between-donor")
    assert groups["n_permutations"] == len(expected) and groups["n_units"] == (12 if paired else 6)
    assert sorted(made[~made["observed"]]["below_0.05"]) == pytest.approx(sorted(expected))


def test_peptides_never_exchange_labels() -> None:
    adata = peptides()
    adata.obs["who"] = adata.obs.pop("donor_id")
    options = {"features": "protein", "ddf": "kenward-roger", "n_permutations": 3, "progress": False}
    dw.tl.calibrate(adata, "~ condition + (1 | peptide) + (1 | who)", CONTRAST, **options)
    assert dw.get.calibration(adata, table="groups")["n_units"].item() == 6
    with pytest.raises(DesignError, match="peptides are no replicates"):
        dw.tl.calibrate(adata, "~ condition + (1 | peptide)", CONTRAST, **options)


def _variance(adata: ad.AnnData, protein: str, terms: tuple[str, ...], gamma: np.ndarray, copies: int) -> float:
    """c'(X'V⁻¹X)⁻¹c with `copies` of every run, V in units of sigma2."""
    columns = np.flatnonzero(adata.var["protein"] == protein)
    run, peptide = np.nonzero(np.isfinite(adata.X[:, columns]))
    run, peptide, copy = np.tile(run, copies), np.tile(peptide, copies), np.repeat(np.arange(copies), run.size)
    levels = {"peptide": peptide, "donor_id": adata.obs["donor_id"].to_numpy()[run], "run": run * copies + copy}
    V = np.diag(1 / adata.layers["quality"][:, columns][run, peptide])
    for g, name in zip(gamma, terms, strict=True):
        V += g * (levels[name][:, None] == levels[name][None])
    X = np.column_stack([np.ones(run.size), (adata.obs["condition"] == "b").to_numpy()[run]])
    return float(np.linalg.inv(X.T @ np.linalg.solve(V, X))[1, 1])


@pytest.mark.parametrize("terms", [("peptide", "donor_id"), ("peptide", "donor_id", "run")], ids=" ".join)
def test_planned_runs_are_copies_of_the_fitted_ones(terms: tuple[str, ...]) -> None:
    adata = peptides()
    fit(adata, "~ condition + " + " + ".join(f"(1 | {t})" for t in terms), ddf="kenward-roger")
    analysis = recover(adata, "lmm").analysis
    (own,) = analysis.statistics()
    made = analysis.fit(0, own, lambda n: None)
    planner, model = analysis.planner(0, own, made), made.models[0]
    names = ["P003", "P005", "P006"]
    model = model.take(np.array([made.variables.index(name) for name in names]))
    L = np.array([[0.0, 1.0]])
    points = np.array([[5.0, 0.4, 0.2], [0.5, 0.0, 1.0]])[:, : len(terms)]
    one = np.ones((3, 2))
    for known in (
        Known(model, points, one, one, one),
        Known(model, points[[0, 1, 0]], one[:, :1], one[:, :1], one[:, :1]),
    ):
        for n_runs in (2, 6):
            planned = planner.at(n_runs, known, L)
            for g, name in enumerate(names):
                for k in range(known.variance.shape[1]):
                    gamma = known.points[k if known.variance.shape[1] == 2 else g]
                    before, after = (_variance(adata, name, terms, gamma, copies) for copies in (1, n_runs // 2))
                    assert planned.variance[g, k] == pytest.approx(after / before, rel=1e-8)
                    assert planned.relative[g, k] == pytest.approx(after, rel=1e-8)


def test_power_of_the_fitted_study_is_that_of_its_standard_errors() -> None:
    adata = peptides()
    tests = fit(adata, ddf="satterthwaite")
    dw.tl.power(adata, n_donors=(6, 12), effect=0.5, progress=False)
    table = dw.get.power(adata, expression="all")
    assert table["n_cells"].tolist() == [2, 2] and table["df"].tolist() == [4.0, 10.0]
    assert table["n_features"].tolist() == [12, 12]
    for n, power in zip(table["n_donors"], table["power"], strict=True):
        se = tests["se"].to_numpy() * np.sqrt(6 / n)
        critical = stats.t.isf(0.025, n - 2)
        expected = stats.nct.sf(critical, n - 2, 0.5 / se) + stats.nct.cdf(-critical, n - 2, 0.5 / se)
        assert power == pytest.approx(expected.mean(), abs=2e-3)


def test_power_leaves_out_proteins_that_cannot_answer() -> None:
    adata = peptides()
    own = (adata.var["protein"] == "P004").to_numpy()
    adata.X[np.ix_((adata.obs["condition"] == "b").to_numpy(), own)] = np.nan
    assert fit(adata, ddf="kenward-roger")["status"]["P004", CONTRAST] == "not_estimable"
    dw.tl.power(adata, n_donors=12, n_cells=(1, 2, 8), progress=False)
    table = dw.get.power(adata, expression="all")
    assert (table["n_features"] == 11).all() and table["power"].is_monotonic_increasing
    assert table["power"].between(0, 1).all()


def test_tools_refuse_a_model_of_peptides_alone() -> None:
    adata = peptides()
    fit(adata, "~ condition + (1 | peptide)", ddf="kenward-roger")
    for tool in (
        lambda: dw.tl.influence(adata, variables="P003", progress=False),
        lambda: dw.tl.power(adata, progress=False),
    ):
        with pytest.raises(DesignError, match="peptides are no replicates"):
            tool()
