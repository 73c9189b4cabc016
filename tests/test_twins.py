"""The fast fits against the dense twin of tests/_dense.py, over random designs."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests._dense import Dense, Term
from tests._patterns import numbers_as_patterns
from tests._twins import (
    LOGLIK,
    SCALAR,
    SLOPE,
    G,
    Recipe,
    check,
    check_estimates,
    check_kenward_roger,
    check_random_effects,
    check_satterthwaite,
    check_that_no_start_leads_higher,
    fit,
    recipes,
)

import donorwise as dw
from donorwise._core.design import build
from donorwise._core.models.lmm import fit as lmm_fit
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.fit import _starts, optimise_blocked

ONE_RATIO = ("(1 | donor)", "(0 + time | donor)")


@settings(max_examples=30)
@given(recipe=recipes(), reml=st.booleans())
def test_estimates(recipe: Recipe, reml: bool) -> None:
    check_estimates(recipe, reml=reml)


@settings(max_examples=10)
@given(recipe=recipes(SCALAR), reml=st.booleans())
def test_no_start_leads_higher(recipe: Recipe, reml: bool) -> None:
    check_that_no_start_leads_higher(recipe, reml=reml)


@settings(max_examples=20)
@given(recipe=recipes())
def test_kenward_roger(recipe: Recipe) -> None:
    check_kenward_roger(recipe)


@settings(max_examples=20)
@given(recipe=recipes(), reml=st.booleans())
def test_satterthwaite(recipe: Recipe, reml: bool) -> None:
    check_satterthwaite(recipe, reml=reml)


@settings(max_examples=20)
@given(recipe=recipes(), reml=st.booleans())
def test_random_effects(recipe: Recipe, reml: bool) -> None:
    check_random_effects(recipe, reml=reml)


@settings(max_examples=15)
@given(recipe=recipes(ONE_RATIO), reml=st.booleans())
def test_spectral_and_blocked_paths_meet(recipe: Recipe, reml: bool) -> None:
    _, own = fit(recipe, reml=reml)
    for model in own.models:
        assert model.equations.spectrum is not None
        gamma, _, converged = optimise_blocked(model.equations, model.estimates.responses, reml=reml)
        assert converged.all()
        check("gamma", gamma, model.estimates.gamma, 1e-3 + model.estimates.gamma)
        assert ((gamma == 0) == (model.estimates.gamma == 0)).all()


@pytest.mark.parametrize(
    "formula", ["~ x + (1 | donor)", "~ x * arm + (x | donor)", "~ arm + (1 | donor) + (0 + x | donor)"]
)
def test_numbers_with_many_values_are_accumulated(formula: str) -> None:
    rng = np.random.default_rng(0)
    n, donor = 2200, rng.integers(0, 8, 2200)
    obs = pd.DataFrame({"donor": donor.astype(str), "arm": np.where(donor % 2, "a", "b"), "x": 5 + rng.normal(size=n)})
    Y = rng.normal(size=(n, 2)) + (obs["x"].to_numpy() - 5)[:, None] * rng.normal(size=(8, 2))[donor]
    fast = dw.fit_lmm(Y, obs, formula)
    with patch.object(build, "find_patterns", numbers_as_patterns):
        plain = dw.fit_lmm(Y, obs, formula)
    assert fast.design.covariates.shape[1] > 0 and fast.design.n_patterns == 8
    assert plain.design.covariates.shape[1] == 0 and plain.design.n_patterns == n
    se = np.sqrt(np.einsum("gii->gi", plain.vcov_beta))
    check("beta", fast.beta, plain.beta, se)
    check("vcov", fast.vcov_beta, plain.vcov_beta, se[:, :, None] * se[:, None, :])
    check("theta", fast.theta, plain.theta, 1.0)
    check("loglik", fast.loglik, plain.loglik, 1.0)
    for ddf in ("kenward-roger", "satterthwaite", "between-within"):
        check(ddf, fast.test(None, ddf)["df"], plain.test(None, ddf)["df"], plain.test(None, ddf)["df"])


# A factor with several columns left at zero, once among many others.
VANISHING = [
    Recipe(0, "(time + x | donor)", "arm * time", (0.0, 0.0, 0.0), weighted=True),
    Recipe(65, "(time + x | donor)", "arm + cond", (0.0, 0.0, 0.1), weighted=True),
    Recipe(5, "(time | donor) + (1 | batch)", "cond + time + x", (1.0, 1.0, 0.0), weighted=True),
]


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("recipe", VANISHING, ids=str)
def test_singular_fits_converge(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    assert set(own.status) <= {"ok", "boundary"}
    for g in range(G):
        twin = data.twin(g)
        assert max(twin.optimality(twin.gamma(own.theta[g]), reml=reml)) < SLOPE


def test_flat_likelihood() -> None:
    """One donor of five has both conditions: a ridge of equal likelihood, on which the fit must stay."""
    rng = np.random.default_rng(0)
    donor, cond = np.repeat([0, 1, 2, 3, 4, 4], [2, 3, 10, 4, 8, 5]), np.repeat([0, 1, 0, 1, 0, 1], [2, 3, 10, 4, 8, 5])
    columns = np.column_stack([np.ones(32), cond])
    X = np.column_stack([np.ones(32), donor % 2, cond])
    Y = rng.normal(size=(32, 20)) + 1.5 * rng.normal(size=(5, 20))[donor]
    obs = pd.DataFrame({"donor": donor.astype(str), "cond": cond.astype(str), "arm": (donor % 2).astype(str)})
    own = dw.fit_lmm(Y, obs, "~ arm + cond + (1 + cond | donor)")
    for g in range(20):
        twin = Dense(Y[:, g], X, [Term(donor, columns)])
        assert abs(own.loglik[g] - twin.at(twin.gamma(own.theta[g]), reml=True).loglik) < LOGLIK
        assert twin.minimise(own.theta[g], reml=True) < own.loglik[g] + 1e-6


def test_no_start_is_left_for_another_peak() -> None:
    """Starts are left early where an optimum is known: all together they find what the best of them finds alone."""
    rng = np.random.default_rng(2)
    donor, time = np.repeat(np.arange(6), 3), rng.normal(size=18) * 10 ** rng.uniform(-1, 1) + rng.choice([0, 5])
    _, sd = rng.normal(size=18), np.exp(2 * rng.normal(size=(2, 500)))
    Y = rng.normal(size=(18, 500)) + (sd[0] * rng.normal(size=(6, 500)))[donor]
    Y += time[:, None] * (sd[1] * rng.normal(size=(6, 500)))[donor]
    Y = Y[:, 100:140]
    own = dw.fit_lmm(Y, pd.DataFrame({"donor": donor.astype(str), "time": time}), "~ time + (time | donor)")
    model, response = own.models[0].equations, own.models[0].estimates.responses

    def deviance(starts: slice) -> np.ndarray:
        def chosen(*args: np.ndarray) -> np.ndarray:
            return _starts(*args)[starts]

        with patch.object(lmm_fit, "_starts", chosen):
            gamma, _, converged = optimise_blocked(model, response, reml=True)
        found = evaluate_block(model.blocks, gamma, response, model.nu(reml=True)).deviance
        return np.where(converged, found, np.inf)

    alone = np.min([deviance(slice(i, i + 1)) for i in range(6)], axis=0)
    np.testing.assert_allclose(deviance(slice(None)), alone, rtol=1e-9, atol=1e-6)


def test_pairs_of_columns_in_closed_form() -> None:
    """The deviance in closed form and that of the general elimination, which tests use, are one."""
    _, own = fit(Recipe(3, "(time | donor)", "arm", (1.0, 1.0, 1.0)), reml=True)
    model, response = own.models[0].equations, own.models[0].estimates.responses
    gamma = np.array([[0.0, 0.0, 0.0], [2.0, -0.5, 0.3], [4.0, 2.0, 1.0]])[np.arange(G) % 3]
    nu = model.nu(reml=True)
    closed, general = (evaluate_block(model.blocks, gamma, response, nu, pieces=p) for p in (False, True))
    for name in ("deviance", "R", "logdet_V", "logdet_X", "Phi", "delta"):
        np.testing.assert_allclose(getattr(closed, name), getattr(general, name), rtol=1e-10, atol=1e-12)


# Small samples whose likelihood has two peaks: one in the interior, the higher one at the edge.
TWO_PEAKS = [
    (Recipe(1, "(1 + cond | donor)", "arm + x", (1.0, 10.0, 10.0)), True),
    (Recipe(76, "(1 + cond | donor)", "arm + x", (10.0, 0.1, 10.0)), True),
    (Recipe(191, "(1 + cond | donor)", "1", (10.0, 0.0, 10.0)), False),
    (Recipe(566, "(1 + cond | donor)", "phase + arm", (10.0, 1.0, 10.0)), False),
]


@pytest.mark.parametrize(("recipe", "reml"), TWO_PEAKS)
def test_the_higher_of_two_peaks(recipe: Recipe, reml: bool) -> None:
    data, own = fit(recipe, reml=reml)
    rng = np.random.default_rng(0)
    for g in range(G):
        starts = rng.normal(size=(10, own.theta.shape[1]))
        assert max(data.twin(g).minimise(start, reml=reml) for start in starts) < own.loglik[g] + 1e-6
