"""Results of count models through every reader and tool: refits, influence, power, calibration, files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise._anndata import keys, read_params, read_results
from donorwise._anndata.prepare_counts import prepare_glmm
from donorwise._anndata.recover import recover
from donorwise._core.engine.run import Memory
from donorwise._core.engine.run import run as run_analysis
from donorwise._core.inference.moderation import best_point
from donorwise._core.models.law import tensor
from donorwise.errors import DataError, DonorwiseError

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

DONORS = "~ condition + (1 | donor_id)"
OF_CELLS = "~ condition + log_depth + (1 | donor_id)"
CONTRAST = "condition[T.disease]"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "nb": (DONORS, {"layer": "counts", "groupby": "cell_type"}),
    "nb of few": (DONORS, {"layer": "counts", "mask_var": "some", "ddf": "between-within"}),
    "nb of cells": (OF_CELLS, {"layer": "counts", "exposure": "total_counts", "offset": "shift", "mask_var": "some"}),
    "poisson": (DONORS, {"layer": "counts", "family": "poisson", "ddf": "wald"}),
    "poisson of cells": (OF_CELLS, {"layer": "counts", "family": "poisson", "mask_var": "some"}),
    "detection": (DONORS, {"layer": "counts", "family": "binomial", "link": "cloglog", "response": "detected"}),
    "trials": (DONORS, {"obs_keys": ["yes", "no"], "family": "binomial", "trials": "asked"}),
    "shares of cells": (OF_CELLS, {"obs_keys": ["no", "yes"], "family": "binomial", "trials": "asked"}),
}


def cohort(formula: str = DONORS) -> ad.AnnData:
    """Counts of 110 genes, of which one is in one arm only and one in no cell, and answers k of m.

    A covariate of cells has more values than are taken for patterns.
    """
    n_cells = 2200 if formula == OF_CELLS else 600
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=n_cells, n_genes=110, de_fraction=0.1, seed=2)
    counts = adata.layers["counts"].toarray()
    counts[(adata.obs["condition"] == "disease").to_numpy(), 1] = 0
    counts[:, 2] = 0
    adata.layers["counts"] = counts
    adata.var["some"] = np.arange(adata.n_vars) < 6
    rng = np.random.default_rng(0)
    asked = rng.integers(1, 5, adata.n_obs)
    rate = 0.4 + 0.2 * rng.normal(size=6).clip(-1, 1)[adata.obs["donor_id"].cat.codes]
    yes = rng.binomial(asked, rate)
    adata.obs = adata.obs.assign(asked=asked, yes=yes, no=asked - yes, shift=rng.normal(0, 0.1, adata.n_obs))
    return adata


@pytest.fixture(scope="module")
def fitted() -> dict[str, ad.AnnData]:
    out = {}
    for name, (formula, options) in CASES.items():
        out[name] = cohort(formula)
        dw.tl.glmm(out[name], formula, progress=False, **options)
    return out


@pytest.fixture
def results(fitted: dict[str, ad.AnnData]) -> dict[str, ad.AnnData]:
    """The AnnData of every case, which the test may change."""
    return {name: adata.copy() for name, adata in fitted.items()}


@pytest.mark.parametrize("case", CASES)
def test_an_analysis_is_made_again_from_its_params(case: str, fitted: dict[str, ad.AnnData]) -> None:
    adata = fitted[case]
    again = run_analysis(recover(adata, "glmm").analysis, Memory())
    params, stored = dict(again.params), read_params(adata, "glmm")
    np.testing.assert_equal(params.pop("log_base"), stored.pop("log_base"))
    assert params == stored
    for name in keys.TABLES:
        pd.testing.assert_frame_equal(
            again.tables[name], getattr(read_results(adata, "glmm"), name), check_exact=True, check_categorical=False,
            check_dtype=False,
        )  # fmt: skip
    with pytest.raises(DataError, match=r"Run dw.tl.glmm again"):
        recover(adata[5:], "glmm")


@pytest.mark.parametrize("case", CASES)
def test_influence_is_that_of_refits_without_the_donor(case: str, results: dict[str, ad.AnnData]) -> None:
    adata, (formula, options) = results[case], CASES[case]
    table = dw.get.tests(adata, key="glmm", contrast=CONTRAST, sort_by=None)
    names = list(table.loc[table["p_value"].notna(), "variable"].astype(str).unique()[:3])
    dw.tl.influence(adata, key="glmm", variables=names, contrast=CONTRAST, progress=False)
    left_out = dw.get.influence(adata, key="glmm", by="donor", donor="D02")
    some = cohort(formula)
    some = some[some.obs["donor_id"] != "D02"].copy()
    dw.tl.glmm(some, formula, progress=False, **options)
    refit = dw.get.tests(some, key="glmm", variables=names, contrast=CONTRAST, sort_by=None)
    by = ["variable", "group", "contrast"]
    both = left_out.astype(dict.fromkeys(by, str)).merge(refit.astype(dict.fromkeys(by, str)), on=by)
    assert len(both) == len(refit) and (both["status_x"].astype(str) == both["status_y"].astype(str)).all()
    for name in ("estimate", "se", "p_value"):
        np.testing.assert_allclose(both[f"{name}_x"], both[f"{name}_y"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_random_effects_are_those_of_all_features(case: str, results: dict[str, ad.AnnData]) -> None:
    """One feature alone has the variances and the dispersion of the result, not what it would learn from itself."""
    adata = results[case]
    names = list(read_results(adata, "glmm").results["variable"].cat.categories)
    together, alone = dw.get.ranef(adata, names[:4], key="glmm"), dw.get.ranef(adata, names[3 % len(names)], key="glmm")
    expected = together[together["variable"] == names[3 % len(names)]].reset_index(drop=True)
    np.testing.assert_allclose(alone["value"], expected["value"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(alone["cond_sd"], expected["cond_sd"], rtol=1e-6, atol=1e-9)
    assert list(alone["level"].astype(str)) == list(expected["level"].astype(str))
    assert dw.get.ranef(adata, names[0], key="glmm", term="donor_id")["value"].abs().sum() >= 0


def test_random_effects_of_a_feature_without_counts_are_missing(fitted: dict[str, ad.AnnData]) -> None:
    table = dw.get.ranef(fitted["nb"], "gene_0003", key="glmm")
    assert len(table) and table[["value", "cond_sd"]].isna().all(axis=None)


@pytest.mark.parametrize("case", ["nb", "poisson of cells", "detection", "trials"])
def test_power_grows_and_agrees_with_the_fitted_study(case: str, results: dict[str, ad.AnnData]) -> None:
    adata = results[case]
    dw.tl.power(adata, key="glmm", contrast=CONTRAST, n_donors=(6, 12, 24), n_cells=(20, 100), progress=False)
    table = dw.get.power(adata, key="glmm", expression="all")
    for _, own in table.groupby(["group", "n_cells"], observed=True):
        assert own["power"].is_monotonic_increasing and own["power"].between(0, 1).all()
    for _, own in table.groupby(["group", "n_donors"], observed=True):
        assert own.sort_values("n_cells")["power"].is_monotonic_increasing
    made = recover(adata, "glmm").analysis
    (statistics,), fit = made.statistics([0]), made.fit(0, made.statistics([0])[0], lambda n: None)
    planner, L = made.planner(0, statistics, fit), np.eye(len(statistics.design.fixed_names))[[1]]
    known = planner.from_estimates(fit.models[0], L)
    cells = np.bincount(made.donors(0).codes[statistics.pattern], weights=statistics.counts.n_obs)
    same = fit.models[0].with_cells(np.ones(statistics.counts.n_obs.size))
    np.testing.assert_allclose(same.law(known.points, L).scale[..., 0] ** 2, known.variance, rtol=1e-10)
    more, fewer = (planner.at(int(n), known, L).variance for n in (10 * cells.max(), cells.min() / 4))
    used = known.weight > 0
    used[fit.models[0].status(L)[:, 0] != "ok"] = False  # a rate of zero is no better known from more cells
    assert (more[used] <= known.variance[used]).all() and (fewer[used] >= known.variance[used]).all()


def test_twice_the_cells_are_the_data_twice(fitted: dict[str, ad.AnnData]) -> None:
    """What is planned for twice the cells of every donor is the law of data in which every cell stands twice."""
    for case in ("nb of few", "nb of cells", "poisson of cells"):
        formula, options = CASES[case]
        once = cohort(formula)
        twice = ad.concat([once, once], index_unique="-", merge="same")
        twice.var = once.var
        models, laws = [], []
        for adata in (once, twice):
            made = prepare_glmm(adata, formula, **{k: v for k, v in options.items() if k != "ddf"})
            (statistics,) = made.statistics()
            models.append(made.fit(0, statistics, lambda n: None).models[0])
        L, points = np.eye(models[0].design.X.shape[1])[[1]], np.array([[0.02], [0.2]])
        factor = np.full(models[0].counts.n_obs.size, 2.0)
        laws = [
            model.law(points, L) for model in (models[0].with_cells(factor), replace(models[1], size=models[0].size))
        ]
        np.testing.assert_allclose(laws[0].centre, laws[1].centre, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(laws[0].scale, laws[1].scale, rtol=1e-5)


def test_fold_changes_are_planned_for_rates_only(results: dict[str, ad.AnnData]) -> None:
    for case, found in (("nb", True), ("detection", True), ("trials", False)):
        options = {"key": "glmm", "contrast": CONTRAST, "n_donors": 12, "n_cells": 50, "progress": False}
        if not found:
            with pytest.raises(DonorwiseError, match="logarithms of odds ratios. Give effect="):
                dw.tl.power(results[case], log_fc=1, **options)
            continue
        dw.tl.power(results[case], log_fc=1, **options)
        table = dw.get.power(results[case], key="glmm")
        np.testing.assert_allclose(table["effect"], np.log(2))
        np.testing.assert_allclose(table["log_fc"], 1)


def test_z_tests_are_at_the_best_point(fitted: dict[str, ad.AnnData]) -> None:
    adata = fitted["poisson"]
    table = dw.get.tests(adata, key="glmm", sort_by=None).set_index("variable")
    assert read_params(adata, "glmm")["ddf_used"] == {"all": "wald"} and read_results(adata, "glmm").prior is None
    made = recover(adata, "glmm").analysis
    model = made.fit(0, made.statistics()[0], lambda n: None).models[0]
    law = model.law(tensor(model.fine_axes()), np.array([[0.0, 1.0]]))
    at = best_point(law.loglik).astype(bool)
    z = (law.centre[..., 0] / law.scale[..., 0])[at]
    own = table.iloc[model.features]
    np.testing.assert_allclose(own["statistic"], z, rtol=1e-9)
    np.testing.assert_allclose(own["p_value"], 2 * stats.norm.sf(np.abs(z)), rtol=1e-9)
    np.testing.assert_allclose(own["se"], law.scale[..., 0][at], rtol=1e-9)
    ok = (own["status"] == "ok").to_numpy()
    np.testing.assert_allclose((own["ci_high"] - own["estimate"])[ok], 1.959964 * own["se"][ok], rtol=1e-6)
    assert np.isinf(own["df"]).all()
    assert table.loc["gene_0003", "status"] == "constant"


def test_ratios(fitted: dict[str, ad.AnnData]) -> None:
    for case, name in (("nb", "rate_ratio"), ("detection", "rate_ratio"), ("trials", "odds_ratio")):
        plain, table = (dw.get.tests(fitted[case], key="glmm", exponentiate=e) for e in (False, True))
        assert [c for c in table.columns if c not in plain.columns] == [name]
        assert list(table.columns).index(name) + 1 == list(table.columns).index("ci_low")
        np.testing.assert_allclose(table[name], np.exp(plain["estimate"]))
        for end in ("ci_low", "ci_high"):
            np.testing.assert_allclose(table[end], np.exp(plain[end]))
        pd.testing.assert_frame_equal(table[["estimate", "se"]], plain[["estimate", "se"]])
        assert plain["log_fc"].notna().any() == (name == "rate_ratio")


def test_ratios_of_other_models() -> None:
    adata = cohort()
    dw.tl.pseudobulk(adata, "~ condition", progress=False)
    table = dw.get.tests(adata, key="pseudobulk", exponentiate=True)
    np.testing.assert_allclose(np.log2(table["rate_ratio"]), table["log_fc"])
    dw.tl.lmm(adata, DONORS, progress=False)
    with pytest.raises(DataError, match="differences of mean responses.*`log_fc` has them"):
        dw.get.tests(adata, exponentiate=True)


@pytest.mark.parametrize(
    ("case", "container"), [*((case, "h5ad") for case in CASES), ("nb", "zarr"), ("trials", "zarr")]
)
def test_results_survive_files_and_subsets(
    case: str, container: str, fitted: dict[str, ad.AnnData], tmp_path: Path
) -> None:
    adata = fitted[case]
    path = tmp_path / f"a.{container}"
    getattr(adata, f"write_{container}")(path)
    again = getattr(ad, f"read_{container}")(path)
    np.testing.assert_equal(read_params(again, "glmm"), read_params(adata, "glmm"))
    for name in (*keys.TABLES, keys.PRIOR):
        one, other = getattr(read_results(adata, "glmm"), name), getattr(read_results(again, "glmm"), name)
        assert (one is None) == (other is None)
        if one is not None:
            pd.testing.assert_frame_equal(other, one)
    part = again[:, :4].copy()
    left = dw.get.tests(part, key="glmm", sort_by=None)
    kept = dw.get.tests(adata, key="glmm", sort_by=None, variables=list(left["variable"].cat.categories))
    pd.testing.assert_frame_equal(left, kept, check_categorical=False)


def test_a_separated_test_is_in_every_reader(results: dict[str, ad.AnnData], tmp_path: Path) -> None:
    """gene_0002 has no count in the disease: a p-value, a finite estimate, and an interval without a lower end."""
    adata = results["poisson"]
    (row,) = dw.get.tests(adata, key="glmm", status="separated").itertuples()
    assert row.variable == "gene_0002" and row.p_value < 0.05 and np.isfinite([row.estimate, row.se]).all()
    assert row.ci_low == -np.inf and np.isfinite(row.ci_high)
    (ratio,) = dw.get.tests(adata, key="glmm", status="separated", exponentiate=True).itertuples()
    assert ratio.ci_low == 0 and 0 < ratio.rate_ratio < ratio.ci_high
    dw.get.to_rank_genes_groups(adata, key="glmm")
    dw.get.to_varm(adata, key="glmm")
    assert np.isfinite(dw.get.matrix(adata, key="glmm").loc[:, "gene_0002"]).all()
    assert dw.get.varcomp(adata, key="glmm", variables="gene_0002")["variance"].notna().all()
    assert dw.get.icc(adata, key="glmm", variables="gene_0002")["icc"].between(0, 1).all()
    assert dw.get.variance_partition(adata, key="glmm", variables="gene_0002")["fraction"].sum() == pytest.approx(1)
    assert np.isfinite(dw.get.ranef(adata, "gene_0002", key="glmm")["value"]).all()
    adata.write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(
        dw.get.tests(ad.read_h5ad(tmp_path / "a.h5ad"), key="glmm"), dw.get.tests(adata, key="glmm")
    )


def test_arrays_that_are_not_stored_are_refused() -> None:
    for name, values in (("exposure", "total_counts"), ("offset", "shift"), ("trials", "asked")):
        adata = cohort()
        options: dict[str, Any] = {"obs_keys": "yes", "family": "binomial"} if name == "trials" else {"layer": "counts"}
        given = adata.obs[values].to_numpy(dtype=float)
        dw.tl.glmm(adata, DONORS, progress=False, **{name: given}, **options)
        assert read_params(adata, "glmm")[name] == keys.ARRAY_WEIGHTS
        variable = "yes" if name == "trials" else "gene_0001"
        for tool in (
            partial(dw.tl.influence, variables=variable, progress=False),
            partial(dw.tl.power, progress=False),
            partial(dw.get.ranef, variables=variable),
        ):
            with pytest.raises(DataError, match=f"{name}= from an array, which is not stored: put it into a column"):
                tool(adata, key="glmm")


def test_what_exposures_were_is_needed_again(results: dict[str, ad.AnnData]) -> None:
    adata = results["poisson"]
    part = adata[:, :20].copy()
    with pytest.raises(DataError, match="total counts of 110 features, and there are 20 now"):
        dw.get.ranef(part, "gene_0001", key="glmm")
    adata = results["nb of cells"]
    assert len(dw.get.ranef(adata[:, :20].copy(), "gene_0001", key="glmm"))
    del adata.obs["shift"]
    with pytest.raises(DonorwiseError, match="shift"):
        dw.get.ranef(adata, "gene_0001", key="glmm")
    with pytest.raises(DataError, match="weights= was given, and 'glmm' was fitted with none"):
        dw.tl.power(results["poisson"], key="glmm", weights=np.ones(adata.n_obs), progress=False)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("nb", "poisson of cells")])
def test_calibration(case: str, results: dict[str, ad.AnnData]) -> None:
    """The observed labels give the tests of the tool, and a permutation those of the tool with other labels."""
    adata, (formula, options) = results[case], CASES[case]
    asked = {**options, "model": "glmm", "progress": False}
    dw.tl.calibrate(adata, formula, CONTRAST, n_permutations=9, **asked)
    ours = dw.get.calibration(adata, table="variables").set_index("variable")
    theirs = dw.get.tests(adata, key="glmm", contrast=CONTRAST, sort_by=None).set_index("variable")
    np.testing.assert_allclose(ours["p_value"], theirs["p_value"], rtol=1e-6)
    np.testing.assert_allclose(ours["estimate"], theirs["estimate"], rtol=1e-6, atol=1e-9)
    assert (ours["status"].astype(str) == theirs["status"].astype(str)).all()
    by_hand = []
    donors = adata.obs.groupby("donor_id", observed=True)["condition"].first()
    for a in donors.index[donors == "control"][:1]:
        for b in donors.index[donors == "disease"][:2]:
            other = cohort(formula)
            swapped = other.obs["donor_id"].isin([a, b]).to_numpy()
            labels = other.obs["condition"].astype(str).to_numpy()
            labels[swapped] = np.where(labels[swapped] == "control", "disease", "control")
            other.obs["condition"] = labels
            dw.tl.glmm(other, formula, progress=False, **options)
            p = dw.get.tests(other, key="glmm", contrast=CONTRAST)["p_value"].dropna()
            by_hand.append(float((p < 0.05).mean()))
    shares = dw.get.calibration(adata, table="permutations")["below_0.05"].to_numpy()[1:]
    assert len(shares) == 9
    for share in by_hand:
        assert np.abs(shares - share).min() < (0.02 if options.get("ddf") else 0.05)


def test_options_of_calibrate_belong_to_their_models() -> None:
    adata = cohort()
    for model, options, text in (
        ("lmm", {"family": "nb"}, "family= has no meaning with model='lmm'"),
        ("pseudobulk", {"exposure": "total_counts"}, "exposure= has no meaning with model='pseudobulk'"),
        ("glmm", {"weights": "total_counts"}, "weights= has no meaning with model='glmm'"),
        ("glmm", {"ddf": "kenward-roger"}, "ddf='kenward-roger' is not an option"),
        ("lmm", {"ddf": "wald"}, "ddf='wald' is not an option"),
        ("glmm", {"family": "gamma", "layer": "counts"}, "family='gamma' is not known"),
    ):
        with pytest.raises(DonorwiseError, match=text):
            dw.tl.calibrate(adata, DONORS, CONTRAST, model=model, progress=False, **options)
