"""Models with known covariances between levels against the dense twin of tests/_dense.py, over random designs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests._twins import (
    COUPLED,
    COUPLED_SCALAR,
    LOGLIK,
    Example,
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
from donorwise._core.models.law import Law, law_of
from donorwise._core.models.lmm.components import covariances, with_covariances
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.fit import optimise_blocked
from donorwise._core.models.lmm.model import LMM
from donorwise._core.models.lmm.ratios import fit_two

pytestmark = pytest.mark.filterwarnings(
    "ignore::donorwise.errors.DonorwiseWarning"
)  # of these kernels: tested elsewhere

KNOWN = recipes(tuple(COUPLED))
SINGLE = tuple(text for text, terms in COUPLED.items() if len(terms) == 1 and " " not in terms[0][1])
PAIRS = tuple(text for text in COUPLED_SCALAR if len(COUPLED[text]) == 2)


@settings(max_examples=30)
@given(recipe=KNOWN, reml=st.booleans())
def test_estimates(recipe: Recipe, reml: bool) -> None:
    check_estimates(recipe, reml=reml)


@settings(max_examples=15)
@given(recipe=recipes(COUPLED_SCALAR), reml=st.booleans())
def test_no_start_leads_higher(recipe: Recipe, reml: bool) -> None:
    check_that_no_start_leads_higher(recipe, reml=reml)


@settings(max_examples=15)
@given(recipe=KNOWN)
def test_kenward_roger(recipe: Recipe) -> None:
    check_kenward_roger(recipe)


@settings(max_examples=15)
@given(recipe=KNOWN, reml=st.booleans())
def test_satterthwaite(recipe: Recipe, reml: bool) -> None:
    check_satterthwaite(recipe, reml=reml)


@settings(max_examples=15)
@given(recipe=KNOWN, reml=st.booleans())
def test_random_effects(recipe: Recipe, reml: bool) -> None:
    check_random_effects(recipe, reml=reml)


@settings(max_examples=15)
@given(recipe=recipes(SINGLE), reml=st.booleans())
def test_spectral_and_blocked_paths_meet(recipe: Recipe, reml: bool) -> None:
    _, own = fit(recipe, reml=reml)
    for model in own.models:
        equations, response = model.equations, model.estimates.responses
        assert equations.spectrum is not None and equations.coupling is not None
        gamma, _, converged = optimise_blocked(equations, response, reml=reml)
        assert converged.all()
        check("gamma", gamma, model.estimates.gamma, 1e-3 + model.estimates.gamma)


@settings(max_examples=15)
@given(recipe=recipes(PAIRS))
def test_nodes_and_newton_meet(recipe: Recipe) -> None:
    """Two variances between nodes, and by Newton's method on the dense block."""
    _, own = fit(recipe, reml=True)
    for model in own.models:
        equations, response = model.equations, model.estimates.responses
        nu = equations.nu(reml=True)
        assert equations.nodes is not None
        found = fit_two(equations.nodes, response.zty, response.rss, nu)
        gamma, _, converged = optimise_blocked(equations, response, reml=True)
        exact, there = (evaluate_block(equations.blocks, g, response, nu).deviance for g in (gamma, found.gamma))
        assert converged.all() and found.found.all()
        np.testing.assert_allclose(found.deviance, there, rtol=0, atol=LOGLIK)
        np.testing.assert_allclose(found.deviance, exact, rtol=0, atol=LOGLIK)
        weight = equations.parameter_information / equations.parameter_information.max()
        shares, others = ((g * weight / (1 + (g * weight).sum(axis=1, keepdims=True))) for g in (found.gamma, gamma))
        np.testing.assert_allclose(shares, others, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the law on the grid


@dataclass(frozen=True)
class DenseGrid:
    """The law of features at points by n x n matrices: what :class:`LMMGrid` gives, without its short cuts."""

    data: Example
    model: LMM
    points: np.ndarray
    L: np.ndarray

    def loglik(self, at: np.ndarray) -> np.ndarray:
        return self.law(at).loglik

    def law(self, at: np.ndarray, loglik: np.ndarray | None = None) -> Law:
        equations = self.model.equations
        relative = covariances(equations, with_covariances(equations, self.points))
        Y = self.data.Y[:, self.model.features[at]]
        twin = self.data.twin(int(self.model.features[at[0]]))
        Y = Y if self.data.weights is None else Y * np.sqrt(self.data.weights)[:, None]
        loglik, centre, scale = [], [], []
        for k in range(len(self.points)):
            point = twin.at(twin.entries([T[k] for T in relative]), reml=True)
            Phi, nu = point.vcov / point.sigma2, twin.n_obs - twin.X.shape[1]
            R = np.einsum("ng,nm,mg->g", Y, point.P, Y)
            logdet = np.linalg.slogdet(point.V)[1] - np.linalg.slogdet(Phi)[1]
            loglik.append(-0.5 * (nu * np.log(R) + logdet))
            centre.append(self.L @ Phi @ twin.X.T @ point.inverse @ Y)
            scale.append(np.sqrt(np.outer(np.diag(self.L @ Phi @ self.L.T), R / nu)))
        return law_of(np.stack(loglik, axis=1), np.stack(centre, axis=2), np.stack(scale, axis=2), float(nu))

    def log_fc(self, at: np.ndarray, law: Law, weight: np.ndarray) -> np.ndarray:
        return np.full((at.size, len(self.L)), np.nan)


@settings(max_examples=15)
@given(recipe=recipes(COUPLED_SCALAR + ("(1 + x | gr(donor, cov=K))",)))
def test_law_on_the_grid(recipe: Recipe) -> None:
    data, own = fit(replace(recipe, missing=False), reml=True)
    (model,) = own.models
    axes = model.axes(model.largest())
    rng, L = np.random.default_rng(recipe.seed), data.contrasts()
    points = np.array([[rng.choice(axis) for axis in axes] for _ in range(12)] + [[axis[0] for axis in axes]])
    law, at = model.law(points, L), np.arange(3)
    exact = DenseGrid(data, model, points, L).law(at)
    assert law.nu == exact.nu
    change = law.loglik - exact.loglik
    np.testing.assert_allclose(change - change[:, :1], 0.0, atol=LOGLIK)
    check("estimate", law.centre, exact.centre, exact.scale)
    check("se", law.scale, exact.scale, exact.scale)
    check("t", law.root, exact.root, 1 + np.abs(exact.root))


def many_features() -> Example:
    """120 features of 14 donors with relatedness and effects of their own."""
    recipe = Recipe(3, "(1 | gr(donor, cov=K)) + (1 | donor)", "arm + x", (0.1, 1.0, 0.0), covariance="families")
    data = recipe.example()
    rng, donor = np.random.default_rng(0), data.terms[0].codes
    K = data.terms[0].K / np.diag(data.terms[0].K).mean()
    sizes = rng.choice([0.0, 0.2, 1.0], size=(2, 120))
    u = np.linalg.cholesky(K + 1e-9 * np.eye(len(K))) @ rng.normal(size=(len(K), 120)) * np.sqrt(sizes[0])
    own = rng.normal(size=(len(K), 120)) * np.sqrt(sizes[1])
    return replace(data, Y=rng.normal(size=(len(donor), 120)) + (u + own)[donor])


def test_moderated_tests_are_those_of_the_dense_law() -> None:
    data = many_features()
    L = data.contrasts()
    own, twin = (dw.fit_lmm(data.Y, data.obs, data.formula, kernels=data.kernels) for _ in range(2))
    fast = own.test(L, "moderated")

    def dense(self: LMM, points: np.ndarray, L: np.ndarray | None = None) -> DenseGrid:
        return DenseGrid(data, self, points, np.empty((0, data.X.shape[1])) if L is None else L)

    with patch.object(LMM, "on", dense):
        slow = twin.test(L, "moderated")
    assert (fast["status"] != "not_converged").all()
    for name in ("estimate", "se", "df", "statistic"):
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(fast["p_value"], slow["p_value"], rtol=1e-6)
