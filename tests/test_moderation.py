"""The shared prior on variance ratios: grid likelihood, EM, posterior mixture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise.inference.grid import ratio_axes, tensor
from donorwise.inference.moderation import grid_loglik, learn_prior, moderated_tests, refusal
from donorwise.inference.prior import Prior
from donorwise.inference.wald import orthonormal_rows
from donorwise.lmm.evaluate import evaluate_block

FORMULAS = ["~ arm + (1 | donor)", "~ arm + (1 | donor) + (1 | donor:sample)"]


def fitted(formula: str, n_features: int = 400, seed: int = 0) -> dw.LMMFit:
    """Three donors against three, two samples each, a fifth of the features without donor variance."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(6), 24)
    obs = pd.DataFrame({"donor": donor, "arm": np.where(donor < 3, "a", "b"), "sample": np.tile([0, 1], 72)})
    ratio = np.where(rng.random(n_features) < 0.2, 0, 0.05 * np.exp(rng.normal(size=n_features)))
    Y = rng.normal(size=(144, n_features)) + (np.sqrt(ratio) * rng.normal(size=(6, n_features)))[donor]
    return dw.fit_lmm(Y, obs, formula)


@pytest.mark.parametrize("formula", FORMULAS)
def test_grid_likelihood_is_that_of_the_fits(formula: str) -> None:
    part = fitted(formula, 5).parts[0]
    axes = ratio_axes(part.model)
    grid = tensor(axes)
    on_grid = grid_loglik(part.model, part.block.responses, axes)
    for k in (0, 7, len(grid) - 1):
        gamma = np.tile(grid[k], (5, 1))
        at = evaluate_block(part.model.blocks, gamma, part.block.responses, part.model.nu(reml=True))
        np.testing.assert_allclose(on_grid[:, k], -0.5 * at.deviance, rtol=1e-10)


@pytest.mark.parametrize("formula", FORMULAS)
def test_em_never_falls_and_gives_probabilities(formula: str) -> None:
    part = fitted(formula).parts[0]
    prior, _ = learn_prior(part.model, part.block.responses)
    assert np.diff(prior.objective).min() > -1e-9 * abs(prior.objective[0])
    np.testing.assert_allclose(prior.weights.sum(axis=1), 1)
    assert "share at zero" in repr(prior)


def test_a_prior_on_one_point_gives_the_t_of_known_variances() -> None:
    fit = fitted(FORMULAS[0], 5)
    part = fit.parts[0]
    axes, at = ratio_axes(part.model), 20
    weights = np.full((6, 64), 1e-300)
    weights[:, at] = 1
    prior = Prior(tuple(axes), ("donor",), weights, np.linspace(0, 1, 6), np.zeros(1), 5)
    rows = orthonormal_rows(part.model, np.array([[0.0, 1.0]]))
    own = moderated_tests(part.model, part.block.responses, prior, np.linspace(0, 1, 5), rows, 0.95)
    known = evaluate_block(part.model.blocks, np.full((5, 1), axes[0][at]), part.block.responses, 142)
    estimate = (part.block.responses.ols + known.delta) @ rows[0]
    se = np.sqrt(known.R / 142 * np.einsum("p,gpr,r->g", rows[0], known.Phi, rows[0]))
    np.testing.assert_allclose(own.estimate[:, 0], estimate, rtol=1e-10)
    np.testing.assert_allclose(own.p_value[:, 0], 2 * stats.t.sf(np.abs(estimate / se), 142), rtol=1e-8)
    np.testing.assert_allclose(own.se[:, 0], se, rtol=1e-3)
    np.testing.assert_allclose(own.ci_high[:, 0], estimate + stats.t.ppf(0.975, 142) * se, rtol=1e-6)


def test_three_against_three_holds_its_level() -> None:
    part = fitted(FORMULAS[0], 6000).parts[0]
    prior, rank = learn_prior(part.model, part.block.responses)
    rows = orthonormal_rows(part.model, np.array([[0.0, 1.0]]))
    own = moderated_tests(part.model, part.block.responses, prior, rank, rows, 0.95)
    assert 0.042 < (own.p_value < 0.05).mean() < 0.058
    assert 0.942 < ((own.ci_low < 0) & (own.ci_high > 0)).mean() < 0.958


def test_models_it_does_not_cover() -> None:
    assert refusal(fitted(FORMULAS[0], 5).parts[0].model, 400) == ""
    assert "too few" in refusal(fitted(FORMULAS[0], 5).parts[0].model, 50)
    assert "slopes" in refusal(fitted("~ arm + (sample | donor)", 5).parts[0].model, 400)
