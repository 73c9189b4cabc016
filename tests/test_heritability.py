"""Proportions of variance: h2, m2 and the like."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize, minimize_scalar

import donorwise as dw
from donorwise._core.inference import nulls
from donorwise._core.inference.intervals import Judge
from donorwise._core.inference.normal_intervals import bounded_cut
from donorwise._core.inference.profiles import FIRST, SECOND, TOTAL, Profiler
from donorwise._core.inference.proportions import (
    centred_size,
    components_of,
    proportions,
    standard_errors,
    weights_of,
)
from donorwise._core.models.lmm.curvature import INFORMATION, ratio_covariance
from donorwise._core.models.lmm.reduced import loglik_without
from donorwise._core.models.lmm.surface import build_surface
from donorwise.errors import DataError, DesignError, DonorwiseError

ROOT = Path(__file__).parent / "reference"
CASES = [name for name in ("a13_one_kernel_scan", "a14_two_kernels", "a15_kernel_and_donor") if (ROOT / name).exists()]


@cache
def fit_case(name: str) -> tuple[dict, dict, dw.LMMFit]:
    spec = json.loads((ROOT / name / "spec.json").read_text())
    expected = json.loads((ROOT / name / "expected.json").read_text())["responses"]
    obs, Y = (pd.read_csv(ROOT / name / f"{file}.csv") for file in ("obs", "Y"))
    kernels = {k: pd.read_csv(ROOT / name / own["file"]) for k, own in spec["kernels"].items()}
    kernels = {k: K.set_axis(K.columns) for k, K in kernels.items()}
    fixed, *donor = spec["formula"].split(" + (1 | donor)")
    terms = [f"(1 | gr(donor, cov={k}))" for k in kernels] + ["(1 | donor)"] * len(donor)
    return spec, expected, dw.fit_lmm(Y, obs, " + ".join([fixed, *terms]), kernels=kernels)


@pytest.mark.skipif(not CASES, reason="no cases with kernels")
@pytest.mark.parametrize("information", [None, *INFORMATION])
@pytest.mark.parametrize("name", CASES)
def test_proportions_and_errors_of_the_references(name: str, information: str | None) -> None:
    """Whatever the scale and the information are; by default the observed one, for two variances between rays."""
    spec, expected, fit = fit_case(name)
    (model,) = fit.models
    covariance = ratio_covariance(model.equations, model.estimates, information)
    K = next(iter(spec["kernels"]))
    names = spec.get("components", [K, "Residual"])
    mean = float(np.diag(model.design.random_terms[0].kernel).mean())
    ratios = spec.get(
        "ratios", {"h2": {"numerator": [K], "scale": [1, 1]}, "h2_trace": {"numerator": [K], "scale": [mean, 1]}}
    )
    for ratio, how in ratios.items():
        weights = np.array(how["scale"][:-1]) / [t.size for t in model.equations.terms]
        numerator = np.where(np.isin(names[:-1], how["numerator"]), weights, 0.0)[None]
        value = proportions(model.estimates.gamma, numerator, weights)[:, 0]
        se = standard_errors(model.estimates.gamma, covariance, numerator, weights)[:, 0]
        for g, own in enumerate(expected.values()):
            want = own.get("null", own)["ratios"][ratio]
            assert value[g] == pytest.approx(want["value"], rel=1e-6, abs=1e-9), (ratio, g)
            assert se[g] == pytest.approx(want["se"][information or "observed"], rel=1e-5, abs=1e-9), (ratio, g)


def families(n: int, sizes: tuple[int, ...] = (4, 1, 3, 2, 1), relation: float = 0.5) -> pd.DataFrame:
    """A kernel of families and of donors without relatives."""
    family = np.repeat(np.arange(n), np.resize(sizes, n))[:n]
    names = [f"d{i:03}" for i in range(n)]
    K = np.where(family[:, None] == family, relation, 0.0) + (1 - relation) * np.eye(n)
    return pd.DataFrame(K, names, names)


def simulate(
    K: pd.DataFrame, shares: tuple[float, float], *, genes: int = 50, cells: tuple[int, ...] = (3, 8, 5), seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Responses of cells of which `shares` are the kernel's and the donor's own, and a covariate of donors."""
    rng, n = np.random.default_rng(seed), len(K)
    donor = np.repeat(np.arange(n), np.resize(cells, n))
    root = np.linalg.cholesky(K + 1e-9 * np.eye(n))
    u = np.sqrt(shares[0]) * root @ rng.normal(size=(n, genes)) + np.sqrt(shares[1]) * rng.normal(size=(n, genes))
    Y = u[donor] + np.sqrt(1 - sum(shares)) * rng.normal(size=(donor.size, genes))
    age = rng.normal(size=n).round(2)
    return Y, pd.DataFrame({"donor": K.index.to_numpy()[donor], "age": age[donor]})


FORMULA = "~ age + (1 | gr(donor, cov=grm)) + (1 | donor)"
ALONE = "~ age + (1 | gr(donor, cov=grm))"
ENDS = ["ci_low", "ci_high"]


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Null distributions that are quick and rough."""
    monkeypatch.setattr(nulls, "_DRAWS", {1: 200, 2: 30})


def wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.pivot(index="variable", columns="component", values=column)


def test_scales(few_draws: None) -> None:
    """A kernel times ten has a tenth of the variance: on the scale of traces nothing changes."""
    K = families(30)
    Y, obs = simulate(K, (0.4, 0.1), genes=6)
    one, ten = (dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": k * K}) for k in (1, 10))
    trace = one.heritability()
    np.testing.assert_allclose(ten.heritability()["proportion"], trace["proportion"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ten.heritability()["se"], trace["se"], rtol=1e-5)
    P = np.eye(30) - 1 / 30
    c = np.trace(P @ K.to_numpy() @ P) / 29
    assert centred_size(K.to_numpy()) == pytest.approx(c)
    variances = one.varcomp().set_index(["variable", "term"])["variance"].unstack()
    kernel, donor, rest = (variances[t] for t in ("gr(donor, cov=grm)", "donor", "Residual"))
    own = trace[trace["component"] == "grm"]["proportion"]
    np.testing.assert_allclose(own, c * kernel / (c * kernel + donor + rest), rtol=1e-9)
    as_is = one.heritability("as-is")
    np.testing.assert_allclose(
        as_is[as_is["component"] == "grm"]["proportion"], kernel / variances.sum(axis=1), rtol=1e-9
    )


def test_components(few_draws: None) -> None:
    """Kernels by name, what else the donors vary by, and the sum of several kernels."""
    K = families(20)
    Y, obs = simulate(K, (0.4, 0.1), genes=3)
    M = pd.DataFrame(np.cov(np.random.default_rng(1).normal(size=(20, 40))), K.index, K.columns)
    obs["sample"] = np.tile(["s1", "s2"], len(obs))[: len(obs)]
    formula = "~ 1 + (1 | gr(donor, cov=grm)) + (1 | gr(donor, cov=mrm)) + (1 | donor) + (1 | sample)"
    table = dw.fit_lmm(Y, obs, formula, kernels={"grm": K, "mrm": M}).heritability()
    assert table["component"].tolist()[:4] == ["grm", "mrm", "donor", "sum"]
    own = wide(table, "proportion")
    np.testing.assert_allclose(own["sum"], own["grm"] + own["mrm"], rtol=1e-9)
    assert set(table["status"]) <= {"ok", "boundary", "confounded"}


def test_read_from_anndata(few_draws: None, tmp_path: Path) -> None:
    """Group by group, through a file, of the features that are left; the two doors agree."""
    K = families(20)
    Y, obs = simulate(K, (0.4, 0.1), genes=8)
    obs["type"] = np.tile(["a", "b"], len(obs))[: len(obs)]
    adata = ad.AnnData(Y, obs.set_axis(obs.index.astype(str)))
    dw.tl.lmm(adata, FORMULA, groupby="type", kernels={"grm": K}, progress=False)
    table = dw.get.heritability(adata, group="a")
    arrays = dw.fit_lmm(Y[obs["type"] == "a"], obs[obs["type"] == "a"], FORMULA, kernels={"grm": K}).heritability()
    columns = ["proportion", "se", "ci_low", "ci_high", "statistic", "p_value", "adj_p_value"]
    np.testing.assert_allclose(table[columns], arrays[columns], rtol=1e-7, atol=1e-9)
    assert list(table.columns) == ["variable", "group", "component", *columns, "status"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")[:, [1, 4]]
    few = dw.get.heritability(again, component="grm", scale="as-is")
    assert len(few) == 4
    assert set(few["variable"]) == set(again.var_names)
    with pytest.raises(DataError, match="no component 'mrm'"):
        dw.get.heritability(adata, component="mrm")
    with pytest.raises(DonorwiseError, match="scale='liability'"):
        dw.get.heritability(adata, scale="liability")


def test_without_a_kernel() -> None:
    K = families(12)
    Y, obs = simulate(K, (0.4, 0.1), genes=4)
    with pytest.raises(DesignError, match="has no kernel, and so no heritability"):
        dw.fit_lmm(Y, obs, "~ age + (1 | donor)").heritability()
    adata = ad.AnnData(Y, obs.set_axis(obs.index.astype(str)))
    dw.tl.lmm(adata, "~ age + (1 | donor)", progress=False)
    with pytest.raises(DataError, match="has no kernel"):
        dw.get.heritability(adata)


class Dense:
    """Deviances by n x n matrices, from the textbook."""

    def __init__(self, obs: pd.DataFrame, K: pd.DataFrame) -> None:
        Z = (obs["donor"].to_numpy()[:, None] == K.index.to_numpy()).astype(float)
        self.X = np.column_stack([np.ones(len(obs)), obs["age"]])
        self.kernel, self.donor = Z @ K.to_numpy() @ Z.T / centred_size(K.to_numpy()), Z @ Z.T

    def covariance(self, h: float, d: float) -> np.ndarray:
        return h * self.kernel + d * self.donor + (1 - h - d) * np.eye(len(self.X))

    def deviance(self, y: np.ndarray, h: float, d: float) -> float:
        if min(h, d, 1 - h - d) < 0:
            return np.inf
        L = np.linalg.cholesky(self.covariance(h, d))
        Q, R = np.linalg.qr(np.linalg.solve(L, self.X))
        white = np.linalg.solve(L, y)
        rest = white - Q @ (Q.T @ white)
        return float(
            2 * np.log(np.diag(L)).sum() + 2 * np.log(np.abs(np.diag(R))).sum() + (y.size - 2) * np.log(rest @ rest)
        )

    def profile(self, y: np.ndarray, part: str, h: float) -> float:
        at = {
            FIRST: lambda other: self.deviance(y, h, other * (1 - h)),
            SECOND: lambda other: self.deviance(y, other * (1 - h), h),
            TOTAL: lambda other: self.deviance(y, other * h, (1 - other) * h),
        }[part]
        return float(minimize_scalar(at, bounds=(0, 1 - 1e-9), method="bounded", options={"xatol": 1e-9}).fun)

    def lowest(self, y: np.ndarray) -> float:
        starts = [(0.3, 0.2), (0.01, 0.4), (0.4, 0.01)]
        options = {"xatol": 1e-7, "fatol": 1e-9}
        return min(
            minimize(lambda v: self.deviance(y, *v), start, method="Nelder-Mead", options=options).fun
            for start in starts
        )


def test_profiles_are_those_of_dense_matrices() -> None:
    """Likelihood ratios of the kernel, the donors and both, to a fiftieth, as far as they matter."""
    K = families(24)
    Y, obs = simulate(K, (0.3, 0.2), genes=2, cells=(1, 4, 2))
    model, dense = dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": K}).models[0], Dense(obs, K)
    profiler = Profiler(build_surface(model.equations, weights_of(model.equations, "trace")))
    response = model.estimates.responses
    found = profiler.of(response.zty, response.rss, (TOTAL, FIRST, SECOND))
    for g, y in enumerate(Y.T):
        lowest = dense.lowest(y)
        for part, profile in found.items():
            for k in range(0, profiler.values.size, 10):
                ratio = profile.ratio[g, k]
                if ratio < 10 and profiler.values[k] < 0.99:
                    assert ratio == pytest.approx(dense.profile(y, part, profiler.values[k]) - lowest, abs=0.02), (
                        g,
                        part,
                        k,
                    )


@pytest.mark.parametrize("other", ["batch", "donor"])
def test_few_levels_or_dimensions_beside_many(few_draws: None, other: str) -> None:
    """A batch that is crossed with donors, or a kernel of three dimensions: cliffs of the deviance are no minima."""
    rng, n, genes = np.random.default_rng(4), 30, 12
    K = families(n)
    if other == "donor":
        K = pd.DataFrame(np.cov(rng.normal(size=(n, 3))), K.index, K.index)
    donor = np.repeat(np.arange(n), 12)
    obs = pd.DataFrame({"donor": K.index[donor], "batch": rng.choice(list("abcd"), donor.size)})
    u = np.linalg.cholesky(K + 1e-9 * np.eye(n)) @ rng.normal(size=(n, genes))
    v = rng.normal(size=(n if other == "donor" else 4, genes))[pd.factorize(obs[other])[0]]
    Y = u[donor] + 0.5 * v + rng.normal(size=(donor.size, genes))
    fit = dw.fit_lmm(Y, obs, f"~ 1 + (1 | gr(donor, cov=grm)) + (1 | {other})", kernels={"grm": K})
    table = fit.heritability().query("component == 'grm'")
    model = fit.models[0]
    profiler = Profiler(build_surface(model.equations, weights_of(model.equations, "trace")))
    response = model.estimates.responses
    profile = profiler.of(response.zty, response.rss, (FIRST,))[FIRST]
    assert (np.abs(profile.estimate - table["proportion"]) <= 0.2 * table["se"].fillna(0.1)).all()  # between few shares
    assert nulls.simulate_nulls(profiler, (FIRST,), 0.95).quantiles[FIRST].max() < 20
    assert (table["statistic"][table["proportion"] == 0] < 0.1).all()
    many = fit.heritability().query(f"component == '{'grm' if other == 'batch' else 'donor'}'")  # which is well known
    assert (many["ci_high"] - many["ci_low"]).median() < 0.6


def test_draws_are_those_of_dense_responses() -> None:
    """Cross-products and residual sums of squares have the same first two moments."""
    K = families(14)
    Y, obs = simulate(K, (0.3, 0.2), genes=2)
    equations = dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": K}).models[0].equations
    surface = build_surface(equations, weights_of(equations, "trace"))
    l, j = 8, int(np.argmin(np.abs(surface.totals - 0.5)))
    t, r = surface.totals[j], surface.shares[l]
    rng, n = np.random.default_rng(5), 4_000
    L = np.linalg.cholesky(Dense(obs, K).covariance(t * r, t * (1 - r)))
    many = dw.fit_lmm((L @ rng.normal(size=(len(obs), n))), obs, FORMULA, kernels={"grm": K}).models[0]
    want, got = many.estimates.responses, surface.draw(l, j, n, rng)
    scale = (1 + surface.lam[j]) ** 0.5  # draws have a residual variance of one
    a, b = want.zty * scale, got[0]
    sd = np.sqrt(np.outer(*[np.diag(a.T @ a / n)] * 2))
    assert np.abs((a.T @ a - b.T @ b) / n / np.where(sd > 1e-6, sd, 1)).max() < 6 * np.sqrt(2 / n)
    pair = [own / np.sqrt(n) for own in (want.rss * scale**2, got[1])]
    assert abs(pair[0].sum() - pair[1].sum()) < 5 * np.hypot(*[own.std() for own in pair]) * np.sqrt(n)
    assert want.rss.std() * scale**2 == pytest.approx(got[1].std(), rel=0.15)


def test_tail_of_the_test_of_a_kernel() -> None:
    """The simulated law of the ratio (Crainiceanu and Ruppert 2004), by plain draws on a grid of its own."""
    K = families(40)
    Y, obs = simulate(K, (0.3, 0), genes=2)
    equations = dw.fit_lmm(Y, obs, ALONE, kernels={"grm": K}).models[0].equations
    profiler = Profiler(build_surface(equations, weights_of(equations, "trace")))
    own = nulls.simulate_nulls(profiler, (TOTAL,), 0.95)
    s, nu = equations.spectrum.s, equations.nu(reml=True)
    rng, n = np.random.default_rng(0), 20_000
    z, rest = rng.normal(size=(n, s.size)) ** 2, rng.chisquare(nu - s.size, n)
    lam = np.concatenate([[0], np.geomspace(1e-4, 30, 250)])
    R = z @ (1 / (1 + np.outer(s, lam))) + rest[:, None]
    D = nu * np.log(R) + np.log1p(np.outer(s, lam)).sum(axis=0)
    ratio = D[:, 0] - D.min(axis=1)
    for x in (0.5, 1.5, 2.7, 4.0, 6.0):
        want = (ratio >= x).mean()
        assert np.exp(nulls._log_tail(own.tails[TOTAL][0], np.array([x])))[0] == pytest.approx(want, rel=0.12), x
    assert own.quantiles[TOTAL][0, 0] == pytest.approx(np.quantile(ratio, 0.95), abs=0.15)
    assert own.quantiles[TOTAL][0, len(own.totals) // 2] == pytest.approx(stats.chi2.ppf(0.95, 1), abs=0.4)


def test_only_the_design_matters(few_draws: None) -> None:
    """Which features are in the run, how many at a time, and by how many threads."""
    K = families(24)
    Y, obs = simulate(K, (0.3, 0.2), genes=40)
    whole = dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": K}).heritability()
    few = dw.fit_lmm(Y[:, 30:], obs, FORMULA, kernels={"grm": K}, n_jobs=2).heritability()
    columns = ["proportion", "se", *ENDS, "statistic", "p_value"]
    np.testing.assert_allclose(whole[columns].to_numpy()[60:], few[columns], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("formula", [ALONE, FORMULA])
def test_intervals_and_tests_go_together(few_draws: None, formula: str) -> None:
    """Intervals hold the estimate, and zero where the test does not reject; far tails are known."""
    K = families(60)
    Y, obs = simulate(K, (0.5, 0), genes=60, seed=2)
    Y[:, :20] = np.random.default_rng(1).normal(size=(len(Y), 20))
    table = dw.fit_lmm(Y, obs, formula, kernels={"grm": K}).heritability()
    assert (table["ci_low"] <= table["proportion"] + 0.01).all()
    assert (table["ci_high"] >= table["proportion"] - 0.01).all()
    assert table[ENDS].stack().between(0, 1).all()
    own = table[table["component"] == "grm"]
    assert ((own["ci_low"] > 0) == (own["p_value"] < 0.05)).mean() > 0.95
    assert 0 < own["p_value"].min() < 1e-4
    assert (own["p_value"][own["statistic"] == 0] == 1).all()
    order = own["statistic"].argsort()
    assert own["p_value"].iloc[order].corr(own["statistic"].iloc[order], method="spearman") < -0.9


def test_intervals_as_they_are(few_draws: None) -> None:
    """With one kernel a scale changes odds by a factor; with two terms it is what the others have at the end."""
    K = 4 * families(40)
    Y, obs = simulate(K / 4, (0.5, 0), genes=10)
    c = centred_size(K.to_numpy())
    for formula, tolerance in ((ALONE, 1e-9), (FORMULA, 0.02)):
        fit = dw.fit_lmm(Y, obs, formula, kernels={"grm": K})
        trace, plain = (fit.heritability(scale) for scale in ("trace", "as-is"))
        at = (trace["component"] == "grm").to_numpy()
        for end in ENDS:
            h, own = trace[end][at], plain[end][at]
            np.testing.assert_allclose(own, (h / c) / (h / c + 1 - h), atol=tolerance)
        assert (plain["ci_low"] <= plain["proportion"] + 0.01).all()
        assert (plain["ci_high"] >= plain["proportion"] - 0.01).all()


def test_terms_left_out() -> None:
    """Log-likelihoods without some terms are those of the formulas without them."""
    K = families(24)
    Y, obs = simulate(K, (0.3, 0.2), genes=5)
    M = pd.DataFrame(np.cov(np.random.default_rng(1).normal(size=(24, 40))), K.index, K.columns)
    kernels = {"grm": K, "mrm": M}
    terms = ["(1 | gr(donor, cov=grm))", "(1 | gr(donor, cov=mrm))", "(1 | donor)"]
    model = dw.fit_lmm(Y, obs, " + ".join(["~ age", *terms]), kernels=kernels).models[0]
    for gone in [(0,), (1,), (2,), (0, 1), (1, 2)]:
        kept = [term for t, term in enumerate(terms) if t not in gone]
        smaller = dw.fit_lmm(
            Y, obs, " + ".join(["~ age", *kept]), kernels={k: kernels[k] for k in kernels if k in str(kept)}
        )
        without = loglik_without(model.equations, model.estimates.responses, np.isin(np.arange(3), gone))
        np.testing.assert_allclose(without, smaller.loglik, atol=1e-6)
    table = dw.fit_lmm(Y, obs, " + ".join(["~ age", *terms]), kernels=kernels).heritability()
    ratio = 2 * (model.estimates.loglik - loglik_without(model.equations, model.estimates.responses, np.arange(3) == 0))
    np.testing.assert_allclose(wide(table, "statistic")["grm"], np.clip(ratio, 0, None), atol=1e-6)
    none = loglik_without(model.equations, model.estimates.responses, np.ones(3, dtype=bool))
    plain = dw.fit_lmm(Y, obs, "~ age", reml=True)
    np.testing.assert_allclose(none, plain.loglik, atol=1e-8)


def test_random_slopes(few_draws: None) -> None:
    """A term of two columns counts with its mean over the rows, as in a variance partition."""
    K = families(20)
    Y, obs = simulate(K, (0.3, 0.2), genes=4)
    obs["x"] = np.random.default_rng(3).normal(size=len(obs)).round(2)
    fit = dw.fit_lmm(Y, obs, "~ x + (1 + x | gr(donor, cov=grm))", kernels={"grm": K})
    table, c = fit.heritability("as-is"), centred_size(K.to_numpy())
    T = fit.models[0].covariances()[0]
    z = np.column_stack([np.ones(len(obs)), obs["x"]])
    own = np.einsum("ia,gab,ib->g", z, T, z) / len(obs)
    np.testing.assert_allclose(table["proportion"], own / (own + fit.sigma2), rtol=1e-8)
    np.testing.assert_allclose(fit.heritability()["proportion"], c * own / (c * own + fit.sigma2), rtol=1e-8)
    assert table[ENDS].notna().all(axis=None)


def test_what_cannot_be_told_apart_says_so(few_draws: None) -> None:
    """A kernel of donors who are hardly related, beside the donors' own effect; families are told apart."""
    rng, n = np.random.default_rng(0), 60
    G = rng.binomial(2, 0.3, size=(n, 20_000)).astype(float)
    G = (G - G.mean(axis=0)) / G.std(axis=0)
    K = families(n)
    near = pd.DataFrame(G @ G.T / 20_000 + 1e-6 * np.eye(n), K.index, K.columns)
    Y, obs = simulate(K, (0.0, 0.5), genes=30)
    table = dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": near}).heritability()
    assert (table["status"] == "confounded").mean() > 0.8
    told = table[table["status"] == "confounded"]
    assert (told["ci_low"] == 0).all()
    assert (told["ci_high"] > 0.3).mean() > 0.9
    Y, obs = simulate(K, (0.7, 0.0), genes=30)
    related = dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": families(n, (6,), 0.9)}).heritability()
    assert not (related["status"] == "confounded").any()


def test_features_without_numbers(few_draws: None) -> None:
    """Missing values, no spread, no residual: every feature has its rows, and those without numbers say why."""
    K = families(20)
    Y, obs = simulate(K, (0.4, 0.1), genes=5)
    Y[3, 1] = np.nan
    Y[:, 2] = 1.0
    Y[:, 3] = pd.Series(Y[:, 3]).groupby(obs["donor"]).transform("first")
    table = dw.fit_lmm(Y, obs, FORMULA, kernels={"grm": K}).heritability()
    assert len(table) == 10
    by = table.set_index("variable")
    names = list(dict.fromkeys(table["variable"]))
    assert by.loc[[names[0], names[1], names[4]], [*ENDS, "p_value"]].notna().all(axis=None)
    assert by.loc[[names[2], names[3]], ["proportion", *ENDS, "p_value"]].isna().all(axis=None)
    assert set(by.loc[names[2], "status"]) == {"constant"}
    assert set(by.loc[names[3], "status"]) == {"not_estimable"}


def test_maximum_likelihood(few_draws: None) -> None:
    K = families(20)
    Y, obs = simulate(K, (0.4, 0.1), genes=4)
    ml, reml = (dw.fit_lmm(Y, obs, ALONE, kernels={"grm": K}, reml=reml).heritability() for reml in (False, True))
    pd.testing.assert_frame_equal(ml, reml)


def test_bounded_normal_mean() -> None:
    """Quantiles of the likelihood ratio by plain draws."""
    z = np.random.default_rng(0).normal(size=200_000)
    distance, cut = bounded_cut()
    for d in (0.0, 0.5, 1.0, 1.7, 2.0):
        x = d + z
        ratio = z**2 - np.clip(-x, 0, None) ** 2
        assert np.interp(d, distance, cut) == pytest.approx(np.quantile(ratio, 0.95), abs=0.05), d


def _covered(n: int, truth: tuple[float, float], formula: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which intervals of the kernel's proportion hold it, and p-values of the kernel."""
    K = families(n)
    Y, obs = simulate(K, truth, **options)
    model = dw.fit_lmm(Y, obs, formula, kernels={"grm": K}).models[0]
    judge = Judge(model.equations, components_of(model.design))
    found = judge.of(model.equations, model.estimates.responses, ("trace",))
    c = centred_size(K.to_numpy())
    h, (low, high) = truth[0] * c / (1 + truth[0] * (c - 1)), found.intervals["trace"][:, 0].T
    return (low <= h + 1e-12) & (high >= h - 1e-12), found.p_value[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "formula"),
    [
        ((0.0, 0.0), ALONE),
        ((0.5, 0.0), ALONE),
        ((0.8, 0.0), ALONE),
        ((0.0, 0.3), FORMULA),
        ((0.2, 0.3), FORMULA),
        ((0.5, 0.1), FORMULA),
    ],
)
def test_coverage_and_level(truth: tuple[float, float], formula: str) -> None:
    """Intervals hold the truth as often as they say, and the test of a kernel that does nothing has its level."""
    inside, p = _covered(40, truth, formula, genes=2_000, cells=(1, 3, 2, 5), seed=7)
    assert 0.93 <= inside.mean() <= 0.975
    if truth[0] == 0:
        assert 0.035 <= (p < 0.05).mean() <= 0.065
        assert (p < 0.01).mean() <= 0.018
