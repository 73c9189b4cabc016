"""What must not matter to proteins: order, names, units, blocks, workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.engine import peptide_rows

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")

FORMULA = "~ arm + x + (1 | peptide) + (1 | donor) + (0 + x | donor)"
MODERATED, JUDGED = "moderated", "kenward-roger"
NUMBERS = ["estimate", "se", "df", "statistic", "p_value", "ci_low", "ci_high"]


@cache
def _peptides() -> ad.AnnData:
    rng = np.random.default_rng(0)
    protein = np.repeat(np.arange(110), rng.integers(1, 6, 110))
    donor, P = np.repeat(np.arange(8), 2), protein.size
    x, W = rng.normal(size=16), np.exp(rng.normal(size=(16, P)))
    u, v = 0.5 * rng.normal(size=(2, 8, 110))
    Y = 20 + 2 * rng.normal(size=P) + u[donor][:, protein] + x[:, None] * v[donor][:, protein]
    Y += 0.4 * rng.normal(size=Y.shape) / np.sqrt(W)
    Y[rng.random(Y.shape) < 0.3] = np.nan
    obs = pd.DataFrame({"donor": [f"d{d}" for d in donor], "arm": [f"a{d % 2}" for d in donor], "x": x})
    var = pd.DataFrame({"protein": [f"P{g}" for g in protein]}, index=[f"pep{i}" for i in range(P)])
    return ad.AnnData(Y, obs=obs.set_index(pd.Index([f"r{i}" for i in range(16)])), var=var, layers={"weights": W})


def results(adata: ad.AnnData, ddf: str, formula: str = FORMULA, n_jobs: int | None = 1) -> ad.AnnData:
    adata = adata.copy()
    dw.tl.lmm(adata, formula, features="protein", weights_layer="weights", ddf=ddf, n_jobs=n_jobs, progress=False)
    return adata


def table(adata: ad.AnnData) -> pd.DataFrame:
    own = adata.uns["lmm"]["results"].astype({"variable": str, "contrast": str})
    return own.set_index(["variable", "contrast"]).sort_index()


@cache
def base(ddf: str) -> pd.DataFrame:
    return table(results(_peptides(), ddf))


MATCHED = 1e-9
"""How far se, df and ends of the t that stands for a mixture may be off, which is found to 1e-10 of log p."""


def same(own: pd.DataFrame, other: pd.DataFrame, rtol: float = 1e-10) -> None:
    assert (own["status"].astype(str) == other["status"].astype(str)).all()
    assert (
        own[["n_obs", "n_donors", "n_peptides", "n_missing"]] == other[["n_obs", "n_donors", "n_peptides", "n_missing"]]
    ).all(None)
    se = other["se"].to_numpy()
    for name in NUMBERS:
        floor = se if name in ("estimate", "ci_low", "ci_high") else 1.0
        a, b = own[name].to_numpy(), other[name].to_numpy()
        assert (np.isnan(a) == np.isnan(b)).all(), name
        off = np.nanmax(np.abs(a - b) / np.maximum(np.abs(b), floor if np.ndim(floor) else np.abs(b)))
        assert off <= (rtol if name in ("estimate", "p_value") else max(rtol, MATCHED)), (name, off)


def runs(adata: ad.AnnData) -> ad.AnnData:
    return adata[np.random.default_rng(1).permutation(adata.n_obs)]


def peptides(adata: ad.AnnData) -> ad.AnnData:
    return adata[:, np.random.default_rng(1).permutation(adata.n_vars)]


def renamed(adata: ad.AnnData) -> ad.AnnData:
    adata.obs["donor"] = [f"z{9 - int(name[1:])}" for name in adata.obs["donor"]]
    adata.var_names = [f"b{1000 - int(name[3:])}" for name in adata.var_names]
    return adata


def heavier(adata: ad.AnnData) -> ad.AnnData:
    adata.layers["weights"] *= 1e6
    return adata


def lighter(adata: ad.AnnData) -> ad.AnnData:
    adata.layers["weights"] *= 1e-40
    return adata


@pytest.mark.parametrize("ddf", [MODERATED, JUDGED])
@pytest.mark.parametrize("change", [runs, peptides, renamed, heavier, lighter])
def test_order_names_and_units_of_weights(change: Callable[[ad.AnnData], ad.AnnData], ddf: str) -> None:
    same(table(results(change(_peptides().copy()), ddf)), base(ddf))


@pytest.mark.parametrize("ddf", [MODERATED, JUDGED])
def test_order_of_terms(ddf: str) -> None:
    same(table(results(_peptides(), ddf, "~ x + arm + (0 + x | donor) + (1 | donor) + (1 | peptide)")), base(ddf))


@pytest.mark.parametrize("ddf", [MODERATED, JUDGED])
def test_units_of_responses(ddf: str) -> None:
    adata = _peptides().copy()
    adata.X = 5 + 1e-3 * adata.X
    own = table(results(adata, ddf))
    own[["estimate", "se", "ci_low", "ci_high"]] *= 1e3
    same(own, base(ddf), rtol=1e-8)  # the shifted responses are rounded to 1e-12 of what is left of them


@pytest.mark.parametrize("ddf", [MODERATED, JUDGED])
def test_units_of_a_slope(ddf: str) -> None:
    adata = _peptides().copy()
    adata.obs["x"] *= 1000
    own = table(results(adata, ddf))
    of_x = own.index.get_level_values("contrast") == "x"
    own.loc[of_x, ["estimate", "se", "ci_low", "ci_high"]] *= 1000
    same(own, base(ddf))


@pytest.mark.parametrize("ddf", [MODERATED, JUDGED])
def test_reference_level(ddf: str) -> None:
    adata = _peptides().copy()
    adata.obs["arm"] = pd.Categorical(adata.obs["arm"], ["a1", "a0"])
    own, other = table(results(adata, ddf)), base(ddf)
    turned = own.rename(index={"arm[T.a0]": "arm[T.a1]"}).sort_index()
    of_arm = turned.index.get_level_values("contrast") == "arm[T.a1]"
    turned.loc[of_arm, ["estimate", "statistic"]] *= -1
    turned.loc[of_arm, ["ci_low", "ci_high"]] = -turned.loc[of_arm, ["ci_high", "ci_low"]].to_numpy()
    same(
        turned, other, rtol=1e-6 if ddf == MODERATED else 1e-10
    )  # ends of intervals are found to that, from the other side


def test_blocks_and_workers() -> None:
    with patch.object(peptide_rows, "_DOUBLES", 16 * 3):
        own = table(results(_peptides(), MODERATED, n_jobs=2))
    pd.testing.assert_frame_equal(own, base(MODERATED))


def test_residual_variance_is_that_of_a_weight_of_one() -> None:
    own, other = (results(change(_peptides().copy()), JUDGED).uns["lmm"]["varcomp"] for change in (heavier, runs))
    keys = ["variable", "term", "column1"]
    own, other = (t.astype(dict.fromkeys(keys, str)).set_index(keys)["variance"].sort_index() for t in (own, other))
    factor = np.where(other.index.get_level_values("term") == "Residual", 1e6, 1.0)
    np.testing.assert_allclose(own, other * factor, rtol=1e-8, atol=1e-12)
