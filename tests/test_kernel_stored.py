"""What is kept of kernels beside a result, and models that are made again from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests.test_kernel_tools import OWN, TWO, kernels, study

import donorwise as dw
from donorwise._anndata import read_results
from donorwise._core.engine.kernel_tables import kernels_from
from donorwise.errors import DataError, DesignError, DonorwiseWarning

pytestmark = pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")


def types(adata: ad.AnnData) -> ad.AnnData:
    """Two cell types, one of which a third of the donors have not, and a tissue."""
    donors = (
        adata.obs["donor_id"].cat.codes
        if hasattr(adata.obs["donor_id"], "cat")
        else pd.factorize(adata.obs["donor_id"])[0]
    )
    rare = np.resize([True, False], adata.n_obs) & (np.asarray(donors) >= 4)
    adata.obs["cell_type"] = pd.Categorical(np.where(rare, "rare", "common"))
    adata.obs["tissue"] = pd.Categorical(np.resize(["blood", "blood", "blood", "gut", "gut"], adata.n_obs))
    return adata


@pytest.fixture(scope="module")
def fitted() -> ad.AnnData:
    adata = types(study())
    dw.tl.lmm(adata, TWO, kernels=kernels(12), groupby="cell_type", ddf="kenward-roger", progress=False)
    return adata


def through_h5ad(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    adata.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad")


def through_zarr(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    adata.write_zarr(folder / "a.zarr")
    return ad.read_zarr(folder / "a.zarr")


WAYS: dict[str, Callable[[ad.AnnData, Path], ad.AnnData]] = {
    "h5ad": through_h5ad,
    "zarr": through_zarr,
    "backed": lambda adata, folder: (adata.write_h5ad(folder / "b.h5ad"), ad.read_h5ad(folder / "b.h5ad", backed="r"))[
        1
    ],
    "copy": lambda adata, folder: adata.copy(),
    "some features": lambda adata, folder: adata[:, :40].copy(),
    "a view": lambda adata, folder: adata[:, :40],
}


@pytest.mark.parametrize("way", WAYS)
def test_kernels_stay_with_the_result(fitted: ad.AnnData, way: str, tmp_path: Path) -> None:
    adata = WAYS[way](fitted, tmp_path)
    table = read_results(adata, "lmm").kernels
    assert table is not None
    for name, right in kernels(12).items():
        found = kernels_from(table)[name]
        assert set(found.levels) == set(right.index)
        np.testing.assert_allclose(found.values, right.loc[list(found.levels), list(found.levels)], atol=1e-15)
    again = dw.get.ranef(adata, ["0", "3"])
    pd.testing.assert_frame_equal(again, dw.get.ranef(fitted, ["0", "3"]), check_categorical=False, rtol=1e-7)


def test_groups_have_kernels_of_their_own_donors(fitted: ad.AnnData) -> None:
    """Every group is what it is alone, whichever donors the others have."""
    for group in ("common", "rare"):
        alone = fitted[fitted.obs["cell_type"] == group].copy()
        dw.tl.lmm(alone, TWO, kernels=kernels(12), ddf="kenward-roger", key_added="alone", progress=False)
        right = dw.get.tests(alone, key="alone", sort_by=None)
        found = dw.get.tests(fitted, group=group, sort_by=None)
        np.testing.assert_allclose(found["p_value"], right["p_value"], rtol=1e-7)
    assert dw.get.ranef(fitted, "0", group="rare")["level"].nunique() == 8


def test_donors_that_are_gone(fitted: ad.AnnData) -> None:
    """Effects are predicted for those that there are, with their part of the kernels; tests are not made again."""
    adata = fitted[~fitted.obs["donor_id"].isin(["d00", "d05"])].copy()
    with pytest.warns(DonorwiseWarning, match="fitted to"):
        table = dw.get.ranef(adata, "2", group="common")
    small = {name: K.drop(index=["d00", "d05"], columns=["d00", "d05"]) for name, K in kernels(12).items()}
    cells = adata[adata.obs["cell_type"] == "common"]
    fit = dw.fit_lmm(cells.X[:, [2]], cells.obs, TWO, kernels=small)
    for term, own in table.groupby("term", sort=False):
        np.testing.assert_allclose(own["value"], fit.ranef(str(term))["value"], atol=1e-8)
        np.testing.assert_allclose(own["cond_sd"], fit.ranef(str(term))["cond_sd"], rtol=1e-6)
    with pytest.raises(DataError, match="is not the one that 'lmm' was fitted to"):
        dw.tl.influence(adata, variables="2", progress=False)


def test_donors_that_are_new_are_not_in_the_kernel() -> None:
    """A donor without an age was not fitted; now that there is one its relatives are unknown."""
    adata = study()
    adata.obs["age"] = pd.factorize(adata.obs["donor_id"])[0] % 5 + 20.0
    adata.obs.loc[adata.obs["donor_id"] == "d03", "age"] = np.nan
    formula = "~ arm + age + (1 | gr(donor_id, cov=grm))"
    dw.tl.lmm(adata, formula, kernels={"grm": kernels(12)["grm"]}, ddf="kenward-roger", progress=False)
    table = read_results(adata, "lmm").kernels
    assert table is not None and "d03" not in set(table["level1"].astype(str))
    rest = adata[adata.obs["donor_id"] != "d03"].copy()
    dw.tl.lmm(rest, formula, kernels={"grm": kernels(12)["grm"]}, ddf="kenward-roger", key_added="rest", progress=False)
    pd.testing.assert_frame_equal(
        dw.get.tests(adata, sort_by=None), dw.get.tests(rest, key="rest", sort_by=None), rtol=1e-8
    )
    adata.obs["age"] = adata.obs["age"].fillna(21.0)
    with pytest.raises(DesignError, match=r"kernel `grm` lacks 1 of the 12 levels in use: `?'?d03"):
        dw.get.ranef(adata, "0")


def test_groups_of_two_columns_and_bounded_memory() -> None:
    adata = types(study())
    options: dict[str, Any] = {
        "kernels": {"grm": kernels(12)["grm"]},
        "groupby": ["cell_type", "tissue"],
        "progress": False,
    }
    dw.tl.lmm(adata, OWN, **options)
    dw.tl.lmm(adata, OWN, max_memory=1e-9, key_added="bounded", **options)
    pd.testing.assert_frame_equal(dw.get.tests(adata), dw.get.tests(adata, key="bounded"), check_exact=True)
    left, right = (read_results(adata, key).kernels for key in ("lmm", "bounded"))
    assert left is not None and right is not None
    pd.testing.assert_frame_equal(left, right)


def test_missing_responses_have_their_own_donors() -> None:
    """A feature that a donor has no values of is fitted with the kernel of the others."""
    adata = study()
    adata.X = np.array(adata.X)
    adata.X[adata.obs["donor_id"] == "d04", 5] = np.nan
    given = {"grm": kernels(12)["grm"]}
    dw.tl.lmm(adata, OWN, kernels=given, ddf="kenward-roger", progress=False)
    rest = adata[adata.obs["donor_id"] != "d04", 5:6].copy()
    dw.tl.lmm(rest, OWN, kernels=given, ddf="kenward-roger", key_added="rest", progress=False)
    found, right = (dw.get.tests(own, variables="5", key=key) for own, key in ((adata, "lmm"), (rest, "rest")))
    np.testing.assert_allclose(found["p_value"], right["p_value"], rtol=1e-7)
    assert found["n_donors"].tolist() == [11]


def test_lazy_matrices_and_depth(tmp_path: Path) -> None:
    dask = pytest.importorskip("dask.array")
    counts = np.random.default_rng(0).poisson(3.0, (study().n_obs, 110))
    adata = study()
    adata.layers["counts"] = counts.astype(float)
    dw.pp.log_depth(adata)
    formula, given = OWN.replace("arm", "arm + log_depth"), {"grm": kernels(12)["grm"]}
    dw.tl.lmm(adata, formula, kernels=given, progress=False)
    lazy = adata.copy()
    lazy.X = dask.from_array(np.asarray(adata.X), chunks=(40, 50))
    del lazy.uns["lmm"]
    dw.tl.lmm(lazy, formula, kernels=given, progress=False)
    pd.testing.assert_frame_equal(dw.get.tests(lazy, sort_by=None), dw.get.tests(adata, sort_by=None), rtol=1e-7)
    rows = dw.pp.collapse(adata, ["donor_id", "arm"], covariates="log_depth", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dw.tl.lmm(rows, formula, kernels=given, progress=False)
    pd.testing.assert_frame_equal(
        dw.get.tests(rows, sort_by=None)[["estimate", "p_value"]], dw.get.tests(adata, sort_by=None)[["estimate", "p_value"]],
        rtol=1e-6,
    )  # fmt: skip


def test_a_result_without_kernels_is_read_as_ever() -> None:
    adata = study()
    dw.tl.lmm(adata, "~ arm + (1 | donor_id)", progress=False)
    assert "kernels" not in adata.uns["lmm"] and read_results(adata, "lmm").kernels is None
