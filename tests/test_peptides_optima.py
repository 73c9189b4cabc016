"""Optima and moderated p-values of proteins against searches and sums that take all the time they need."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from tests import _ragged
from tests._ragged import RANDOM, Protein, Recipe
from tests._twins import check

from donorwise._core.inference.moderation import learn, moderated_tests
from donorwise._core.models.law import tensor

SEARCHED = [_ragged.recipe(seed, random=(random,), G=50, most=4) for seed, random in enumerate(RANDOM)]


def highest(protein: Protein, starts: np.ndarray) -> float:
    """Highest restricted log-likelihood of a general optimiser of the square roots of the ratios."""
    twin = protein.twin()

    def deviance(theta: np.ndarray) -> tuple[float, np.ndarray]:
        return -2 * twin.at(theta**2, reml=True).loglik, 2 * theta * twin.gradient(theta**2, reml=True)

    found = [
        minimize(deviance, np.sqrt(start), jac=True, method="L-BFGS-B", bounds=[(0, 1e3)] * len(start))
        for start in starts
    ]
    return -0.5 * min(float(one.fun) for one in found)


@pytest.mark.parametrize("recipe", SEARCHED, ids=str)
def test_no_search_leads_higher(recipe: Recipe) -> None:
    """From the best of many points, zeros among them; where everything is explained the best may be infinitely far."""
    _, model = recipe.fit()
    T, rng = len(model.nuisance), np.random.default_rng(recipe.seed)
    whole = np.isin(np.arange(recipe.G), model.usable) & model.equations.kept.all(axis=1)
    at = [g for g in np.flatnonzero(whole) if not recipe.proteins[g].leaves_nothing(model.equations.kept[g])]
    axis = np.concatenate([[0], np.geomspace(1e-4, 1e6, {1: 200, 2: 40, 3: 16}[T])])
    points = tensor([axis] * T)
    loglik = model.on(points).loglik(np.array(at, dtype=np.int64))
    for g, own in zip(at, loglik, strict=True):
        reached = model.on(model.estimates.gamma[[g]]).loglik(np.array([g]))[0, 0]
        assert own.max() <= reached + 1e-6, (g, model.estimates.gamma[g], points[own.argmax()])
        best = points[[own.argmax(), rng.integers(len(points))]]
        exact = recipe.proteins[g].twin().at(model.estimates.gamma[g], reml=True).loglik
        if rng.random() < 0.15:
            assert highest(recipe.proteins[g], best) <= exact + 1e-6, (g, model.estimates.gamma[g])


@pytest.mark.parametrize("random", ["(1 | donor)", "(1 | peptide) + (1 | donor)"])
def test_moderated_p_is_that_of_the_mixture(random: str) -> None:
    """F = sum_k q_k T_nu(root_k) by dense matrices at every point, with nu, rank and prior of each protein."""
    recipe = Recipe(5, random, "arm", G=110, most=4)
    _, model = recipe.fit()
    L = np.array([[0.0, 1.0]])
    learned = learn([model])
    tests = moderated_tests(model, L, learned, 0.95).tests
    assert np.isfinite(tests.p_value[model.usable][model.estimable(L)[model.usable]]).all()
    for g in model.usable[::9]:
        protein = recipe.proteins[g]
        if not protein.estimable(L)[0] or tests.status[g, 0] == "too_few_donors":
            assert np.isnan(tests.p_value[g, 0])
            continue
        at = [protein.twin().at(gamma, reml=True) for gamma in learned.points]
        row, nu = L[0] @ protein.rows, len(protein.y) - protein.rows.shape[1]
        estimate, se = np.array([row @ p.beta for p in at]), np.array([np.sqrt(row @ p.vcov @ row) for p in at])
        loglik = np.array([p.loglik for p in at])
        q = learned.prior.at(learned.rank[[g]])[0] * np.exp(loglik - loglik.max())
        q /= q.sum()
        F = float(q @ stats.t.cdf(estimate / se, nu))
        check("p", tests.p_value[g, 0], 2 * min(F, 1 - F), 2 * min(F, 1 - F))
        check("estimate", tests.estimate[g, 0], q @ estimate, q @ se)
