"""Influence and power of models with kernels."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.models.lmm.components import with_covariances, without_responses

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

ONE = "~ arm + (1 | gr(donor_id, cov=grm))"
OWN = f"{ONE} + (1 | donor_id)"
TWO = f"{ONE} + (1 | gr(donor_id, cov=mrm)) + (1 | donor_id)"


def kernels(n: int) -> dict[str, pd.DataFrame]:
    """Families of two, of which one donor is inbred, and what microbes might say."""
    donors = [f"d{i:02d}" for i in range(n)]
    family = np.arange(n) // 2
    K = np.where(family[:, None] == family, 0.5, 0.0) + 0.5 * np.eye(n)
    K[0, 0] = 1.3
    M = np.corrcoef(np.random.default_rng(5).normal(size=(n, 40)))
    return {"grm": pd.DataFrame(K, donors, donors), "mrm": pd.DataFrame(M, donors, donors)}


def study(n: int = 12, n_features: int = 110, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    K = kernels(n)["grm"]
    code = np.repeat(np.arange(n), rng.integers(4, 12, n))
    u = np.linalg.cholesky(K.to_numpy()) @ rng.normal(size=(n, n_features)) * np.sqrt(rng.random(n_features))
    y = u[code] + 0.3 * rng.normal(size=(n, n_features))[code] + rng.normal(size=(code.size, n_features))
    obs = pd.DataFrame({"donor_id": K.index.to_numpy()[code], "arm": np.resize(["a", "b"], n)[code]})
    obs.index = [f"c{i}" for i in range(len(obs))]
    return ad.AnnData(y, obs=obs)


@pytest.mark.parametrize(("formula", "ddf"), [(ONE, "moderated"), (OWN, "moderated"), (TWO, "kenward-roger")])
def test_influence_is_the_fit_without_the_donor(formula: str, ddf: Any) -> None:
    adata = study()
    given = {name: K for name, K in kernels(12).items() if name in formula}
    options: dict[str, Any] = {"kernels": given, "ddf": ddf, "progress": False}
    dw.tl.lmm(adata, formula, **options)
    chosen = ["0", "7"]
    dw.tl.influence(adata, variables=chosen, progress=False, n_jobs=1)
    table = dw.get.influence(adata, by="donor")
    assert table["donor"].nunique() == 12
    for donor in ("d00", "d07"):  # the inbred one, and half of a family
        rest = adata[adata.obs["donor_id"] != donor].copy()
        dw.tl.lmm(rest, formula, **options)
        right = dw.get.tests(rest, sort_by=None).set_index("variable").loc[chosen]
        found = table[table["donor"] == donor].set_index("variable").loc[chosen]
        for column in ("estimate", "se", "p_value"):
            np.testing.assert_allclose(found[column], right[column], rtol=1e-7)


def doubled(adata: ad.AnnData, given: dict[str, pd.DataFrame]) -> tuple[ad.AnnData, dict[str, pd.DataFrame]]:
    """The study, and once more with other donors who are not related to the first."""
    twin = adata.copy()
    twin.obs["donor_id"] = twin.obs["donor_id"].astype(str) + "x"
    both = ad.concat([adata, twin], index_unique="-")
    wide = {}
    for name, K in given.items():
        names = [*K.index, *(f"{level}x" for level in K.index)]
        wide[name] = pd.DataFrame(np.kron(np.eye(2), K), names, names)
    return both, wide


@pytest.mark.parametrize("formula", [ONE, OWN])
def test_twice_the_donors_are_a_second_study(formula: str) -> None:
    """Of unrelated families; the variance of a contrast is that of both together at the same variances."""
    adata, given = study(), {"grm": kernels(12)["grm"]}
    small = dw.fit_lmm(adata.X, adata.obs, formula, kernels=given)
    both, wide = doubled(adata, given)
    large = dw.fit_lmm(both.X, both.obs, formula, kernels=wide)
    L, point = np.array([[0.0, 1.0]]), np.full((1, formula.count("|")), 0.4)
    variances = []
    for fit in (small, large):
        equations = fit.models[0].equations
        size = [t.size for t in equations.terms]
        Phi = without_responses(equations, with_covariances(equations, point * size)).Phi
        turned = equations.turned(L)
        variances.append((turned @ Phi @ turned.T).item())
    assert variances[0] == pytest.approx(2 * variances[1], rel=1e-9)


def test_families_are_fewer_replicates_than_donors() -> None:
    """Arms of whole families, all of whose variance is that of families: the rule for donors would promise too much."""
    n = 24
    family = np.arange(n) // 4
    donors = [f"d{i:02d}" for i in range(n)]
    K = pd.DataFrame(np.where(family[:, None] == family, 0.95, 0.0) + 0.05 * np.eye(n), donors, donors)
    rng = np.random.default_rng(0)
    code = np.repeat(np.arange(n), 10)
    u = np.linalg.cholesky(K.to_numpy()) @ rng.normal(size=(n, 40))
    obs = pd.DataFrame({"donor_id": np.array(donors)[code], "arm": np.array(["a", "b"])[family % 2][code]})
    obs["family"] = family[code].astype(str)
    Y = u[code] + rng.normal(size=(code.size, 40))
    planned = {"n_donors": (n, 2 * n), "n_cells": 10, "effect": 2.0, "moderated": False}
    related = dw.fit_lmm(Y, obs, ONE, kernels={"grm": K})
    table = dw.tl.power(related, **planned).query("expression == 'all'")
    df = related.test("arm[T.b]", ddf="kenward-roger")["df"].median()
    np.testing.assert_allclose(table["df"], [df, 2 * df], rtol=0.1)
    intercepts = dw.fit_lmm(Y, obs, "~ arm + (1 | family) + (1 | donor_id)")
    rule = dw.tl.power(intercepts, **planned).query("expression == 'all'")
    assert rule["df"].tolist() == [4, 10]
    np.testing.assert_allclose(table["power"], rule["power"], atol=0.05)
    with_arms_inside = dw.fit_lmm(Y, obs.assign(arm=np.resize(["a", "b"], n)[code]), ONE, kernels={"grm": K})
    assert dw.tl.power(with_arms_inside, **planned)["df"].iloc[0] == n - 2
