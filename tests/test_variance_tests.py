"""Likelihood ratio tests of random terms: lmerTest's ranova, glmmTMB's likelihoods, fits without the term, and dense twins."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize
from tests.test_glmm_law import MODELS, cohort, collapsed, responses, twin

import donorwise as dw
from donorwise._core.design.build import build_design
from donorwise._core.engine.random_parts import random_parts
from donorwise._core.engine.variance_tests import VarianceTests, variance_tests
from donorwise._core.inference.best import best_of
from donorwise._core.models.law import Part
from donorwise._core.models.lmm.components import covariances, with_covariances

ROOT = Path(__file__).parent / "reference"
RANOVA = pd.read_csv(ROOT / "ranova" / "ranova.csv")
# what lmerTest calls terms that lme4 has expanded
CALLED = {"Days in (0 + Days | Subject)": "(0 + Days | Subject)", "(1 | cask:batch)": "(1 | batch:cask)"}


def by_name(fit: dw.LMMFit) -> dict[str, VarianceTests]:
    parts = random_parts(fit.design)
    return {
        own.name: tested for own, tested in zip(parts, variance_tests(fit, [own.part for own in parts]), strict=True)
    }


@cache
def reference(case: str) -> dw.LMMFit:
    spec = json.loads((ROOT / case / "spec.json").read_text())
    obs, Y = (pd.read_csv(ROOT / case / f"{name}.csv") for name in ("obs", "Y"))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column].astype(str), categories=[str(level) for level in levels])
    return dw.fit_lmm(Y, obs, spec["formula"])


@pytest.mark.parametrize("case", RANOVA["case"].unique())
def test_agrees_with_ranova(case: str) -> None:
    fit = reference(case)
    tests = by_name(fit)
    for row in RANOVA[RANOVA["case"] == case].itertuples():
        own, g = tests[CALLED.get(row.term, row.term)], fit.variables.index(row.response)
        assert own.df == row.df and np.isclose(own.statistic[g], max(row.statistic, 0), rtol=1e-5, atol=2e-5)
        # which takes no account of the bound that a variance is on
        assert own.p_value[g] <= row.p_chi2 * (1 + 1e-6) + 1e-6


def test_mixtures_of_chi_squared() -> None:
    fit = reference("a02_sleepstudy_rs")
    slopes, whole = by_name(fit)["Days in (Days | Subject)"], by_name(fit)["(Days | Subject)"]
    x = slopes.statistic[0]
    assert np.isclose(slopes.p_value[0], 0.5 * (stats.chi2.sf(x, 1) + stats.chi2.sf(x, 2)), rtol=1e-10)
    assert np.isclose(whole.p_value[0], stats.chi2.sf(whole.statistic[0], 3), rtol=1e-10) and np.isnan(
        whole.variance[0]
    )
    table = fit.varcomp().set_index(["column1", "column2"])["variance"]
    assert np.isclose(slopes.variance[0], table["Days", ""], rtol=1e-10)


@cache
def terms_data() -> ad.AnnData:
    """Data of the reference fits of glmmTMB: Poisson counts, and successes."""
    data = pd.read_csv(ROOT / "glmm_terms" / "data.csv")
    return ad.AnnData(data[["pois", "yes"]].to_numpy(float), obs=data.set_index(data.index.astype(str)))


@pytest.mark.parametrize(
    ("terms", "term", "rest"),
    [
        ("(1 | donor/sample)", "(1 | donor)", "(1 | donor:sample)"),
        ("(1 | donor/sample)", "(1 | donor:sample)", "(1 | donor)"),
        ("(time | donor)", "time in (time | donor)", "(1 | donor)"),
    ],
)
def test_close_to_glmmtmb(terms: str, term: str, rest: str) -> None:
    """Half the leverages, which are added to counts, move ratios by little."""
    loglik, adata = (
        pd.read_csv(ROOT / "ranova" / "poisson.csv").set_index("terms")["logLik"],
        terms_data()[:, :1].copy(),
    )
    formula = f"~ arm + time + {terms}"
    dw.tl.glmm(adata, formula, family="poisson", exposure="depth", ddf="between-within", progress=False)
    dw.tl.test_variance(adata, term, key="glmm", progress=False)
    found = dw.get.variance_tests(adata, key="glmm")["statistic"].iloc[0]
    assert np.isclose(found, 2 * (loglik[terms] - loglik[rest]), rtol=0.02)


def test_close_to_glmmtmb_for_successes() -> None:
    cases = json.loads((ROOT / "glmm_terms" / "expected.json").read_text())["cases"]
    loglik = {own["terms"]: own["logLik"] for own in cases if own["response"] == "yes" and own["reml"]}
    adata, terms = terms_data()[:, 1:].copy(), "(1 | donor) + (0 + time | donor)"
    dw.tl.glmm(adata, f"~ arm + time + {terms}", family="binomial", trials="m", ddf="between-within", progress=False)
    dw.tl.test_variance(adata, "(0 + time | donor)", key="glmm", progress=False)
    found = dw.get.variance_tests(adata, key="glmm")["statistic"].iloc[0]
    assert np.isclose(found, 2 * (loglik[terms] - loglik["(1 | donor)"]), rtol=0.02)


@pytest.mark.parametrize("kind", ["nb", "logit"])
@pytest.mark.parametrize("formula", list(MODELS))
def test_optima_are_those_of_dense_twins(kind: str, formula: str) -> None:
    terms, _ = MODELS[formula]
    obs, exposure, rng = cohort(3)
    design = build_design(formula, obs)
    y, trials = responses(kind, obs, exposure, rng)
    model = collapsed(kind, design, y, exposure, trials)
    best = best_of(model, np.zeros(len(model.parameters), dtype=bool))
    dense = twin(kind, model, design, obs, terms, y, exposure, trials, 0)
    diagonal = model.parameters[:, 1] == model.parameters[:, 2]

    def minus(x: np.ndarray) -> float:
        point = np.where(diagonal, np.exp(x), np.tanh(x))[None]
        own = covariances(model.rows.equations, with_covariances(model.rows.equations, point))
        return -dense.loglik([T[0] for T in own])

    start = np.where(diagonal, np.log(np.maximum(best.point[0], 1e-6)), np.arctanh(np.clip(best.point[0], -0.99, 0.99)))
    found = minimize(minus, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-7, "maxiter": 250})
    constant = model.on(np.where(diagonal, np.exp(start), np.tanh(start))[None]).loglik(np.array([0]))[0, 0] + minus(
        start
    )
    assert np.isclose(best.loglik[0], constant - found.fun, atol=1e-4)


LARGER = {
    "~ arm + (1 | donor)": [(Part(0), "~ arm")],
    "~ arm + x + (x | donor)": [(Part(0, 1), "~ arm + x + (1 | donor)"), (Part(0), "~ arm + x")],
    "~ arm + cond + (0 + cond | donor)": [(Part(0, 1), "~ arm + cond + (1 | donor)")],
    "~ arm + (1 | donor) + (1 | batch)": [(Part(0), "~ arm + (1 | batch)"), (Part(1), "~ arm + (1 | donor)")],
    "~ arm + x + (x | donor) + (1 | batch)": [
        (Part(0, 1), "~ arm + x + (1 | donor) + (1 | batch)"),
        (Part(1), "~ arm + x + (x | donor)"),
    ],
}


@pytest.mark.parametrize("formula", LARGER)
def test_likelihoods_are_those_of_fits_without_the_part(formula: str) -> None:
    rng = np.random.default_rng(0)
    n, donors = 300, 12
    donor = np.sort(rng.integers(0, donors, n))
    obs = pd.DataFrame({
        "donor": [f"d{i}" for i in donor], "arm": np.array(list("abc"))[donor % 3], "x": rng.normal(size=n) + 0.5,
        "batch": rng.integers(0, 5, n).astype(str), "cond": rng.choice(list("uvw"), n),
    })  # fmt: skip
    Y = rng.normal(size=(n, 8)) + (rng.normal(size=(donors, 8)) * np.linspace(0, 1, 8))[donor]
    Y[::17, 3] = np.nan
    fit = dw.fit_lmm(Y, obs, formula)
    for part, smaller in LARGER[formula]:
        found = np.full(8, np.nan)
        for model in fit.models:
            found[model.features] = model.loglik_without(part)
        np.testing.assert_allclose(found, dw.fit_lmm(Y, obs, smaller).loglik, atol=1e-8)


def test_features_without_variance_within_donors() -> None:
    """The donors' variance is all that there is: no test of it; what remains is tested among donors."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(12), 20)
    obs = pd.DataFrame({"donor": donor.astype(str), "batch": (donor % 4).astype(str)})
    Y = np.column_stack([rng.normal(size=12)[donor] + rng.normal(size=4)[donor % 4], rng.normal(size=donor.size)])
    fit = dw.fit_lmm(Y, obs, "~ 1 + (1 | donor) + (1 | batch)")
    tests = by_name(fit)
    assert tests["(1 | donor)"].status[0] == "not_estimable" and np.isnan(tests["(1 | donor)"].p_value[0])
    one = dw.fit_lmm(Y[::20], obs.iloc[::20], "~ 1 + (1 | batch)")
    np.testing.assert_allclose(tests["(1 | batch)"].statistic[0], by_name(one)["(1 | batch)"].statistic[0], atol=1e-8)


def test_of_single_variances_the_law_is_that_of_the_donors_there_are() -> None:
    """Null features: about uniform above zero with six donors, where the mixture would be conservative."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(6), 15)
    obs = pd.DataFrame({"donor": donor.astype(str), "arm": np.where(donor < 3, "a", "b")})
    fit = dw.fit_lmm(rng.normal(size=(90, 2000)), obs, "~ arm + (1 | donor)")
    tests = by_name(fit)["(1 | donor)"]
    assert ((tests.status == "boundary") == (tests.statistic == 0)).all() and (
        tests.p_value[tests.statistic == 0] == 1
    ).all()
    share = np.mean(tests.p_value <= 0.05)
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)
    mixture = 0.5 * stats.chi2.sf(tests.statistic, 1)
    assert np.mean((mixture <= 0.05) & (tests.statistic > 0)) < share


def test_null_counts_are_found_no_more_often_than_nominal() -> None:
    rng = np.random.default_rng(1)
    donor = np.repeat(np.arange(12), 12)
    obs = pd.DataFrame(
        {"donor": donor.astype(str), "arm": np.array(list("abc"))[donor % 3]}, index=map(str, range(144))
    )
    adata = ad.AnnData(rng.poisson(rng.lognormal(0.5, 1, 600), (144, 600)).astype(float), obs=obs)
    dw.tl.glmm(adata, "~ arm + (1 | donor)", family="poisson", exposure=None, ddf="wald", progress=False)
    dw.tl.test_variance(adata, key="glmm", progress=False)
    p = dw.get.variance_tests(adata, key="glmm")["p_value"]
    assert 0.01 < np.mean(p <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)
