"""Features that have one value in all cells of every donor, where donors are related."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from tests.test_kernel_tools import ONE, OWN, kernels, study

import donorwise as dw

K = kernels(12)["grm"]
X = np.column_stack([np.ones(12), np.resize([0.0, 1.0], 12)])


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Responses of the cells, of which the first is the donors' own, and these."""
    adata = study()
    y = np.linalg.cholesky(K.to_numpy()) @ np.random.default_rng(1).normal(size=12)
    Y = np.array(adata.X)
    Y[:, 0] = y[pd.factorize(adata.obs["donor_id"])[0]]
    return Y, adata.obs, y


def gls(V: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The plain twin: coefficients, their covariance, sigma2, and the restricted deviance."""
    inverse = np.linalg.inv(V)
    XVX = X.T @ inverse @ X
    beta = np.linalg.solve(XVX, X.T @ inverse @ y)
    R = float((y - X @ beta) @ inverse @ (y - X @ beta))
    deviance = 10 * np.log(R) + np.linalg.slogdet(V)[1] + np.linalg.slogdet(XVX)[1]
    return beta, R / 10 * np.linalg.inv(XVX), R / 10, deviance


def test_a_kernel_alone_is_generalised_least_squares(data: tuple[np.ndarray, pd.DataFrame, np.ndarray]) -> None:
    Y, obs, y = data
    fit = dw.fit_lmm(Y, obs, ONE, kernels={"grm": K})
    beta, covariance, sigma2, _ = gls(K.to_numpy(), y)
    row = fit.test("arm[T.b]", ddf="kenward-roger").iloc[0]
    np.testing.assert_allclose(fit.beta[0], beta)
    np.testing.assert_allclose([row["estimate"], row["se"], row["df"]], [beta[1], np.sqrt(covariance[1, 1]), 10.0])
    assert fit.varcomp().query("variable == 'y1'")["variance"].tolist() == pytest.approx([sigma2, 0.0])
    effects = fit.ranef().query("variable == 'y1'")
    np.testing.assert_allclose(effects["value"], y - X @ beta, atol=1e-12)
    np.testing.assert_allclose(effects["cond_sd"], 0.0, atol=1e-6)
    smaller = dw.fit_lmm(Y, obs, "~ 1 + (1 | gr(donor_id, cov=grm))", kernels={"grm": K})
    inverse = np.linalg.inv(K.to_numpy())
    mean = inverse.sum(axis=0) @ y / inverse.sum()
    rest = [r @ inverse @ r for r in (y - mean, y - X @ beta)]
    assert fit.lrt(smaller)["statistic"].iloc[0] == pytest.approx(12 * np.log(rest[0] / rest[1]), abs=1e-8)


def test_the_donors_own_effects_are_what_is_left_beside_a_kernel(
    data: tuple[np.ndarray, pd.DataFrame, np.ndarray],
) -> None:
    Y, obs, y = data
    fit = dw.fit_lmm(Y, obs, OWN, kernels={"grm": K})
    best = minimize_scalar(
        lambda x: gls(np.eye(12) + np.exp(x) * K.to_numpy(), y)[3], bounds=(-8, 8), method="bounded", options={"xatol": 1e-10}
    )  # fmt: skip
    V = np.eye(12) + np.exp(best.x) * K.to_numpy()
    beta, _, sigma2, _ = gls(V, y)
    np.testing.assert_allclose(fit.beta[0], beta, rtol=1e-6)
    found = fit.varcomp().query("variable == 'y1'")["variance"]
    np.testing.assert_allclose(found, [sigma2 * np.exp(best.x), sigma2, 0.0], rtol=1e-6)
    rest = np.linalg.solve(V, y - X @ beta)
    genetic, own = (fit.ranef(term).query("variable == 'y1'") for term in ("gr(donor_id, cov=grm)", "donor_id"))
    np.testing.assert_allclose(genetic["value"], np.exp(best.x) * K.to_numpy() @ rest, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(own["value"], rest, rtol=1e-5, atol=1e-8)
    V_inverse = np.linalg.inv(V)
    np.testing.assert_allclose(own["cond_sd"] ** 2, sigma2 * (1 - np.diag(V_inverse)), rtol=1e-5)


def test_one_row_per_donor_needs_no_such_model(data: tuple[np.ndarray, pd.DataFrame, np.ndarray]) -> None:
    """A table of donors: the residual is the donor's own."""
    _, obs, y = data
    donors = obs.drop_duplicates("donor_id")
    fit = dw.fit_lmm(y[:, None], donors, ONE, kernels={"grm": K})
    best = minimize_scalar(
        lambda x: gls(np.eye(12) + np.exp(x) * K.to_numpy(), y)[3], bounds=(-8, 8), method="bounded", options={"xatol": 1e-10}
    )  # fmt: skip
    np.testing.assert_allclose(fit.beta[0], gls(np.eye(12) + np.exp(best.x) * K.to_numpy(), y)[0], rtol=1e-6)
