"""Shares of the variance by term of the fixed part, against dense computations from the coefficients."""

from __future__ import annotations

import warnings
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests._peptides import peptides

import donorwise as dw
from donorwise.errors import DonorwiseError

FORMULA = "~ arm * sex + age + (1 | donor)"
TERMS = ["arm", "sex", "age", "arm:sex"]


@cache
def cells(seed: int = 0, n_donors: int = 12) -> tuple[pd.DataFrame, np.ndarray]:
    """Cells of donors that differ in number, with covariates that go together; an age far from zero."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 25, n_donors)
    donor = np.repeat(np.arange(n_donors), sizes)
    arm, sex = np.arange(n_donors) % 3, (np.arange(n_donors) // 2) % 2
    obs = pd.DataFrame({"donor": [f"d{i:02d}" for i in donor]}, index=[f"c{i}" for i in range(donor.size)])
    obs["arm"] = pd.Categorical.from_codes(arm[donor], ["a", "b", "c"])
    obs["sex"] = np.array(["f", "m"])[sex[donor]]
    obs["age"] = (1960.0 + 5 * arm + rng.normal(0, 4, n_donors))[donor]
    Y = (
        rng.normal(0, 1, (donor.size, 8))
        + rng.normal(0, 0.6, (n_donors, 8))[donor]
        + np.outer(arm[donor], np.arange(8) / 4)
    )
    return obs, Y


def parts(X: np.ndarray, beta: np.ndarray, columns: dict[str, list[int]]) -> np.ndarray:
    """Shares in the variance of X beta (G, p) of the terms, from rows of X: what is meant, one feature after another."""
    out = []
    for b in beta:
        own = np.array([np.var(X[:, at] @ b[at]) for at in columns.values()])
        out.append(np.var(X @ b) * own / own.sum())
    return np.array(out)


def design_matrix(obs: pd.DataFrame) -> tuple[np.ndarray, dict[str, list[int]]]:
    b, c = ((obs["arm"] == level).to_numpy(float) for level in "bc")
    m, age = (obs["sex"] == "m").to_numpy(float), obs["age"].to_numpy()
    X = np.column_stack([np.ones(len(obs)), b, c, m, age, b * m, c * m])
    return X, {"arm": [1, 2], "sex": [3], "age": [4], "arm:sex": [5, 6]}


def anndata(Y: np.ndarray, obs: pd.DataFrame) -> ad.AnnData:
    return ad.AnnData(Y, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(Y.shape[1])]))


def test_linear_mixed_models() -> None:
    obs, Y = cells()
    fit = dw.fit_lmm(Y, obs, FORMULA)
    X, columns = design_matrix(obs)
    names = ["Intercept", "arm[T.b]", "arm[T.c]", "sex[T.m]", "age", "arm[T.b]:sex[T.m]", "arm[T.c]:sex[T.m]"]
    beta = fit.beta[:, [fit.fixed_names.index(name) for name in names]]
    sigma2, tau2 = (fit.varcomp().query("term == @t")["variance"].to_numpy() for t in ("Residual", "donor"))
    fixed = parts(X, beta, columns)
    total = np.var(beta @ X.T, axis=1) + sigma2 + tau2
    table = fit.variance_partition()
    assert list(table) == [*TERMS, "donor", "Residual"]
    np.testing.assert_allclose(table[list(columns)], fixed / total[:, None], rtol=1e-8)
    np.testing.assert_allclose(table.sum(axis=1), 1)
    together = fit.variance_partition("together")
    assert list(together) == ["fixed", "donor", "Residual"]
    np.testing.assert_allclose(together["fixed"], table[TERMS].sum(axis=1), rtol=1e-12)
    pd.testing.assert_frame_equal(together[["donor", "Residual"]], table[["donor", "Residual"]], check_exact=True)


def test_the_tool_says_the_same() -> None:
    obs, Y = cells()
    adata = anndata(Y, obs)
    dw.tl.lmm(adata, FORMULA, ddf="residual", progress=False)
    shares = dw.get.variance_partition(adata)
    assert shares["kind"].astype(str).unique().tolist() == ["fixed term", "random term", "residual"]
    wide = shares.pivot(index="variable", columns="term", values="fraction")
    np.testing.assert_allclose(wide[TERMS], dw.fit_lmm(Y, obs, FORMULA).variance_partition()[TERMS], rtol=1e-10)
    together = dw.get.variance_partition(adata, fixed="together", variables="g3")
    assert together["term"].tolist() == ["fixed", "donor", "Residual"]
    assert together["fraction"].sum() == pytest.approx(1)
    assert dw.get.variance_partition(adata, term="arm:sex")["variable"].tolist() == list(adata.var_names)


def test_covariates_of_cells_and_weights() -> None:
    """Columns that differ within donors; shares weigh rows as the model does."""
    obs, Y = cells()
    rng = np.random.default_rng(1)
    obs = obs.assign(x=rng.normal(100, 1, len(obs)), w=rng.uniform(0.5, 2, len(obs)))
    fit = dw.fit_lmm(Y, obs, "~ arm + x + (1 | donor)", weights="w")
    X = np.column_stack([np.ones(len(obs)), obs["arm"] == "b", obs["arm"] == "c", obs["x"]]).astype(float)
    w = obs["w"].to_numpy() / obs["w"].sum()

    def var(values: np.ndarray) -> float:
        return float(w @ (values - w @ values) ** 2)

    shares, together = fit.variance_partition(), fit.variance_partition("together")["fixed"]
    for g, beta in enumerate(fit.beta):
        own = np.array([var(X[:, [1, 2]] @ beta[[1, 2]]), var(X[:, 3] * beta[3])])
        np.testing.assert_allclose(shares.iloc[g, :2], together.iloc[g] * own / own.sum(), rtol=1e-8)


def test_no_terms_and_no_intercept() -> None:
    obs, Y = cells()
    assert list(dw.fit_lmm(Y, obs, "~ 1 + (1 | donor)").variance_partition()) == ["fixed", "donor", "Residual"]
    without = dw.fit_lmm(Y, obs, "~ 0 + arm + (1 | donor)").variance_partition()
    np.testing.assert_allclose(without, dw.fit_lmm(Y, obs, "~ arm + (1 | donor)").variance_partition(), rtol=1e-6)


def test_constant_features_have_none() -> None:
    obs, Y = cells()
    shares = dw.fit_lmm(np.column_stack([Y[:, :2], np.ones(len(Y))]), obs, FORMULA).variance_partition()
    assert shares.iloc[2].isna().all() and shares.iloc[:2].notna().all(axis=None)


def test_features_with_a_value_per_donor() -> None:
    """They have a model of one row per donor, and shares over the cells all the same."""
    obs, Y = cells()
    per_donor = pd.DataFrame(Y).groupby(obs["donor"].to_numpy()).transform("mean").to_numpy()
    fit = dw.fit_lmm(per_donor, obs, "~ arm + age + (1 | donor)")
    X, _ = design_matrix(obs)
    order = [fit.fixed_names.index(name) for name in ("Intercept", "arm[T.b]", "arm[T.c]", "age")]
    own = parts(X[:, [0, 1, 2, 4]], fit.beta[:, order], {"arm": [1, 2], "age": [3]})
    shares = fit.variance_partition()
    np.testing.assert_allclose(shares["arm"] / shares["age"], own[:, 0] / own[:, 1], rtol=1e-8)
    np.testing.assert_allclose(shares.sum(axis=1), 1)


@pytest.mark.parametrize("formula", ["~ Residual + fixed + (1 | donor)", "~ arm + x + (0 + x | x_of)"])
def test_names_that_clash(formula: str) -> None:
    obs, Y = cells()
    obs = obs.assign(Residual=obs["arm"], fixed=obs["sex"], x=obs["age"] - 1960, x_of=obs["donor"])
    if "x_of" in formula:
        obs["x"], formula = obs["donor"].str[1:].astype(float), "~ arm + x + (1 | x)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = dw.fit_lmm(Y, obs, formula)
    names = list(fit.variance_partition())
    assert len(set(names)) == len(names)
    assert names == (
        ["`Residual`", "`fixed`", "donor", "Residual"] if "fixed" in formula else ["arm", "x", "(1 | x)", "Residual"]
    )


def test_pseudobulk() -> None:
    adata = dw.datasets.simulate_cohort(n_donors=10, n_cells=600, n_genes=30)
    dw.tl.pseudobulk(adata, "~ condition + sex", normalize="depth", progress=False)
    shares = dw.get.variance_partition(adata, key="pseudobulk").pivot(
        index="variable", columns="term", values="fraction"
    )
    counts = (
        pd.DataFrame(np.asarray(adata.layers["counts"].todense(), dtype=float))
        .groupby(adata.obs["donor_id"].to_numpy())
        .sum()
    )
    y = np.log((counts.to_numpy() + 0.5) / counts.sum(axis=1).to_numpy()[:, None])
    donors = adata.obs.drop_duplicates("donor_id").set_index("donor_id").loc[counts.index]
    X = np.column_stack([np.ones(len(y)), donors["condition"] == "disease", donors["sex"] == "male"]).astype(float)
    beta = np.linalg.lstsq(X, y, rcond=None)[0].T
    own = parts(X, beta, {"condition": [1], "sex": [2]})
    together = dw.get.variance_partition(adata, key="pseudobulk", fixed="together", term="fixed")["fraction"].to_numpy()
    expected = together[:, None] * own / own.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares[["condition", "sex"]].loc[list(adata.var_names)], expected, rtol=1e-8)


def test_counts() -> None:
    """The parts of the terms are in the proportion of those of the coefficients."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=12)
    dw.tl.glmm(adata, "~ condition + sex + (1 | donor_id)", family="poisson", layer="counts", progress=False)
    shares = dw.get.variance_partition(adata, key="glmm").pivot(index="variable", columns="term", values="fraction")
    tests = dw.get.tests(adata, key="glmm", sort_by=None).pivot(index="variable", columns="contrast", values="estimate")
    p = [(adata.obs["condition"] == "disease").mean(), (adata.obs["sex"] == "male").mean()]
    own = tests[["condition[T.disease]", "sex[T.male]"]].to_numpy() ** 2 * [p[0] * (1 - p[0]), p[1] * (1 - p[1])]
    found = shares[["condition", "sex"]].loc[tests.index].to_numpy()
    # of coefficients about at the variances, see `coefficients_near`
    np.testing.assert_allclose(
        found / found.sum(axis=1, keepdims=True), own / own.sum(axis=1, keepdims=True), atol=0.02
    )
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_proteins_that_lack_rows() -> None:
    """A protein without one arm, and one whose arm and batch are one: what can be told of each, and the whole of it."""
    own = peptides(6, arms=("a", "b", "c"))
    obs = own.obs.assign(batch=np.where(np.arange(len(own.obs)) % 2 == 0, "p", "q"))
    Y = own.Y.to_numpy().copy()
    first, second = (np.flatnonzero(np.array(own.proteins) == name) for name in ("P1", "P2"))
    Y[np.ix_(obs["arm"] == "c", first)] = np.nan
    same = ((obs["arm"] == "a") & (obs["batch"] == "q")) | ((obs["arm"] != "a") & (obs["batch"] == "p"))
    Y[np.ix_(same, second)] = np.nan
    formula = "~ arm + batch + (1 | peptide) + (1 | donor)"
    fit = dw.fit_lmm(Y, obs, formula, features=own.proteins)
    shares, together = fit.variance_partition(), fit.variance_partition("together")
    assert shares.loc["P2", ["arm", "batch"]].isna().all() and together.loc["P2", "fixed"] > 0
    alone = dw.fit_lmm(Y[:, first][obs["arm"] != "c"], obs[obs["arm"] != "c"], formula, features=["P1"] * len(first))
    np.testing.assert_allclose(shares.loc["P1"], alone.variance_partition().loc["P1"], rtol=1e-6, atol=1e-9)


def test_an_option_that_is_none() -> None:
    obs, Y = cells()
    adata = anndata(Y, obs)
    dw.tl.lmm(adata, "~ arm + (1 | donor)", progress=False)
    with pytest.raises(DonorwiseError, match="fixed='both' is not an option; choose one of 'each', 'together'"):
        dw.get.variance_partition(adata, fixed="both")  # type: ignore[arg-type]
