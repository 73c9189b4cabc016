"""Statistics that memory does not hold at once: in blocks of features to a file, group after group in a fit."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import donorwise as dw
from donorwise._core.engine.sources import CellSource
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

if TYPE_CHECKING:
    from pathlib import Path

BY = ["donor_id", "condition", "cell_type"]
FORMULA = "~ condition + log_depth + (1 | donor_id)"
OPTIONS: dict[str, Any] = {"covariates": "log_depth", "counts_layer": "counts", "progress": False}
BLOCK = 36 * 8 * (10 + 3 * 2 + 6) / 1e9  # GB for one feature in 36 rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore:Trying to modify attribute"),
]


@pytest.fixture
def cells() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_cells=2000, n_genes=110, seed=1)
    adata.obs["quality"] = np.random.default_rng(0).uniform(0.5, 2, adata.n_obs)
    adata.var["chosen"] = np.arange(adata.n_vars) % 3 > 0
    return adata


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("options", [{}, {"weights": "quality", "mask_var": "chosen"}], ids=["plain", "chosen"])
def test_blocks_of_features_are_the_whole(
    cells: ad.AnnData, tmp_path: Path, suffix: str, options: dict[str, Any]
) -> None:
    expected = dw.pp.collapse(cells, BY, **OPTIONS, **options)
    path = tmp_path / f"rows.{suffix}"
    path.write_text("an older file") if suffix == "h5ad" else path.mkdir()
    found = dw.pp.collapse(cells, BY, out=path, max_memory=30.5 * BLOCK, **OPTIONS, **options)
    read = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(read.X, expected.X)
    for name in expected.layers:
        np.testing.assert_array_equal(read.layers[name], expected.layers[name], err_msg=name)
    for name in expected.obsm:
        np.testing.assert_array_equal(read.obsm[name], expected.obsm[name], err_msg=name)
    pd.testing.assert_frame_equal(read.obs, expected.obs)
    pd.testing.assert_frame_equal(read.var, expected.var)
    for tool, formula in ((dw.tl.lmm, FORMULA), (dw.tl.pseudobulk, "~ condition")):
        for adata in (found, expected):
            tool(adata, formula, groupby="cell_type", progress=False)
        key = tool.__name__
        pd.testing.assert_frame_equal(dw.get.tests(found, key=key), dw.get.tests(expected, key=key))
    assert not isinstance(found.X, np.ndarray)


def test_some_rows_and_features_of_a_file(cells: ad.AnnData, tmp_path: Path) -> None:
    expected = dw.pp.collapse(cells, BY, **OPTIONS)
    found = dw.pp.collapse(cells, BY, out=tmp_path / "rows.zarr", **OPTIONS)
    for adata in (found, expected):
        some = adata[adata.obs["cell_type"] == adata.obs["cell_type"].cat.categories[0]]
        dw.tl.lmm(adata, FORMULA, mask_var="chosen", groupby="cell_type", progress=False)
        dw.tl.lmm(some, FORMULA, mask_var="chosen", key_added="one", progress=False)
        adata.uns["one"] = some.uns["one"]
    for key in ("lmm", "one"):
        pd.testing.assert_frame_equal(dw.get.tests(found, key=key), dw.get.tests(expected, key=key))


def test_an_interrupted_collapse_leaves_what_was_there(
    cells: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.h5ad"
    dw.pp.collapse(cells, BY, out=path, **OPTIONS)
    before = path.read_bytes()
    done = []

    def fail(*args: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return made(*args)

    module = import_module("donorwise.pp._collapse")
    made = module._collapse
    monkeypatch.setattr(module, "_collapse", fail)
    with pytest.raises(KeyboardInterrupt):
        dw.pp.collapse(cells, BY, out=path, max_memory=40 * BLOCK, **OPTIONS)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["rows.h5ad"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_memory": 40 * BLOCK}, "3 blocks of features"),
        ({"max_memory": 0.5 * BLOCK, "out": "rows.zarr"}, "does not hold the statistics of one feature"),
        ({"max_memory": 0}, "positive number of GB"),
        ({"max_memory": "4GB"}, "positive number of GB"),
        ({"out": "rows.csv"}, r"must end in .h5ad or .zarr"),
        ({"out": "nowhere/rows.zarr"}, "does not exist"),
    ],
)
def test_what_cannot_be(
    cells: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DonorwiseError, match=words):
        dw.pp.collapse(cells, BY, **OPTIONS, **change)
    assert not list(tmp_path.iterdir())


def test_a_source_is_not_overwritten(cells: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    with pytest.raises(DataError, match="the source itself"):
        dw.pp.collapse(path, BY, out=path, **OPTIONS)
    for backed in (ad.read_h5ad(path, backed="r"), ad.read_h5ad(path, backed="r")[:500]):
        with pytest.raises(DataError, match="the source itself"):
            dw.pp.collapse(backed, BY, out=path, **OPTIONS)
    assert ad.read_h5ad(path).n_obs == cells.n_obs
    with pytest.raises(DataError, match="one after another"):
        dw.pp.collapse([path, path], BY, out=tmp_path / "rows.zarr", **OPTIONS)


@pytest.mark.dask
def test_a_lazy_source_is_not_overwritten(cells: ad.AnnData, tmp_path: Path) -> None:
    pytest.importorskip("dask")
    pytest.importorskip("xarray")
    path = tmp_path / "cells.zarr"
    cells.write_zarr(path)
    with pytest.raises(DataError, match="may be what the dask arrays are read from"):
        dw.pp.collapse(ad.experimental.read_lazy(path), BY, out=path, **OPTIONS)
    assert ad.read_zarr(path).n_obs == cells.n_obs


def test_groups_of_a_fit_share_passes_as_memory_allows(cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    own = CellSource.statistics
    monkeypatch.setattr(
        CellSource, "statistics", lambda self, tasks, *more: passes.append(len(tasks)) or own(self, tasks, *more)
    )
    tables = []
    for max_memory in (None, 1.0, 1e-9):
        dw.tl.lmm(cells, FORMULA, groupby="cell_type", max_memory=max_memory, progress=False)
        tables.append([dw.get.tests(cells), dw.get.varcomp(cells), dict(cells.uns["lmm"]["params"])])
    assert passes == [3, 3, 1, 1, 1]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other[0], tables[0][0])
        pd.testing.assert_frame_equal(other[1], tables[0][1])
        assert other[2].keys() == tables[0][2].keys()
    with pytest.raises(DonorwiseError, match="positive number of GB"):
        dw.tl.lmm(cells, FORMULA, max_memory=-1.0, progress=False)


def test_a_group_is_warned_of_once(cells: ad.AnnData, tmp_path: Path) -> None:
    """Blocks of features repeat the work on obs, not its warnings."""
    with pytest.warns(DonorwiseWarning, match="leaves") as caught:
        dw.pp.collapse(
            cells, [*BY, "total_counts"], counts_layer="counts", out=tmp_path / "rows.h5ad", max_memory=0.01,
            progress=False,
        )  # fmt: skip
    assert sum(w.category is DonorwiseWarning for w in caught) == 1
