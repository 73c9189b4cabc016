"""What patterns have of their own beside the fixed effects, against sums over single cells."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from tests._peptide_data import peptides

import donorwise as dw
from donorwise._anndata import read_results
from donorwise._anndata.recover import recover
from donorwise._core.engine.row_residuals import RowResiduals

MIXED = "~ condition + sex + (1 | donor_id)"


def cohort() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=600, n_genes=12, seed=3)
    rng = np.random.default_rng(0)
    adata.obs["asked"] = rng.integers(1, 5, adata.n_obs)
    adata.obs["yes"] = rng.binomial(adata.obs["asked"], 0.4)
    adata.obs["half"] = rng.binomial(1, 0.5, adata.n_obs).astype(float)
    adata.obs["w"] = rng.uniform(0.5, 2, adata.n_obs)
    return adata


def asked(adata: ad.AnnData, key: str) -> tuple[Any, Any, Any, pd.DataFrame]:
    """Analysis, statistics and fit of the first task of a stored result, and the variances that this holds."""
    made = recover(adata, key).analysis
    (statistics, *_) = made.statistics([0])
    fit = made.fit(0, statistics, lambda n: None)
    varcomp = read_results(adata, key).varcomp
    return made, statistics, fit, varcomp[varcomp["group"] == made.tasks[0].name]


def found(adata: ad.AnnData, key: str) -> tuple[Any, np.ndarray, RowResiduals]:
    """The design of the first task, its fixed effects (G, p), and what its rows have beside them."""
    made, statistics, fit, varcomp = asked(adata, key)
    return made.tasks[0].design, made.predictor(0, fit, varcomp).beta, made.row_residuals(0, statistics, fit, varcomp)


def rows_of(design: Any) -> np.ndarray:
    """X of every cell in use, (n, p)."""
    used = np.flatnonzero(design.codes >= 0)
    return design.on_rows(design.codes[used], design.covariates[used]).X


def by_pattern(design: Any, values: np.ndarray, n: int) -> np.ndarray:
    """Sums (G, K) of values (n, G) of the cells in use."""
    codes = design.codes[design.codes >= 0]
    return np.stack([np.bincount(codes, weights=own, minlength=n) for own in values.T])


@pytest.mark.parametrize(
    ("formula", "weights"),
    [(MIXED, None), ("~ condition + log_depth + (1 | donor_id)", None), ("~ condition + (log_depth | donor_id)", "w")],
)
def test_values_are_means_of_cells(formula: str, weights: str | None) -> None:
    adata = cohort()
    adata.obs["sex"] = adata.obs["sex"].where(np.arange(adata.n_obs) > 5)  # cells that are left out
    dw.tl.lmm(adata, formula, weights=weights, progress=False)
    design, beta, rows = found(adata, "lmm")
    used = design.codes >= 0
    w = adata.obs["w"].to_numpy()[used] if weights else np.ones(used.sum())
    left = adata.X.toarray()[used] - rows_of(design) @ beta.T
    total = by_pattern(design, w[:, None] * left, design.n_patterns)
    weight = np.bincount(design.codes[used], weights=w, minlength=design.n_patterns)
    np.testing.assert_allclose(rows.values, total / weight, atol=1e-11)
    np.testing.assert_allclose(rows.weights, np.broadcast_to(weight, rows.weights.shape))


def test_values_that_are_missing_have_no_weight() -> None:
    adata = cohort()
    scores = adata.X.toarray()[:, :3].astype(float)
    first = (adata.obs["donor_id"] == adata.obs["donor_id"].cat.categories[0]).to_numpy()
    scores[first, 0], scores[:, 1] = np.nan, 1.0
    adata.obsm["scores"] = scores
    dw.tl.lmm(adata, "~ condition + (1 | donor_id)", obsm="scores", progress=False)
    made, *_ = asked(adata, "lmm")
    rows = found(adata, "lmm")[2]
    donor = made.donors(0).codes
    assert np.isnan(rows.values[0, donor == 0]).all()
    assert (rows.weights[0, donor == 0] == 0).all()
    assert np.isfinite(rows.values[0, donor > 0]).all()
    assert np.isnan(rows.values[1]).all()  # a feature without a fit
    assert (rows.weights[1] == 0).all()
    assert np.isfinite(rows.values[2]).all()


COUNTS = {
    "poisson": {"family": "poisson", "layer": "counts"},
    "nb": {"family": "nb", "layer": "counts"},
    "detected": {"family": "binomial", "link": "cloglog", "response": "detected", "layer": "counts"},
    "binomial": {"family": "binomial", "obs_keys": ["yes"], "trials": "asked"},
}


@pytest.mark.filterwarnings("ignore:.*varies within donors")
@pytest.mark.parametrize(
    "formula", ["~ condition + (1 | donor_id)", "~ condition + half + (1 | donor_id)", "~ w + (1 | donor_id)"]
)
@pytest.mark.parametrize("kind", COUNTS)
def test_counts_are_compared_with_what_fixed_effects_say(kind: str, formula: str) -> None:
    adata = cohort()
    dw.tl.glmm(adata, formula, **COUNTS[kind], progress=False)
    made, _, fit, varcomp = asked(adata, "glmm")
    design, beta, rows = found(adata, "glmm")
    y = adata.obs[["yes"]].to_numpy(float) if kind == "binomial" else adata.layers["counts"].toarray().astype(float)
    y = (y > 0).astype(float) if kind == "detected" else y
    exposure, trials = made.source.per_cell(adata.n_obs)
    eta = rows_of(design) @ beta.T
    e, m = exposure[:, None], np.broadcast_to(trials[:, None], eta.shape)
    if kind in ("poisson", "nb"):
        r = fit.models[0].size if kind == "nb" else np.full(len(beta), np.inf)
        mu = slope = e * np.exp(eta)
        variance = mu + mu**2 / r
    elif kind == "detected":
        mu = 1 - np.exp(-e * np.exp(eta))
        slope, variance = e * np.exp(eta) * (1 - mu), mu * (1 - mu)
    else:
        mu, slope = m * expit(eta), m * expit(eta) * expit(-eta)
        variance = slope
    Y, M, S, V, N = (by_pattern(design, own, design.n_patterns) for own in (y, mu, slope, variance, m))
    link = {
        "detected": lambda s: np.log(-np.log((N - s + 0.5) / (N + 1))),
        "binomial": lambda s: np.log((s + 0.5) / (N - s + 0.5)),
    }.get(kind, lambda s: np.log(s + 0.5))
    np.testing.assert_allclose(rows.values, link(Y) - link(M), atol=1e-6)
    np.testing.assert_allclose(rows.weights, np.nan_to_num(S**2 / V), rtol=1e-6)  # of features without a fit zero


def test_level_of_exposures_does_not_matter() -> None:
    adata = cohort()
    adata.obs["deep"] = 1000.0 * adata.obs["w"]
    kept = []
    for exposure in ("w", "deep"):
        dw.tl.glmm(
            adata, "~ condition + (1 | donor_id)", family="poisson", layer="counts", exposure=exposure, progress=False
        )
        kept.append(found(adata, "glmm")[2])
    np.testing.assert_allclose(kept[0].values, kept[1].values, atol=1e-6)
    np.testing.assert_allclose(kept[0].weights, kept[1].weights, rtol=1e-6)


def test_pattern_without_counts_has_a_finite_residual() -> None:
    adata = cohort()
    counts = adata.layers["counts"].toarray()
    counts[adata.obs["donor_id"] == adata.obs["donor_id"].cat.categories[1], 0] = 0
    adata.layers["counts"] = counts
    dw.tl.glmm(adata, "~ condition + (1 | donor_id)", family="poisson", layer="counts", progress=False)
    made, *_ = asked(adata, "glmm")
    rows = found(adata, "glmm")[2]
    assert np.isfinite(rows.values).all()
    assert (rows.values[0, made.donors(0).codes == 1] < -1).all()


@pytest.mark.parametrize("formula", ["~ condition", "~ condition + stim + (1 | donor_id)"])
def test_units_are_log_rates(formula: str) -> None:
    adata = cohort()
    adata.obs["stim"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 3 > 0, "a", "b"))
    dw.tl.pseudobulk(adata, formula, layer="counts", donor="donor_id", progress=False)
    made, statistics, fit, varcomp = asked(adata, "pseudobulk")
    design, beta, rows = found(adata, "pseudobulk")
    C, L = statistics.counts, statistics.depths.total[:, None]
    np.testing.assert_allclose(rows.values, (np.log((C + 0.5) / L) - design.X @ beta.T).T, atol=1e-11)
    stored = dw.get.tests(adata, contrast="condition[T.disease]", key="pseudobulk").set_index("variable")
    at = stored.index.get_indexer(list(made.variables))
    # the tests' estimates are means over the variances, these are at the means of these
    assert np.abs(beta[:, 1] - stored["estimate"].to_numpy()[at]).max() < 0.2 * stored["se"].max()
    # weighted least squares at the stored variances
    tau2 = varcomp.pivot_table(index="variable", columns="term", values="variance", observed=True)
    if formula == "~ condition":
        order = np.argsort(fit.models[0].units.order)
        g = 0
        w = 1 / (fit.models[0].rates.v[g, order] + tau2.loc[made.variables[g], "donor_id"])
        y = np.log((C[:, g] + 0.5) / L[:, 0])
        np.testing.assert_allclose(
            np.linalg.solve((design.X.T * w) @ design.X, (design.X.T * w) @ y), beta[g], rtol=1e-8
        )


def test_runs_are_freed_of_what_peptides_differ_in() -> None:
    adata = peptides()
    formula = "~ condition + (1 | peptide) + (1 | donor_id)"
    dw.tl.lmm(adata, formula, features="protein", progress=False)
    made, statistics, fit, varcomp = asked(adata, "lmm")
    design, beta, rows = found(adata, "lmm")
    effects = made.random_effects(fit, varcomp)
    of_peptides = effects[effects["term"] == "peptide"].set_index("level")["value"]
    values = np.asarray(adata.X, dtype=float)
    protein = adata.var["protein"].astype(str).to_numpy()
    for g, name in enumerate(made.variables[:5]):
        own = np.flatnonzero(protein == name)
        blup = of_peptides.reindex(adata.var_names[own]).fillna(0.0).to_numpy()
        runs = design.X[design.codes.reshape(-1, adata.n_obs)[0]]
        left = values[:, own] - (runs @ beta[g])[:, None] - blup
        seen = np.isfinite(values[:, own])
        n = seen.sum(axis=1)
        expected = np.where(n > 0, np.nansum(np.where(seen, left, 0.0), axis=1) / np.maximum(n, 1), np.nan)
        np.testing.assert_allclose(rows.values[g][design.codes.reshape(-1, adata.n_obs)[0]], expected, atol=1e-9)
        np.testing.assert_allclose(rows.weights[g][design.codes.reshape(-1, adata.n_obs)[0]], n)


def test_composition_is_that_of_samples() -> None:
    adata = cohort()
    dw.tl.composition(adata, "~ condition + (1 | donor_id)", cell_type="cell_type", progress=False)
    design, beta, rows = found(adata, "composition")
    assert rows.values.shape == (len(beta), design.n_patterns)
    assert np.isfinite(rows.values).all()
