"""`robust="huber"` for proteins: a plain twin, what outliers can do, what normal errors lose, and invariance."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from tests._peptides import FORMULA, Dense, Peptides, dense, peptides

import donorwise as dw

K, WIDE = 1.345, 2.0
INSIDE = 2 * stats.norm.cdf(K) - 1


def mean_square(k: float) -> float:
    """E min(Z², k²)."""
    return float(stats.norm.expect(lambda z: np.minimum(z**2, k**2)))


@cache
def data(n_proteins: int = 12, **options: Any) -> Peptides:
    return peptides(n_proteins, **options)


def adata_of(own: Peptides) -> ad.AnnData:
    var = pd.DataFrame({"protein": own.proteins}, index=own.Y.columns)
    out = ad.AnnData(own.Y.to_numpy(), obs=own.obs, var=var)
    out.layers["w"] = own.W.to_numpy()
    return out


def run(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> pd.DataFrame:
    """Tests of a copy, protein by protein."""
    given: dict[str, Any] = {"features": "protein", "weights_layer": "w", "ddf": "kenward-roger", "robust": "huber"}
    out = dw.tl.lmm(adata, formula, progress=False, copy=True, **given | options)
    assert out is not None
    residual = out.uns["lmm"]["varcomp"].query("term == 'Residual'").set_index("variable")["variance"]
    results = out.uns["lmm"]["results"]
    return results.set_index(results["variable"].astype(str)).assign(sigma2=residual)


def outlying(own: Peptides, shift: float = 8.0) -> ad.AnnData:
    """One measurement of every protein with several is far away."""
    adata, seen = adata_of(own), set()
    for at, protein in enumerate(own.proteins):
        rows = np.flatnonzero(np.isfinite(adata.X[:, at]))
        if protein not in seen and rows.size:
            adata.X[rows[0], at] += shift
            seen.add(protein)
    return adata


def deviance(own: Dense, y: np.ndarray, ratios: dict[str, float]) -> float:
    """Profiled REML deviance."""
    V = np.linalg.inv(own.V(ratios))
    XVX = own.X.T @ V @ own.X
    P = V - V @ own.X @ np.linalg.solve(XVX, own.X.T @ V)
    nu = y.size - own.X.shape[1]
    return float(-np.linalg.slogdet(V)[1] + np.linalg.slogdet(XVX)[1] + nu * np.log(y @ P @ y))


def best_ratios(own: Dense, y: np.ndarray) -> dict[str, float]:
    """Ratios of least deviance, zeros among them."""
    names, best = list(own.Z), (np.inf, {})
    for used in product((False, True), repeat=len(names)):
        some = [name for name, use in zip(names, used, strict=True) if use]

        def at(x: np.ndarray, some: list[str] = some) -> float:
            return deviance(own, y, dict(zip(some, np.exp(x), strict=True)))

        options = {"method": "Nelder-Mead", "options": {"xatol": 1e-7, "fatol": 1e-11, "maxiter": 2000}}
        found = optimize.minimize(at, np.ones(len(some)), **options) if some else None
        value, x = (found.fun, found.x) if found else (at(np.empty(0)), np.empty(0))
        if value < best[0] - 1e-9:
            best = value, dict(zip(some, np.exp(x), strict=True))
    return best[1]


def twin(own: Dense) -> tuple[float, float, float]:
    """Estimate of the last column, its standard error, and the residual variance, by the definitions."""
    w, y, p = 1 / np.diag(own.R), own.y.copy(), own.X.shape[1]
    scale = 0.0
    for _ in range(200):
        ratios = best_ratios(own, y)
        V = np.linalg.inv(own.V(ratios))
        Phi = np.linalg.inv(own.X.T @ V @ own.X)
        P = V - V @ own.X @ Phi @ own.X.T @ V
        room = np.diag(P) / w
        amplified = (1 + (1 - room.mean()) * (1 - INSIDE) / INSIDE) / INSIDE
        scale = scale or np.sqrt(y @ P @ y / (y.size - p))
        before = y
        for _ in range(20):
            fitted = y - own.R @ P @ y
            unit = np.sqrt(room / w)
            square = np.minimum(((own.y - fitted) / (unit * scale)) ** 2, WIDE**2)
            scale *= np.sqrt((room * square).sum() / (room.sum() * mean_square(WIDE)))
            y = fitted + unit * scale * amplified * np.clip((own.y - fitted) / (unit * scale), -K, K)
        if np.abs(y - before).max() < 1e-7:
            break
    sigma2 = y @ P @ y / (y.size - p)
    tells = INSIDE / (amplified * mean_square(K))
    return float((Phi @ own.X.T @ V @ y)[-1]), float(np.sqrt(sigma2 * Phi[-1, -1])), float(sigma2 * tells)


@pytest.mark.parametrize("far", [False, True])
def test_naive_twin(far: bool) -> None:
    own = data(5, seed=3)
    adata = outlying(own) if far else adata_of(own)
    changed = Peptides(pd.DataFrame(adata.X, own.Y.index, own.Y.columns), own.W, own.obs, own.proteins)
    result = run(adata, ddf="residual")
    fitted = result[result["status"].isin(["ok", "boundary"])].sort_values("n_obs").index
    assert len(fitted) >= 3
    protein = fitted[int(far)]  # of few measurements: the twin's searches take long
    expected = twin(dense(changed, protein, ["1", "case"]))
    found = result.loc[protein, ["estimate", "se", "sigma2"]].astype(float)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7, err_msg=protein)


def test_it_is_off_and_said() -> None:
    adata = adata_of(data())
    dw.tl.lmm(adata, FORMULA, features="protein", weights_layer="w", ddf="kenward-roger", progress=False)
    assert adata.uns["lmm"]["params"]["robust"] == ""
    dw.tl.lmm(adata, FORMULA, features="protein", robust="huber", ddf="residual", progress=False, key_added="r")
    assert adata.uns["r"]["params"]["robust"] == "huber"


def test_an_outlier_moves_little_however_far_it_is() -> None:
    own = data(40, runs=3, seed=1)
    clean, plain, far, farther = (
        run(adata_of(own)), run(outlying(own), robust=None), run(outlying(own)), run(outlying(own, 800.0)),
    )  # fmt: skip
    many = clean.index[(clean["n_obs"] > 25)]
    assert len(many) > 15
    moved, without = ((t["estimate"] - clean["estimate"])[many].abs().mean() for t in (far, plain))
    assert moved < 0.4 * without
    np.testing.assert_allclose(farther.loc[many, "estimate"], far.loc[many, "estimate"], atol=1e-4)
    assert (farther.loc[many, "sigma2"] < 3 * clean.loc[many, "sigma2"]).all()


def test_normal_errors_lose_little_and_sigma_is_right() -> None:
    own = data(150, per_arm=4, runs=3, seed=2)
    plain, robust = run(adata_of(own), robust=None), run(adata_of(own))
    many = plain.index[plain["n_obs"] > 40]
    assert robust.loc[many, "sigma2"].mean() == pytest.approx(0.16, rel=0.03)
    assert (robust["se"] / plain["se"])[many].mean() == pytest.approx(1.01, abs=0.02)
    assert np.corrcoef(robust.loc[many, "estimate"], plain.loc[many, "estimate"])[0, 1] > 0.97
    assert robust["status"].isin(["ok", "boundary", "reduced", "not_estimable"]).all()


def test_units_order_and_company_change_nothing() -> None:
    own = data(12, seed=5)
    adata, rng = outlying(own), np.random.default_rng(0)
    expected = run(adata)
    numbers = ["estimate", "se", "df", "p_value", "sigma2"]
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    pd.testing.assert_frame_equal(
        run(shuffled).loc[list(expected.index), numbers], expected[numbers], rtol=1e-6, check_index_type=False
    )
    scaled = adata.copy()
    scaled.layers["w"] = 7.0 * scaled.layers["w"]
    pd.testing.assert_frame_equal(run(scaled)[numbers] / [1, 1, 1, 1, 7], expected[numbers], rtol=1e-7)
    scaled.X = 10 * scaled.X
    found = run(scaled)[numbers] / [10, 10, 1, 1, 700]
    pd.testing.assert_frame_equal(found, expected[numbers], rtol=1e-6)


def test_a_weight_given_and_huber_multiply() -> None:
    """A measurement with hardly any weight is as good as left out, far away or not."""
    own = data(8, seed=6)
    far = outlying(own)
    at = far.X != own.Y.to_numpy()
    at &= np.isfinite(far.X)
    far.layers["w"] = np.where(at, 1e-12, far.layers["w"])
    out = far.copy()
    out.X = np.where(at, np.nan, out.X)
    a, b = run(far), run(out)
    both = a["status"].isin(["ok", "boundary"]) & (b["status"] == a["status"]) & (b["n_obs"] > 12)
    assert both.sum() >= 3
    np.testing.assert_allclose(a.loc[both, "estimate"], b.loc[both, "estimate"], rtol=0.2, atol=0.02)


def test_few_rows_are_left_as_they_are() -> None:
    own = data(60, per_arm=2, runs=1, seed=7)
    plain, robust = run(adata_of(own), robust=None), run(adata_of(own))
    few = plain.index[plain["n_obs"] < 7]
    assert len(few) > 10
    own_numbers = ["estimate", "se", "df", "p_value", "sigma2", "status"]
    pd.testing.assert_frame_equal(robust.loc[few, own_numbers], plain.loc[few, own_numbers])
    assert (
        robust["status"].isin(["ok", "boundary", "reduced"]) == plain["status"].isin(["ok", "boundary", "reduced"])
    ).all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_rows_that_are_fitted_exactly_do_no_harm() -> None:
    """Most measurements equal: there is no scale to tell outliers by, and the protein stays what it is."""
    own = data(6, seed=8)
    adata = adata_of(own)
    adata.X[np.isfinite(adata.X)] = 20.0
    adata.X[0, np.isfinite(adata.X[0])] += 1.0
    adata.X[5, np.isfinite(adata.X[5])] -= 0.5
    plain, robust = run(adata, robust=None), run(adata)
    assert robust["status"].tolist() == plain["status"].tolist()
    assert np.isfinite(robust["se"]).tolist() == np.isfinite(plain["se"]).tolist()


@pytest.mark.parametrize("formula", ["~ x + (1 | donor)", "~ arm + (1 | peptide) + (1 | donor) + (1 | run)"])
def test_other_terms(formula: str) -> None:
    own = data(10, seed=9)
    adata = outlying(own)
    adata.obs["run"] = adata.obs_names.to_numpy()
    plain, robust = run(adata, formula, robust=None), run(adata, formula)
    many = plain.index[plain["n_obs"] > 12]
    assert (robust.loc[many, "sigma2"] < plain.loc[many, "sigma2"]).mean() > 0.7
    assert np.isfinite(robust.loc[many, "p_value"]).all()


def test_all_proteins_together() -> None:
    """Moderated tests learn from pseudo-measurements as they do from measurements."""
    own = data(120, seed=10)
    table = run(outlying(own), ddf="moderated")
    assert table["p_value"].notna().mean() > 0.9
    assert run(outlying(own), ddf="moderated", robust=None)["se"].median() > 1.1 * table["se"].median()
