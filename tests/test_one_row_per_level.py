"""Random effects with a single row each: over-dispersion, where rows have no residual of their own."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise.errors import DesignError

FORMULA = "~ arm + (1 | donor)"


@pytest.fixture(scope="module")
def donors() -> ad.AnnData:
    """One row per donor: k of m, and counts, of 120 features; donors differ by more than chance."""
    rng = np.random.default_rng(2)
    n, G = 12, 120
    obs = pd.DataFrame(
        {"donor": [f"D{i}" for i in range(n)], "arm": ["a", "b"] * (n // 2), "m": rng.integers(50, 300, n)}
    )
    eta = -1 + rng.normal(0, 0.5, (n, G))
    k = rng.binomial(obs["m"].to_numpy()[:, None], 1 / (1 + np.exp(-eta))).astype(float)
    adata = ad.AnnData(k, obs=obs.set_index(obs["donor"].to_numpy()))
    adata.layers["counts"] = rng.poisson(obs["m"].to_numpy()[:, None] * np.exp(eta)).astype(float)
    return adata


@pytest.mark.parametrize(
    ("family", "options"),
    [("binomial", {"trials": "m"}), ("poisson", {"layer": "counts", "exposure": "m"})],
)
def test_they_are_the_variance_between_donors(donors: ad.AnnData, family: str, options: dict[str, str]) -> None:
    adata = donors.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dw.tl.glmm(adata, FORMULA, family=family, progress=False, **options)
    tests, variances = dw.get.tests(adata, key="glmm"), dw.get.varcomp(adata, key="glmm")
    assert set(tests["status"]) == {"ok"}
    assert 0.02 <= (tests["p_value"] < 0.05).mean() <= 0.1
    assert variances["variance"].median() == pytest.approx(0.25, rel=0.25)
    values = adata.layers["counts"] if "layer" in options else adata.X
    given = {"trials": "m"} if family == "binomial" else {"exposure": "m"}
    fit = dw.fit_glmm(values[:, :5], adata.obs, FORMULA, family=family, n_quad=1, **given)
    own = tests.set_index("variable").loc[adata.var_names[:5], "estimate"]
    np.testing.assert_allclose(own, fit.beta[:, 1], atol=0.05)


@pytest.mark.parametrize(("family", "options"), [("nb", {"layer": "counts", "exposure": "m"}), ("binomial", {})])
def test_where_rows_have_one_they_are_refused(donors: ad.AnnData, family: str, options: dict[str, str]) -> None:
    adata = donors.copy()
    adata.X = (adata.X > 40).astype(float)
    with pytest.raises(DesignError, match="one level per row"):
        dw.tl.glmm(adata, FORMULA, family=family, progress=False, **options)
