"""`dw.fit_glmm`: against stored fits of lme4 and glmmTMB, dense twins, and what must hold whatever the data."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks.rscript import missing, run
from scipy import optimize, sparse, special
from tests._glmm import Array, hessian, integral, laplace, log_density

import donorwise as dw
from donorwise._core.models.glmm import derivatives, restricted
from donorwise._core.models.glmm.families import DISTRIBUTIONS, Distribution
from donorwise._core.models.glmm.maximise import Point, maximise
from donorwise.errors import DataError, DesignError, DonorwiseError, DonorwiseWarning

ROOT = Path(__file__).parent / "reference"
CASES = ("a11_cbpp", "a11_detection", "a12_poisson", "a12_nbinom2")
TERMS = ROOT / "glmm_terms"


# ---------------------------------------------------------------- stored fits


@cache
def case(name: str, n_quad: int) -> tuple[dict[str, Any], dict[str, Any], dw.GLMMFit]:
    """Spec, expectation of every response, and our fit."""
    spec = json.loads((ROOT / name / "spec.json").read_text())
    expected = json.loads((ROOT / name / "expected.json").read_text())["responses"]
    obs = pd.read_csv(ROOT / name / "obs.csv", dtype=dict.fromkeys(spec["categories"], str))
    for column, levels in spec["categories"].items():
        obs[column] = pd.Categorical(obs[column], categories=levels)
    family = {"nbinom2": "nb"}.get(spec["family"], spec["family"])
    fit = dw.fit_glmm(
        pd.read_csv(ROOT / name / "Y.csv"), obs, spec["formula"], family=family, offset=spec["offset"],
        trials=spec["trials"], n_quad=n_quad, reml=False,
    )  # fmt: skip
    blocks = {k: v["laplace" if n_quad == 1 else "agq25"] for k, v in expected.items()}
    return spec, blocks, fit


def in_r(name: str) -> str:
    return "(Intercept)" if name == "Intercept" else re.sub(r"\[T\.([^]]*)\]", r"\1", name)


@pytest.mark.parametrize("n_quad", [1, 25])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_stored_fits(name: str, n_quad: int) -> None:
    spec, blocks, fit = case(name, n_quad)
    tolerance = spec["tolerance"]
    sd = fit.varcomp().set_index("variable")["sd"]
    ranef = fit.ranef()
    for g, (response, block) in enumerate(blocks.items()):
        coef, se = (np.array([block[key][in_r(n)] for n in fit.fixed_names]) for key in ("coef", "se"))
        assert fit.status[g] == ("boundary" if block["singular"] else "ok")
        assert (np.abs(fit.beta[g] - coef) <= tolerance["coef_in_se_units"] * se).all()
        assert np.allclose(np.sqrt(np.diag(fit.vcov_beta[g])), se, rtol=tolerance["se_rel"], atol=0)
        assert (np.abs(fit.vcov_beta[g] - block["vcov"]) <= 2 * tolerance["se_rel"] * np.outer(se, se)).all()
        assert abs(sd[response] - block["varcomp"][0]["sdcor"]) <= tolerance["sd_abs"]
        assert abs(fit.loglik[g] - block["logLik"]) <= tolerance["logLik_abs"]
        own = ranef[ranef["variable"] == response]
        assert own["level"].tolist() == block["ranef"]["levels"]
        assert np.allclose(own["value"], block["ranef"]["values"], rtol=0, atol=tolerance["ranef_abs"])
        assert np.allclose(own["cond_sd"] ** 2, block["ranef"]["cond_var"], rtol=0, atol=tolerance["ranef_abs"])
        if fit.family == "nb":
            assert np.isclose(fit.size[g], block["nb_size"], rtol=1e-5)


@pytest.mark.parametrize("n_quad", [1, 25])
@pytest.mark.parametrize("name", CASES)
def test_tests_agree_with_stored_ones(name: str, n_quad: int) -> None:
    spec, blocks, fit = case(name, n_quad)
    ours = {in_r(n): n for n in fit.fixed_names}
    asked = {k: {ours[c]: w for c, w in weights.items()} for k, weights in spec["contrasts"].items()}
    table = fit.test({n: {ours[n]: 1.0} for n in ours} | asked, ddf="wald").set_index(["variable", "contrast"])
    for response, block in blocks.items():
        for contrast, row in (block["tests"] | block["contrasts"]).items():
            own = table.loc[(response, contrast)]
            assert np.isclose(own["statistic"], row["z"], rtol=2e-4, atol=2e-5)
            assert np.isclose(own["p_value"], row["p"], rtol=2e-3 * max(1, row["z"] ** 2), atol=1e-300)
        for term, row in block["joint"].items():
            joint = fit.joint_test(term, ddf="wald").set_index("variable").loc[response]
            assert joint["num_df"] == row["df"] and np.isclose(
                joint["statistic"] * row["df"], row["chisq"], rtol=4e-4, atol=1e-5
            )
            assert np.isclose(joint["p_value"], row["p"], rtol=1e-3 * max(1, row["chisq"]))


def test_likelihood_ratio_agrees_with_a_stored_one() -> None:
    for n_quad in (1, 25):
        spec, blocks, fit = case("a11_cbpp", n_quad)
        obs = pd.read_csv(ROOT / "a11_cbpp" / "obs.csv", dtype={"herd": str, "period": str})
        Y = pd.read_csv(ROOT / "a11_cbpp" / "Y.csv")
        null = dw.fit_glmm(Y, obs, "~ 1 + (1 | herd)", family="binomial", trials="size", n_quad=n_quad, reml=False)
        row, wanted = fit.lrt(null).iloc[0], blocks["incidence"]["lrt"]["period"]
        assert row["df"] == wanted["df"] and np.isclose(row["statistic"], wanted["chisq"], atol=1e-5)
        assert np.isclose(row["p_value"], wanted["p"], rtol=1e-4)


def test_published_values_of_cbpp() -> None:
    """Laplace, as lme4's documentation and tests print them (theta and the first digits of beta)."""
    _, _, fit = case("a11_cbpp", 1)
    assert np.allclose(fit.beta[0], [-1.398550, -0.992336, -1.128675, -1.580304], atol=3e-5)
    assert np.isclose(fit.theta[0, 0], 0.642227, atol=5e-5)


@cache
def terms() -> pd.DataFrame:
    data = pd.read_csv(TERMS / "data.csv")
    return data.assign(arm=pd.Categorical(data["arm"], categories=["ctrl", "case"]))


STORED = json.loads((TERMS / "expected.json").read_text())["cases"]
FAMILIES: dict[str, dict[str, Any]] = {
    "pois": {"family": "poisson", "exposure": "depth"},
    "nb": {"family": "nb", "exposure": "depth"},
    "yes": {"family": "binomial", "trials": "m"},
    "seen": {"family": "binomial", "link": "cloglog", "exposure": "depth"},
}


@pytest.mark.parametrize("stored", STORED, ids=[f"{c['response']} {c['terms']} {c['reml']}" for c in STORED])
def test_agrees_with_glmmtmb(stored: dict[str, Any]) -> None:
    """Nested, crossed, slopes, links; by maximum and by restricted likelihood."""
    data = terms()
    options = FAMILIES[stored["response"]]
    formula = f"~ arm + time + {stored['terms']}"
    fit = dw.fit_glmm(data[[stored["response"]]], data, formula, n_quad=1, reml=stored["reml"], **options)
    se = np.array(stored["se"])
    assert (np.abs(fit.beta[0] - stored["coef"]) <= 1e-5 * se).all()
    assert np.allclose(np.sqrt(np.diag(fit.vcov_beta[0])), se, rtol=1e-5, atol=0)
    assert abs(fit.loglik[0] - stored["logLik"]) < 1e-6
    table = fit.varcomp()
    sds = table.loc[table["column2"] == "", "sd"].to_numpy()
    wanted = stored["sd"][1::-1] + stored["sd"][2:] if "donor/sample" in stored["terms"] else stored["sd"]
    assert np.allclose(sds, wanted, rtol=0, atol=1e-6)
    if stored["corr"] is not None:
        assert np.isclose(table.loc[table["column2"] != "", "sd"].item(), stored["corr"], atol=1e-5)
    if stored["size"] is not None:
        assert np.isclose(fit.size[0], stored["size"], rtol=1e-6)


_LIVE = """
suppressPackageStartupMessages(library(glmmTMB))
d <- read.csv("data.csv"); d$arm <- factor(d$arm, levels = c("ctrl", "case"))
m <- glmmTMB(pois ~ arm + (1 | donor) + offset(log(depth)), d, family = poisson(), REML = TRUE)
write.csv(data.frame(beta = fixef(m)$cond, se = sqrt(diag(vcov(m)$cond)), loglik = as.numeric(logLik(m))), "out.csv")
"""


@pytest.mark.skipif(bool(missing(("glmmTMB",))), reason="R with glmmTMB is not installed")
def test_agrees_with_glmmtmb_here(tmp_path: Path) -> None:
    """What users get who type it: to the accuracy of its optimiser."""
    terms().to_csv(tmp_path / "data.csv", index=False)
    run(tmp_path, _LIVE)
    theirs = pd.read_csv(tmp_path / "out.csv")
    fit = dw.fit_glmm(terms()["pois"], terms(), "~ arm + (1 | donor)", family="poisson", exposure="depth", n_quad=1)
    assert np.allclose(fit.beta[0], theirs["beta"], atol=1e-3 * theirs["se"].min())
    assert np.allclose(np.sqrt(np.diag(fit.vcov_beta[0])), theirs["se"], rtol=1e-3)
    assert np.isclose(fit.loglik[0], theirs["loglik"][0], atol=1e-5)


# ---------------------------------------------------------------- twins


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: d.link + d.name)
def test_densities_and_their_derivatives(distribution: Distribution) -> None:
    rng = np.random.default_rng(1)
    eta, trials, size = rng.normal(0, 2, 60), rng.integers(1, 9, 60).astype(float), 0.7
    y = (
        rng.integers(0, 9, 60).astype(float)
        if distribution.counts
        else rng.binomial(trials.astype(int), 0.4).astype(float)
    )
    code = distribution.code

    def at(eta: Array, size: float = size) -> Array:
        return np.stack(derivatives.slopes(code, y, trials, size, eta))

    own = at(eta)
    wanted = log_density(distribution.name, distribution.link, y, eta, size, trials)
    assert np.allclose(own[0] + derivatives.log_constant(code, y, trials), wanted, rtol=1e-10, atol=1e-11)
    numeric = (at(eta + 1e-5) - at(eta - 1e-5)) / 2e-5
    assert np.allclose(own[1:], numeric[:3], rtol=1e-6, atol=1e-7)
    if distribution.dispersed:
        moved = np.stack(derivatives.size_slopes(y, size, eta))
        assert np.allclose(
            moved, ((at(eta, size * np.exp(1e-5)) - at(eta, size * np.exp(-1e-5))) / 2e-5)[:3], rtol=1e-6, atol=1e-7
        )


def test_large_counts_and_sizes_keep_their_digits() -> None:
    y, eta, trials = np.array([0.0, 3, 150_000, 4e6]), np.array([-2.0, 1, 12, 15]), np.ones(4)
    for size in (0.3, 40.0):
        nb = derivatives.slopes(1, y, trials, size, eta).value + derivatives.log_constant(1, y, trials)
        assert np.allclose(nb, log_density("nb", "log", y, eta, size, trials), rtol=1e-7)
    poisson = np.stack(derivatives.slopes(0, y[:2], trials[:2], np.inf, eta[:2]))
    assert np.allclose(np.stack(derivatives.slopes(1, y[:2], trials[:2], 1e9, eta[:2])), poisson, rtol=1e-8, atol=1e-8)


def small(seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 60
    obs = pd.DataFrame(
        {"donor": np.repeat(list("abcdef"), 10), "arm": np.repeat(["u", "v"], 30), "x": rng.normal(size=n)}
    )
    obs["batch"] = rng.choice(["p", "q", "r"], n)
    obs["m"], obs["e"] = rng.integers(1, 6, n), rng.integers(30, 300, n) / 100
    eta = 0.3 + 0.5 * obs["x"] + rng.normal(0, 0.7, 6)[np.repeat(np.arange(6), 10)] + 0.4 * (obs["arm"] == "v")
    obs["poisson"] = rng.poisson(obs["e"] * np.exp(eta))
    obs["nb"] = rng.negative_binomial(1.5, 1.5 / (1.5 + obs["e"] * np.exp(eta)))
    obs["logit"] = rng.binomial(obs["m"], 1 / (1 + np.exp(-eta)))
    obs["cloglog"] = rng.binomial(obs["m"], -np.expm1(-obs["e"] * np.exp(eta - 1)))
    return obs


OPTIONS: dict[str, dict[str, Any]] = {
    "poisson": {"family": "poisson", "offset": "log"},
    "nb": {"family": "nb", "offset": "log"},
    "logit": {"family": "binomial", "trials": "m"},
    "cloglog": {"family": "binomial", "link": "cloglog", "trials": "m", "offset": "log"},
}


def fitted(obs: pd.DataFrame, kind: str, formula: str, **kwargs: Any) -> dw.GLMMFit:
    options = dict(OPTIONS[kind])
    if options.get("offset"):
        options["offset"] = np.log(obs["e"].to_numpy())
    return dw.fit_glmm(obs[[kind]], obs, formula, **options, **kwargs)


def densities(obs: pd.DataFrame, kind: str, size: float) -> Any:
    """Log-densities (N, ...) at eta without the offset (N, ...)."""
    family, link = OPTIONS[kind]["family"], OPTIONS[kind].get("link", "logit")
    offset = np.log(obs["e"].to_numpy()) if "offset" in OPTIONS[kind] else np.zeros(len(obs))
    trials = obs["m"].to_numpy(float)

    def at(eta: Array) -> Array:
        shape = (-1,) + (1,) * (eta.ndim - 1)
        y, o, m = (v.reshape(shape) for v in (obs[kind].to_numpy(float), offset, trials))
        return log_density(family, link, y, eta + o, size, m)

    return at


@pytest.mark.parametrize("random", ["(1 | donor)", "(1 | donor) + (1 | batch)", "(x | donor)"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_restricted_likelihood_is_laplace_over_effects_and_coefficients(kind: str, random: str) -> None:
    """At the fit's variances; and no other variances have more."""
    obs = small()
    fit = fitted(obs, kind, f"~ arm + x + {random}", n_quad=1)
    X = np.stack([np.ones(60), obs["arm"] == "v", obs["x"]], axis=1)
    donor, batch = (pd.get_dummies(obs[c]).to_numpy(float) for c in ("donor", "batch"))
    f = densities(obs, kind, float(np.nan_to_num(fit.size[0], nan=1.0)))

    def value(theta: Array) -> tuple[float, Array]:
        if random == "(x | donor)":
            x = obs["x"].to_numpy()[:, None] * donor
            A = np.hstack([theta[0] * donor + theta[1] * x, theta[2] * x])
        elif "batch" in random:
            A = np.hstack([theta[0] * donor, theta[1] * batch])
        else:
            A = theta[0] * donor
        D, q = np.hstack([A, X]), A.shape[1]
        level, mode = laplace(lambda v: float(f(D @ v).sum() - 0.5 * v[:q] @ v[:q]), np.zeros(q + 3))
        return level - 0.5 * q * np.log(2 * np.pi), mode[q:]

    theta = fit.theta[0]
    level, beta = value(theta)
    assert np.isclose(level, fit.loglik[0], atol=2e-5) and np.allclose(beta, fit.beta[0], atol=1e-5)
    for k in range(theta.size):
        for move in (-0.05, 0.05):
            assert value(theta + move * np.eye(theta.size)[k])[0] < level + 2e-5


@pytest.mark.parametrize("kind", OPTIONS)
def test_quadrature_is_the_integral(kind: str) -> None:
    """Marginal likelihood by brute force: maximum, standard errors; restricted, Laplace about its maximum."""
    obs = small(5)
    X = np.stack([np.ones(60), obs["x"]], axis=1)
    donor = np.repeat(np.arange(6), 10)
    ml, reml = (fitted(obs, kind, "~ x + (1 | donor)", n_quad=41, reml=r) for r in (False, True))

    def marginal(beta: Array, sd: float, size: float) -> float:
        f, eta = densities(obs, kind, size), X @ beta

        def level(i: int) -> float:
            own = donor == i
            return integral(
                lambda b: f(eta[:, None] + sd * b)[own].sum(axis=0) - 0.5 * b**2 - 0.5 * np.log(2 * np.pi), 801
            )

        return sum(level(i) for i in range(6))

    size = float(np.nan_to_num(ml.size[0], nan=1.0))
    sized = kind == "nb" and np.isfinite(size)

    def joint(v: Array) -> float:
        return marginal(v[:2], v[2], float(np.exp(v[3])) if sized else size)

    at = np.concatenate([ml.beta[0], ml.theta[0], [np.log(size)] if sized else []])
    assert np.isclose(joint(at), ml.loglik[0], atol=1e-7)
    V = np.linalg.inv(-hessian(joint, at))
    assert np.allclose(ml.vcov_beta[0], V[:2, :2], rtol=1e-4, atol=1e-7)

    size = float(np.nan_to_num(reml.size[0], nan=1.0))
    sd = float(reml.theta[0, 0])
    best = optimize.minimize(lambda b: -marginal(b, sd, size), reml.beta[0], method="BFGS", options={"gtol": 1e-6}).x
    assert np.allclose(best, reml.beta[0], atol=2e-5)
    f, Z = densities(obs, kind, size), sd * np.eye(6)[donor]

    def both(v: Array) -> float:
        return float(f(Z @ v[:6] + X @ v[6:]).sum() - 0.5 * v[:6] @ v[:6])

    H = -hessian(both, np.concatenate([reml.ranef()["value"] / sd, best]))
    log_S = np.linalg.slogdet(H)[1] - np.linalg.slogdet(H[:6, :6])[1]
    assert np.isclose(marginal(best, sd, size) + np.log(2 * np.pi) - 0.5 * log_S, reml.loglik[0], atol=2e-5)


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("n_quad", [1, 2, 5, 11])
@pytest.mark.parametrize("kind", OPTIONS)
def test_gradient_is_that_of_the_value(kind: str, n_quad: int, reml: bool) -> None:
    obs = small(7)
    data = fitted(obs, kind, "~ arm + x + (1 | donor)", n_quad=1)._features.data[0].observations
    objective = restricted.Objective(data, n_quad, reml=reml, free=np.ones(1, dtype=bool), sized=kind == "nb")
    x = objective.pack(np.array([0.2, 0.1, 0.3]), np.array([0.6]), 0.4)
    numeric = []
    for step in 1e-4 * np.eye(x.size):
        numeric.append((objective(x + step).value - objective(x - step).value) / 2e-4)
    assert np.allclose(objective(x).gradient, numeric, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- whatever the data


def same(a: dw.GLMMFit, b: dw.GLMMFit, *, beta: bool = True) -> None:
    """Same variances, sizes and likelihoods (and coefficients)."""
    assert (a.status == b.status).all()
    assert np.allclose(a.theta, b.theta, atol=1e-6, equal_nan=True) and np.allclose(
        a.size, b.size, rtol=1e-5, equal_nan=True
    )
    assert np.allclose(a.loglik, b.loglik, atol=1e-7, equal_nan=True)
    if beta:
        assert np.allclose(a.beta, b.beta, atol=1e-6, equal_nan=True)
        assert np.allclose(a.vcov_beta, b.vcov_beta, rtol=1e-5, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("n_quad", [1, 11])
def test_order_of_rows_names_and_containers_does_not_matter(n_quad: int) -> None:
    obs = small()
    Y, order = obs[["poisson", "nb"]], np.random.default_rng(0).permutation(60)
    formula, options = "~ arm + x + (1 | donor)", {"family": "nb", "n_quad": n_quad}
    fit = dw.fit_glmm(Y, obs, formula, exposure="e", **options)
    mixed = obs.iloc[order]
    same(fit, dw.fit_glmm(Y.iloc[order], mixed, formula, exposure=mixed["e"], n_jobs=2, **options))
    same(fit, dw.fit_glmm(sparse.csr_matrix(Y.to_numpy()), obs, formula, offset=np.log(obs["e"]), **options))
    same(fit, dw.fit_glmm(Y.to_numpy(), obs, formula, exposure=obs["e"] * 2, offset=np.full(60, -np.log(2)), **options))


@pytest.mark.parametrize("kind", ["poisson", "nb", "cloglog"])
def test_a_constant_offset_moves_the_intercept_only(kind: str) -> None:
    obs = small()
    a = fitted(obs, kind, "~ arm + x + (1 | donor)")
    b = fitted(obs.assign(e=obs["e"] * np.exp(2)), kind, "~ arm + x + (1 | donor)")
    same(a, b, beta=False)
    assert np.allclose(a.beta - b.beta, [2, 0, 0], atol=1e-6)
    assert np.allclose(a.icc()["icc"], b.icc()["icc"], atol=1e-6)


def test_swapping_success_and_failure_flips_signs() -> None:
    obs = small()
    a = fitted(obs, "logit", "~ arm + x + (x | donor)")
    b = fitted(obs.assign(logit=obs["m"] - obs["logit"]), "logit", "~ arm + x + (x | donor)")
    same(a, b, beta=False)
    assert np.allclose(a.beta, -b.beta, atol=1e-6)
    assert np.allclose(a.ranef()["value"], -b.ranef()["value"], atol=1e-6)


def test_rows_of_successes_and_failures_are_the_trials() -> None:
    """k of m is k ones and m - k zeros, but for the binomial coefficient."""
    obs = small()
    long = obs.loc[obs.index.repeat(obs["m"])]
    turn = long.groupby(level=0).cumcount().to_numpy()
    a = fitted(obs, "logit", "~ arm + x + (1 | donor)")
    b = dw.fit_glmm(turn < long["logit"].to_numpy(), long.reset_index(), "~ arm + x + (1 | donor)", family="binomial")
    assert np.allclose(a.beta, b.beta, atol=1e-6) and np.allclose(a.theta, b.theta, atol=1e-6)


def test_a_negative_binomial_without_dispersion_is_poisson() -> None:
    obs, rng = small(), np.random.default_rng(2)
    y = rng.binomial(20, 0.2 + 0.1 * (obs["arm"] == "v"))  # less dispersed than Poisson
    nb, poisson = (dw.fit_glmm(y, obs, "~ arm + (1 | donor)", family=f) for f in ("nb", "poisson"))
    assert nb.size[0] == np.inf
    assert np.allclose(nb.beta, poisson.beta) and np.allclose(nb.loglik, poisson.loglik) and nb.status == poisson.status


def test_a_variance_of_zero_is_the_model_without_the_term() -> None:
    obs, rng = small(), np.random.default_rng(11)
    Y = rng.poisson(3.0, (60, 8))
    for reml in (False, True):
        fit = dw.fit_glmm(Y, obs, "~ x + (1 | donor)", family="poisson", reml=reml)
        none = dw.fit_glmm(Y, obs, "~ x", family="poisson", reml=reml)
        zero = fit.status == "boundary"
        assert zero.any() and (none.status == "ok").all()
        assert (fit.theta[zero] == 0).all() and np.allclose(
            fit.ranef().set_index("variable").loc["y1"][["value", "cond_sd"]], 0
        ) == zero[0]
        assert np.allclose(fit.beta[zero], none.beta[zero], atol=1e-6)
        assert np.allclose(fit.loglik[zero], none.loglik[zero], atol=1e-6)


def test_separated_features_say_where_they_go() -> None:
    obs = small()
    y, arm = obs["poisson"].to_numpy(), (obs["arm"] == "v").to_numpy()
    Y = np.stack(
        [y, np.where(arm, 0, y), np.where(arm, y, 0), np.where(obs["x"] > 0, 0, y), np.where(obs.index == 0, 3, 0)], 1
    )
    fit = dw.fit_glmm(Y, obs, "~ arm + x + (1 | donor)", family="poisson")
    assert fit.status.tolist()[:3] == ["ok", "separated", "separated"] and fit.status[3] in ("ok", "separated")
    assert fit.beta[1, 1] == -np.inf and fit.beta[2, 1] == np.inf and fit.beta[2, 0] == -np.inf
    rest = dw.fit_glmm(y[~arm], obs[~arm].reset_index(), "~ x + (1 | donor)", family="poisson")
    assert np.allclose(fit.beta[1, [0, 2]], rest.beta[0]) and np.allclose(fit.theta[1], rest.theta[0])
    assert np.allclose(fit.vcov_beta[1][np.ix_([0, 2], [0, 2])], rest.vcov_beta[0])
    table = fit.test(["arm[T.v]", "x"]).set_index(["contrast", "variable"])
    assert table.loc[("arm[T.v]", "y2"), "estimate"] == -np.inf and np.isnan(table.loc[("arm[T.v]", "y2"), "p_value"])
    assert np.isfinite(table.loc[("x", "y2"), "p_value"])
    assert (
        fit.test({"v": {"Intercept": 1, "arm[T.v]": 1}}).set_index("variable").loc["y2", ["estimate"]] == -np.inf
    ).all()
    lrt = fit.lrt(dw.fit_glmm(Y, obs, "~ x + (1 | donor)", family="poisson")).set_index("variable")
    assert lrt.loc["y2", "p_value"] < 0.05 and lrt.loc["y2", "statistic"] > 4


def test_all_yes_or_all_no_donors() -> None:
    """Their variance is infinite by maximum likelihood; nothing ends the run."""
    obs = small()
    fit = dw.fit_glmm(
        obs["donor"].isin(list("ace")).to_numpy(), obs, "~ x + (1 | donor)", family="binomial", reml=False
    )
    assert fit.status[0] in ("separated", "not_converged") and np.isnan(fit.beta).all()
    assert np.isnan(fit.test()["p_value"]).all()


def test_features_that_cannot_be_fitted_do_not_end_the_run() -> None:
    obs = small()
    y = obs["nb"].to_numpy(float)
    missing, aliased = y.copy(), np.where(obs["arm"] == "v", np.nan, y)
    missing[::7] = np.nan
    Y = np.stack([y, np.zeros(60), np.full(60, 2.0), missing, aliased, np.full(60, np.nan), y], axis=1)
    fit = dw.fit_glmm(Y, obs, "~ arm + x + (1 | donor)", family="nb")
    assert fit.status.tolist() == [
        fit.status[0],
        "constant",
        "constant",
        fit.status[3],
        "not_estimable",
        "constant",
        fit.status[0],
    ]
    assert fit.n_obs.tolist() == [60, 60, 60, 51, 30, 0, 60] and fit.n_donors.tolist() == [6, 6, 6, 6, 3, 0, 6]
    some = ~np.isnan(missing)
    alone = dw.fit_glmm(missing[some], obs[some].reset_index(), "~ arm + x + (1 | donor)", family="nb")
    assert np.allclose(fit.beta[3], alone.beta[0], atol=1e-6) and np.allclose(fit.loglik[3], alone.loglik[0])
    assert np.allclose(fit.beta[0], fit.beta[6])
    assert len(fit.test()) == 14 and len(fit.ranef()) == 42 and len(fit.varcomp()) == 7
    assert "7 features" in repr(fit) and "nb, log link" in repr(fit)


def test_degrees_of_freedom_come_from_the_design() -> None:
    obs = small()
    fit = fitted(obs, "poisson", "~ arm + x + (1 | donor)")
    table = fit.test().set_index("contrast")
    assert table.loc["arm[T.v]", "df"] == 4 and table.loc["x", "df"] > 40
    assert np.isinf(fit.test(ddf="wald")["df"]).all()
    joint = fit.joint_test("arm").iloc[0]
    assert joint["den_df"] == 4 and np.isclose(joint["p_value"], table.loc["arm[T.v]", "p_value"])
    two = obs["poisson"].where(obs["donor"].isin(["a", "d"]))  # the feature has one donor in each arm
    few = dw.fit_glmm(two, obs, "~ arm + x + (1 | donor)", family="poisson", n_quad=1).test().set_index("contrast")
    assert few.loc["arm[T.v]", "status"] == "too_few_donors" and np.isfinite(few.loc["arm[T.v]", "estimate"])
    assert np.isnan(few.loc["arm[T.v]", "p_value"]) and np.isfinite(few.loc["x", "p_value"])


def test_icc_is_on_the_latent_scale() -> None:
    obs = small()
    for kind, rest in (("logit", np.pi**2 / 3), ("cloglog", np.pi**2 / 6)):
        fit = fitted(obs, kind, "~ x + (1 | donor)", reml=False)
        assert np.isclose(fit.icc()["icc"].item(), fit.theta[0, 0] ** 2 / (fit.theta[0, 0] ** 2 + rest))
    fit = fitted(obs, "nb", "~ x + (1 | donor)", reml=False)
    sd = fit.theta[0, 0]
    mean = (obs["e"] * np.exp(fit.beta[0, 0] + fit.beta[0, 1] * obs["x"] + sd**2 / 2)).mean()
    assert np.isclose(fit.icc()["icc"].item(), sd**2 / (sd**2 + np.log(1 + 1 / mean + 1 / fit.size[0])))


def test_rows_without_trials_or_variables_are_left_out() -> None:
    obs = small()
    obs.loc[::9, "m"], obs.loc[::9, "logit"] = 0, 0
    a = fitted(obs, "logit", "~ arm + x + (1 | donor)")
    b = fitted(obs[obs["m"] > 0].reset_index(), "logit", "~ arm + x + (1 | donor)")
    same(a, b)
    obs.loc[3, "x"] = np.nan
    with pytest.warns(DonorwiseWarning, match="1 of 60 rows are left out"):
        assert fitted(obs, "nb", "~ x + (1 | donor)").n_obs[0] == 59


# ---------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"family": "gamma"}, "family='gamma' is not known"),
    "link": ({"family": "nb", "link": "logit"}, "not a link of family='nb'; it has 'log'"),
    "logged exposure": ({"exposure": "logged"}, "exposure looks like logarithms .* offset= instead"),
    "named so": ({"exposure": "log_e"}, "exposure looks like logarithms"),
    "raw offset": ({"offset": "depth"}, "offset does not look like logarithms .* exposure= instead"),
    "whole offset": ({"offset": "m"}, "offset does not look like logarithms"),
    "zero exposure": ({"exposure": "zero"}, "exposure must be positive and finite; 1 are not .the first is 0 at row 0"),
    "no column": ({"exposure": "dpeth"}, "exposure='dpeth' is not a column of obs; did you mean `depth`"),
    "length": ({"exposure": np.ones(3)}, "exposure has 3 values for 60 rows"),
    "missing offset": ({"offset": np.full(60, np.nan)}, "offset must be finite; 60 are not"),
    "trials of counts": ({"trials": "m"}, "has no trials; family='binomial'"),
    "exposure of logit": ({"family": "binomial", "exposure": "depth"}, "has no exposure; use link='cloglog'"),
    "counts as yes": ({"family": "binomial"}, "0 or 1, or booleans"),
    "more than trials": ({"family": "binomial", "trials": np.full(60, 2)}, "whole numbers from 0 to the trials"),
    "broken trials": ({"family": "binomial", "trials": "e"}, "trials must be whole numbers"),
    "nodes": ({"n_quad": 0}, "n_quad=0 is no number of nodes; use 1 .Laplace. to 100"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    rng = np.random.default_rng(0)
    obs = small().assign(depth=lambda d: rng.integers(900, 9000, len(d)))
    obs["logged"], obs["log_e"], obs["zero"] = np.log(obs["depth"]), np.exp(obs["x"]), np.arange(60)
    options, words = REFUSED[what]
    with pytest.raises(DonorwiseError, match=words):
        dw.fit_glmm(obs["poisson"] + 2, obs, "~ x + (1 | donor)", **{"family": "poisson"} | options)


def test_values_that_are_no_counts_are_refused() -> None:
    obs = small()
    with pytest.raises(DataError, match="1 values that do not fit the family .the first is 0.5 at row 4 of 'y2'"):
        Y = np.ones((60, 2))
        Y[4, 1] = 0.5
        dw.fit_glmm(Y, obs, "~ x + (1 | donor)", family="nb")
    with pytest.raises(DesignError, match="quadrature is for one random term of one column"):
        fitted(obs, "nb", "~ x + (1 | donor) + (1 | batch)", n_quad=5)
    assert fitted(obs, "nb", "~ x + (1 | donor) + (1 | batch)").n_quad == 1


def test_models_that_cannot_be_compared_are_refused() -> None:
    obs = small()
    nb = fitted(obs, "nb", "~ x + (1 | donor)")
    poisson = dw.fit_glmm(obs[["nb"]], obs, "~ (1 | donor)", family="poisson")
    for other, words in (
        (poisson, "different families"),
        (fitted(obs, "nb", "~ (1 | donor)", n_quad=1), "n_quad=11 and that of the other by n_quad=1"),
        (fitted(obs.iloc[:50], "nb", "~ (1 | donor)"), "same features, rows"),
        (fitted(obs.assign(e=1.0), "nb", "~ (1 | donor)"), "exposures"),
        (fitted(obs, "nb", "~ arm + (1 | donor)"), "nested"),
    ):
        with pytest.raises(DesignError, match=words):
            nb.lrt(other)
    for call in (lambda: nb.test(ddf="kenward-roger"), lambda: nb.test(level=95), lambda: nb.ranef("batch")):
        with pytest.raises(DonorwiseError):
            call()


# ---------------------------------------------------------------- where the likelihood is level and no maximum


def test_a_step_to_minus_a_standard_deviation_does_not_end_at_zero() -> None:
    """Likelihoods are even in standard deviations, and level at zero."""

    def well(x: np.ndarray) -> Point:
        return Point(float(x @ x / 2 - (x**4).sum()), x - 4 * x**3, np.zeros(1))

    found = maximise(well, np.array([0.5, 0.5]), lambda x: np.full(2, 1e-4), lambda step: 1.0)
    assert found.converged
    np.testing.assert_allclose(np.abs(found.x), 0.5, rtol=1e-6)
    for start in ([0.0, 0.5], [0.0, 0.0], [-0.5, 0.0]):
        found = maximise(well, np.array(start), lambda x: np.full(2, 1e-4), lambda step: 1.0)
        assert found.converged
        np.testing.assert_allclose(np.abs(found.x), 0.5, rtol=1e-6)


@pytest.mark.parametrize("n_quad", [1, 11])
@pytest.mark.parametrize(("family", "link"), [("binomial", "cloglog"), ("binomial", "logit"), ("poisson", "log")])
def test_restricted_variances_are_not_below_those_of_maximum_likelihood(family: str, link: str, n_quad: int) -> None:
    rng = np.random.default_rng(5)
    donor = np.repeat(np.arange(8), 25 if family == "binomial" else 6)
    obs = pd.DataFrame({"donor": donor.astype(str), "arm": np.where(donor < 4, "a", "b")})
    eta = rng.normal(0, 1, 25) + rng.normal(0, 0.35, (8, 25))[donor]
    Y = rng.poisson(np.exp(eta + 1)) if family == "poisson" else (rng.random(eta.shape) < special.expit(eta)) * 1
    fits = [
        dw.fit_glmm(Y, obs, "~ arm + (1 | donor)", family=family, link=link, n_quad=n_quad, reml=reml)
        for reml in (True, False)
    ]
    restricted, maximum = (fit.varcomp()["variance"].to_numpy() for fit in fits)
    assert (restricted >= maximum - 1e-6).all()
    assert (restricted > maximum)[maximum > 1e-3].all()
