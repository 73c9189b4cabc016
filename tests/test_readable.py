"""Files and columns of other versions and packages: read, or refused in one sentence that names the place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests._batch import run

import donorwise as dw
from donorwise._anndata import open_source
from donorwise.errors import DataError, DesignError

FORMULA = "~ condition + (1 | donor_id)"


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=200, n_genes=8, seed=1)
    adata.obsm["pca"], adata.uns["note"] = np.zeros((200, 2)), {"deep": {"text": "x"}, "other": 1}
    return adata


def _tests(adata: ad.AnnData, formula: str = FORMULA, **options: Any) -> pd.DataFrame:
    dw.tl.lmm(adata, formula, progress=False, **options)
    return dw.get.tests(adata)


def _in_the_future(path: Path, cells: ad.AnnData, name: str) -> None:
    """Give an element an encoding that nobody knows yet."""
    if path.suffix == ".h5ad":
        cells.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            file[name].attrs["encoding-type"] = "from-the-future"
    else:
        zarr = pytest.importorskip("zarr")
        cells.write_zarr(path)
        zarr.open_group(str(path), mode="r+", use_consolidated=False)[name].attrs["encoding-type"] = "from-the-future"


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("name", ["uns/note/deep", "uns", "obs/age", "obsm/pca", "obsm", "layers/counts", "varm"])
def test_unknown_encodings_that_are_not_needed(
    cells: ad.AnnData, tmp_path: Path, name: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"x{suffix}"
    _in_the_future(path, cells, name)
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        found = open_source(path)
    said = [text for text in caplog.messages if "is left out" in text]
    assert len(said) == 1 and f"{path}: " in said[0] and "'from-the-future" in said[0]
    assert name.rpartition("/")[2] in said[0]
    unknown = ["log_fc"] if name == "uns" else []  # whose logarithm it is, uns said
    one, two = (_tests(adata).drop(columns=unknown) for adata in (found, cells.copy()))
    pd.testing.assert_frame_equal(one, two)
    if name == "uns/note/deep":
        assert found.uns["note"]["other"] == 1


@pytest.mark.parametrize(
    ("name", "formula", "words"),
    [
        ("obs/age", "~ age + (1 | donor_id)", "`age` is not a column"),
        ("X", FORMULA, "adata.X is empty"),
        ("obs", FORMULA, "has no table 'obs'"),
    ],
)
def test_unknown_encodings_that_are_needed(
    cells: ad.AnnData, tmp_path: Path, name: str, formula: str, words: str
) -> None:
    path = tmp_path / "x.h5ad"
    _in_the_future(path, cells, name)
    result = run("lmm", path, "--formula", formula, "--out", tmp_path / "r.csv")
    assert result.exit_code == 2
    assert f"{name} is stored as 'from-the-future" in result.stderr
    assert words in result.stderr.splitlines()[-1]


def _before_07(path: Path, cells: ad.AnnData) -> None:
    """Tables as structured arrays, categories in uns, a sparse matrix of its own kind."""
    matrix = sparse.csr_matrix(cells.X)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = b"csr", np.array(matrix.shape)
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name))
        obs = np.zeros(cells.n_obs, dtype=[("index", "S20"), ("donor_id", "i1"), ("condition", "i1")])
        obs["index"] = cells.obs_names.to_numpy().astype("S")
        for name in ("donor_id", "condition"):
            obs[name] = cells.obs[name].cat.codes
            file[f"uns/{name}_categories"] = np.array(list(cells.obs[name].cat.categories), dtype="S")
        var = np.zeros(cells.n_vars, dtype=[("index", "S20")])
        var["index"] = cells.var_names.to_numpy().astype("S")
        file["obs"], file["var"] = obs, var


def test_files_of_anndata_before_07(cells: ad.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.h5ad"
    _before_07(path, cells)
    with caplog.at_level(logging.WARNING, logger="donorwise"):
        found = open_source(path)
    assert "old.h5ad was written by anndata before 0.7, and is read into memory" in caplog.text
    columns = ["variable", "estimate", "se"]
    pd.testing.assert_frame_equal(_tests(found)[columns], _tests(cells.copy())[columns], check_categorical=False)
    with h5py.File(path, "r+") as file:
        del file["X/indptr"]
    with pytest.raises(DataError, match=r"old\.h5ad was written by anndata before 0\.7, and cannot be read"):
        open_source(path)


def test_values_in_two_dimensions(cells: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    adata = cells.copy()
    adata.X = sparse.csr_matrix(adata.X)
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        file["X/data"] = values[:, None]
    with pytest.raises(DataError, match=r"X cannot be read \(its data has 2 dimensions instead of one\)"):
        open_source(path)


def _arrow(kind: str) -> Callable[[pd.Series], pd.Series]:
    pa = pytest.importorskip("pyarrow")
    types = {
        "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "string": pa.string(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
    }  # fmt: skip
    return lambda column: column.astype(pd.ArrowDtype(types[kind]))


@pytest.mark.parametrize("kind", ["int", "float", "bool", "string", "dictionary", "half"])
@pytest.mark.parametrize("missing", [False, True])
def test_columns_of_pyarrow_and_half_floats(cells: ad.AnnData, tmp_path: Path, kind: str, missing: bool) -> None:
    """As a group, in the formula, in collapsed rows that are written: as the usual column does."""
    numbers = pd.Series(np.arange(cells.n_obs) % 2, index=cells.obs_names)
    plain = {"int": "Int64", "bool": "boolean", "string": object, "dictionary": "category"}.get(kind, float)
    texts = numbers.map({0: "low", 1: "high"}) if kind in ("string", "dictionary") else numbers
    usual, other = cells.copy(), cells.copy()
    usual.obs["g"] = texts.astype(bool).astype(plain) if kind == "bool" else texts.astype(plain)
    if missing:
        usual.obs.loc[usual.obs_names[:3], "g"] = np.nan if plain in (float, object) else pd.NA
    other.obs["g"] = usual.obs["g"].astype(np.float16) if kind == "half" else _arrow(kind)(usual.obs["g"])
    for options in ({"groupby": "g"}, {"formula": "~ g + (1 | donor_id)"}):
        one, two = (_tests(adata, **options) for adata in (usual, other))
        pd.testing.assert_frame_equal(two, one, check_categorical=False)
    rows = dw.pp.collapse(other, ["donor_id", "condition", "g"], progress=False)
    rows.write_h5ad(tmp_path / "rows.h5ad")
    expected = dw.pp.collapse(usual, ["donor_id", "condition", "g"], progress=False)
    np.testing.assert_allclose(ad.read_h5ad(tmp_path / "rows.h5ad").X, expected.X)


@pytest.mark.parametrize("groupby", [None, "cell_type"])
def test_calibrate_without_a_value(cells: ad.AnnData, groupby: str | None) -> None:
    adata = cells.copy()
    adata.X = np.zeros(adata.shape)
    options: dict[str, Any] = {"contrast": "condition[T.disease]", "groupby": groupby, "progress": False}
    with pytest.raises((DataError, DesignError), match="Nothing can be calibrated: .* none of 8 features.*constant"):
        dw.tl.calibrate(adata, FORMULA, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("out: true", "out takes one text or number, not True"),
        ("out: 2024-01-01", "out takes one text or number"),
        ("out: [a.csv, b.csv]", "out takes one text or number"),
        ("formula: {a: 1}", "formula takes one text or number"),
        ("contrast: [{a: 1}]", "contrast takes texts or numbers"),
        ("ml: sometimes", "ml is true or false, not 'sometimes'"),
        ("a: " + "[" * 5000, "is nested too deeply"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "is nested too deeply"),
    ],
)
def test_values_of_a_config(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    result = run("lmm", "--config", tmp_path / "run.yaml")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert len(result.stderr.splitlines()) == 1
