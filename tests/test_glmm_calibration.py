"""Generalised mixed models hold their level, and have a p-value where an arm has all of a response or none."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
_FORMULA = "~ arm + (1 | donor)"
_OPTIONS = (
    {"family": "nb"},
    {"family": "poisson"},
    {"family": "binomial", "response": "detected"},
    {"family": "binomial", "response": "detected", "link": "cloglog"},
)


def _cells(counts: np.ndarray, donor: np.ndarray) -> ad.AnnData:
    half = (donor.max() + 1) // 2
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical([f"d{d}" for d in donor]),
            "arm": pd.Categorical(np.where(donor < half, "a", "b")),
            "depth": 1.0,
        },
        index=[f"c{i}" for i in range(donor.size)],
    )
    return ad.AnnData(counts.astype(np.float32), obs=obs)


def _table(adata: ad.AnnData, options: dict[str, str]) -> pd.DataFrame:
    dw.tl.glmm(adata, _FORMULA, exposure=None if options.get("link") is None and "response" in options else "depth",
               progress=False, **options)  # fmt: skip
    table = dw.get.tests(adata, key="glmm", contrast="arm[T.b]")
    return table.set_index("variable").loc[adata.var_names]


@pytest.mark.parametrize("options", _OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("absent", [False, True], ids=["all", "none"])
def test_one_arm_has_all_or_none(options, absent):
    """Few of the other kind in the other arm say little, whichever the kind; many say much."""
    rng = np.random.default_rng(3)
    donor = np.repeat(np.arange(6), 100)
    other = np.array([0.003, 0.1, 0.3]).repeat(40)
    counts = rng.random((600, 120)) < np.where((donor < 3)[:, None], other, 0.0)
    adata = _cells(counts if absent else ~counts, donor)
    adata = adata[:, adata.X.std(axis=0) > 0].copy()
    table = _table(adata, options)
    assert table["p_value"].between(0, 1).all()
    if "response" in options:
        seldom = (adata.X.mean(axis=0) if absent else 1 - adata.X.mean(axis=0)) * 600
        assert (table["status"] == "separated").all()
        assert table["p_value"][seldom <= 2].min() > 0.1
        assert table["p_value"][seldom >= 60].max() < 0.01
        assert (table["estimate"] < 0).all() == absent


@pytest.mark.parametrize("levels", [0, 5], ids=["continuous", "few values"])
def test_numbers_of_cells_leave_the_dispersion(levels):
    """A number that differs from cell to cell makes every cell a pattern, whose own mean would explain all of it."""
    rng = np.random.default_rng(4)
    donor = np.repeat(np.arange(6), 50)
    mean = np.exp(rng.normal(0, 0.4, (6, 200)))[donor] * np.linspace(0.3, 3, 200)
    adata = _cells(rng.poisson(mean * rng.gamma(1, 1, mean.shape)), donor)
    adata.obs["x"] = rng.integers(0, levels, donor.size) / 4 if levels else rng.normal(size=donor.size)
    dispersion = []
    for formula in (_FORMULA, "~ arm + x + (1 | donor)"):
        dw.tl.glmm(adata, formula, exposure="depth", progress=False)
        table = dw.get.varcomp(adata, key="glmm").query("term == 'dispersion'")
        dispersion.append(table["variance"].to_numpy())
    np.testing.assert_allclose(dispersion[1], dispersion[0], rtol=0.25)
    assert np.median(dispersion[1]) == pytest.approx(1.0, abs=0.15)
    p = dw.get.tests(adata, key="glmm", contrast="x")["p_value"]
    assert 0.01 < (p < 0.05).mean() < 0.09
