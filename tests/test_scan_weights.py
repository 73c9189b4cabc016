"""Donors' rows whose weights are numbers of cells: what is a donor's own is told from what few cells leave unknown."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

import donorwise as dw

N, OWN = 30, "~ sex + (1 | donor_id)"


@pytest.fixture(scope="module")
def donors() -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Means of 4 genes, number of cells of each donor, genotypes."""
    rng = np.random.default_rng(5)
    names = [f"d{i}" for i in range(N)]
    cells = np.round(np.exp(rng.normal(3, 1, N))) + 1
    Y = rng.normal(size=(N, 4)) * np.array([0.0, 0.3, 1.0, 1.0]) + rng.normal(size=(N, 4)) / np.sqrt(cells)[:, None]
    genotypes = pd.DataFrame(rng.binomial(2, 0.4, (N, 5)), names, [f"v{j}" for j in range(5)])
    Y[:, 3] += genotypes["v1"]
    obs = pd.DataFrame({"donor_id": names, "cells": cells, "sex": np.where(rng.random(N) < 0.5, "f", "m")})
    return Y, obs, genotypes


def dense(y: np.ndarray, X: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Estimate and t of the last column; V = gamma I + 1 / w, gamma by restricted likelihood."""

    def at(gamma: float) -> tuple[float, np.ndarray, np.ndarray, float]:
        h = 1 / (gamma + 1 / w)
        XVX = X.T @ (h[:, None] * X)
        beta = np.linalg.solve(XVX, X.T @ (h * y))
        R, nu = float(h @ (y - X @ beta) ** 2), len(y) - X.shape[1]
        return nu * np.log(R) - np.log(h).sum() + np.linalg.slogdet(XVX)[1], beta, np.linalg.inv(XVX), R / nu

    ends = [
        minimize_scalar(lambda z: at(np.exp(z))[0], bounds=b, method="bounded", options={"xatol": 1e-10}).x
        for b in ((-18, -4), (-6, 4), (4, 18))
    ]
    best = min([0.0, *np.exp(ends)], key=lambda gamma: at(gamma)[0])
    _, beta, Phi, s2 = at(best)
    return beta[-1], beta[-1] / np.sqrt(s2 * Phi[-1, -1])


def test_the_variance_between_donors_is_beside_that_of_their_cells(
    donors: tuple[np.ndarray, pd.DataFrame, pd.DataFrame],
) -> None:
    Y, obs, genotypes = donors
    tests = dw.scan_variants(Y, obs, genotypes, OWN, weights="cells", refit="all").tests
    assert tests is not None and (tests["df"] == N - 3).all()
    sex = (obs["sex"] == "m").to_numpy(dtype=float)
    for row in tests.itertuples():
        X = np.column_stack([np.ones(N), sex, genotypes[row.variant]])
        beta, t = dense(Y[:, int(row.gene[1:]) - 1], X, obs["cells"].to_numpy())
        np.testing.assert_allclose([row.beta, row.statistic], [beta, t], rtol=1e-5)


def test_beside_a_kernel_of_relatives(donors: tuple[np.ndarray, pd.DataFrame, pd.DataFrame]) -> None:
    """What relatives share, what is a donor's own, and what few cells leave unknown are three variances."""
    Y, obs, genotypes = donors
    names = list(genotypes.index)
    K = pd.DataFrame(np.kron(np.eye(N // 2), [[1.0, 0.5], [0.5, 1.0]]), names, names)
    formula = "~ sex + (1 | gr(donor_id, cov=K))"
    both = dw.scan_variants(Y, obs, genotypes, formula + " + (1 | donor_id)", weights="cells", kernels={"K": K})
    kernel = dw.scan_variants(Y, obs, genotypes, formula, weights="cells", kernels={"K": K})
    assert both.tests is not None and kernel.tests is not None
    assert both.tests["statistic"].notna().all()
    assert not np.allclose(both.tests["statistic"], kernel.tests["statistic"], rtol=1e-2)


def test_weights_that_are_alike_say_nothing(donors: tuple[np.ndarray, pd.DataFrame, pd.DataFrame]) -> None:
    """The donor's own effect is the residual then."""
    Y, obs, genotypes = donors
    plain = dw.scan_variants(Y, obs, genotypes, "~ sex", donor="donor_id").tests
    alike = dw.scan_variants(Y, obs, genotypes, OWN, weights=np.full(N, 7.0)).tests
    assert plain is not None and alike is not None
    np.testing.assert_allclose(plain["statistic"], alike["statistic"], rtol=1e-9)


def test_donors_without_anything_of_their_own(donors: tuple[np.ndarray, pd.DataFrame, pd.DataFrame]) -> None:
    Y, obs, genotypes = donors
    adata = ad.AnnData(Y, obs=obs.set_index("donor_id", drop=False).rename_axis(None))
    said = r"variances of tests are too small, up to \d\.\d-fold with these weights: add \(1 \| donor_id\)\."
    with pytest.warns(dw.errors.DonorwiseWarning, match=said):
        dw.scan_variants(Y, obs, genotypes, "~ sex", weights="cells", donor="donor_id")
    with pytest.warns(dw.errors.DonorwiseWarning, match=said):
        dw.tl.scan(adata, genotypes, "~ sex", weights="cells", donor="donor_id", mode="gwas", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", dw.errors.DonorwiseWarning)
        dw.scan_variants(Y, obs, genotypes, OWN, weights="cells")
        dw.scan_variants(Y, obs, genotypes, "~ sex", weights=np.full(N, 7.0), donor="donor_id")
