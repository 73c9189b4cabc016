"""Shares of cell types: the analysis, its samples, its numbers, and that it goes through every door."""

from __future__ import annotations

import inspect
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from tests._batch import run

import donorwise as dw
from donorwise._anndata import read_params
from donorwise._anndata.prepare_composition import prepare_composition
from donorwise._anndata.recover import recover
from donorwise._core.engine.composition import RELATIVE
from donorwise._core.engine.run import Memory
from donorwise._core.engine.run import run as run_analysis
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

KEY = "composition"
DONORS, PAIRS = "~ condition + (1 | donor_id)", "~ condition + (1 | donor_id) + (1 | sample_id)"
SIZES = np.array([412, 655, 380, 701, 523, 610, 298, 845])
COMMON, RARE = np.array([61, 140, 49, 158, 160, 255, 70, 240]), np.array([4, 9, 2, 12, 15, 31, 6, 20])


def of_counts(counts: dict[str, np.ndarray], **columns: Any) -> ad.AnnData:
    """Cells of samples S00, S01, ... with so many of each type, the second half in arm ``b``."""
    n = len(next(iter(counts.values())))
    table = pd.DataFrame(
        {"sample_id": [f"S{i:02d}" for i in range(n)], "arm": np.where(np.arange(n) < n // 2, "a", "b")}
    )
    table = table.assign(**columns)
    parts = [table.loc[table.index.repeat(k)].assign(cell_type=name) for name, k in counts.items()]
    obs = pd.concat(parts, ignore_index=True)
    obs.index = obs.index.astype(str)
    return ad.AnnData(obs=obs)


def eight() -> ad.AnnData:
    return of_counts({"common": COMMON, "rare": RARE, "rest": SIZES - COMMON - RARE})


def cohort(design: str = "case-control", **options: Any) -> ad.AnnData:
    return dw.datasets.simulate_cohort(design, **({"n_donors": 8, "n_cells": 1600, "n_genes": 6, "seed": 1} | options))


def fit(adata: ad.AnnData, formula: str = DONORS, **options: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.composition(adata, formula, progress=False, **options)
    return dw.get.tests(adata, key=options.get("key_added", KEY), sort_by=None)


def test_agrees_with_glmmtmb() -> None:
    """glmmTMB 1.1, binomial, REML=TRUE; ours has half a cell more here and there, and variances on a grid."""
    adata = eight()
    table = fit(adata, "~ arm + (1 | sample_id)").set_index("variable")
    variance = dw.get.varcomp(adata, key=KEY).set_index("variable")["variance"]
    np.testing.assert_allclose(table["estimate"][["common", "rare"]], [0.72918146, 0.95129441], rtol=0.015)
    np.testing.assert_allclose(table["se"][["common", "rare"]], [0.24320944, 0.32715490], rtol=0.04)
    np.testing.assert_allclose(variance[["common", "rare"]], [0.10624285, 0.10180899], rtol=0.05)


def dense(y: np.ndarray, m: np.ndarray, X: np.ndarray, variance: float) -> tuple[np.ndarray, float]:
    """Joint mode of coefficients and effects (one sample a row) by a general optimiser, and the height there."""
    q, _ = np.linalg.qr(np.sqrt(m)[:, None] * X)
    half = (q**2).sum(axis=1) / 2
    p = X.shape[1]

    def negative(at: np.ndarray) -> float:
        eta = X @ at[:p] + np.sqrt(variance) * at[p:]
        return float(-((y + half) @ eta - (m + 2 * half) @ np.logaddexp(0, eta)) + (at[p:] ** 2).sum() / 2)

    found = optimize.minimize(negative, np.zeros(p + m.size), method="BFGS", options={"gtol": 1e-8, "maxiter": 5000})
    return found.x[:p], -found.fun


@pytest.mark.parametrize(("name", "y"), [("common", COMMON), ("rare", RARE)])
def test_tests_are_those_of_a_dense_twin(name: str, y: np.ndarray) -> None:
    """At the estimated variance: the mode, and the signed root of the likelihood ratio against t with 6 df."""
    adata = eight()
    row = fit(adata, "~ arm + (1 | sample_id)").set_index("variable").loc[name]
    variance = dw.get.varcomp(adata, key=KEY).set_index("variable")["variance"][name]
    X = np.stack([np.ones(8), np.repeat([0.0, 1.0], 4)], axis=1)
    beta, height = dense(y, SIZES, X, variance)
    q, _ = np.linalg.qr(np.sqrt(SIZES)[:, None] * X)
    half = (q**2).sum(axis=1) / 2

    def null(at: np.ndarray) -> float:
        eta = at[0] + np.sqrt(variance) * at[1:]
        return float(-((y + half) @ eta - (SIZES + 2 * half) @ np.logaddexp(0, eta)) + (at[1:] ** 2).sum() / 2)

    found = optimize.minimize(null, np.zeros(9), method="BFGS", options={"gtol": 1e-8, "maxiter": 5000})
    root = np.sign(beta[1]) * np.sqrt(2 * (height + found.fun))
    assert row["estimate"] == pytest.approx(beta[1], abs=1e-5)
    assert row["p_value"] == pytest.approx(2 * stats.t.sf(abs(root), 6), rel=1e-4)


def test_statistics_are_the_table_of_cells() -> None:
    adata = cohort("paired")
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[::9], "cell_type"] = np.nan
    with pytest.warns(DonorwiseWarning, match=r"178 of 1,600 cells are left out: the cell type"):
        dw.tl.composition(adata, PAIRS, progress=False)
    (own,) = prepare_composition(adata, PAIRS).statistics()
    assert own is not None
    expected = pd.crosstab(adata.obs["sample_id"].astype(str), adata.obs["cell_type"])
    (term,) = [t for t in own.design.random_terms if t.group == "sample_id"]
    names = [term.levels[code] for code in term.codes]
    np.testing.assert_array_equal(own.counts.sums(), expected.loc[names].to_numpy().T)
    np.testing.assert_array_equal(own.counts.most, expected.loc[names].sum(axis=1))
    assert list(own.take_features(np.array([2])).counts.sums()[0]) == list(expected.loc[names].iloc[:, 2])
    assert (dw.get.tests(adata, key=KEY)["n_obs"] == 1422).all()


def test_wald_is_a_z_test_for_comparisons() -> None:
    adata = eight()
    table = fit(adata, "~ arm + (1 | sample_id)", ddf="wald")
    np.testing.assert_allclose(table["p_value"], 2 * stats.norm.sf(np.abs(table["estimate"] / table["se"])), rtol=1e-9)
    ratio = dw.get.tests(adata, key=KEY, sort_by=None, exponentiate=True)["odds_ratio"]
    np.testing.assert_allclose(ratio, np.exp(table["estimate"]))


def test_success_and_failure_are_mirrored() -> None:
    table = fit(of_counts({"one": COMMON, "other": SIZES - COMMON}), "~ arm + (1 | sample_id)")
    left, right = table.iloc[0], table.iloc[1]
    assert left["estimate"] == pytest.approx(-right["estimate"], abs=1e-8)
    assert left["p_value"] == pytest.approx(right["p_value"], rel=1e-7)


@pytest.mark.parametrize("zero", ["rare in one arm", "only in one arm", "nowhere in a group"])
def test_types_that_an_arm_has_none_of(zero: str) -> None:
    first = np.repeat([True, False], 4)
    if zero == "nowhere in a group":
        adata = ad.concat(
            [eight(), of_counts({"common": COMMON, "rest": SIZES})], index_unique="-", keys=["x", "y"], label="tissue"
        )
        table = fit(adata, "~ arm + (1 | sample_id)", groupby="tissue").set_index(["variable", "group"])
        assert table.loc[("rare", "y"), "status"] == "constant" and np.isnan(table.loc[("rare", "y"), "p_value"])
        assert table.loc[("rare", "x"), "status"] == "ok"
        return
    own = np.where(first, 0, RARE)
    rest = SIZES - own if zero == "rare in one arm" else np.where(first, SIZES, 0)
    types = {"rare": own, "rest": rest}
    adata = of_counts(types)
    row = fit(adata, "~ arm + (1 | sample_id)").set_index("variable").loc["rare"]
    assert row["status"] == "separated" and row["estimate"] > 0
    assert np.isinf(row["ci_high"]) and np.isfinite(row["ci_low"]) and np.isfinite(row["estimate"])
    assert row["p_value"] < 0.05


CELLS = {
    "rate": ("log_depth", "~ condition + log_depth + (1 | donor_id)"),
    "label": ("phase", "~ phase + (1 | donor_id)"),
}


@pytest.mark.parametrize("kind", CELLS)
def test_what_differs_between_cells_of_a_sample_is_refused(kind: str) -> None:
    adata = cohort()
    adata.obs["phase"] = np.where(np.arange(adata.n_obs) % 3 == 0, "G1", "S")
    name, formula = CELLS[kind]
    with pytest.raises(DesignError, match=f"`{name}` differs between the cells of a sample"):
        dw.tl.composition(adata, formula)
    with pytest.raises(DesignError, match="holds the types whose cells are counted"):
        dw.tl.composition(adata, "~ cell_type + (1 | donor_id)")
    with pytest.raises(DesignError, match="cannot be in groupby="):
        dw.tl.composition(adata, DONORS, groupby="cell_type")


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("~ condition", r"no random term.*add one for the samples, \(1 \| sample_id\)"),
        (DONORS, r"No random intercept of \(1 \| donor_id\) has the samples.*add \(1 \| sample_id\)"),
        ("~ condition + (condition | donor_id)", r"add \(1 \| sample_id\)"),
        ("~ condition + (0 + condition || donor_id)", r"add \(1 \| sample_id\)"),
    ],
)
def test_cells_are_never_the_replicates(formula: str, said: str) -> None:
    with pytest.raises(DesignError, match=said):
        dw.tl.composition(cohort("paired"), formula)


def test_samples_are_known_by_the_sample_the_donor_or_the_formula() -> None:
    adata = cohort("paired")
    tests = fit(adata, PAIRS)
    assert (tests["df"].round() == 7).all()
    assert read_params(adata, KEY)["samples"] == "donor_id:sample_id"
    del adata.obs["sample_id"]
    with pytest.raises(DesignError, match=r"name the column .* with sample=, or add \(1 \| donor_id:condition\)"):
        dw.tl.composition(adata, DONORS)
    again = fit(adata, "~ condition + (1 | donor_id) + (1 | donor_id:condition)")
    np.testing.assert_allclose(again["p_value"], tests["p_value"], rtol=1e-8)
    bare = adata.copy()
    bare.obs = bare.obs[["cell_type", "condition"]]
    with pytest.raises(DesignError, match="Which cells are of one sample is not known"):
        dw.tl.composition(bare, "~ condition")


def test_samples_of_a_lane_are_taken_apart_by_donor() -> None:
    adata = cohort()
    adata.obs["sample_id"] = np.where(np.arange(adata.n_obs) % 2 == 0, "lane1", "lane2")
    with pytest.warns(DonorwiseWarning, match=r"\(1 \| donor_id\) is coarser than the samples: 16 of them are in 8"):
        dw.tl.composition(adata, DONORS, progress=False)
    with pytest.warns(DonorwiseWarning, match=r"^female, male: \(1 \| donor_id\) is coarser than the samples"):
        dw.tl.composition(
            adata, "~ 1 + (1 | donor_id)", groupby="sex", contrasts="Intercept", key_added="by", progress=False
        )
    plain = cohort()
    np.testing.assert_allclose(dw.get.tests(adata, key=KEY, sort_by=None)["p_value"], fit(plain)["p_value"], rtol=1e-10)


def test_arms_may_have_variances_of_their_own() -> None:
    table = fit(cohort(), "~ condition + (0 + condition || donor_id)")
    assert (table["status"] == "ok").all()


@pytest.mark.parametrize(
    ("column", "said"),
    [("one", "has one label, 'x'"), ("log_depth", "different values in 1,600 rows"), ("none", "no label at all")],
)
def test_columns_that_hold_no_types_are_refused(column: str, said: str) -> None:
    adata = cohort()
    adata.obs = adata.obs.assign(one="x", none=pd.Series(np.nan, adata.obs_names, dtype=object))
    with pytest.raises(DataError, match=said):
        dw.tl.composition(adata, DONORS, cell_type=column)
    for name in ("cell_type", "sample"):
        with pytest.raises(DesignError, match=f"{name}= is the name of one column of obs, not"):
            dw.tl.composition(adata, DONORS, **{name: ["sex", "condition"]})  # type: ignore[arg-type]
    del adata.obs["cell_type"]
    with pytest.raises(DesignError, match="Which column of obs holds the cell types is not known"):
        dw.tl.composition(adata, DONORS)


def test_one_type_that_pushes_all_others_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rest = SIZES * 3
    types = {"big": np.where(np.arange(8) < 4, rest // 3, rest * 2)} | {f"t{i}": rest // (4 + i) for i in range(4)}
    adata = of_counts(types)
    fit(adata, "~ arm + (1 | sample_id)")
    params = read_params(adata, KEY)
    assert params["note"] == RELATIVE and "relative" in params["note"]
    (text,) = params["cautions"].values()
    assert text in caplog.text and "Without big, all other 4 types shift the other way" in text
    fit(eight(), "~ arm + (1 | sample_id)")
    rest_alone = adata[adata.obs["cell_type"] != "big"].copy()
    assert (fit(rest_alone, "~ arm + (1 | sample_id)")["p_value"] > 0.5).all()


def test_moderated_with_a_hundred_types() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(120) * 20, 8) * np.exp(rng.normal(0, 0.3, (8, 120)))
    counts = np.stack([rng.multinomial(n, own / own.sum()) for n, own in zip(SIZES * 20, p, strict=True)])
    adata = of_counts({f"t{i:03d}": counts[:, i] for i in range(120)})
    table = fit(adata, "~ arm + (1 | sample_id)")
    assert read_params(adata, KEY)["ddf_used"] == {"all": "moderated"}
    assert "prior" in adata.uns[KEY]
    assert (table["p_value"] < 0.05).mean() < 0.12


@pytest.mark.parametrize(("n", "pairs"), [(4, False), (6, False), (8, True)])
def test_levels_hold_with_few_samples_an_arm(n: int, pairs: bool) -> None:
    benchmark = pytest.importorskip("benchmarks.composition")
    rng = np.random.default_rng(n)
    p = np.concatenate([benchmark.mixed_model(benchmark.study(rng, n, 0.4, pairs=pairs)) for _ in range(10)])
    assert 0.035 <= np.mean(p < 0.05) <= 0.065
    assert np.mean(p < 0.01) <= 0.016
    made = [benchmark.study(rng, n, 0.4, pairs=pairs, effect=np.log(3)) for _ in range(4)]
    ours, arcsine = (
        np.mean(np.concatenate([test(own)[:, benchmark.CHANGED] for own in made]) < 0.05)
        for test in (benchmark.mixed_model, benchmark.arcsine_t)
    )
    assert ours > 0.6 and ours >= arcsine - 0.03


COLLAPSED = ["donor_id", "sample_id", "condition", "cell_type", "sex"]


@pytest.mark.parametrize(("design", "formula"), [("case-control", DONORS), ("paired", PAIRS)])
def test_collapsed_rows_are_their_cells(design: str, formula: str) -> None:
    adata = cohort(design)
    rows = dw.pp.collapse(adata, COLLAPSED, progress=False)
    tests = fit(adata, formula, groupby="sex")
    pd.testing.assert_frame_equal(fit(rows, formula, groupby="sex"), tests, check_exact=True)
    pd.testing.assert_frame_equal(dw.get.ranef(rows, "T cell", key=KEY), dw.get.ranef(adata, "T cell", key=KEY))
    without = dw.pp.collapse(adata, [name for name in COLLAPSED if name != "cell_type"], progress=False)
    with pytest.raises(DesignError, match="cell_type"):
        dw.tl.composition(without, formula, cell_type="cell_type")


@pytest.mark.parametrize("source", ["cells", "rows"])
def test_every_door_gives_the_same(source: str, tmp_path: Path) -> None:
    adata = cohort("paired", n_cells=900)
    adata.obs.loc[adata.obs_names[:7], "condition"] = np.nan
    if source == "rows":
        adata = dw.pp.collapse(adata, COLLAPSED, progress=False)
    path, out = tmp_path / "cells.h5ad", tmp_path / "found.h5ad"
    adata.write_h5ad(path)
    table = fit(adata, PAIRS, groupby="sex", sample="sample_id", cell_type="cell_type")
    options = ["--groupby", "sex", "--sample", "sample_id", "--cell-type", "cell_type"]
    result = run("composition", path, "--formula", PAIRS, "--out", out, *options)
    assert result.exit_code == 0, result.output
    file = ad.read_h5ad(out)
    pd.testing.assert_frame_equal(dw.get.tests(file, key=KEY, sort_by=None), table, check_exact=True)
    one, other = read_params(file, KEY), read_params(adata, KEY)
    np.testing.assert_equal(one.pop("log_base"), other.pop("log_base"))
    assert one == other
    assert run("composition", path, "--formula", PAIRS, "--out", out, "--resume", *options).exit_code == 0
    dry = run("composition", path, "--formula", PAIRS, "--out", tmp_path / "x.csv", "--dry-run")
    assert dry.exit_code == 0 and "Audit of" in dry.output
    assert "T cell" in run("report", out).output
    theirs, ours = (inspect.signature(f).parameters for f in (dw.tl.composition, type(adata.donorwise).composition))
    assert [(p.name, p.kind, p.default) for p in list(theirs.values())[1:]] == [
        (p.name, p.kind, p.default) for p in list(ours.values())[1:]
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        adata.donorwise.composition(PAIRS, groupby="sex", key_added="again", progress=False)
    pd.testing.assert_frame_equal(dw.get.tests(adata, key="again", sort_by=None), table)


def test_is_made_again_from_its_params() -> None:
    adata = cohort("paired")
    fit(adata, PAIRS)
    again = run_analysis(recover(adata, KEY).analysis, Memory())
    expected = read_params(adata, KEY)
    np.testing.assert_equal(again.params.pop("log_base"), expected.pop("log_base"))
    assert again.params == expected
    with pytest.raises(DataError, match=r"Run dw.tl.composition again"):
        recover(adata[5:], KEY)


@pytest.mark.parametrize("formula", [DONORS, "~ condition + (1 | sample_id)"])
def test_influence_is_fitting_the_other_donors(formula: str) -> None:
    adata = cohort()
    adata.donorwise.setup(donor="donor_id")
    fit(adata, formula)
    dw.tl.influence(adata, key=KEY, variables="T cell", progress=False)
    table = dw.get.influence(adata, key=KEY, by="donor")
    assert len(table) == 8
    row = table[table["donor"] == "D03"].iloc[0]
    rest = fit(adata[adata.obs["donor_id"] != "D03"].copy(), formula).set_index("variable").loc["T cell"]
    for name in ("estimate", "se", "p_value"):
        assert row[name] == pytest.approx(rest[name], rel=1e-7)


@pytest.mark.parametrize("formula", [DONORS, "~ condition + (1 | sample_id)"])
def test_calibrate_exchanges_donors(formula: str) -> None:
    adata = cohort(n_donors=6)
    adata.donorwise.setup(donor="donor_id")
    options = {"model": "composition", "progress": False, "contrast": "condition[T.disease]"}
    dw.tl.calibrate(adata, formula, cell_type="cell_type", **options)
    groups = dw.get.calibration(adata, table="groups").iloc[0]
    assert (groups["kind"], groups["n_distinct"], groups["ddf"]) == ("between-donor", 10, "between-within")
    observed = dw.get.calibration(adata, table="variables").set_index("variable")["p_value"]
    np.testing.assert_allclose(observed, fit(adata, formula).set_index("variable")["p_value"][observed.index])
    for name, value in {"depth": "total_counts", "layer": "counts", "mask_var": "is_de"}.items():
        with pytest.raises(DonorwiseError, match=f"{name}= has no meaning with model='composition'"):
            dw.tl.calibrate(adata, formula, **options, **{name: value})
    with pytest.raises(DonorwiseError, match="cell_type= has no meaning with model='lmm'"):
        dw.tl.calibrate(adata, formula, "condition[T.disease]", cell_type="cell_type")


def test_power_grows_with_donors_and_cells() -> None:
    adata = cohort()
    fit(adata)
    dw.tl.power(adata, key=KEY, n_donors=(8, 40), n_cells=(20, 500), effect=0.7, progress=False)
    table = dw.get.power(adata, key=KEY).query("expression == 'all'").set_index(["n_donors", "n_cells"])["power"]
    assert table[(40, 500)] > table[(8, 500)] > table[(8, 20)] > 0.05


def test_readers_and_plots() -> None:
    adata = cohort()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:9], "cell_type"] = np.nan
    table = fit(adata)
    assert (dw.get.icc(adata, key=KEY)["icc"] < 1).all()
    ax = dw.pl.forest(adata, key=KEY, show=False)
    assert ax.get_xlabel() == "log odds ratio"
    assert dw.pl.ma(adata, key=KEY, show=False).get_xlabel() == "mean share"
    ax = dw.pl.donors(adata, "T cell", key=KEY, show=False)
    assert ax.get_ylabel() == "share of cells\n(log-odds scale)"
    known = adata.obs.dropna(subset="cell_type")
    own = known.groupby("donor_id", observed=True)["cell_type"].agg(lambda types: (types == "T cell").sum())
    n = known.groupby("donor_id", observed=True).size()
    heights = np.concatenate([c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets())])
    for height in np.log((own + 0.5) / (n - own + 0.5)):
        assert np.abs(heights - height).min() < 1e-8
    plt.close("all")
    with pytest.raises(DataError, match=r"result of dw.tl.composition; trajectories"):
        dw.pl.trajectories(adata, "T cell", x="age", key=KEY)
    with pytest.raises(DataError, match="varm cannot hold them"):
        dw.get.to_varm(adata, key=KEY)
    dw.get.to_rank_genes_groups(adata, key=KEY)
    assert len(adata.uns["rank_genes_groups"]["names"]) == len(table)
    assert len(dw.get.tests(adata[:, :0].copy(), key=KEY)) == len(table)


def test_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "composition.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DonorwiseWarning)
            exec(block, names)
    (command,) = re.findall(r"^donorwise (.*)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    adata = names["adata"]
    adata.obs = adata.obs.rename(columns={"condition": "disease"})
    adata.write_h5ad("atlas.h5ad")
    result = run(*shlex.split(command))
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv("shares.csv")) == 3
