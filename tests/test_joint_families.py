"""Joint tests of models that are known by their law: dense twins at given variances, and the shares of null features found."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.linalg import null_space
from tests.test_glmm_law import MODELS, by_cell, cohort, collapsed, responses, twin
from tests.test_term_tests import cells

import donorwise as dw
from donorwise._anndata.recover import recover
from donorwise._core.design.build import build_design
from donorwise._core.engine.asking import ask
from donorwise._core.engine.joint import independent
from donorwise._core.inference.joint import denominator_df, f_of_p, f_tail, moderated_joint_tests
from donorwise._core.inference.moderation import posterior
from donorwise._core.models.law import joint_contrasts, joint_square
from donorwise._core.models.lmm.components import covariances, with_covariances

FORMULAS = ["~ arm * cond + age + (1 | donor/sample)", "~ time + arm + (time || donor)"]


@pytest.mark.parametrize("kind", ["nb", "poisson", "logit", "cloglog"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_laws_of_counts_are_those_of_dense_twins(kind: str, formula: str) -> None:
    terms, points = MODELS[formula]
    obs, exposure, rng = cohort(3)
    design = build_design(formula, obs)
    y, trials = responses(kind, obs, exposure, rng)
    model, L, at = collapsed(kind, design, y, exposure, trials), np.eye(design.X.shape[1])[1:], np.array(points)
    law, c = model.on(at, L).joint(model.usable), model.rows.equations.turned(L)
    cell = by_cell(kind, design, y, exposure, trials).on(at, L).joint(model.usable)
    np.testing.assert_allclose(cell.F, law.F, rtol=1e-4, atol=1e-5)
    own = covariances(model.rows.equations, with_covariances(model.rows.equations, at))
    dense = twin(kind, model, design, obs, terms, y, exposure, trials, 1)
    for k in range(len(at)):
        full, null = (dense.optimum([T[k] for T in own], N) for N in (None, null_space(c)))
        p = dense.X.shape[1]
        C, estimate = c @ np.linalg.inv(full.H)[:p, :p] @ c.T, c @ full.at[:p]
        assert np.isclose(law.F[1, k], 2 * (full.height - null.height) / len(L), rtol=1e-5, atol=1e-6)
        assert np.isclose(law.wald[1, k], estimate @ np.linalg.solve(C, estimate) / len(L), rtol=1e-4, atol=1e-5)


def test_log_rates_are_averages_of_exact_tests() -> None:
    adata = cells().copy()
    dw.tl.pseudobulk(adata, "~ arm + stim + (1 | donor_id)", sample="sample_id", layer="counts", progress=False)
    analysis = recover(adata, "pseudobulk").analysis

    def question(number: int, statistics: object, fit: object) -> bool:
        model, L, learned = fit.models[0], np.eye(4)[1:3], fit.learned  # type: ignore[attr-defined]
        units, points = model.units, learned.points
        c, X = units.turned(L), units.Q
        level = np.repeat(np.arange(units.starts.size - 1), np.diff(units.starts))
        same, tests = level[:, None] == level, moderated_joint_tests(model, L, learned)
        for g in (0, 50):
            F, loglik = np.empty((2, len(points)))
            for k, (tau2, group2) in enumerate(points):
                V = np.diag(model.rates.v[g] + tau2) + group2 * same
                XV = X.T @ np.linalg.inv(V)
                beta, C = np.linalg.solve(XV @ X, XV @ model.rates.y[g]), c @ np.linalg.inv(XV @ X) @ c.T
                r = model.rates.y[g] - X @ beta
                F[k] = c @ beta @ np.linalg.solve(C, c @ beta)
                loglik[k] = -0.5 * (np.linalg.slogdet(V)[1] + np.linalg.slogdet(XV @ X)[1] + r @ np.linalg.solve(V, r))
            q = posterior(loglik[None], learned.prior.at(learned.rank[[g]]))[0]
            assert np.isclose(tests.p_value[g], (q * stats.chi2.sf(F, 2)).sum(), rtol=1e-7)
        return True

    ask(analysis, question)


@pytest.mark.parametrize("ddf", ["moderated", "between-within"])
def test_null_counts_are_found_as_often_as_nominal(ddf: str) -> None:
    """Three arms of four donors, whose spread is that of a gene."""
    rng, G = np.random.default_rng(2), 700
    donor = np.repeat(np.arange(12), 15)
    obs = pd.DataFrame(
        {"donor": donor.astype(str), "arm": np.array(list("abc"))[donor % 3]}, index=map(str, range(180))
    )
    sd, mean = np.sqrt(rng.gamma(2, 0.05, G)), rng.normal(-1, 1, G)
    rate = np.exp(mean + (sd * rng.normal(size=(12, G)))[donor])
    adata = ad.AnnData(rng.poisson(rate).astype(float), obs=obs)
    dw.tl.glmm(adata, "~ arm + (1 | donor)", family="poisson", exposure=None, ddf=ddf, progress=False)
    dw.tl.joint_test(adata, key="glmm", progress=False)
    p = dw.get.joint_tests(adata, key="glmm")["p_value"]
    assert abs(np.mean(p <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / G)


def test_an_arm_without_counts_has_an_answer() -> None:
    rng, donor = np.random.default_rng(0), np.repeat(np.arange(9), 20)
    obs = pd.DataFrame(
        {"donor": donor.astype(str), "arm": np.array(list("abc"))[donor % 3]}, index=map(str, range(180))
    )
    counts = rng.poisson(1.0, (180, 120)).astype(float)
    counts[obs["arm"] == "c", 0] = 0
    adata = ad.AnnData(counts, obs=obs)
    dw.tl.glmm(adata, "~ arm + (1 | donor)", family="poisson", exposure=None, progress=False)
    dw.tl.joint_test(adata, key="glmm", progress=False)
    row = dw.get.joint_tests(adata, key="glmm", variables="0").iloc[0]
    assert row["status"] == "separated" and row["p_value"] < 1e-4


def test_squares_of_several_estimates() -> None:
    rng = np.random.default_rng(0)
    A, L = rng.normal(size=(5, 5)), rng.normal(size=(3, 5))
    V, beta = A @ A.T, rng.normal(size=5)
    both = joint_contrasts(L)
    square, size = joint_square((both @ beta)[:, None], np.sqrt(np.einsum("ij,jk,ik->i", both, V, both))[:, None])
    c, C = L @ beta, L @ V @ L.T
    np.testing.assert_allclose(square, c @ np.linalg.solve(C, c), rtol=1e-10)
    Q = both[:3]
    np.testing.assert_allclose(size, np.linalg.det(Q @ V @ Q.T) ** (1 / 3), rtol=1e-10)


def test_infinitely_many_degrees_of_freedom() -> None:
    p, df = np.array([1.0, 0.5, 1e-3, 1e-200]), np.array([np.inf, np.inf, np.inf, 8.0])
    np.testing.assert_allclose(f_tail(3, df, f_of_p(p, 3, df)), p, rtol=1e-9)
    one = np.ones((1, 1))
    assert np.isinf(denominator_df(one, one, np.inf)).all() and (denominator_df(one, one, 7.0) == 7).all()


def test_contrasts_that_say_nothing_of_their_own() -> None:
    L = np.array([[1.0, -1.0, 0.0], [0.0, 1e-6, -1e-6], [1.0, 0.0, -1.0]])
    assert np.linalg.matrix_rank(independent(L)) == len(independent(L)) == 2
    np.testing.assert_array_equal(independent(L[:1]), L[:1])
