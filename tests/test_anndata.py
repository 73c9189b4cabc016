"""The slots: what is written survives files and subsets, what is asked for is found or named."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import donorwise as dw
from donorwise import _anndata as slots
from donorwise.errors import DataError, DesignError, DonorwiseWarning

GROUPS = ("T/NK cell", "B cell")
CONTRASTS = ("disease[T.MS]", "age")
PARAMS: dict[str, Any] = {
    "formula": "~ disease + age + (1 | donor_id)",
    "groupby": "cell_type",
    "donor": "donor_id",
    "response": "X",
    "reml": True,
    "n_cells": 40,
    "log_base": float("nan"),
    "contrasts": CONTRASTS,
    "nothing": [],
    "status_counts": {"ok": np.int64(3)},
    "reasons": {"T/NK cell": "2 donors are not enough"},
}


@pytest.fixture
def adata() -> ad.AnnData:
    """20 cells x 6 features, every kind of slot."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "donor_id": pd.Categorical(np.repeat(["d1", "d2", "d3", "d4"], 5)),
            "score": rng.normal(size=20),
            "flag": np.arange(20) % 2 == 0,
            "name": ["x"] * 20,
        },
        index=[f"c{i}" for i in range(20)],
    )
    counts = rng.poisson(2.0, size=(20, 6)).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(np.log1p(counts)), obs=obs)
    adata.var_names = [f"g{i}" for i in range(6)]
    adata.var["hvg"] = [True, False, True, True, False, False]
    adata.layers["counts"] = sp.csr_matrix(counts)
    adata.obsm["X_pca"] = rng.normal(size=(20, 3))
    adata.obsm["paths"] = pd.DataFrame({"up": rng.normal(size=20), "down": 1}, index=obs.index)
    adata.uns["log1p"] = {"base": None}
    return adata


def _tables(names: list[str]) -> dict[str, pd.DataFrame]:
    """The four tables of a result, as plain as an engine may hand them over."""
    full = pd.MultiIndex.from_product([names, GROUPS, CONTRASTS], names=["variable", "group", "contrast"])
    results = full.to_frame(index=False)
    numbers = ["estimate", "se", "ci_low", "ci_high", "statistic", "df", "p_value", "adj_p_value", "log_fc"]
    for i, column in enumerate(numbers):
        results[column] = np.linspace(i, i + 1, len(results))
    results.loc[0, "p_value"] = np.nan
    results["status"] = pd.Categorical(["ok"] * len(results), categories=["ok", "constant"])
    results["n_donors"], results["n_obs"] = 4, 20
    short = results.drop_duplicates(["variable", "group"])[["variable", "group"]].reset_index(drop=True)
    return {
        "results": results,
        "varcomp": short.assign(term="donor_id", column1="(Intercept)", column2="", variance=1.0, sd=1.0),
        "icc": short.assign(term="donor_id", icc=0.5),
        "variance_partition": short.assign(term="fixed", fraction=0.25),
    }


def _write(adata: ad.AnnData, **changed: Any) -> None:
    slots.write_results(adata, "lmm", params=PARAMS | changed, **_tables([*adata.var_names[:4]]))


def _through_file(adata: ad.AnnData, kind: str, folder: Path) -> ad.AnnData:
    if kind == "h5ad":
        adata.write_h5ad(folder / "a.h5ad")
        return ad.read_h5ad(folder / "a.h5ad")
    if kind == "zarr":
        adata.write_zarr(folder / "a.zarr")
        return ad.read_zarr(folder / "a.zarr")
    return adata.copy() if kind == "copy" else adata[:, :]


@pytest.mark.parametrize("kind", ["h5ad", "zarr", "copy", "view"])
def test_results_survive(adata: ad.AnnData, kind: str, tmp_path: Path) -> None:
    _write(adata)
    before, after = (slots.read_results(a) for a in (adata, _through_file(adata, kind, tmp_path)))
    for name in ("results", "varcomp", "icc", "variance_partition"):
        pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name))
    assert list(after.results["group"].cat.categories) == list(GROUPS)
    log_base = after.params.pop("log_base")
    assert np.isnan(log_base)
    family = {"method": "lmm", "observations": "cells", "link": "identity", "prior_on": "ratio"}  # where not said
    expected = PARAMS | family | {"contrasts": list(CONTRASTS), "status_counts": {"ok": 3}}
    assert after.params == {k: v for k, v in expected.items() if k != "log_base"}
    assert {k: type(v) for k, v in after.params.items()} == {k: type(v) for k, v in expected.items() if k != "log_base"}


@pytest.mark.parametrize("kind", ["view", "copy"])
def test_results_follow_features(adata: ad.AnnData, kind: str) -> None:
    _write(adata)
    kept = adata[::2, ["g5", "g3", "g1"]]
    table = slots.read_results(kept.copy() if kind == "copy" else kept).results
    assert list(table["variable"].cat.categories) == ["g1", "g3"]
    assert len(table) == 2 * len(GROUPS) * len(CONTRASTS)
    assert len(slots.read_results(adata).results) == 2 * len(table)
    adata.var_names = [f"ENSG{i}" for i in range(6)]
    with pytest.raises(DataError, match="renamed"):
        slots.read_results(adata)


def test_scores_do_not_follow_features(adata: ad.AnnData) -> None:
    _write(adata, response="obsm/X_pca")
    adata.var_names = [f"ENSG{i}" for i in range(6)]
    assert len(slots.read_results(adata).results) == 4 * len(GROUPS) * len(CONTRASTS)


@pytest.mark.parametrize(
    ("key", "changed", "message"),
    [
        ("a/b", {}, "without '/'"),
        ("", {}, "without '/'"),
        ("donorwise", {}, "settings"),
        ("lmm", {"bad": None}, "'bad' cannot be stored"),
        ("lmm", {"bad": ["a", 1]}, "'bad' mixes types"),
    ],
)
def test_refused_writes_change_nothing(adata: ad.AnnData, key: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        slots.write_results(adata, key, params=PARAMS | changed, **_tables(["g0"]))
    assert list(adata.uns) == ["log1p"]


def test_a_new_result_removes_what_came_of_the_old_one(adata: ad.AnnData) -> None:
    _write(adata)
    hits = slots.read_results(adata).results[["variable", "group", "contrast"]].assign(max_p_loo=0.5)
    slots.write_influence(adata, "lmm", hits=hits, donors=hits, params={"alpha": 0.05})
    slots.write_power(adata, "lmm", hits)
    adata.uns["other_power"] = adata.uns["lmm_power"]
    _write(adata)
    assert sorted(adata.uns) == ["lmm", "log1p", "other_power"]
    adata.uns["lmm_power"] = {"mine": 1}
    _write(adata)
    assert adata.uns["lmm_power"] == {"mine": 1}


@pytest.mark.parametrize("entry", [{"params": {}, "mine": 1}, "text", np.arange(3)])
def test_entries_of_others_are_not_overwritten(adata: ad.AnnData, entry: Any) -> None:
    adata.uns["lmm"] = entry
    with pytest.raises(DataError, match=r"uns\['lmm'\] holds something that this package did not write.*key_added"):
        _write(adata)
    assert adata.uns["lmm"] is entry


@pytest.mark.parametrize("name", ["lmm", "pseudobulk", "calibrate"])
def test_tools_refuse_taken_keys_before_any_work(cohort: ad.AnnData, name: str) -> None:
    cohort.uns["taken"] = {"mine": 1}
    formula = "~ condition" if name == "pseudobulk" else "~ condition + (1 | donor_id)"
    rest = ("condition[T.disease]",) if name == "calibrate" else ()
    tool = getattr(dw.tl, name)
    with pytest.raises(DataError, match="choose another key_added"):
        tool(cohort, "~ nonsense +", *rest, key_added="taken", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        for _ in range(2):  # its own result may be replaced
            tool(cohort, formula, *rest, key_added="mine", progress=False)


def test_missing_result(adata: ad.AnnData) -> None:
    with pytest.raises(DataError, match=r"run dw\.tl\.lmm first"):
        slots.read_results(adata)
    _write(adata)
    with pytest.raises(DataError, match="'lmn'.*'lmm'"):
        slots.read_results(adata, "lmn")
    assert slots.list_results(adata) == ["lmm"]


@pytest.mark.parametrize(
    ("options", "text", "variables", "features", "log_base"),
    [
        ({}, "X", ["g0", "g1", "g2", "g3", "g4", "g5"], None, np.e),
        ({"mask_var": "hvg"}, "X", ["g0", "g2", "g3"], [0, 2, 3], np.e),
        ({"mask_var": [False] * 5 + [True]}, "X", ["g5"], [5], np.e),
        ({"layer": "counts"}, "layers/counts", ["g0", "g1", "g2", "g3", "g4", "g5"], None, np.nan),
        ({"obsm": "X_pca"}, "obsm/X_pca", ["X_pca_1", "X_pca_2", "X_pca_3"], None, np.nan),
        ({"obsm": "paths"}, "obsm/paths", ["up", "down"], None, np.nan),
        ({"obs_keys": ["score", "flag"]}, "obs", ["score", "flag"], None, np.nan),
        ({"obs_keys": "score"}, "obs", ["score"], None, np.nan),
    ],
)
def test_response(
    adata: ad.AnnData,
    options: dict[str, Any],
    text: str,
    variables: list[str],
    features: list[int] | None,
    log_base: float,
) -> None:
    response = slots.resolve_response(adata, **options)
    assert (response.text, list(response.variables)) == (text, variables)
    assert (None if response.features is None else list(response.features)) == features
    assert response.aligned_to_var == (text == "X" or text.startswith("layers/"))
    np.testing.assert_equal(response.log_base, log_base)
    values = slots.column_values(response)
    assert values.shape == (20, len(variables))
    again = slots.column_values(slots.response_of(adata, text, variables[-1:]))
    np.testing.assert_array_equal(again[:, 0], values[:, -1])


@pytest.mark.parametrize(
    ("noted", "log_base"),
    [({"base": None}, np.e), ({}, np.e), ({"base": 2}, 2.0), (None, np.nan)],
)
def test_log_base(adata: ad.AnnData, noted: dict[str, Any] | None, log_base: float) -> None:
    del adata.uns["log1p"]
    if noted is not None:
        adata.uns["log1p"] = noted
    np.testing.assert_equal(slots.resolve_response(adata).log_base, log_base)
    adata.X = adata.X.toarray() - 1.0
    assert np.isnan(slots.resolve_response(adata).log_base), "log1p values are never negative"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "counts", "obsm": "X_pca"}, "at most one of layer=, obsm= and obs_keys=, not layer and obsm"),
        ({"layer": "count"}, "no layer 'count'. Did you mean 'counts'\\? layer=None takes X"),
        ({"layer": "raw_counts"}, "no layer 'raw_counts'.*Raw counts are in layer='counts'; layer=None takes X"),
        ({"obsm": "scores"}, "no 'scores'. There are: 'X_pca', 'paths'"),
        ({"obs_keys": ["score", "donor_id", "name"]}, "of obs are not: 'donor_id', 'name'"),
        ({"obs_keys": ["scor"]}, "no column 'scor'. Did you mean 'score'"),
        ({"obs_keys": []}, "No features are selected"),
        ({"obs_keys": ["score", "score"]}, "Names repeat in obs_keys: 'score'"),
        ({"obs_keys": ["score"], "mask_var": "hvg"}, "no meaning with obs_keys="),
        ({"mask_var": "hvgs"}, "no column 'hvgs'. Did you mean 'hvg'"),
        ({"mask_var": [True]}, "1 entries for 6 features"),
        ({"mask_var": [0, 1, 0, 1, 0, 1]}, "must be boolean"),
        ({"mask_var": np.zeros(6, dtype=bool)}, "No features are selected"),
    ],
)
def test_refused_response(adata: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, DesignError), match=message):
        slots.resolve_response(adata, **options)


def test_a_missing_layer_of_counts(adata: ad.AnnData) -> None:
    """Where the counts are is said; adata.raw is never used unasked."""
    counts = adata.layers.pop("counts")
    log_values, expected = adata.X, "The AnnData has no layers. layer=None takes X"
    with pytest.raises(DataError, match=f"{expected}, which does not hold raw counts\\.$"):
        slots.resolve_response(adata, layer="counts")
    adata.X = counts
    with pytest.raises(DataError, match="X holds raw counts: layer=None takes it"):
        slots.resolve_response(adata, layer="counts")
    adata.raw = adata.copy()
    adata.X = log_values
    with pytest.raises(DataError, match=r"adata\.raw does: (.*) makes them a layer") as error:
        slots.resolve_response(adata, layer="counts")
    exec(str(error.value).split("does: ")[1].removesuffix(" makes them a layer."))
    assert (slots.resolve_response(adata, layer="counts").matrix != counts).nnz == 0


def test_refused_matrices(adata: ad.AnnData) -> None:
    with pytest.raises(DataError, match="adata.X is empty.*Layers: 'counts'"):
        slots.resolve_response(ad.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.layers["counts"]}))
    with pytest.raises(DataError, match="no cells"):
        slots.resolve_response(adata[:0])
    adata.var_names = ["g0", "g1", "g1", "g3", "g3", "g5"]
    with pytest.raises(DataError, match=r"'g1', 'g3'\. Call adata\.var_names_make_unique\(\)"):
        slots.resolve_response(adata)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.coo_matrix])
@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 3, 2], True), ([0, 1, 1, 0], False), ([0.5, 3, 1, 0], False), ([-1, 3, 1, 0], False), ([0] * 4, False)],
)
def test_looks_like_counts(container: Any, values: list[float], expected: bool) -> None:
    matrix = np.tile(np.array(values, dtype=np.float32).reshape(2, 2), (300, 300))
    assert slots.looks_like_counts(container(matrix)) is expected


def test_obs_frame(adata: ad.AnnData) -> None:
    frame = slots.obs_frame(adata, ["score", "donor_id", "score"])
    assert list(frame.columns) == ["score", "donor_id"]
    frame["score"] = 0.0
    assert adata.obs["score"].abs().sum() > 0
    assert list(slots.obs_frame(adata).columns) == list(adata.obs.columns)
    with pytest.raises(DesignError, match="Did you mean 'donor_id'"):
        slots.obs_frame(adata, ["donor"])


def test_donor_summary(adata: ad.AnnData) -> None:
    adata.obs.loc["c0", "donor_id"] = np.nan
    table = slots.donor_summary(adata, "g2", donor="donor_id", condition="flag", response="layers/counts")
    chosen = (adata.obs["donor_id"] == "d1") & ~adata.obs["flag"]
    values = adata.layers["counts"].toarray()[chosen.to_numpy(), 2]
    row = table[(table["donor"] == "d1") & ~table["condition"].astype(bool)].iloc[0]
    assert row["group"] == "all"
    assert table["n_cells"].sum() == 19
    np.testing.assert_allclose(
        row[["n_cells", "mean", "sd", "detection"]].to_numpy(dtype=float),
        [len(values), values.mean(), values.std(ddof=1), (values > 0).mean()],
    )
