"""Covariates that differ between the cells of a pattern, from the matrix to the tables."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._core.cells.matrices import read_cells
from donorwise._core.cells.stored import Stored

FORMULA = "~ condition + pct_mito + (1 | donor_id)"
EFFECT = 0.25


@pytest.fixture(scope="module")
def cohort():
    """Counts that rise with a covariate of single cells in the first half of the genes."""
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=2400, n_genes=110, cell_types=("T cell",), seed=4)
    rng = np.random.default_rng(4)
    x = rng.normal(size=adata.n_obs)
    counts = rng.binomial(adata.layers["counts"].toarray().astype(int), 0.5).astype(float)
    counts[:, :55] = rng.poisson(counts[:, :55] * np.exp(EFFECT * x - EFFECT**2 / 2)[:, None])
    adata.obs["pct_mito"] = x
    adata.obs["depth"] = np.maximum(adata.obs["total_counts"].to_numpy(dtype=float), 1.0)
    adata.X = sparse.csr_matrix(counts)
    return adata


def fitted(adata, formula=FORMULA, **options):
    dw.tl.glmm(adata, formula, exposure="depth", progress=False, **options)
    return dw.get.tests(adata, key="glmm").sort_values(["contrast", "variable"]).reset_index(drop=True)


@pytest.mark.parametrize("family", ["nb", "poisson"])
def test_the_slope_is_found(cohort, family):
    found = fitted(cohort, family=family).query("contrast == 'pct_mito'").set_index("variable").loc[cohort.var_names]
    estimate, se = found["estimate"].to_numpy(), found["se"].to_numpy()
    inside = np.abs(estimate - np.where(np.arange(110) < 55, EFFECT, 0.0)) < 2.6 * se
    if family == "nb":  # of over-dispersed counts the Poisson's errors are too small
        assert inside.mean() > 0.95
    assert abs(np.average(estimate[:55], weights=se[:55] ** -2) - EFFECT) < 0.02
    assert abs(np.average(estimate[55:], weights=se[55:] ** -2)) < 0.02


@pytest.mark.parametrize(
    ("family", "options"),
    [("nb", {}), ("poisson", {}), ("binomial", {"response": "detected", "link": "cloglog"})],
)
def test_a_covariate_without_an_effect_changes_little(cohort, family, options):
    """Of nearly no variance: the general path is that of sums over patterns."""
    cohort.obs["flat"] = np.random.default_rng(0).normal(size=cohort.n_obs) * 1e-3
    with_it = fitted(cohort, "~ condition + (1 | donor_id)", family=family, **options)
    rows = fitted(cohort, "~ condition + flat + (1 | donor_id)", family=family, **options)
    rows = rows.query("contrast != 'flat'").reset_index(drop=True)
    np.testing.assert_allclose(rows["estimate"], with_it["estimate"], atol=0.05)
    both = np.log(pd.concat([rows["p_value"], with_it["p_value"]], axis=1).dropna())
    assert len(both) > 90
    assert np.corrcoef(both.T)[0, 1] > 0.99


def as_backed(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")


CONTAINERS = {
    "dense": lambda X: X.toarray(),
    "csc": sparse.csc_matrix,
    "integers": lambda X: X.astype(np.int32),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("backed", [False, True])
def test_containers(cohort, tmp_path, container, backed):
    right = fitted(cohort)
    other = ad.AnnData(CONTAINERS[container](cohort.X), obs=cohort.obs.copy(), var=cohort.var.copy())
    other = as_backed(other, tmp_path) if backed else other
    pd.testing.assert_frame_equal(fitted(other), right, rtol=1e-10)


def test_some_rows_and_columns_of_stored_matrices(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.poisson(0.5, (50, 30)).astype(float)
    rows, columns, some = rng.permutation(50)[:20], rng.permutation(30)[:12], rng.permutation(20)[:7]
    for i, matrix in enumerate((X, sparse.csr_matrix(X), sparse.csc_matrix(X))):
        adata = ad.AnnData(matrix)
        adata.write_h5ad(tmp_path / f"{i}.h5ad")
        stored = Stored(ad.read_h5ad(tmp_path / f"{i}.h5ad", backed="r").X, rows, columns)
        for asked in (None, np.array([5, 0, 9])):
            found = read_cells(stored, some, asked)
            found = found.toarray() if sparse.issparse(found) else found
            right = X[rows[some]][:, columns if asked is None else columns[asked]]
            np.testing.assert_array_equal(found, right)


def test_without_a_donor(cohort):
    """What influence finds is what a fit of the other donors' cells does."""
    fitted(cohort)
    variables = list(cohort.var_names[:3])
    dw.tl.influence(
        cohort, key="glmm", alpha=0.999, variables=variables, contrast="condition[T.disease]", progress=False
    )
    found = cohort.uns["glmm_influence"]["donors"].query("donor == 'D01'").set_index("variable")
    rest = fitted(cohort[cohort.obs["donor_id"] != "D01"].copy()).query("contrast != 'pct_mito'").set_index("variable")
    for name in ("estimate", "se", "p_value"):
        np.testing.assert_allclose(found[name], rest.loc[found.index, name], rtol=2e-3)


def test_labels_are_exchanged(cohort):
    contrast = "condition[T.disease]"
    dw.tl.calibrate(cohort, FORMULA, contrast, model="glmm", exposure="depth", n_permutations=2, progress=False)
    assert any("calib" in key for key in cohort.uns)


def test_many_counts_are_as_good_as_log_rates():
    """At a hundred thousand counts a donor, sampling is nothing: the test is that of pseudobulk log rates."""
    rng = np.random.default_rng(1)
    donors, cells, genes = 10, 20, 120
    donor = np.repeat(np.arange(donors), cells)
    rate = np.exp(rng.normal(0, 0.4, (donors, genes)) + np.outer(np.arange(donors) % 2, rng.normal(0, 0.4, genes)))
    counts = rng.poisson(5000 * rate[donor]).astype(float)
    obs = pd.DataFrame({
        "donor_id": pd.Categorical([f"d{d}" for d in donor]), "condition": np.where(donor % 2, "b", "a"),
        "depth": np.full(donor.size, 5000.0),
    }, index=[f"c{i}" for i in range(donor.size)])  # fmt: skip
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=obs)
    found = fitted(adata, "~ condition + (1 | donor_id)", family="poisson").set_index("variable")
    rates = np.log([counts[donor == d].mean(axis=0) / 5000 for d in range(donors)])
    a, b = rates[::2], rates[1::2]
    np.testing.assert_allclose(found.loc[adata.var_names, "estimate"], b.mean(axis=0) - a.mean(axis=0), atol=5e-3)
    # the posterior of the variances, shared, in place of each gene's own
    pooled = np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)).mean() / 5)
    z = (b.mean(axis=0) - a.mean(axis=0)) / pooled
    assert np.corrcoef(found.loc[adata.var_names, "statistic"], z)[0, 1] > 0.99
