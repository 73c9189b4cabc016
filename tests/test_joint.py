"""Moderated F tests of a term: the exact test at every point of the variances, averaged over the posterior."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import donorwise as dw
from donorwise._core.inference.joint import moderated_joint_tests
from donorwise._core.inference.moderation import posterior
from donorwise._core.models.lmm.evaluate import evaluate_block

FORMULAS = ["~ arm + age + (1 | donor)", "~ arm + age + (1 | donor) + (1 | sample)", "~ arm + age + (0 + age | donor)"]


@cache
def fitted(formula: str, n_features: int = 150, per_arm: tuple[int, ...] = (3, 3, 3), seed: int = 0) -> dw.LMMFit:
    """Donors of several arms with unequal numbers of rows; a quarter of the features without donor variance."""
    rng = np.random.default_rng(seed)
    n_donors = sum(per_arm)
    donor = np.repeat(np.arange(n_donors), rng.integers(6, 40, n_donors))
    arm = np.repeat(list("abcd")[: len(per_arm)], per_arm)[donor]
    obs = pd.DataFrame({"donor": donor, "arm": arm, "age": rng.normal(size=donor.size)})
    obs["sample"] = [f"{d}.{s}" for d, s in zip(donor, rng.integers(0, 2, donor.size), strict=True)]
    ratio = np.where(rng.random(n_features) < 0.25, 0, 0.1 * np.exp(rng.normal(size=n_features)))
    Y = rng.normal(size=(donor.size, n_features)) + (np.sqrt(ratio) * rng.normal(size=(n_donors, n_features)))[donor]
    return dw.fit_lmm(Y, obs, formula)


@pytest.mark.parametrize("formula", FORMULAS)
def test_p_is_the_average_of_exact_tests(formula: str) -> None:
    fit = fitted(formula)
    (model,), points, L = fit.models, fit.learned.points, np.eye(4)[1:3]
    equations, few = model.equations, model.take(np.arange(4))
    rows, nu = equations.turned(L), equations.nu(reml=True)
    loglik, p = np.empty((2, 4, len(points)))
    for k, point in enumerate(points):
        at = evaluate_block(equations.blocks, np.tile(point, (4, 1)), few.estimates.responses, nu)
        value = (few.estimates.responses.ols + at.delta) @ rows.T
        for g in range(4):
            covariance = at.R[g] / nu * rows @ at.Phi[g] @ rows.T
            p[g, k] = stats.f.sf(value[g] @ np.linalg.solve(covariance, value[g]) / 2, 2, nu)
        loglik[:, k] = -0.5 * at.deviance
    q = posterior(loglik, fit.prior.at(fit.learned.rank[:4]))
    own = fit.joint_test("arm")
    np.testing.assert_allclose(own["p_value"][:4], (q * p).sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(stats.f.sf(own["statistic"], 2, own["den_df"]), own["p_value"], rtol=1e-10)
    assert own["den_df"].between(1, nu).all() and (own["scaling"] == 1).all()


@pytest.mark.parametrize("formula", FORMULAS)
def test_of_one_contrast_it_is_the_square_of_t(formula: str) -> None:
    fit = fitted(formula)
    joint, t = fit.joint_test("age"), fit.test("age")
    np.testing.assert_array_equal(joint["p_value"], t["p_value"])
    np.testing.assert_allclose(joint["statistic"], t["statistic"] ** 2, rtol=1e-14)
    np.testing.assert_array_equal(joint["den_df"], t["df"])


def test_basis_chunks_and_order_do_not_matter() -> None:
    fit = fitted(FORMULAS[1])
    (model,), L = fit.models, np.eye(4)[1:3]
    own = moderated_joint_tests(model, L, fit.learned)
    for other in (
        moderated_joint_tests(model, np.array([[1.0, 2.0], [3.0, -1.0]]) @ L, fit.learned),
        moderated_joint_tests(model, L, fit.learned, chunk=3_000),
    ):
        for name in ("statistic", "den_df", "p_value"):
            np.testing.assert_allclose(getattr(other, name), getattr(own, name), rtol=1e-8)
    backwards = moderated_joint_tests(model.take(np.arange(150)[::-1]), L, fit.learned)
    np.testing.assert_allclose(backwards.p_value[::-1], own.p_value, rtol=1e-10)


@pytest.mark.parametrize("per_arm", [(3, 3, 3), (2, 3, 4), (2, 2, 2, 2)])
def test_type_one_error_with_few_donors(per_arm: tuple[int, ...]) -> None:
    fit = fitted("~ arm + (1 | donor)", 6000, per_arm, seed=1)
    p, plain = fit.joint_test("arm")["p_value"], fit.joint_test("arm", "kenward-roger")["p_value"]
    assert 0.042 < (p < 0.05).mean() < 0.058
    assert (p < 0.001).mean() < 0.002
    assert (plain < 0.05).mean() < 0.035  # what it replaces is conservative


def test_far_out() -> None:
    """A difference that no mixture doubts: p keeps its digits, and statistic and p agree."""
    fit = fitted("~ arm + (1 | donor)")
    (model,) = fit.models
    # arm b lies 30 residual standard deviations above the others
    responses = model.estimates.responses
    moved = replace(responses, ols=responses.ols + 30 * model.equations.fixed.R[:, 1])
    far = replace(model, estimates=replace(model.estimates, responses=moved))
    own = moderated_joint_tests(far, np.eye(3)[1:], fit.learned)
    assert (own.p_value < 1e-6).all()
    np.testing.assert_allclose(stats.f.sf(own.statistic, 2, own.den_df), own.p_value, rtol=1e-9)


def test_where_moderation_does_not_apply_kenward_roger_does() -> None:
    fit = fitted(FORMULAS[0], 40)
    pd.testing.assert_frame_equal(fit.joint_test("arm"), fit.joint_test("arm", "kenward-roger"))


def test_too_few_donors_have_no_test() -> None:
    """A feature that was seen in one donor of each arm only; the others are tested as ever."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(9), 20)
    obs = pd.DataFrame({"donor": donor, "arm": np.array(list("abc"))[donor // 3]})
    Y = rng.normal(size=(180, 130))
    Y[donor % 3 > 0, 0] = np.nan
    table = dw.fit_lmm(Y, obs, "~ arm + (1 | donor)").joint_test("arm")
    assert table["status"][0] in ("too_few_donors", "not_estimable")
    assert table.loc[0, ["statistic", "den_df", "scaling", "p_value", "adj_p_value"]].isna().all()
    assert np.isfinite(table["p_value"][1:]).all()
