"""Models with kernels at their edges: no residual variance, no variance at all, few donors and many, kernels that say little."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests._dense import Dense, Term

import donorwise as dw
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.fit import optimise_blocked

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

ONE = "~ arm + (1 | gr(donor, cov=K))"
OWN = ONE + " + (1 | donor)"
SAMPLES = ONE + " + (1 | sample)"
KNOWN = "gr(donor, cov=K)"
TESTS = ["estimate", "se", "df", "statistic", "p_value", "ci_low", "ci_high"]


class Cohort:
    """Donors in families of three, with a relatedness that is more than that, and one to `cells` cells each."""

    def __init__(self, n_donors: int = 20, cells: int = 12, seed: int = 0):
        rng = self.rng = np.random.default_rng(seed)
        self.donor = np.repeat(np.arange(n_donors), rng.integers(1, cells + 1, n_donors))
        self.names = [f"d{i:04}" for i in range(n_donors)]
        A, family = rng.normal(size=(n_donors, 3 * n_donors)), np.arange(n_donors) // 3
        self.K = 0.5 * (family[:, None] == family) + 0.5 * A @ A.T / (3 * n_donors)
        self.obs = pd.DataFrame(
            {
                "donor": np.array(self.names)[self.donor],
                "arm": np.where(self.donor % 2, "case", "control"),
                "sample": [f"{d}_{s}" for d, s in zip(self.donor, rng.integers(0, 3, self.donor.size), strict=True)],
            }
        )

    def effects(self, K: np.ndarray, n: int = 6) -> np.ndarray:
        """Of donors, for n features."""
        values, vectors = np.linalg.eigh(K)
        return vectors * np.sqrt(np.clip(values, 0, None)) @ self.rng.normal(size=(len(K), n))

    def noise(self, n: int = 6) -> np.ndarray:
        return self.rng.normal(size=(self.donor.size, n))

    def fit(self, Y: np.ndarray, formula: str, K: np.ndarray | None = None, **options: bool) -> dw.LMMFit:
        table = pd.DataFrame(self.K if K is None else K, index=self.names, columns=self.names)
        return dw.fit_lmm(Y, self.obs, formula, kernels={"K": table}, **options)

    def twin(self, y: np.ndarray, K: np.ndarray, *, own: bool = False) -> Dense:
        X = np.column_stack([np.ones(len(y)), self.obs["arm"] == "control"]).astype(float)
        one = np.ones((len(y), 1))
        return Dense(y, X, [Term(self.donor, one, K), *([Term(self.donor, one)] if own else [])])


def everything_has_numbers_or_a_status(fit: dw.LMMFit) -> None:
    for ddf in ("kenward-roger", "satterthwaite", "between-within", "moderated"):
        table = fit.test(None, ddf)
        fitted = table["status"].isin(["ok", "boundary"])
        assert table.loc[fitted, TESTS].notna().all(axis=None), ddf
        assert table.loc[~fitted & (table["status"] != "too_few_donors"), "p_value"].isna().all()
    lost = fit.status == "not_converged"
    for term in fit.design.random_terms:
        modes = fit.ranef(term.name).groupby("variable", sort=False)["value"].apply(lambda v: v.isna().any())
        assert (modes.to_numpy() == lost).all()


# ---------------------------------------------------------------- no residual variance


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_a_value_per_donor_is_a_model_of_donors(reml: bool) -> None:
    """Beside a kernel the donor's own effect is what remains: the residual of one row per donor."""
    cohort = Cohort()
    effects = cohort.effects(cohort.K) + 0.7 * cohort.effects(np.eye(20))
    cells = cohort.fit(effects[cohort.donor], OWN, reml=reml)
    first = np.unique(cohort.donor, return_index=True)[1]
    table = pd.DataFrame(cohort.K, index=cohort.names, columns=cohort.names)
    donors = dw.fit_lmm(effects, cohort.obs.iloc[first], ONE, kernels={"K": table}, reml=reml)
    assert list(cells.status) == list(donors.status)
    np.testing.assert_allclose(cells.loglik, donors.loglik, rtol=1e-9)
    a, b = (f.varcomp().pivot(index="variable", columns="term", values="variance") for f in (donors, cells))
    np.testing.assert_allclose(b[KNOWN], a[KNOWN], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(b["donor"], a["Residual"], rtol=1e-7)
    assert (b["Residual"] == 0).all()
    for ddf in ("kenward-roger", "satterthwaite", "between-within"):
        np.testing.assert_allclose(cells.test(None, ddf)[TESTS], donors.test(None, ddf)[TESTS], rtol=1e-7)
    a, b = donors.ranef(KNOWN), cells.ranef(KNOWN)
    np.testing.assert_allclose(b[["value", "cond_sd"]], a[["value", "cond_sd"]], rtol=1e-6, atol=1e-8)
    both = b["value"].to_numpy() + cells.ranef("donor")["value"].to_numpy()
    fixed = np.stack([np.ones(20), np.arange(20) % 2 == 0]).T @ cells.beta.T
    np.testing.assert_allclose(both, (effects - fixed).T.ravel(), atol=1e-8)


def test_it_is_the_limit_of_small_residuals() -> None:
    cohort = Cohort()
    values = (cohort.effects(cohort.K) + 0.7 * cohort.effects(np.eye(20)))[cohort.donor]
    limit = cohort.fit(values, OWN)
    near = cohort.fit(values + 1e-5 * cohort.noise(), OWN)
    a, b = (f.varcomp().pivot(index="variable", columns="term", values="variance") for f in (limit, near))
    np.testing.assert_allclose(b[[KNOWN, "donor"]], a[[KNOWN, "donor"]], rtol=1e-3, atol=1e-4)
    x, y = (f.test(None, "kenward-roger")[["estimate", "se", "df"]] for f in (limit, near))
    np.testing.assert_allclose(y, x, rtol=1e-3)


@pytest.mark.parametrize("formula", [ONE, SAMPLES])
def test_a_kernel_alone_is_what_remains(formula: str) -> None:
    """Generalised least squares of the donors' values."""
    cohort = Cohort()
    effects = cohort.effects(cohort.K)
    fit = cohort.fit(effects[cohort.donor], formula)
    everything_has_numbers_or_a_status(fit)
    X = np.stack([np.ones(20), np.arange(20) % 2 == 0]).T
    inverse = np.linalg.inv(cohort.K)
    Phi = np.linalg.inv(X.T @ inverse @ X)
    beta = effects.T @ inverse @ X @ Phi
    residual = effects.T - beta @ X.T
    sigma2 = np.einsum("gi,ij,gj->g", residual, inverse, residual) / 18
    np.testing.assert_allclose(fit.beta, beta, rtol=1e-7)
    np.testing.assert_allclose(fit.vcov_beta, sigma2[:, None, None] * Phi, rtol=1e-7)
    np.testing.assert_allclose(fit.varcomp().query("term == @KNOWN")["variance"], sigma2, rtol=1e-7)


def test_a_value_per_sample_keeps_the_kernel() -> None:
    cohort = Cohort()
    sample = pd.factorize(cohort.obs["sample"], sort=True)[0]
    values = cohort.effects(cohort.K)[cohort.donor] + cohort.rng.normal(size=(sample.max() + 1, 6))[sample]
    fit = cohort.fit(values, SAMPLES)
    first = np.unique(sample, return_index=True)[1]
    table = pd.DataFrame(cohort.K, index=cohort.names, columns=cohort.names)
    rows = dw.fit_lmm(values[first], cohort.obs.iloc[first], ONE, kernels={"K": table})
    np.testing.assert_allclose(fit.test(None)[TESTS], rows.test(None, "kenward-roger")[TESTS], rtol=1e-7)


@pytest.mark.parametrize(("formula", "residual"), [(ONE, 1e-4), (OWN, 1e-4), (SAMPLES, 1e-4), (ONE, 1e-5), (OWN, 1e-5)])
def test_huge_ratios(formula: str, residual: float) -> None:
    cohort = Cohort()
    Y = cohort.effects(cohort.K)[cohort.donor] + residual * cohort.noise()
    fit = cohort.fit(Y, formula)
    assert set(fit.status) <= {"ok", "boundary"}
    everything_has_numbers_or_a_status(fit)
    if formula != SAMPLES:
        for g in range(6):
            twin = cohort.twin(Y[:, g], cohort.K, own=formula == OWN)
            assert abs(twin.at(twin.gamma(fit.theta[g]), reml=True).loglik - fit.loglik[g]) < 1e-12 / residual**2


def test_what_the_kernel_explains_entirely() -> None:
    """One row per donor, within the range of a kernel of low rank: the ratio is infinite."""
    cohort = Cohort(30, 1, seed=1)
    A = cohort.rng.normal(size=(30, 10))
    Y = A @ cohort.rng.normal(size=(10, 6))
    for formula in (ONE.replace("arm", "1"), ONE + " + (1 | gr(donor, cov=M))"):
        kernels = {k: pd.DataFrame(v, cohort.names, cohort.names) for k, v in (("K", A @ A.T), ("M", cohort.K))}
        kernels = {k: v for k, v in kernels.items() if f"cov={k})" in formula}
        for reml in (True, False):
            fit = dw.fit_lmm(Y, cohort.obs, formula, kernels=kernels, reml=reml)
            assert set(fit.status) == {"not_converged"}
            assert np.isnan(fit.beta).all() and np.isnan(fit.loglik).all()
            if reml:
                everything_has_numbers_or_a_status(fit)


# ---------------------------------------------------------------- no variance, tiny ones


@pytest.mark.parametrize("formula", [ONE, OWN, SAMPLES])
@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-4])
def test_tiny_ratios(formula: str, size: float) -> None:
    cohort = Cohort()
    Y = cohort.noise(20) + np.sqrt(size) * cohort.effects(cohort.K, 20)[cohort.donor]
    fit = cohort.fit(Y, formula)
    assert set(fit.status) <= {"ok", "boundary"}
    everything_has_numbers_or_a_status(fit)
    for g in range(20):
        if formula != SAMPLES:
            twin = cohort.twin(Y[:, g], cohort.K, own=formula == OWN)
            assert max(twin.optimality(twin.gamma(fit.theta[g]), reml=True)) < 1e-6


# ---------------------------------------------------------------- donors and rows


@pytest.mark.parametrize("formula", [ONE, OWN])
@pytest.mark.parametrize(("n_donors", "cells"), [(6, 6), (30, 1), (12, 60)])
def test_few_donors_one_row_each_many_rows_each(formula: str, n_donors: int, cells: int) -> None:
    if cells == 1 and formula == OWN:
        pytest.skip("refused: one level per row")
    cohort = Cohort(n_donors, cells, seed=2)
    Y = cohort.noise() + cohort.effects(cohort.K)[cohort.donor]
    fit = cohort.fit(Y, formula)
    everything_has_numbers_or_a_status(fit)
    for g in range(6):
        twin = cohort.twin(Y[:, g], cohort.K, own=formula == OWN)
        gamma = twin.gamma(fit.theta[g])
        assert max(twin.optimality(gamma, reml=True)) < 1e-6
        # one row each and no residual variance: the twin inverts what is nearly singular
        assert abs(twin.at(gamma, reml=True).loglik - fit.loglik[g]) < 1e-8 + 1e-14 * gamma.max()


@pytest.mark.slow
def test_more_donors_than_an_eigendecomposition_is_used_for() -> None:
    """Without a kernel Newton's method is used for so many levels."""
    cohort = Cohort(2010, 2)
    Y = cohort.noise(3) + 0.7 * cohort.effects(np.eye(2010), 3)[cohort.donor]
    known, plain = cohort.fit(Y, ONE, np.eye(2010)), dw.fit_lmm(Y, cohort.obs, "~ arm + (1 | donor)")
    np.testing.assert_allclose(known.theta, plain.theta, rtol=1e-6)
    np.testing.assert_allclose(known.vcov_beta, plain.vcov_beta, rtol=1e-7)
    a, b = (f.test(None, "kenward-roger")[["estimate", "se", "df"]] for f in (plain, known))
    np.testing.assert_allclose(b, a, rtol=1e-6)


# ---------------------------------------------------------------- kernels


def _scales(orders: float, rng: np.random.Generator) -> np.ndarray:
    Q = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    return Q * np.logspace(0, -orders, 20) @ Q.T


@pytest.mark.parametrize("formula", [ONE, OWN])
@pytest.mark.parametrize("kind", ["rank one", "8 orders", "10 orders", "zero for some", "negative by rounding"])
def test_kernels_that_say_little(formula: str, kind: str) -> None:
    cohort = Cohort()
    v = 1 + cohort.rng.normal(size=20)
    A = cohort.rng.normal(size=(20, 8))
    K = {
        "rank one": np.outer(v, v),
        "8 orders": _scales(8, cohort.rng),
        "10 orders": _scales(10, cohort.rng),
        "zero for some": np.diag((np.arange(20) > 5) * 1.0),
        "negative by rounding": np.round(A @ A.T / 8, 7),
    }[kind]
    K = 0.5 * (K + K.T)
    values, vectors = np.linalg.eigh(K)
    known = vectors * np.clip(values, 0, None) @ vectors.T
    Y = cohort.noise(20) + cohort.rng.choice([0.0, 1.0, 30.0], 20) * cohort.effects(K, 20)[cohort.donor]
    fit = cohort.fit(Y, formula, K)
    assert set(fit.status) <= {"ok", "boundary"}
    everything_has_numbers_or_a_status(fit)
    for g in range(20):
        twin = cohort.twin(Y[:, g], known, own=formula == OWN)
        gamma = twin.gamma(fit.theta[g])
        assert abs(twin.at(gamma, reml=True).loglik - fit.loglik[g]) < 1e-6
        if twin.derivatives(gamma, reml=True).identified:
            assert max(twin.optimality(gamma, reml=True)) < 1e-5


@pytest.mark.parametrize("formula", [ONE, OWN])
def test_a_large_constant_in_a_kernel_is_the_intercept(formula: str) -> None:
    """REML does not see it: what is left is the kernel without, eight orders below."""
    cohort = Cohort()
    Y = cohort.noise(12) + cohort.effects(cohort.K, 12)[cohort.donor]
    plain, fit = cohort.fit(Y, formula), cohort.fit(Y, formula, 1.0 + 1e-7 * cohort.K)
    np.testing.assert_allclose(fit.loglik, plain.loglik, rtol=0, atol=1e-6)
    a, b = (f.varcomp().query("term == @KNOWN")["variance"].to_numpy() for f in (plain, fit))
    np.testing.assert_allclose(b * 1e-7, a, rtol=1e-4, atol=1e-6)


def test_no_trial_of_variances_ends_the_fit() -> None:
    """Variances so large that rounding leaves no positive definite matrix have no likelihood."""
    cohort = Cohort()
    A = cohort.rng.normal(size=(20, 5))
    fit = cohort.fit(cohort.noise(3), OWN, A @ A.T)
    equations, response = fit.models[0].equations, fit.models[0].estimates.responses
    for gamma in (1e15, 1e20, 1e300, np.inf, np.nan):
        at = evaluate_block(equations.blocks, np.full((3, 2), gamma), response, equations.nu(reml=True))
        assert not np.isfinite(at.deviance).any()
    scaled = response.take(np.arange(3))
    assert optimise_blocked(equations, scaled, reml=False)[2].all()
