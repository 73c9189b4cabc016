"""Estimated marginal means: against emmeans and a dense twin, for every family, through both doors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._emmeans import BOTH, CUBIC, SLOPES, SPLINE, data, fitted, in_r

import donorwise as dw
from donorwise._core.inference.mixture import summarise_level
from donorwise.errors import DesignError, DonorwiseError

CT = "~ disease * ct + age + (1 | donor)"
COUNTS = [
    ("nb", "log", "nb"),
    ("poisson", "log", "pois"),
    ("binomial", "logit", "yes"),
    ("binomial", "cloglog", "seen"),
]


# ------------------------------------------------------------------- emmeans


@pytest.mark.parametrize(
    ("case", "formula", "asked", "names"),
    [
        ("means", BOTH, {"of": "disease"}, ["disease"]),
        ("means by", BOTH, {"of": "disease", "by": "ct", "at": {"age": 50}}, ["disease", "ct"]),
        ("means", CUBIC, {"of": "disease"}, ["disease"]),
        ("means at", SLOPES, {"of": "disease", "by": "age", "at": {"age": [40, 60]}}, ["disease", "age"]),
        ("means at", SPLINE, {"of": "age", "at": {"age": [40, 60]}}, ["age"]),
    ],
)
def test_gaussian_means_agree_with_emmeans(case: str, formula: str, asked: dict[str, Any], names: list[str]) -> None:
    """Means, standard errors, degrees of freedom of Kenward and Roger, and intervals."""
    expected = in_r(case, formula)
    found = fitted(formula).means(**asked, ddf="kenward-roger")
    for name in names:
        numeric = pd.api.types.is_numeric_dtype(expected[name])
        assert found[name].astype(float if numeric else str).tolist() == expected[name].tolist()
    for ours, theirs in zip(
        ["mean", "se", "df", "ci_low", "ci_high"], ["emmean", "SE", "df", "lower.CL", "upper.CL"], strict=True
    ):
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=1e-6, atol=1e-8, err_msg=ours)


@pytest.mark.parametrize(("family", "link", "response"), COUNTS)
@pytest.mark.parametrize("scale", ["link", "response"])
def test_generalised_means_agree_with_emmeans(family: str, link: str, response: str, scale: str) -> None:
    """Of glmmTMB, whose optimiser leaves the last digits: rates for one unit of exposure, and shares."""
    expected = in_r(f"means by {scale}", CT, f"{family} {link} {response}")
    given: dict[str, Any] = {"trials": "m"} if response == "yes" else {"exposure": "depth"}
    fit = dw.fit_glmm(
        data()[[response]],
        data(),
        CT,
        family=family,
        link=None if link == "log" else link,
        n_quad=1,
        reml=False,
        **given,
    )
    found = fit.means("disease", by="ct", ddf="wald", scale=scale)
    value = next(c for c in ("emmean", "rate", "response", "prob") if c in expected)
    np.testing.assert_allclose(found["mean"], expected[value], rtol=1e-4)
    np.testing.assert_allclose(found["se"], expected["SE"], rtol=1e-4)
    assert np.isinf(found["df"]).all()
    link_found = fit.means("disease", by="ct", ddf="wald", scale="link")
    half = stats.norm.ppf(0.975) * link_found["se"]
    ends = {"log": np.exp, "logit": lambda x: 1 / (1 + np.exp(-x)), "cloglog": lambda x: -np.expm1(-np.exp(x))}[link]
    if scale == "response":
        np.testing.assert_allclose(found["ci_low"], ends(link_found["mean"] - half), rtol=1e-10)
        np.testing.assert_allclose(found["ci_high"], ends(link_found["mean"] + half), rtol=1e-10)


# --------------------------------------------------------------- dense twins


def test_proportional_weights_count_donors() -> None:
    """The grid of what is not named, each combination as often as donors have it."""
    obs, formula = data(), "~ disease * ct + sex + age + (1 | donor)"
    fit = dw.fit_lmm(obs[["y"]], obs, formula)
    found = fit.means("disease", weights="proportional", ddf="kenward-roger")
    pairs = obs.drop_duplicates(["donor", "ct", "sex"]).groupby(["ct", "sex"]).size()
    for _, row in found.iterrows():
        parts = [n * dw.cond(disease=row["disease"], ct=ct, sex=sex) for (ct, sex), n in pairs.items()]
        total = sum(parts[1:], parts[0]) / float(pairs.sum())
        (by_hand,) = fit.test(total, ddf="kenward-roger")[["estimate", "se", "df"]].to_numpy()
        np.testing.assert_allclose(row[["mean", "se", "df"]].astype(float), by_hand, rtol=1e-9)
    equal = fit.means("disease", ddf="kenward-roger")
    assert not np.allclose(found["mean"], equal["mean"], atol=1e-3)
    assert equal["n_donors"].tolist() == obs.groupby("disease", observed=True)["donor"].nunique().tolist()


def test_a_mean_of_everything() -> None:
    found = fitted(BOTH).means(None, ddf="kenward-roger")
    (by_hand,) = fitted(BOTH).test(dw.cond(), ddf="kenward-roger")["estimate"]
    np.testing.assert_allclose(found["mean"], by_hand)
    assert found["n_donors"].tolist() == [15]


@pytest.mark.parametrize("shift", [0.0, 5.0, -300.0])
def test_levels_are_told_the_same_wherever_zero_is(shift: float) -> None:
    """Widths of the mixture's 95% and 99.9% intervals, by simulation of the mixture; not a word of its distance from zero."""
    q, s = np.array([[0.5, 0.3, 0.2]]), np.array([[1.0, 2.0, 4.0]])
    m = np.zeros((1, 3)) + shift
    own = summarise_level(q, m, s, 8.0, 0.95)
    x = np.linspace(-120, 120, 400_001)
    cdf = sum(w * stats.t.cdf(x / scale, 8) for w, scale in zip(q[0], s[0], strict=True))
    half = np.interp(0.975, cdf, x)
    np.testing.assert_allclose([own.ci_low[0] - shift, own.ci_high[0] - shift], [-half, half], rtol=1e-4)
    far = np.interp(0.9995, cdf, x)
    np.testing.assert_allclose(stats.t.ppf(0.9995, own.df[0]) * own.se[0], far, rtol=1e-3)


# ------------------------------------------------------------------ AnnData


@pytest.fixture(scope="module")
def cohort() -> Any:
    adata = dw.datasets.simulate_cohort(n_donors=10, n_cells=1200, n_genes=120, seed=3)
    adata.obs["age"] = 40.0 + 3 * adata.obs["donor_id"].cat.codes
    dw.tl.lmm(adata, "~ condition * cell_type + age + (1 | donor_id)", progress=False)
    dw.tl.lmm(adata, "~ condition + age + (1 | donor_id)", groupby="cell_type", key_added="grouped", progress=False)
    dw.tl.glmm(
        adata, "~ condition + age + (1 | donor_id)", family="nb", layer="counts", groupby="cell_type", key_added="glmm",
        progress=False,
    )  # fmt: skip
    dw.tl.pseudobulk(adata, "~ condition + age", groupby="cell_type", key_added="pseudobulk", progress=False)
    dw.tl.composition(adata, "~ condition + age + (1 | sample_id)", key_added="composition", progress=False)
    return adata


KEYS = ["lmm", "grouped", "glmm", "pseudobulk", "composition"]


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("key", KEYS)
def test_differences_of_means_are_the_contrasts(cohort: Any, key: str) -> None:
    """Of every family, on the scale of the link, with the estimates of the stored tests."""
    found = dw.get.means(cohort, "condition", key=key, scale="link")
    wide = found.pivot(index=["variable", "group"], columns="condition", values="mean")
    difference = (wide["disease"] - wide["control"]).dropna()
    contrast = ("condition", "disease", "control")
    dw.tl.test(cohort, contrast, key=key, key_added="of_means", progress=False)
    tests = dw.get.tests(cohort, key="of_means").set_index(["variable", "group"])["estimate"].dropna()
    assert len(difference) == len(tests) > 0
    np.testing.assert_allclose(difference, tests.reindex(difference.index), atol=1e-8)
    del cohort.uns["of_means"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("ddf", [None, "between-within"])
def test_intervals_hold_their_means(cohort: Any, key: str, ddf: Any) -> None:
    """Ends of the link's interval are those of the response's, which are rates or shares, in their range."""
    asked: dict[str, Any] = {"key": key, "ddf": ddf}
    link = dw.get.means(cohort, "condition", at={"age": [45, 60]}, scale="link", **asked)
    told = dw.get.means(cohort, "condition", at={"age": [45, 60]}, **asked)
    assert list(told.columns) == [
        "variable", "group", "condition", "age", "mean", "se", "df", "ci_low", "ci_high", "status", "n_donors",
    ]  # fmt: skip
    known = told["se"].notna()
    assert known.mean() > 0.9
    np.testing.assert_allclose(
        (link["ci_low"] + link["ci_high"])[known] / 2, link["mean"][known], rtol=1e-8, atol=1e-10
    )
    assert ((told["ci_low"] <= told["mean"]) & (told["mean"] <= told["ci_high"]))[known].all()
    to = {
        "glmm": lambda x: 1e4 * np.exp(x),
        "pseudobulk": lambda x: 1e4 * np.exp(x),
        "composition": lambda x: 1 / (1 + np.exp(-x)),
    }
    for name in ("mean", "ci_low", "ci_high"):
        np.testing.assert_allclose(told[name], to.get(key, lambda x: x)(link[name]), rtol=1e-10)


def test_what_the_means_are_is_said(cohort: Any) -> None:
    units = [dw.get.means(cohort, "condition", key=key, variables=None).attrs["unit"] for key in KEYS]
    assert units == ["response", "response", "counts in 10,000 counts", "counts in 10,000 counts", "share of cells"]
    attrs = dw.get.means(cohort, "condition", scale="link", level=0.9, weights="proportional").attrs
    assert attrs == {
        "unit": "linear predictor",
        "level": 0.9,
        "scale": "link",
        "weights": "proportional",
        "ddf": "moderated",
    }


def test_rates_of_counts_are_near_what_was_counted(cohort: Any) -> None:
    """Half the genes of the most counts within a fifth of their pooled rates in 10,000 counts."""
    counts = np.asarray(cohort.layers["counts"].sum(axis=0)).ravel()
    top = cohort.var_names[np.argsort(counts)[-20:]]
    found = dw.get.means(cohort, None, key="glmm", variables=list(top), group="T cell")
    own = (cohort.obs["cell_type"] == "T cell").to_numpy()
    sums = np.asarray(cohort.layers["counts"][own].sum(axis=0)).ravel()
    pooled = pd.Series(1e4 * sums / sums.sum(), cohort.var_names).reindex(found["variable"].astype(str)).to_numpy()
    assert np.median(np.abs(np.log(found["mean"] / pooled))) < 0.2


def test_moderated_means_use_the_prior_of_all_features(cohort: Any) -> None:
    whole = dw.get.means(cohort, "condition", by="cell_type", key="grouped")
    few = dw.get.means(cohort, "condition", key="grouped", variables=["gene_0002", "gene_0005"], group="B cell")
    own = whole[whole["variable"].isin(["gene_0002", "gene_0005"]) & (whole["group"] == "B cell")]
    for name in ("mean", "se", "df", "ci_low", "ci_high"):
        np.testing.assert_allclose(few[name], own[name], rtol=1e-10)


def test_both_doors_and_collapsed_rows_agree(cohort: Any) -> None:
    """An AnnData, arrays, and collapsed rows: one engine."""
    found = dw.get.means(cohort, "condition", by="cell_type", ddf="kenward-roger")
    fit = dw.fit_lmm(cohort.X, cohort.obs, "~ condition * cell_type + age + (1 | donor_id)")
    arrays = fit.means("condition", by="cell_type", ddf="kenward-roger")
    rows = dw.pp.collapse(cohort, by=["donor_id", "condition", "cell_type", "age"])
    dw.tl.lmm(rows, "~ condition * cell_type + age + (1 | donor_id)", progress=False)
    collapsed = dw.get.means(rows, "condition", by="cell_type", ddf="kenward-roger")
    for other in (arrays, collapsed):
        for name in ("mean", "se", "df", "ci_low", "ci_high"):
            np.testing.assert_allclose(found[name], other[name], rtol=1e-6, atol=1e-9)
        assert found["n_donors"].tolist() == other["n_donors"].tolist()


def test_groups_without_a_level_are_told(cohort: Any) -> None:
    adata = cohort[~((cohort.obs["cell_type"] == "B cell") & (cohort.obs["sex"] == "male"))].copy()
    adata.obs["arm"] = pd.Categorical(adata.obs["condition"].astype(str) + adata.obs["sex"].astype(str))
    dw.tl.lmm(adata, "~ arm + (1 | donor_id)", groupby="cell_type", progress=False)
    found = dw.get.means(adata, "arm", by="cell_type", variables="gene_0001").set_index(["group", "arm"])
    gone = found.loc["B cell"].loc[["controlmale", "diseasemale"]]
    assert (gone["status"] == "not_estimable").all() and gone["mean"].isna().all() and (gone["n_donors"] == 0).all()
    assert found["mean"].notna().sum() == len(found) - 2
    (order,) = {tuple(found.loc[g].index) for g in ("T cell", "B cell")}
    assert list(order) == sorted(order)


def test_proteins_have_means() -> None:
    """Of every protein with the terms that it can tell, in units of its peptides' logarithms."""
    adata = dw.datasets.simulate_peptides(n_proteins=12, seed=1)
    formula = "~ condition + (1 | peptide) + (1 | donor_id)"
    dw.tl.lmm(adata, formula, features="protein", ddf="kenward-roger", progress=False)
    found = dw.get.means(adata, "condition").set_index(["variable", "condition"])["mean"].unstack()
    tests = dw.get.tests(adata, contrast="condition[T.case]").set_index("variable")["estimate"].dropna()
    assert len(tests) >= 10
    np.testing.assert_allclose((found["case"] - found["control"]).reindex(tests.index), tests, atol=1e-8)


def test_symbols_stand_beside(cohort: Any) -> None:
    adata = cohort.copy()
    adata.var["symbol"] = [f"S{i}" for i in range(adata.n_vars)]
    table = dw.get.means(adata, "condition", variables="S3", gene_symbols="symbol")
    assert set(table["symbol"]) == {"S3"} and set(table["variable"]) == {adata.var_names[3]}


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"of": "disease"}, "`disease` is not a variable of the fixed effects; these are `condition`, `cell_type`, `age`."),
        ({"of": "age"}, "`age` is numeric and has no levels to compare, or to go through: name values, as in at={'age': [40, 60]}"),
        ({"of": "condition", "by": "condition"}, "`condition` is named twice"),
        ({"of": "condition", "at": {"condition": "healthy"}}, "'healthy' is not a level of `condition`"),
        ({"of": "condition", "at": {"age": "old"}}, "`age` is numeric: give a number, not 'old'"),
        ({"of": "condition", "at": 50}, "at= is a dict of values by variable"),
        ({"of": 3}, "not the name of a variable"),
        ({"of": "condition", "scale": "log"}, "scale='log'"),
        ({"of": "condition", "weights": "cells"}, "weights='cells'"),
        ({"of": "condition", "level": 95}, "level=95 is not a coverage"),
        ({"of": "condition", "ddf": "wald"}, "ddf='wald'"),
        ({"of": "condition", "variables": "gene_9"}, "gene_9"),
        ({"of": "condition", "key": "nothing"}, "nothing"),
        ({"of": "condition", "key": "grouped", "at": {"cell_type": "T cell"}}, "`cell_type` makes the groups"),
    ],
)  # fmt: skip
def test_errors(cohort: Any, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DonorwiseError, match=re.escape(message)):
        dw.get.means(cohort, **asked)


def test_errors_of_arrays() -> None:
    with pytest.raises(DesignError, match="a model with the link 'identity' has no exposure"):
        fitted(BOTH).means("disease", exposure=100)
    plain = dw.fit_glmm(data()[["pois"]], data(), "~ disease + (1 | donor)", family="poisson", exposure="depth")
    with pytest.raises(DonorwiseError, match="exposure=-1 is no positive number"):
        plain.means("disease", exposure=-1)
    np.testing.assert_allclose(plain.means("disease", exposure=1e4)["mean"], 1e4 * plain.means("disease")["mean"])
