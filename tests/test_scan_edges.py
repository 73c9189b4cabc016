"""Variants and cohorts about which there is nothing, or all, to say: a status and no number, and numbers that are known."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise.errors import DesignError, DonorwiseError, DonorwiseWarning

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

D = 40
DONORS = [f"d{i:02d}" for i in range(D)]
NUMBERS = ["beta", "se", "statistic", "p_value", "neg_log10_p"]
KERNEL = "~ sex + age + (1 | gr(donor_id, cov=K))"


def donors() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "donor_id": DONORS, "sex": np.tile(["f", "m"], D // 2), "age": rng.integers(20, 70, D).astype(float),
        "cells": rng.integers(1, 50, D).astype(float),
    })  # fmt: skip


def variants() -> pd.DataFrame:
    """Two that can be tested, and what a formula with sex and age explains."""
    rng, obs = np.random.default_rng(1), donors()
    male = (obs["sex"] == "m").to_numpy().astype(float)
    return pd.DataFrame(
        {
            "free": rng.binomial(2, 0.4, D), "sex": male, "other sex": 1 - male, "twice": 2 * male,
            "age": obs["age"].to_numpy() / 50, "both": 0.5 * male + obs["age"].to_numpy() / 100,
            "heterozygous": 1.0, "nobody": 0.0, "everybody": 2.0, "unknown": np.nan, "rare": 1.0 * (np.arange(D) == 3),
            "again": rng.binomial(2, 0.3, D),
        },
        index=DONORS, dtype=float,
    )  # fmt: skip


def responses(n: int = 3) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(2).normal(size=(D, n)), columns=[f"y{i}" for i in range(n)])


def kernel(seed: int = 3) -> pd.DataFrame:
    L = np.random.default_rng(seed).normal(size=(D, 2 * D))
    return pd.DataFrame(L @ L.T / (2 * D), DONORS, DONORS)


def scan(
    Y: Any, obs: pd.DataFrame, X: Any, formula: str, **options: Any
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Tests by gene and variant, leads by gene, params."""
    options = {"maf": 0, "donor": "donor_id", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", DonorwiseWarning)
        found = dw.scan_variants(Y, obs, X, formula, **options)
    assert found.tests is not None
    tests = found.tests.astype({"gene": str, "variant": str, "status": str}).set_index(["gene", "variant"]).sort_index()
    return tests, found.results.astype({"gene": str, "variant": str, "status": str}).set_index("gene"), found.params


EXPLAINED = ["sex", "other sex", "twice", "age", "both"]


@pytest.mark.parametrize("refit", ["none", "screen", "all"])
@pytest.mark.parametrize("formula", ["~ sex + age", KERNEL])
def test_variants_that_covariates_explain(formula: str, refit: str) -> None:
    tests, leads, params = scan(
        responses(), donors(), variants(), formula, refit=refit, kernels={"K": kernel()} if "K" in formula else None
    )
    assert set(tests.index.get_level_values("variant")) == {*EXPLAINED, "free", "again", "rare"}
    for gene in leads.index:
        own = tests.loc[gene]
        assert (own.loc[EXPLAINED, "status"] == "not_estimable").all() and own.loc[EXPLAINED, NUMBERS].isna().all(
            axis=None
        )
        assert (own.drop(EXPLAINED)["status"] == "ok").all() and own.drop(EXPLAINED)[NUMBERS].notna().all(axis=None)
    assert (leads["n_variants"] == 3).all() and params["n_tests"] == 9
    assert [params[f"left_out_{reason}"]["all"] for reason in ("mostly_missing", "all_alike", "rare")] == [1, 3, 0]


def test_explained_in_models_of_cells() -> None:
    """Several cells a donor, a number that differs between them, and random slopes."""
    rng = np.random.default_rng(5)
    obs = donors().loc[np.repeat(np.arange(D), 4)].reset_index(drop=True)
    obs["state"] = rng.normal(size=len(obs)).round(1)
    Y = rng.normal(size=(len(obs), 2))
    for formula in ("~ sex + age + state + (1 | donor_id)", "~ sex + age + state + (state | donor_id)"):
        for interaction in (None, "state"):
            tests, _, _ = scan(Y, obs, variants(), formula, interaction=interaction)
            own = tests.xs("y1")
            assert (own.loc[["free", "again", "rare"], "status"] == "ok").all()
            assert interaction is not None or own.loc[EXPLAINED, NUMBERS].isna().all(axis=None)


def test_duplicates_say_the_same_and_the_first_leads() -> None:
    X = variants()[["free", "again"]]
    X = X.assign(zz=X["free"], aa=2 - X["free"], bb=X["again"])[["zz", "free", "aa", "bb", "again"]]
    tests, leads, _ = scan(responses(), donors(), X, "~ sex + age")
    for gene in leads.index:
        own = tests.loc[gene]
        np.testing.assert_allclose(
            own.loc["zz", NUMBERS].astype(float), own.loc["free", NUMBERS].astype(float), rtol=1e-12
        )
        np.testing.assert_allclose(-own.loc["aa", "beta"], own.loc["free", "beta"], rtol=1e-12)
        assert own.loc["aa", "af"] == pytest.approx(1 - own.loc["free", "af"])
        assert leads.loc[gene, "variant"] in ("zz", "bb")


@pytest.mark.parametrize("refit", ["none", "all"])
@pytest.mark.parametrize("formula", ["~ sex + age", KERNEL])
def test_responses_that_a_variant_explains_altogether(formula: str, refit: str) -> None:
    """Statistics have an end, that does not depend on rounding."""
    X = variants()[["free", "again"]]
    Y = pd.DataFrame(
        {"up": 3 + 2 * X["free"], "down": 1e6 - 1e4 * X["free"], "other": responses()["y0"].to_numpy()}
    ).reset_index(drop=True)
    tests, leads, _ = scan(Y, donors(), X, formula, refit=refit, kernels={"K": kernel()} if "K" in formula else None)
    assert leads.loc[["up", "down"], "variant"].tolist() == ["free", "free"]
    np.testing.assert_allclose(leads.loc[["up", "down"], "beta"], [2, -1e4], rtol=1e-5)
    assert np.isfinite(tests[NUMBERS].to_numpy()).all() and (tests["se"] > 0).all()
    assert (leads.loc[["up", "down"], "neg_log10_p"] > 100).all() and leads.loc["other", "neg_log10_p"] < 10


def test_estimates_of_exactly_nothing_have_a_standard_error() -> None:
    X = pd.DataFrame({"x": np.repeat([0.0, 1.0], D // 2)}, index=DONORS)
    y = np.tile([0.0, 1.0], D // 2)
    for refit in ("none", "all"):
        tests, leads, _ = scan(y, donors(), X, "~ 1", refit=refit)
        row = tests.iloc[0]
        assert abs(row["beta"]) < 1e-12 and row["p_value"] == pytest.approx(1)
        assert row["se"] == pytest.approx(np.sqrt(0.25 * D / (D - 2) / (D / 4)))
        assert leads["se"].iloc[0] == pytest.approx(row["se"])


@pytest.mark.parametrize("n", [4, 5])
def test_few_donors(n: int) -> None:
    """Three fixed effects and a variant leave nothing of four donors, and one degree of freedom of five."""
    for options in ({}, {"refit": "all", "test": "lrt"}):
        tests, leads, _ = scan(responses(1)[:n], donors()[:n], variants()[["free", "again"]], "~ sex + age", **options)
        row = leads.iloc[0]
        if n == 4:
            assert (
                tests.empty
                and row["status"] == "too_few_donors"
                and leads[["beta", "se", "p_value", "p_gene"]].isna().all(axis=None)
            )
        else:
            assert row["status"] == "ok" and (options or row["df"] == 1)


def test_donors_without_genotypes_and_without_data() -> None:
    """Are as if they were not there."""
    Y, obs, X = responses(), donors(), variants()[["free", "again", "rare"]]
    tests, _, params = scan(Y, obs, X.iloc[5:], "~ sex + age")
    alone, _, _ = scan(Y[5:], obs[5:], X, "~ sex + age")
    pd.testing.assert_frame_equal(tests, alone, rtol=1e-12)
    assert params["n_donors"] == {"all": D - 5}


# ---------------------------------------------------------------- least squares


def least_squares(y: np.ndarray, obs: pd.DataFrame, x: np.ndarray, w: np.ndarray) -> tuple[float, float, float]:
    """Estimate, standard error, and p-value by statsmodels where it is there, else by numpy."""
    X = np.column_stack([np.ones(len(y)), obs["sex"] == "m", obs["age"], x]).astype(float)
    try:
        import statsmodels.api as sm
    except ImportError:
        A = np.linalg.inv(X.T @ (X * w[:, None]))
        beta = A @ X.T @ (w * y)
        df = len(y) - 4
        se = np.sqrt((w * (y - X @ beta) ** 2).sum() / df * A[3, 3])
        return beta[3], se, 2 * stats.t.sf(abs(beta[3] / se), df)
    fit = sm.WLS(y, X, weights=w).fit()
    return fit.params[3], fit.bse[3], fit.pvalues[3]


@pytest.mark.parametrize("refit", ["none", "all"])
@pytest.mark.parametrize("weighted", [False, True])
def test_without_kernel_it_is_least_squares(weighted: bool, refit: str) -> None:
    """Whether (1 | donor_id), which is the residual of rows of one weight for each donor, is written or not."""
    Y, obs, X = responses(), donors(), variants()[["free", "again", "rare"]]
    w = obs["cells"].to_numpy() if weighted else np.ones(D)
    for formula in ("~ sex + age", *([] if weighted else ["~ sex + age + (1 | donor_id)"])):
        tests, _, _ = scan(Y, obs, X, formula, weights="cells" if weighted else None, refit=refit)
        for (gene, variant), row in tests.iterrows():
            expected = least_squares(Y[gene].to_numpy(), obs, X[variant].to_numpy(), w)
            np.testing.assert_allclose(row[["beta", "se", "p_value"]].astype(float), expected, rtol=1e-9)


def test_a_kernel_that_is_the_identity_is_least_squares() -> None:
    """Donors' own effects of one row each: said to be the residual, and left out; in a model of cells they are (1 | donor_id)."""
    Y, obs, X = responses(), donors(), variants()[["free", "again", "rare"]]
    one = pd.DataFrame(np.eye(D), DONORS, DONORS)
    tests, _, _ = scan(Y, obs, X, KERNEL, kernels={"K": one})
    pd.testing.assert_frame_equal(tests, scan(Y, obs, X, "~ sex + age")[0], rtol=1e-9)


def test_identity_in_models_of_cells() -> None:
    rng = np.random.default_rng(5)
    of = np.repeat(np.arange(D), rng.integers(2, 6, D))
    obs = donors().loc[of].reset_index(drop=True)
    Y = rng.normal(size=(len(obs), 3)) + rng.normal(size=(D, 3))[of]
    X = variants()[["free", "again", "rare"]]
    for refit in ("none", "all"):
        own, _, _ = scan(Y, obs, X, "~ sex + age + (1 | donor_id)", refit=refit)
        other, _, _ = scan(Y, obs, X, KERNEL, refit=refit, kernels={"K": pd.DataFrame(np.eye(D), DONORS, DONORS)})
        pd.testing.assert_frame_equal(own, other, rtol=1e-7)


@pytest.mark.parametrize("formula", ["~ sex + age", KERNEL])
def test_one_cell_each_is_one_row_each(formula: str) -> None:
    """The same data as cells of one donor each, and as rows of donors."""
    import anndata as ad

    Y, obs, X = responses(), donors(), variants()
    kernels = {"K": kernel()} if "K" in formula else None
    tests, _, _ = scan(Y, obs, X, formula, kernels=kernels)
    cells = ad.AnnData(Y.to_numpy(), obs.set_axis([f"cell{i}" for i in range(D)]), pd.DataFrame(index=Y.columns))
    order = np.random.default_rng(0).permutation(D)
    cells = cells[order].copy()
    dw.tl.scan(cells, X, formula + " + (1 | donor_id)", mode="gwas", maf=0, kernels=kernels, progress=False)
    found = cells.uns["scan"]["tests"].astype({"gene": str, "variant": str, "status": str})
    found = found.set_index(["gene", "variant"]).sort_index()[list(tests.columns)]
    pd.testing.assert_frame_equal(found, tests, rtol=1e-9, check_dtype=False, check_categorical=False)


# ---------------------------------------------------------------- kernels by chromosome


def test_chromosomes_need_a_kernel_that_leaves_them_out() -> None:
    X = variants()[["free", "again", "rare"]]
    table = pd.DataFrame({"chrom": ["1", "chr2", "3"], "pos": [1, 2, 3], "a0": "A", "a1": "G"}, index=X.columns)
    kernels = {"K": {"chr1": kernel(1), "2": kernel(2)}}
    with pytest.raises(
        DesignError, match=r"variants on `3`, which no kernel leaves out; those given leave out `1`, `2`"
    ):
        scan(responses(), donors(), X, KERNEL, variants=table, loco=True, kernels=kernels)
    kernels["K"]["3"] = kernel(4)
    tests, _, _ = scan(responses(), donors(), X, KERNEL, variants=table, loco=True, kernels=kernels)
    for variant, chrom in zip(X.columns, kernels["K"], strict=True):
        alone, _, _ = scan(responses(), donors(), X[[variant]], KERNEL, kernels={"K": kernels["K"][chrom]})
        pd.testing.assert_frame_equal(
            tests.xs(variant, level="variant")[NUMBERS], alone.xs(variant, level="variant")[NUMBERS], rtol=1e-7
        )


def test_no_variants_at_all() -> None:
    with pytest.raises(DonorwiseError, match="has no variants"):
        scan(responses(), donors(), variants().iloc[:, :0], "~ sex")
