"""P-values of genes by permutation, from a scan to its table, against a loop over variants and permuted responses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._anndata.genotypes import open_genotypes
from donorwise._core.inference.beta import BetaApproximation, beta_approximation
from donorwise.errors import DesignError

D, N_VARIANTS, N = 40, 12, 400
DONORS = [f"d{i:02d}" for i in range(D)]
COLUMNS = ["p_gene", "p_perm", "beta_shape1", "beta_shape2", "true_df"]


@cache
def study() -> tuple[ad.AnnData, ad.AnnData, pd.DataFrame]:
    """A row for each donor: a gene that a variant moves, one that none does, and a kernel."""
    rng = np.random.default_rng(3)
    L = rng.normal(size=(D, 2 * D))
    kernel = pd.DataFrame(L @ L.T / (2 * D), DONORS, DONORS)
    x = rng.binomial(2, 0.4, (D, N_VARIANTS)).astype(float)
    Y = np.linalg.cholesky(kernel.to_numpy()) @ rng.normal(size=(D, 2)) + 0.5 * rng.normal(size=(D, 2))
    Y[:, 0] += 1.2 * x[:, 4]
    obs = pd.DataFrame({"donor_id": DONORS, "age": rng.normal(size=D)}, index=DONORS)
    var = pd.DataFrame({"chrom": "1", "tss": [500, 800]}, index=["moved", "still"])
    table = pd.DataFrame({"chrom": "1", "pos": 100 * np.arange(1, N_VARIANTS + 1), "a0": "A", "a1": "C"})
    table.index = [f"rs{i}" for i in range(N_VARIANTS)]
    return ad.AnnData(Y, obs, var), ad.AnnData(x, pd.DataFrame(index=DONORS), table), kernel


def scanned(formula: str = "~ age", genotypes: Any = None, **options: Any) -> dict[str, Any]:
    cells, own, kernel = study()
    given: dict[str, Any] = {"kernels": {"K": kernel}} if "cov=K" in formula else {}
    given |= {"gene_test": "permutations", "n_permutations": N, "donor": "donor_id", "refit": "none"} | options
    found = dw.tl.scan(cells, own if genotypes is None else genotypes, formula, progress=False, copy=True, **given)
    assert found is not None
    return dict(found.uns["scan"])


def near(gene: str) -> np.ndarray:
    cells, genotypes, _ = study()
    return np.flatnonzero(np.abs(genotypes.var["pos"] - cells.var.loc[gene, "tss"]) <= 350)


def r2(y: np.ndarray, x: np.ndarray, fixed: np.ndarray) -> float:
    """Share of what the fixed effects leave of y that a variant explains."""
    left, without = (np.linalg.lstsq(X, y, rcond=None)[1][0] for X in (np.column_stack([fixed, x]), fixed))
    return float(1 - left / without)


def test_permutations_are_regressions_of_permuted_residuals() -> None:
    cells, genotypes, _ = study()
    results = scanned(window=350)["results"].set_index("gene")
    fixed, x = np.column_stack([np.ones(D), cells.obs["age"]]), np.asarray(genotypes.X)
    orders = np.random.default_rng((0, D)).permuted(np.tile(np.arange(D), (N, 1)), axis=1)
    for g, gene in enumerate(cells.var_names):
        y = np.asarray(cells.X)[:, g]
        y = y - fixed @ np.linalg.lstsq(fixed, y, rcond=None)[0]
        largest = [max(r2(own, x[:, v], fixed) for v in near(gene)) for own in (y, *y[orders])]
        law = beta_approximation(largest[0], np.array(largest[1:]), D - 3)
        np.testing.assert_allclose(results.loc[gene, COLUMNS].to_numpy(dtype=float), _row(law), rtol=1e-6)
    assert results.loc["moved", "p_gene"] < 1e-3 < 0.05 < results.loc["still", "p_gene"]


def _row(law: BetaApproximation) -> list[float]:
    return [law.p_beta, law.p_perm, law.shape1, law.shape2, law.df]


def test_relatives_are_rotated() -> None:
    """Directions are uniform in the space that the kernel whitens: any square root of it has the same law of its own."""
    cells, genotypes, kernel = study()
    formula = "~ age + (1 | gr(donor_id, cov=K))"
    results = scanned(formula, window=350, n_permutations=4000)["results"].set_index("gene")
    fit = dw.fit_lmm(cells.to_df(), cells.obs, formula, kernels={"K": kernel})
    variance = fit.varcomp().pivot(index="variable", columns="term", values="variance")
    rng = np.random.default_rng(1)
    for g, gene in enumerate(cells.var_names):
        V = variance.loc[gene, "gr(donor_id, cov=K)"] * kernel + variance.loc[gene, "Residual"] * np.eye(D)
        root = np.linalg.inv(np.linalg.cholesky(V.to_numpy()))
        fixed = root @ np.column_stack([np.ones(D), cells.obs["age"]])
        Q = np.linalg.qr(fixed)[0]
        x = (root @ np.asarray(genotypes.X)[:, near(gene)]).T
        x -= (x @ Q) @ Q.T
        y = np.column_stack([root @ np.asarray(cells.X)[:, g], rng.normal(size=(D, 4000))])
        y -= Q @ (Q.T @ y)
        r = (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=0))
        law = beta_approximation(float((r[:, 0] ** 2).max()), (r[:, 1:] ** 2).max(axis=0), D - 3)
        np.testing.assert_allclose(np.log(results.loc[gene, "p_gene"]), np.log(law.p_beta), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("formula", ["~ age", "~ age + (1 | gr(donor_id, cov=K))"])
def test_neither_blocks_nor_files_nor_refits_change_them(formula: str, tmp_path: Path) -> None:
    expected = scanned(formula)
    assert expected["params"]["n_permutations"] == N and expected["params"]["seed"] == 0
    source = open_genotypes(study()[1])
    blocks = replace(source, block_numbers=5 * D)
    for other in (scanned(formula, blocks), scanned(formula, out=tmp_path / "scan"), scanned(formula, refit="all")):
        pd.testing.assert_frame_equal(other["results"][COLUMNS], expected["results"][COLUMNS], rtol=1e-9)
    again = scanned(formula, seed=1)["results"]
    assert (again["beta_shape2"] != expected["results"]["beta_shape2"]).all()


def test_what_cannot_be_permuted() -> None:
    with pytest.raises(DesignError, match="not for their interactions: take gene_test='acat'"):
        scanned(interaction="age")


def test_levels_without_an_eigenbasis_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of levels none is made, and least squares would take its place."""
    monkeypatch.setattr("donorwise._core.models.lmm.equations._EIGEN_LIMIT", D - 1)
    cells, genotypes, _ = study()
    obs = pd.concat([cells.obs, cells.obs]).set_axis([str(i) for i in range(2 * D)])
    Y = np.vstack([cells.X, cells.X]) + np.random.default_rng(0).normal(size=(2 * D, 2))
    options: dict[str, Any] = {"n_permutations": N, "donor": "donor_id"}
    with pytest.raises(DesignError, match="eigenbasis of the levels.*take gene_test='acat'"):
        dw.scan_variants(Y, obs, genotypes, "~ age + (1 | donor_id)", gene_test="permutations", **options)
    assert (dw.scan_variants(Y, obs, genotypes, "~ age + (1 | donor_id)", **options).results["status"] == "ok").all()
