"""What holds for every family of models: the law on a grid of variances, and the tests made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

import donorwise as dw
from donorwise._core.cells.collapse import collapse
from donorwise._core.design.build import build_design
from donorwise._core.inference.moderation import learn, mean_rank, moderated_tests, p_values, posterior, refusal
from donorwise._core.inference.prior import fit_prior
from donorwise._core.models.law import Model, tensor
from donorwise._core.models.lmm.law import on_grid
from donorwise._core.models.lograte.model import fit_log_rates
from donorwise._core.models.lograte.units import depths_of_units

N_FEATURES = 130
LOOKED_AT = (0, 7, 64, 129)
Dense = Callable[[int, Any], tuple[float, Any, Any]]


@dataclass(frozen=True)
class Case:
    """A model, and its law by dense algebra: (feature, point) to log-likelihood, centre and scale of contrasts."""

    model: Model
    L: Any
    dense: Dense


def _gls(V: Any, X: Any, y: Any, L: Any) -> tuple[float, float, Any, Any]:
    """log|V| + log|X'V⁻¹X|, y'Py, and estimate and unscaled standard error of contrasts."""
    W = np.linalg.inv(V)
    cov = np.linalg.inv(X.T @ W @ X)
    beta = cov @ X.T @ W @ y
    r = y - X @ beta
    logdet = np.linalg.slogdet(V)[1] - np.linalg.slogdet(cov)[1]
    return logdet, r @ W @ r, L @ beta, np.sqrt(np.einsum("np,pq,nq->n", L, cov, L))


def _indicators(*columns: Any) -> Any:
    levels = pd.factorize(pd.MultiIndex.from_arrays(columns))[0]
    return (levels[:, None] == np.arange(levels.max() + 1)).astype(float)


def _cells() -> tuple[Any, pd.DataFrame]:
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(8), 15)
    obs = pd.DataFrame({"donor": donor, "arm": np.where(donor < 4, "a", "b"), "sample": np.tile([0, 1, 1], 40)})
    obs = obs.assign(batch=rng.integers(0, 3, 120), depth=rng.normal(size=120), w=rng.uniform(0.5, 2, 120))
    Y = rng.normal(size=(120, N_FEATURES)) + 0.4 * rng.normal(size=(8, N_FEATURES))[donor] + np.arange(N_FEATURES)
    return Y, obs


def _lmm(random: str, Zs: Callable[[pd.DataFrame], list[Any]]) -> Case:
    Y, obs = _cells()
    (model,) = dw.fit_lmm(Y, obs, f"~ arm + depth + {random}", weights="w").models
    X = np.column_stack([np.ones(120), obs["arm"] == "b", obs["depth"]]).astype(float)
    L, Z = np.array([[0.0, 1.0, 0.0], [1.0, 0.5, -0.3]]), Zs(obs)
    scale = model.components()[1]  # ratios of the grid are those of the formula's columns times this

    def dense(g: int, point: Any) -> tuple[float, Any, Any]:
        V = np.diag(1 / obs["w"]) + sum(c * s * z @ z.T for c, s, z in zip(point, scale, Z, strict=True))
        logdet, R, estimate, unscaled = _gls(V, X, Y[:, g], L)
        return -0.5 * (logdet + 117 * np.log(R)), estimate, np.sqrt(R / 117) * unscaled

    return Case(model, L, dense)


def _correlated() -> Case:
    """Level and slope of every donor, whose grid has two ratios and a correlation in the internal basis."""
    own = _lmm("(1 + depth | donor)", lambda o: [])
    Y, obs = _cells()
    X = np.column_stack([np.ones(120), obs["arm"] == "b", obs["depth"]]).astype(float)
    donor = _indicators(obs["donor"])
    back = own.model.equations.terms[0].back  # type: ignore[attr-defined]

    def dense(g: int, point: Any) -> tuple[float, Any, Any]:
        covariance = point[1] * np.sqrt(point[0] * point[2])
        T = back @ np.array([[point[0], covariance], [covariance, point[2]]]) @ back.T
        Z = np.stack([donor, donor * obs[["depth"]].to_numpy()], axis=2)
        V = np.diag(1 / obs["w"]) + np.einsum("ilr,rs,jls->ij", Z, T, Z)
        logdet, R, estimate, unscaled = _gls(V, X, Y[:, g], own.L)
        return -0.5 * (logdet + 117 * np.log(R)), estimate, np.sqrt(R / 117) * unscaled

    return Case(own.model, own.L, dense)


def _log_rates(random: bool) -> Case:
    rng = np.random.default_rng(1)
    n = 16
    table = pd.DataFrame({"donor": np.repeat(np.arange(n // 2), 2) if random else np.arange(n)})
    table = table.assign(arm=np.where(np.arange(n) % 4 < 2, "a", "b"), age=rng.normal(60, 9, n))
    codes, depth = rng.integers(0, n, 900), rng.uniform(300, 2000, 900)
    between = np.exp(0.3 * rng.normal(size=(n, N_FEATURES)) + np.linspace(-8, -5, N_FEATURES))
    counts = rng.poisson(depth[:, None] * between[codes]).astype(float)
    formula = "~ arm + age" + (" + (1 | donor)" if random else "")
    collapsed, depths = collapse(counts, codes, n, covariates=depth[:, None]), depths_of_units(depth, codes, n)
    model = fit_log_rates(build_design(formula, table), collapsed, depths)
    own = table.iloc[model.units.order]
    X = np.column_stack([np.ones(n), own["arm"] == "b", own["age"]]).astype(float)
    Z, L = _indicators(own["donor"]), np.array([[0.0, 1.0, 0.0], [1.0, 0.5, 60.0]])

    def dense(g: int, point: Any) -> tuple[float, Any, Any]:
        V = np.diag(model.rates.v[g] + point[0]) + (point[1] * Z @ Z.T if random else 0.0)
        logdet, R, estimate, scale = _gls(V, X, model.rates.y[g], L)
        return -0.5 * (logdet + R), estimate, scale

    return Case(model, L, dense)


CASES: dict[str, Callable[[], Case]] = {
    "lmm": lambda: _lmm("(1 | donor)", lambda o: [_indicators(o["donor"])]),
    "lmm, slope of a covariate": lambda: _lmm(
        "(0 + depth | donor)", lambda o: [_indicators(o["donor"]) * o[["depth"]].to_numpy()]
    ),
    "lmm, nested": lambda: _lmm(
        "(1 | donor) + (1 | donor:sample)", lambda o: [_indicators(o["donor"]), _indicators(o["donor"], o["sample"])]
    ),
    "lmm, crossed": lambda: _lmm(
        "(1 | donor) + (1 | batch)", lambda o: [_indicators(o["donor"]), _indicators(o["batch"])]
    ),
    "lmm, correlated slopes": _correlated,
    "lmm, three terms": lambda: _lmm(
        "(1 | donor) + (0 + depth | donor) + (1 | donor:sample)",
        lambda o: [
            _indicators(o["donor"]),
            _indicators(o["donor"]) * o[["depth"]].to_numpy(),
            _indicators(o["donor"], o["sample"]),
        ],
    ),
    "log rates": lambda: _log_rates(random=False),
    "log rates, paired": lambda: _log_rates(random=True),
}


@cache
def case(name: str) -> Case:
    """Made once; nothing changes it."""
    return CASES[name]()


@pytest.fixture(params=CASES)
def own(request: pytest.FixtureRequest) -> Case:
    """A model of each kind."""
    return case(request.param)


def _points(own: Case) -> Any:
    return tensor(own.model.axes(own.model.largest()))


def test_law_equals_dense_algebra(own: Case) -> None:
    points = _points(own)[:: max(1, len(_points(own)) // 9)]
    law = own.model.law(points, own.L)
    for g in LOOKED_AT:
        expected = [own.dense(g, point) for point in points]
        loglik = np.array([e[0] for e in expected])
        np.testing.assert_allclose(law.loglik[g] - law.loglik[g, 0], loglik - loglik[0], rtol=1e-8, atol=1e-7)
        np.testing.assert_allclose(law.centre[g], [e[1] for e in expected], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(law.scale[g], [e[2] for e in expected], rtol=1e-8)
    np.testing.assert_allclose(law.root, law.centre / law.scale, rtol=1e-14)


@pytest.mark.parametrize("name", ["lmm", "lmm, nested", "lmm, crossed"])
def test_point_by_point_equals_products(name: str) -> None:
    """What is done where a block has too many pairs of random effects."""
    own = case(name)
    points, at = _points(own)[::5], np.arange(20)
    known, one = own.model.on(points, own.L), own.model
    slow = on_grid(one.equations, one.estimates.responses, points, own.L, most_pairs=0)  # type: ignore[attr-defined]
    for mine, other in zip(slow.law(at)[:4], known.law(at)[:4], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-10)


def test_likelihood_that_is_known_is_not_needed_again(own: Case) -> None:
    points, at = _points(own), np.array([3, 100, 5])
    grid = own.model.on(points, own.L)
    loglik = own.model.on(points).loglik(at)
    for mine, other in zip(grid.law(at, loglik)[:4], grid.law(at)[:4], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-10)


def test_moderation_is_the_mixture_over_the_posterior(own: Case) -> None:
    model, learned = own.model, learn([own.model])
    law, rank = model.law(learned.points, own.L), mean_rank([own.model])
    tests = moderated_tests(model, own.L, learned, 0.95).tests
    for g in LOOKED_AT:
        q = np.exp(law.loglik[g] - law.loglik[g].max()) * learned.prior.at(rank[[g]])[0]
        q /= q.sum()
        tail = special.stdtr(law.nu, law.root[g])  # (points, contrasts)
        F = q @ tail
        np.testing.assert_allclose(tests.p_value[g], 2 * np.minimum(F, 1 - F), rtol=1e-7, atol=1e-14)
        np.testing.assert_allclose(tests.estimate[g], q @ law.centre[g], rtol=1e-10)
        for i, p in enumerate(tests.p_value[g]):

            def below(x: float, i: int = i, q: np.ndarray = q, g: int = g) -> float:
                return float(q @ special.stdtr(law.nu, (x - law.centre[g, :, i]) / law.scale[g, :, i]))

            low, high = (optimize.brentq(lambda x, p=p: below(x) - p, -1e3, 1e3, xtol=1e-13) for p in (0.025, 0.975))
            # near .05 any t has the width, and at the ends of df none has
            if not 0.05 / 3 < p < 0.15 and 1.001 < tests.df[g, i] < 0.999 * law.nu:
                np.testing.assert_allclose(tests.ci_high[g, i] - tests.ci_low[g, i], high - low, rtol=1e-6)


def test_posterior_and_prior_are_those_of_bayes(own: Case) -> None:
    points, rank = _points(own), mean_rank([own.model])
    loglik = own.model.on(points).loglik(np.arange(N_FEATURES))
    learned = learn([own.model])
    prior = fit_prior(loglik, rank, list(learned.prior.axes), *own.model.components())
    np.testing.assert_allclose(learned.prior.weights, prior.weights, rtol=1e-8)
    weight = posterior(loglik, prior.at(rank))
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    log_posterior = loglik + np.log(prior.at(rank))
    k = log_posterior.argmax(axis=1)
    np.testing.assert_array_equal(weight.argmax(axis=1), k)
    np.testing.assert_allclose(
        np.log(weight[:, 1] / weight[np.arange(N_FEATURES), k]),
        log_posterior[:, 1] - log_posterior[np.arange(N_FEATURES), k], rtol=1e-6, atol=1e-6,
    )  # fmt: skip


def test_chunks_threads_and_order_do_not_matter(own: Case) -> None:
    model, L = own.model, own.L
    learned = learn([model])
    whole = moderated_tests(model, L, learned, 0.95)
    pieces = moderated_tests(model, L, learn([model], n_jobs=2, chunk=3_000), 0.95, 2, chunk=5_000)
    backwards = np.arange(N_FEATURES)[::-1]
    turned = moderated_tests(model.take(backwards), L, learned, 0.95)
    for name in ("estimate", "se", "df", "p_value", "ci_low", "ci_high"):
        expected = getattr(whole.tests, name)
        np.testing.assert_allclose(getattr(pieces.tests, name), expected, rtol=1e-10)
        np.testing.assert_allclose(getattr(turned.tests, name)[::-1], expected, rtol=1e-10)
    np.testing.assert_allclose(turned.variances[::-1], whole.variances, rtol=1e-10)


def test_a_model_has_estimates_or_an_axis_to_find_them_on(own: Case) -> None:
    """And coefficients in the orthonormal basis say of contrasts what beta says in that of the formula."""
    axes = own.model.fine_axes()
    assert all(axis[0] == 0 and np.unique(axis).size == axis.size for axis in axes)
    assert all((np.diff(axis) > 0).all() for axis in axes if axis.min() == 0)  # variances; the others are correlations
    if (model := own.model.estimated) is not None:
        np.testing.assert_allclose(model.coefficients @ model.turned(own.L).T, model.beta @ own.L.T, rtol=1e-9)


def test_some_features_are_tested_as_among_all(own: Case) -> None:
    model, learned = own.model, learn([own.model])
    some = np.array([99, 4, 50])
    taken = model.take(some)
    np.testing.assert_array_equal(taken.features, model.features[some])
    np.testing.assert_array_equal(taken.status(own.L), model.status(own.L)[some])
    mine, all_of_them = (moderated_tests(m, own.L, learned, 0.95).tests for m in (taken, model))
    np.testing.assert_allclose(mine.p_value, all_of_them.p_value[some], rtol=1e-10)
    estimate, p = p_values(taken, own.L[:1], learned)
    np.testing.assert_allclose(p, mine.p_value[:, 0], rtol=1e-10)
    np.testing.assert_allclose(estimate, mine.estimate[:, 0], rtol=1e-10)


def test_too_few_features_are_refused_and_no_model_is_none(own: Case) -> None:
    assert refusal([own.model]) == ""
    assert "too few" in refusal([own.model.take(np.arange(99))])
    assert refusal([]) == "no feature could be fitted"
    assert own.model.fallback in ("kenward-roger", "between-within")
    names, scale = own.model.components()
    assert len(names) == len(scale) == len(own.model.largest()) == len(own.model.axes(own.model.largest()))
    assert own.model.mean.shape == own.model.features.shape == (N_FEATURES,)
