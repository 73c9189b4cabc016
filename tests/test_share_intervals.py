"""Intervals of the shares of variance: against a dense computation of one feature, in simulations, and through the doors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests._peptides import peptides

import donorwise as dw
from donorwise._core.engine.share_intervals import Chance, share_intervals
from donorwise._core.inference.quadratic import draws, forms
from donorwise._core.models.law import tensor
from donorwise._core.models.lmm.components import with_correlations
from donorwise.errors import DataError, DonorwiseError

FORMULA = "~ arm + site + age + (1 | donor)"
ENDS = ["ci_low", "ci_high"]
ASKED = {"level": 0.95, "n_draws": 400, "seed": 3}


def cohort(G: int, n_donors: int = 16, cells: int = 10, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Covariates of donors, responses of cells, and the true shares (G, 6): fixed, arm, site, age, donor, residual."""
    rng = np.random.default_rng(seed)
    donor, at = np.repeat(np.arange(n_donors), cells), np.arange(n_donors)
    arm, site = at % 2, (at // 2) % 4
    age = rng.normal(50, 10, n_donors) + 5 * arm
    obs = pd.DataFrame({"donor": [f"d{i:02d}" for i in donor], "age": age[donor]})
    obs["arm"], obs["site"] = np.array(["a", "b"])[arm][donor], np.array(list("wxyz"))[site][donor]
    X = np.column_stack([arm, *(site == j for j in (1, 2, 3)), age])[donor].astype(float)
    sigma2 = np.exp(rng.normal(0, 0.5, G))
    tau2 = sigma2 * np.exp(rng.normal(np.log(0.15), 0.7, G))
    beta = rng.normal(0, 0.4, (5, G)) * np.array([1, 1, 1, 1, 0.1])[:, None] * np.sqrt(sigma2)
    Y = (
        X @ beta
        + rng.normal(size=(n_donors, G))[donor] * np.sqrt(tau2)
        + rng.normal(size=(donor.size, G)) * np.sqrt(sigma2)
    )
    own = np.array([(X[:, c] @ beta[c]).var(axis=0) for c in ([0], [1, 2, 3], [4])])
    whole = (X @ beta).var(axis=0)
    parts = np.vstack([whole, whole * own / own.sum(axis=0), tau2, sigma2])
    return obs, Y, (parts / (whole + tau2 + sigma2)).T


@cache
def fitted(G: int = 120) -> dw.LMMFit:
    obs, Y, _ = cohort(G)
    return dw.fit_lmm(Y, obs, FORMULA)


# ---------------------------------------------------------------- one feature, by hand


def by_hand(fit: dw.LMMFit, obs: pd.DataFrame, y: np.ndarray, g: int) -> np.ndarray:
    """Intervals of one feature with one random intercept, from V, point by point and draw by draw."""
    X = np.column_stack(
        [np.ones(len(y)), obs["arm"] == "b", *(obs["site"] == level for level in "xyz"), obs["age"]]
    ).astype(float)
    Z = (obs["donor"].to_numpy()[:, None] == np.unique(obs["donor"])).astype(float)
    points, nu = fit.learned.points[:, 0], len(y) - X.shape[1]
    loglik, found = np.empty(points.size), []
    for k, ratio in enumerate(points):
        V = np.eye(len(y)) + ratio * Z @ Z.T
        XVX = X.T @ np.linalg.solve(V, X)
        beta = np.linalg.solve(XVX, X.T @ np.linalg.solve(V, y))
        R = (y - X @ beta) @ np.linalg.solve(V, y - X @ beta)
        loglik[k] = -0.5 * (np.linalg.slogdet(V)[1] + np.linalg.slogdet(XVX)[1] + nu * np.log(R))
        found.append((beta, R / nu, np.linalg.inv(XVX)))
    prior = fit.learned.prior.at(fit.learned.rank[[g]])[0]
    q = np.exp(loglik - loglik.max()) * prior
    cumulated = np.cumsum(q / q.sum())
    chance = Chance.of(ASKED["n_draws"], 1, 5, ASKED["seed"])
    S, step = np.cov(X.T, bias=True), np.log(points[-1] / points[1]) / (points.size - 2)
    unit = np.sqrt(np.diag(S)[1:])
    out = []
    for d, place in enumerate(chance.place):
        k = int(np.searchsorted(cumulated, place * cumulated[-1]))
        beta, sigma2, Phi = found[k]
        sigma2 = sigma2 * nu / stats.chi2(nu).ppf(chance.residual[d])
        C = sigma2 * Phi
        tau2 = sigma2 * points[k] * np.exp(step * chance.within[d, 0])
        values, vectors = np.linalg.eigh(C[1:, 1:] / sigma2 / np.outer(1 / unit, 1 / unit))
        deviation = np.zeros(6)
        deviation[1:] = (vectors * np.sqrt(values * sigma2)) @ chance.normal[d] / unit
        forms_ = []
        for columns in ([1, 2, 3, 4, 5], [1], [2, 3, 4], [5]):
            D = np.zeros((6, 6))
            D[np.ix_(columns, columns)] = S[np.ix_(columns, columns)]
            estimate, slope = beta @ D @ beta, beta @ D @ C @ D @ beta
            w = (np.trace(D @ C @ D @ C) + 2 * slope) / (np.trace(D @ C) + 2 * estimate)
            half = (np.trace(D @ C) / w - 1) / 2
            z = beta @ D @ deviation / np.sqrt(slope)
            root = max(np.sqrt(max(estimate / w - half, 0)) + z, 0)
            forms_.append(w * max(root**2 - half, 0))
        b = beta + deviation
        scaled = np.var(X @ b) / sum(np.var(X[:, c] @ b[c]) for c in ([1], [2, 3, 4], [5]))
        whole, terms = forms_[0], np.array(forms_[1:]) * scaled
        rest = tau2 + sigma2
        out.append(
            [
                whole / (whole + rest),
                *(terms / (np.maximum(whole, terms) + rest)),
                tau2 / (whole + rest),
                sigma2 / (whole + rest),
            ]
        )
    return np.quantile(out, [0.025, 0.975], axis=0).T


def test_against_a_dense_computation() -> None:
    obs, Y, _ = cohort(120)
    fit = fitted()
    table = share_intervals(fit, **ASKED)
    for g in (0, 7, 50):
        own = table[table["variable"] == fit.variables[g]]
        assert own["term"].tolist() == ["fixed", "arm", "site", "age", "donor", "Residual"]
        # the sign of an eigenvector is nobody's: the deviates go along it, so that draws agree in law, not one by one
        np.testing.assert_allclose(own[ENDS], by_hand(fit, obs, Y[:, g], g), atol=0.03)
        np.testing.assert_allclose(own[ENDS].iloc[[0, 4, 5]], by_hand(fit, obs, Y[:, g], g)[[0, 4, 5]], atol=0.012)


# ---------------------------------------------------------------- their parts


def test_a_single_column_has_the_confidence_distribution_of_its_size() -> None:
    """Draws of beta² leave out as much as the normal law of the estimate says, and nothing is added at zero."""
    z = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    for estimate in (0.0, 0.5, 2.0, -6.0):
        own = forms(np.array([[estimate]]), np.array([[[4.0]]]), np.array([[3.0]]), [[0]])
        drawn = draws(own, np.zeros((1, z.size), dtype=np.int64), z[:, None], np.ones((1, z.size)))[0, :, 0]
        for q in (0.1, 1.0, 8.0, 60.0):
            size = np.sqrt(q / 3) / 2
            assert (drawn <= q).mean() == pytest.approx(stats.norm.cdf(size - abs(estimate) / 2), abs=2e-3)


@pytest.mark.parametrize("d", [3, 6])
@pytest.mark.parametrize("truth", [1.0, 4.0, 30.0])
def test_forms_of_several_columns_are_covered(d: int, truth: float) -> None:
    """Where draws of the coefficients would all but never be as small as the truth."""
    rng = np.random.default_rng(d)
    A = rng.normal(size=(d, d)) / 3 + np.eye(d)
    C, S, n = A @ A.T, np.diag(rng.uniform(0.5, 1.5, d)), 3000
    beta = rng.normal(size=d)
    beta *= np.sqrt(truth * np.trace(S @ C) / d / (beta @ S @ beta))
    estimates = rng.multivariate_normal(beta, C, n)
    own = forms(estimates, np.broadcast_to(C, (n, d, d)), S, [range(d)])
    normal = rng.normal(size=(400, d))
    drawn = draws(own, np.repeat(np.arange(n)[:, None], 400, axis=1), normal, np.ones((n, 400)))[..., 0]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    q = beta @ S @ beta
    assert 0.92 < np.mean((low <= q) & (q <= high)) < (0.975 if truth > 10 else 1.0)  # wide near zero


def test_variances_at_the_estimates_are_those_of_the_table() -> None:
    """Parts of the law, at the point that is a feature's estimate, for terms of one and of two columns."""
    obs, Y, _ = cohort(6)
    obs = obs.assign(t=np.tile(np.linspace(0, 1, 10), 16))
    for formula in (FORMULA, "~ arm + t + (t | donor)"):
        (model,) = dw.fit_lmm(Y, obs, formula).models
        points = with_correlations(model.equations, model.estimates.gamma)
        at = np.arange(6)
        grid = model.on(points)
        parts = grid.parts(at, grid.loglik(at))[at, at]
        np.testing.assert_allclose(parts, model.variances()[:, 1:], rtol=1e-8)


def test_variances_of_proteins_at_the_estimates() -> None:
    own = peptides(12, per_arm=4)
    fit = dw.fit_lmm(own.Y, own.obs, "~ arm + (1 | peptide) + (1 | donor)", features=own.proteins, weights=own.W)
    (model,) = fit.models
    whole = np.flatnonzero(model.equations.kept.all(axis=1))
    grid = model.on(model.estimates.gamma)
    parts = grid.parts(whole, grid.loglik(whole))[np.arange(whole.size), whole]
    np.testing.assert_allclose(parts, model.variances()[whole, 1:], rtol=1e-7)


# ---------------------------------------------------------------- in simulations


@pytest.mark.parametrize(("G", "low"), [(500, 0.92), (60, 0.89)])
def test_coverage(G: int, low: float) -> None:
    """95% intervals of 500 features with a prior of their own, and of 60 that share none."""
    obs, Y, truth = cohort(G, seed=5)
    table = share_intervals(dw.fit_lmm(Y, obs, FORMULA), **ASKED)
    inside = (table["ci_low"] <= truth.T.ravel()) & (truth.T.ravel() <= table["ci_high"])
    for term, own in inside.groupby(table["term"]):
        assert low <= own.mean() <= 0.99, (term, own.mean())


# ---------------------------------------------------------------- what they do not hang on


def test_they_do_not_hang_on_workers_or_other_features() -> None:
    fit, some = fitted(), np.array([3, 40, 77])
    whole = share_intervals(fit, **ASKED)
    pd.testing.assert_frame_equal(whole, share_intervals(fit, **ASKED, n_jobs=2))
    few = share_intervals(fit, **ASKED, features=some)
    chosen = whole[whole["variable"].isin([fit.variables[i] for i in some])].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, chosen, check_exact=False, rtol=1e-9, atol=1e-12)
    other = share_intervals(fit, level=0.95, n_draws=400, seed=4)
    assert 0 < np.abs(other[ENDS] - whole[ENDS]).to_numpy().max() < 0.1
    wider = share_intervals(fit, level=0.99, n_draws=400, seed=3)
    assert (wider["ci_low"] <= whole["ci_low"]).all() and (wider["ci_high"] >= whole["ci_high"]).all()


# ---------------------------------------------------------------- through the tool


@cache
def _cells() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=600, n_genes=110, seed=2)
    dw.tl.lmm(adata, "~ condition + sex + (1 | donor_id)", progress=False)
    return adata


def cells() -> ad.AnnData:
    return _cells().copy()


TOOLS = {
    "lmm": {},
    "pseudobulk": {},
    "glmm": {"family": "nb", "layer": "counts"},
}


@pytest.mark.parametrize("tool", list(TOOLS))
def test_every_family(tool: str) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=105, seed=2)
    formula = "~ condition + sex" if tool == "pseudobulk" else "~ condition + sex + (1 | donor_id)"
    getattr(dw.tl, tool)(adata, formula, progress=False, **TOOLS[tool])
    dw.tl.variance_partition(adata, key=tool, n_draws=400, progress=False)
    for fixed in ("each", "together"):
        shares = dw.get.variance_partition(adata, key=tool, fixed=fixed)  # type: ignore[arg-type]
        known = shares[shares["fraction"].notna()]
        assert known[ENDS].notna().all(axis=None)
        assert ((known["ci_low"] >= 0) & (known["ci_low"] <= known["ci_high"]) & (known["ci_high"] <= 1)).all()
        held = (known["ci_low"] <= known["fraction"]) & (known["fraction"] <= known["ci_high"])
        assert held.mean() > 0.8


def test_proteins() -> None:
    own = peptides(110, per_arm=4)
    adata = ad.AnnData(own.Y.to_numpy(), obs=own.obs, var=pd.DataFrame({"protein": own.proteins}, index=own.Y.columns))
    dw.tl.lmm(adata, "~ arm + (1 | peptide) + (1 | donor)", features="protein", progress=False)
    dw.tl.variance_partition(adata, n_draws=200, progress=False)
    shares = dw.get.variance_partition(adata)
    assert (shares["ci_low"].isna() == shares["fraction"].isna()).mean() > 0.97
    assert shares["ci_low"][shares["fraction"].isna()].isna().all()


def test_stored_beside_the_result(tmp_path: Path) -> None:
    adata = cells()
    before = dw.get.variance_partition(adata)
    assert not set(ENDS) & set(before)
    dw.tl.variance_partition(adata, variables="gene_0003", n_draws=200, progress=False)
    first = dw.get.variance_partition(adata)
    pd.testing.assert_frame_equal(first[list(before)], before)
    assert set(first["variable"][first["ci_low"].notna()]) == {"gene_0003"}
    dw.tl.variance_partition(adata, variables=["gene_0003", "gene_0009"], n_draws=200, random_state=1, progress=False)
    shares = dw.get.variance_partition(adata)
    assert set(shares["variable"][shares["ci_low"].notna()]) == {"gene_0003", "gene_0009"}
    assert adata.uns["lmm"]["params"]["variance_intervals_random_state"] == 1
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(dw.get.variance_partition(again), shares, check_categorical=False)
    kept = dw.get.variance_partition(adata[:, 5:], variables="gene_0009")
    assert kept["ci_low"].notna().all()
    dw.tl.lmm(adata, "~ condition + sex + (1 | donor_id)", progress=False)
    assert not set(ENDS) & set(dw.get.variance_partition(adata))


def test_collapsed_rows_say_the_same() -> None:
    adata = cells()
    rows = dw.pp.collapse(adata, ["donor_id", "condition", "sex"])
    dw.tl.lmm(rows, "~ condition + sex + (1 | donor_id)", progress=False)
    some = ["gene_0001", "gene_0050"]
    for own in (adata, rows):
        dw.tl.variance_partition(own, variables=some, n_draws=300, progress=False)
    one, two = (dw.get.variance_partition(own, variables=some)[ENDS] for own in (adata, rows))
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- what there is no interval for


def test_without_an_answer() -> None:
    obs, Y, _ = cohort(5)
    obs["batch"], obs["t"] = obs["site"] + obs["arm"], np.tile(np.linspace(0, 1, 10), 16)
    adata = ad.AnnData(Y, obs=obs.set_axis([f"c{i}" for i in range(len(obs))]))
    dw.tl.lmm(adata, "~ arm + (t | donor) + (1 | batch)", progress=False)
    with pytest.raises(DataError, match="no intervals of shares.* one to three variances .* the model has 4"):
        dw.tl.variance_partition(adata, progress=False)
    assert "variance_intervals" not in adata.uns["lmm"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": 95}, "level=95 is not a coverage; it must lie between 0 and 1, as 0.95 does"),
        ({"n_draws": 10}, "n_draws must be a whole number of at least 100, not 10"),
        ({"random_state": -1}, "random_state must be a whole number of at least 0, not -1"),
        ({"variables": "gene_9"}, "gene_9"),
        ({"key": "other"}, "other"),
    ],
)
def test_options_that_are_none(options: dict[str, object], said: str) -> None:
    with pytest.raises(DonorwiseError, match=said):
        dw.tl.variance_partition(cells(), progress=False, **options)  # type: ignore[arg-type]


def test_features_without_a_grid_are_left_out() -> None:
    """Those with one value per donor, beside others."""
    obs, Y, _ = cohort(110)
    Y[:, 0] = pd.Series(Y[:, 0]).groupby(obs["donor"].to_numpy()).transform("mean")
    table = share_intervals(dw.fit_lmm(Y, obs, FORMULA), **ASKED)
    assert table[ENDS][table["variable"] == table["variable"].iloc[0]].isna().all(axis=None)
    assert table[ENDS].notna().all(axis=1).sum() == 109 * 6


def test_no_fixed_terms() -> None:
    obs, Y, _ = cohort(110)
    table = share_intervals(dw.fit_lmm(Y, obs, "~ 1 + (1 | donor)"), **ASKED)
    assert (table.loc[table["term"] == "fixed", ENDS] == 0).all(axis=None)
    wide = table.pivot(index="variable", columns="term", values="ci_low")
    np.testing.assert_allclose(
        wide["donor"], 1 - table[table["term"] == "Residual"].set_index("variable")["ci_high"].loc[wide.index]
    )


def test_the_grid_of_the_law_has_the_terms_of_its_axes() -> None:
    obs, Y, _ = cohort(4)
    obs["batch"] = obs["site"] + obs["arm"]
    (model,) = dw.fit_lmm(Y, obs, "~ arm + (1 | donor) + (1 | batch)").models
    axes = model.axes(model.largest())
    parts = model.on(tensor(axes)).terms
    for k, t in enumerate(model.of_terms):
        doubled = [2 * axis if i == k else axis for i, axis in enumerate(axes)]
        np.testing.assert_allclose(model.on(tensor(doubled)).terms[:, t], 2 * parts[:, t])
    assert replace(model.on(tensor(axes)), terms=parts).terms is parts
