"""Matrices that are not in memory: the same numbers as in memory, whatever the file, the chunks and the workers."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

import donorwise as dw
from donorwise._anndata import cell_depth, column_values, open_source, resolve_response, response_of
from donorwise._anndata.sources import matrix_of
from donorwise._core.cells import matrices, stream
from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.matrices import missing_patterns
from donorwise._core.cells.measures import Collapsed
from donorwise._core.cells.readers import DaskBlocks, open_reader
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.threads import Budget, can_inflate, inflate
from donorwise.errors import DataError

N, G, K = 211, 17, 5
RTOL = 1e-10
KINDS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.ascontiguousarray}
CELLS = ["~ condition + (1 | donor_id)", "~ condition + depth + (1 | donor_id)"]


def values(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dense = (rng.poisson(0.6, (N, G)) * rng.uniform(0.2, 3.0, (N, G))).astype(np.float32)
    dense[:, 0], dense[:, 1] = 0, 7
    dense[40:60] = 0  # chunks without a stored value
    return dense


def written(matrix, folder: Path, file: str, compression: str = "gzip"):
    """The matrix as a handle of a file."""
    adata = ad.AnnData(matrix, var=pd.DataFrame(index=[f"g{j}" for j in range(matrix.shape[1])]))
    if file == "h5ad":
        adata.write_h5ad(folder / "x.h5ad", compression=compression)
    else:
        adata.write_zarr(folder / "x.zarr")
    return open_source(folder / f"x.{file}").X


def dask_array(matrix, rows: tuple[int, ...], columns: tuple[int, ...]):
    da = pytest.importorskip("dask.array")
    dask = pytest.importorskip("dask")
    r, c = (np.cumsum([0, *sizes]) for sizes in (rows, columns))
    blocks = [
        [
            da.from_delayed(
                dask.delayed(matrix[a:b, p:q]), shape=(b - a, q - p), dtype=matrix.dtype, meta=matrix[:0, :0]
            )
            for p, q in zip(c[:-1], c[1:], strict=True)
        ]
        for a, b in zip(r[:-1], r[1:], strict=True)
    ]
    return (
        da.block(blocks)
        if isinstance(matrix, np.ndarray)
        else da.concatenate([da.concatenate(row, axis=1) for row in blocks], axis=0)
    )


DASK = {
    "row blocks": ((100, 0, 7, 104), (G,)),
    "row and column blocks": ((100, 111), (3, 10, 4)),
    "column blocks": ((N,), (3, 10, 4)),
    "one block": ((N,), (G,)),
}
SOURCES = {f"{kind} {file}": (kind, file) for kind in KINDS for file in ("h5ad", "zarr")} | {
    f"{kind} dask {blocks}": (kind, blocks) for kind in KINDS for blocks in DASK
}


def make(source: str, folder: Path, dense: np.ndarray):
    """The matrix in memory and not in memory."""
    kind, how = SOURCES[source]
    matrix = KINDS[kind](dense)
    return matrix, (dask_array(matrix, *DASK[how]) if how in DASK else written(matrix, folder, how))


def assert_equal(actual: Collapsed, expected: Collapsed, *, exact: bool = False) -> None:
    for field in fields(Collapsed):
        got, wanted = getattr(actual, field.name), getattr(expected, field.name)
        scale = 0.0 if exact else RTOL * np.maximum(np.abs(wanted), np.abs(wanted).max(initial=0) * 1e-3)
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        assert (np.abs(got - wanted) <= scale).all(), field.name


@pytest.mark.parametrize("options", ["", "weights covariates features"])
@pytest.mark.parametrize("source", [pytest.param(s, marks=pytest.mark.dask if " dask " in s else ()) for s in SOURCES])
def test_every_source_equals_the_matrix_in_memory(tmp_path, source, options):
    rng = np.random.default_rng(1)
    matrix, stored = make(source, tmp_path, values())
    codes = rng.integers(-1, K - 1, N)
    chosen = {
        "weights": rng.uniform(0.3, 3.0, N) if "weights" in options else None,
        "covariates": rng.normal([0.0, 2020.0], [1.0, 2.0], (N, 2)) if "covariates" in options else None,
        "features": rng.permutation(G)[:6] if "features" in options else None,
    }
    expected = collapse(matrix, codes, K, **chosen)
    whole = collapse(stored, codes, K, **chosen)
    assert_equal(whole, expected)
    for chunk_size, n_jobs in ((1, 1), (7, 2), (1000, 1)):
        assert_equal(collapse(stored, codes, K, chunk_size=chunk_size, n_jobs=n_jobs, **chosen), whole, exact=True)


def rebuilt(matrix, how: str):
    """Arrays of the same matrix stored in a less usual way."""
    data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
    if how == "int64":
        return data, indices.astype(np.int64), indptr.astype(np.int64)
    if how == "int64 indptr":
        return data, indices, indptr.astype(np.int64)
    twice = how == "duplicates"
    rows = [slice(a, b) for a, b in zip(indptr[:-1], indptr[1:], strict=True)]
    new_i = [np.concatenate([indices[r], indices[r]]) if twice else indices[r][::-1] for r in rows]
    new_d = [np.concatenate([data[r] / 2, data[r] / 2]) if twice else data[r][::-1] for r in rows]
    return np.concatenate(new_d), np.concatenate(new_i), indptr * 2 if twice else indptr


@pytest.mark.parametrize("how", ["int64", "int64 indptr", "unsorted", "duplicates"])
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_unusual_sparse_files(tmp_path, kind, how):
    matrix = KINDS[kind](values())
    stored = written(matrix, tmp_path, "h5ad")
    stored.group.file.close()
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        for name, array in zip(("data", "indices", "indptr"), rebuilt(matrix, how), strict=True):
            del file["X"][name]
            file["X"][name] = array
    codes = np.arange(N) % K
    rng = np.random.default_rng(0)
    chosen = {"weights": rng.uniform(0.5, 2, N), "covariates": rng.normal(size=(N, 1))}
    found = [collapse(open_source(tmp_path / "x.h5ad").X, codes, K, chunk_size=c, **chosen) for c in (None, 4)]
    assert_equal(found[0], collapse(matrix, codes, K, **chosen))
    assert_equal(found[1], found[0], exact=True)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_open_the_file_give_the_same(tmp_path, monkeypatch, kind):
    stored = written(KINDS[kind](values()), tmp_path, "h5ad", compression="lzf")
    codes = np.arange(N) % K
    folders = []
    make_folder = stream._folder
    monkeypatch.setattr(stream, "_folder", lambda n: folders.append(make_folder(n)) or folders[-1])
    found = collapse(stored, codes, K, chunk_size=5, n_jobs=2, budget=Budget(process_bytes=0))
    assert_equal(found, collapse(stored, codes, K), exact=True)
    assert len(folders) == 1 and not Path(folders[0]).exists()


def test_large_patterns_and_the_plan_of_chunks(tmp_path):
    """Segments are those of the matrix in memory; chunks hold about so many bytes and skip what nobody uses."""
    budget = Budget(segment_rows=4, chunk_bytes=400)
    stored = written(sparse.csr_matrix(values()), tmp_path, "h5ad")
    codes = np.where(np.arange(N) < 100, -1, np.arange(N) % 2)
    found, wanted = (collapse(matrix, codes, 2, budget=budget) for matrix in (stored, stored.to_memory()))
    assert_equal(found, wanted, exact=True)
    reader = open_reader(stored)
    cost = reader.cost(0, N)
    for items in (2**20, 30):  # how many are planned together
        few = budget._replace(plan_items=items)
        ranges, n_bytes = stream.cut_ranges(reader, lambda low, high: codes[low:high] >= 0, budget=few)
        assert len(ranges) > 5 and ranges[0][1] > 100 and ranges[-1][1] == N
        assert n_bytes == sum(cost[low:high].sum() for low, high in ranges) >= cost[100:].sum()
        assert all(cost[low:high].sum() <= 400 + cost.max() for low, high in ranges)


@pytest.mark.parametrize("together", [3, 4, 2**20])
def test_chunks_end_where_a_matrix_can_be_cut(monkeypatch, together):
    budget = Budget(plan_items=together)
    blocks = DaskBlocks(np.zeros((10, 3)), (10, 3), False, np.array([0, 5, 10]))
    monkeypatch.setattr(DaskBlocks, "cost", lambda self, low, high: np.ones(high - low, dtype=int))
    assert stream.cut_ranges(blocks, lambda low, high: np.arange(low, high) < 10, 4, budget)[0] == [(0, 5), (5, 10)]
    assert stream.cut_ranges(blocks, lambda low, high: np.arange(low, high) < 5, 4, budget) == ([(0, 5)], 5)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"shuffle": True, "compression": "gzip", "dtype": ">f4"},
        {"compression": "gzip", "maxshape": (None, None)},
    ],
)
@pytest.mark.parametrize("shape", [(1000,), (103, 37)])
def test_what_is_decompressed_here_is_what_hdf5_reads(tmp_path, shape, options):
    options = options | ({"maxshape": (None,) * len(shape)} if "maxshape" in options else {})
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        element = file.create_dataset("x", shape, chunks=(64, 10)[: len(shape)], **({"dtype": "f4"} | options))
        element[: shape[0] // 2] = rng.poisson(0.5, (shape[0] // 2, *shape[1:]))  # the rest is never written
        assert not can_inflate(element)  # somebody may be writing
    with h5py.File(tmp_path / "x.h5", "r") as file:
        assert can_inflate(file["x"])
        for low, high in ((0, shape[0]), (3, 65), (64, 70), (10, 10), (shape[0] - 1, shape[0])):
            found = inflate(file["x"], slice(low, high))
            np.testing.assert_array_equal(found, file["x"][low:high])
            assert found.dtype == file["x"].dtype


@pytest.mark.parametrize("options", [{}, {"compression": "lzf"}, {"compression": "gzip", "fletcher32": True}])
def test_what_is_left_to_hdf5(tmp_path, options):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.arange(1000.0), **options)
    with h5py.File(tmp_path / "x.h5", "r") as file:
        assert not can_inflate(file["x"])


def test_no_more_than_a_few_chunks_are_held(tmp_path, monkeypatch):
    """Reading waits for the pass."""
    reader = open_reader(written(sparse.csr_matrix(values()), tmp_path, "h5ad"))
    loaded = []
    load = type(reader).load
    monkeypatch.setattr(type(reader), "load", lambda self, *at: loaded.append(at) or load(self, *at))
    for done, _ in enumerate(stream.fetch(reader, [(i, i + 1) for i in range(50)], n_jobs=1, n_bytes=0)):
        assert len(loaded) <= done + 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["h5ad", "zarr"])
def test_rows_and_columns_of_a_file(tmp_path, kind, file):
    dense = values()
    rows, columns = np.random.default_rng(2).permutation(N)[:90], np.array([5, 2, 11, 1])
    stored = Stored(written(KINDS[kind](dense), tmp_path, file), rows, columns)
    part = dense[np.ix_(rows, columns)]
    codes, weights = np.arange(90) % K, np.linspace(1, 2, 90)
    assert stored.shape == part.shape and stored.dtype == np.float32
    for features in (None, [2, 0]):
        expected = collapse(part, codes, K, weights=weights, features=features, covariates=weights[:, None])
        found = collapse(
            stored, codes, K, weights=weights, features=features, covariates=weights[:, None], chunk_size=9
        )
        assert_equal(found, expected)
    np.testing.assert_allclose(matrices.row_sums(stored), part.sum(axis=1, dtype=float), rtol=1e-12)
    np.testing.assert_array_equal(matrices.read_columns(stored, np.array([3, 1])), part[:, [3, 1]])
    assert sum(v.sum(dtype=float) for v in matrices.stored_values(stored)) == pytest.approx(dense.sum(dtype=float))
    assert missing_patterns(stored, [1, 3])[0][0].tolist() == [1, 3]
    with pytest.raises(DataError, match="selected twice"):
        Stored(stored.matrix, np.array([0, 0]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    dense = values()
    dense[3, 4] = value
    for kind in KINDS:
        with pytest.raises(DataError, match="1 of 17 features hold NaN.*'g4'.*in memory"):
            stored = written(KINDS[kind](dense), tmp_path, "h5ad")
            collapse(stored, np.zeros(N, dtype=int), 1, names=[f"g{j}" for j in range(G)])
        stored.group.file.close() if kind != "dense" else stored.file.close()


@pytest.fixture
def cells(cohort):
    """A cohort with a cell-level covariate, weights, a mask and a layer of its own."""
    rng = np.random.default_rng(0)
    cohort.obs["depth"] = rng.normal(size=cohort.n_obs)
    cohort.obs["w"] = rng.uniform(0.5, 2.0, cohort.n_obs)
    cohort.var["chosen"] = np.arange(cohort.n_vars) % 3 > 0
    return cohort


def sources_of(adata, folder: Path, kind: str) -> dict[str, ad.AnnData]:
    """The same AnnData backed and lazy, cut from a larger one as well."""
    adata = adata.copy()
    adata.X = KINDS[kind](adata.X.toarray() if sparse.issparse(adata.X) else adata.X)
    adata.write_h5ad(folder / f"{kind}.h5ad")
    adata.write_zarr(folder / f"{kind}.zarr")
    found = {file: open_source(folder / f"{kind}.{file}") for file in ("h5ad", "zarr")}
    return found | {"backed": ad.read_h5ad(folder / f"{kind}.h5ad", backed="r")}


def assert_same_results(one: ad.AnnData, other: ad.AnnData) -> None:
    a, b = (dw.get.tests(x) for x in (one, other))
    assert list(a["variable"].astype(str)) == list(b["variable"].astype(str))
    for column in ("estimate", "se", "statistic", "df", "p_value", "log_fc", "n_obs"):
        np.testing.assert_allclose(b[column], a[column], rtol=1e-9, atol=1e-14, err_msg=column)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
def test_lmm_takes_every_source(cells, tmp_path, kind):
    calls = [
        {"formula": CELLS[0], "groupby": "cell_type"},
        {"formula": CELLS[1], "weights": "w", "mask_var": "chosen"},
    ]
    found = sources_of(cells, tmp_path, kind)
    keep = np.random.default_rng(1).random(cells.n_obs) < 0.6
    for call in calls:
        options = call | {"ddf": "kenward-roger", "progress": False}
        formula = options.pop("formula")
        expected, part = cells.copy(), cells[keep, 3:40].copy()
        dw.tl.lmm(expected, formula, **options)
        dw.tl.lmm(part, formula, **options)
        for adata in found.values():
            dw.tl.lmm(adata, formula, **options)
            assert_same_results(expected, adata)
            if "groupby" not in call:
                continue
            view = adata[keep, 3:40]
            response = resolve_response(view)
            assert isinstance(response.matrix, Stored) and response.matrix.shape == part.shape
            dw.tl.lmm(view, formula, **options)
            assert_same_results(part, view)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("file", ["h5ad", "zarr"])
def test_other_tools_take_files_and_views_of_them(cells, tmp_path, file):
    """Results in a view of a file do not make it read the matrix; its parent keeps what it had."""
    getattr(cells, f"write_{file}")(tmp_path / f"a.{file}")
    keep = cells.obs["donor_id"] != cells.obs["donor_id"].cat.categories[-1]
    stored = open_source(tmp_path / f"a.{file}")
    for one, other in ((cells.copy(), stored), (cells[keep].copy(), stored[keep.to_numpy()])):
        for adata in (one, other):
            dw.tl.lmm(adata, CELLS[0], ddf="kenward-roger", progress=False)
            dw.tl.influence(adata, progress=False)
            dw.tl.pseudobulk(adata, "~ condition", layer="counts", progress=False)
        assert_same_results(one, other)
        a, b = (dw.get.tests(x, key="pseudobulk") for x in (one, other))
        np.testing.assert_allclose(b["p_value"], a["p_value"], rtol=1e-9)
        pd.testing.assert_frame_equal(dw.get.influence(one), dw.get.influence(other), rtol=1e-8)
    assert other.is_view and stored.uns["lmm"]["params"]["n_cells"] == cells.n_obs


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.dask
def test_lazy_anndata(cells, tmp_path, kind):
    pytest.importorskip("dask")
    pytest.importorskip("xarray")
    sources_of(cells, tmp_path, kind)
    lazy = ad.experimental.read_lazy(tmp_path / f"{kind}.zarr")
    options = {"ddf": "kenward-roger", "progress": False, "mask_var": "chosen"}
    dw.tl.lmm(cells, CELLS[1], **options)
    response = resolve_response(lazy, mask_var="chosen")
    found = collapse(response.matrix, np.zeros(cells.n_obs, dtype=int), 1, features=response.features)
    chosen = cells[:, cells.var["chosen"]].X
    np.testing.assert_allclose(found.mean[0], np.ravel(chosen.mean(axis=0)), rtol=1e-6)
    dw.tl.lmm(lazy, CELLS[1], **options)
    assert_same_results(cells, lazy)


@pytest.mark.filterwarnings("ignore::donorwise.errors.DonorwiseWarning")
@pytest.mark.dask
def test_what_a_lazy_anndata_says_of_itself(cells, tmp_path):
    """Roles and colours in uns, and what rows were collapsed from, are dask arrays there."""
    pytest.importorskip("dask")
    pytest.importorskip("xarray")
    cells.donorwise.setup(donor="donor_id")
    cells.uns["condition_colors"] = ["#111111", "#222222"]
    rows = dw.pp.collapse(cells, ["donor_id", "condition"], progress=False)
    for name, adata in (("cells", cells), ("rows", rows)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    lazy_cells, lazy_rows = (ad.experimental.read_lazy(tmp_path / f"{name}.h5ad") for name in ("cells", "rows"))
    own = dw.pp.collapse(lazy_cells, ["donor_id", "condition"], progress=False)
    assert own.uns["donorwise"] == rows.uns["donorwise"]
    assert list(own.uns["condition_colors"]) == ["#111111", "#222222"]
    for adata in (rows, lazy_rows):
        dw.tl.lmm(adata, "~ condition + (1 | donor_id)", ddf="kenward-roger", progress=False)
    assert_same_results(rows, lazy_rows)
    merged = dw.pp.merge_collapsed([lazy_rows, rows])
    assert merged.obs["n_cells"].sum() == 2 * cells.n_obs


def test_only_a_few_places_are_read_before_the_pass(cells, tmp_path, monkeypatch):
    """The checks of the values, and the depth, need a sample; columns can be had from any source."""
    for kind, adata in ((k, a) for k in KINDS for a in sources_of(cells, tmp_path, k).values()):
        matrix = matrix_of(adata)
        read = []
        reader = type(open_reader(matrix.matrix))
        load = reader.load
        with monkeypatch.context() as patch:
            patch.setattr(reader, "load", lambda self, *at, load=load, read=read: read.append(at) or load(self, *at))
            sampled = matrices.sample_values(matrix, 800)
            assert sum(high - low for low, high in read) <= 0.2 * max(matrix.shape)
        assert 0 < len(sampled) <= 2000
        assert np.isin(
            sampled, np.append(np.ravel(cells.X.toarray() if sparse.issparse(cells.X) else cells.X), 0)
        ).all()
        names = list(cells.var_names[[4, 2]])
        expected = column_values(response_of(cells, "X", names))
        np.testing.assert_array_equal(column_values(response_of(adata, "X", names)), expected)
        sums = matrices.sample_row_sums(matrix, n_rows=5, n_places=10)
        if kind == "csc":
            assert sums is None
        else:
            seen = np.isfinite(sums)
            assert seen.sum() == 50
            np.testing.assert_allclose(sums[seen], np.ravel(cells.X.sum(axis=1, dtype=float))[seen], rtol=1e-6)


def test_every_kind_of_view_keeps_its_rows(cells, tmp_path):
    dense = cells.X.toarray() if sparse.issparse(cells.X) else cells.X
    found = sources_of(cells, tmp_path, "csr")
    for rows in (slice(-90, None), slice(None, None, -3), np.array([5, 2, 400]), slice(3, 9)):
        for adata in (found["backed"], found["zarr"]):
            view = matrix_of(adata[rows, [adata.var_names[3], adata.var_names[1]]])
            assert isinstance(view, Stored)
            np.testing.assert_array_equal(matrices.read_columns(view), dense[rows][:, [3, 1]])
            sums = matrices.row_sums(matrix_of(adata[rows]))
            np.testing.assert_allclose(sums, dense[rows].sum(axis=1, dtype=float), rtol=1e-6)


def test_depth_of_counts_in_a_file(cells, tmp_path):
    counts = ad.AnnData(sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (500, 30)).astype(np.float32)))
    counts.write_h5ad(tmp_path / "c.h5ad")
    depth = cell_depth(open_source(tmp_path / "c.h5ad")[100:400])
    np.testing.assert_allclose(depth, np.ravel(counts.X[100:400].sum(axis=1)))


def test_a_copy_of_a_file_is_refused(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    whole = open_source(tmp_path / "cells.h5ad")
    for adata in (whole, whole[:200], ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")):
        with pytest.raises(DataError, match=r"copy=True would read the whole matrix.*to_memory"):
            dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False, copy=True)


def test_open_source_reads_no_matrix(cells, tmp_path):
    cells.layers["other"] = cells.X.copy()
    cells.obsm["scores"] = np.arange(2.0 * cells.n_obs).reshape(-1, 2)
    cells.uns["note"] = "kept"
    cells.write_h5ad(tmp_path / "a.h5ad")
    cells.write_zarr(tmp_path / "a.zarr")
    for name in ("a.h5ad", "a.zarr"):
        adata = open_source(tmp_path / name)
        assert isinstance(matrix_of(adata), Stored) and isinstance(matrix_of(adata, "other"), Stored)
        pd.testing.assert_frame_equal(adata.obs, cells.obs)
        assert adata.uns["note"] == "kept" and adata.obsm["scores"].shape == (cells.n_obs, 2)
        assert adata.var_names.equals(cells.var_names)


def damage(path: Path, how: str) -> Path:
    """A file as an interrupted copy or a bad disk leaves it."""
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "not a file":
        path.write_text("cells")
    elif how == "obs missing":
        with h5py.File(path, "r+") as file:
            del file["obs"]
    elif how == "no data":
        with h5py.File(path, "r+") as file:
            del file["X/data"]
    elif how == "short data":
        with h5py.File(path, "r+") as file:
            data = file["X/data"][:50]
            del file["X/data"]
            file["X/data"] = data
    elif how == "bad indices":
        with h5py.File(path, "r+") as file:
            file["X/indices"][7] = 10**6
    elif how == "bad chunk":
        with h5py.File(path, "r+") as file:
            file["X/data"].id.write_direct_chunk((0,), b"not compressed at all")
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "x.h5ad: the file cannot be read"),
        ("not a file", "x.h5ad: the file cannot be read"),
        ("obs missing", "x.h5ad has no table 'obs'"),
        ("no data", r"x.h5ad: X cannot be read \(it has no data\)"),
        ("short data", r"x.h5ad: /X/indptr does not fit a matrix of 211 x 17 with 50 stored"),
        ("bad indices", r"x.h5ad: /X: indices lie outside 0 to 16"),
        ("bad chunk", r"x.h5ad: /X: rows 0 to 211 cannot be read"),
    ],
)
def test_damaged_h5ad(tmp_path, how, message):
    written(sparse.csr_matrix(values()), tmp_path, "h5ad").group.file.close()
    path = damage(tmp_path / "x.h5ad", how)
    with pytest.raises(DataError, match=message):
        collapse(open_source(path).X, np.zeros(N, dtype=int), 1)


@pytest.mark.parametrize(
    ("element", "how", "message"),
    [
        ("obs", "removed", "x.zarr has no table 'obs'"),
        ("X/indptr", "removed", r"x.zarr: X cannot be read \(it has no indptr\)"),
        ("X/data", "chunks removed", r"x.zarr: /X/data: 1 of 1 chunks are missing"),
        ("X/data", "chunks cut", r"x.zarr: /X: rows 0 to 211 cannot be read"),
    ],
)
def test_damaged_zarr(tmp_path, element, how, message):
    written(sparse.csr_matrix(values()), tmp_path, "zarr")
    path = tmp_path / "x.zarr"
    if how == "removed":
        shutil.rmtree(path / element)
        for notes in path.rglob(".zmetadata"):
            notes.unlink()
    else:
        chunks = [
            p for p in (path / element).rglob("*") if p.is_file() and p.name not in (".zarray", ".zattrs", "zarr.json")
        ]
        assert chunks
        for chunk in chunks:
            chunk.unlink() if how == "chunks removed" else chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(DataError, match=message):
        collapse(open_source(path).X, np.zeros(N, dtype=int), 1)


@pytest.mark.parametrize(
    "matrix",
    [
        sparse.csr_matrix((N, 3)),
        sparse.csc_matrix((N, 3)),
        sparse.csr_matrix(values()[:, :1]),
        sparse.csc_matrix([[1, 2]]),
    ],
    ids=["nothing stored", "nothing stored, by columns", "one feature", "one cell, by columns"],
)
def test_chunks_of_zeros_that_zarr_does_not_write(tmp_path, matrix):
    stored = written(matrix, tmp_path, "zarr")
    got = collapse(stored, np.zeros(matrix.shape[0], dtype=int), 1)
    np.testing.assert_allclose(got.mean[0], matrix.toarray().mean(axis=0))


def test_sources_that_cannot_be_read(tmp_path, cells):
    with pytest.raises(DataError, match="must be an AnnData, not DataFrame"):
        dw.pp.collapse(pd.DataFrame(), "donor_id")
    cells.write_h5ad(tmp_path / "cohort.h5ad")
    with pytest.raises(DataError, match=r"no file .*cohrt\.h5ad\. Did you mean 'cohort\.h5ad'"):
        open_source(tmp_path / "cohrt.h5ad")
    with pytest.raises(DataError, match="chunk_size=0 must be"):
        collapse(cells.X, np.zeros(cells.n_obs, dtype=int), 1, chunk_size=0)
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    with pytest.raises(DataError, match="Cannot read a matrix of type zarr"):
        collapse(group, np.zeros(3, dtype=int), 1)
    complex_values = group.create_array("c", data=np.ones((3, 2), dtype=complex))
    with pytest.raises(DataError, match="complex128"):
        collapse(complex_values, np.zeros(3, dtype=int), 1)
    with pytest.raises(DataError, match="two dimensions"):
        collapse(group.create_array("one", data=np.ones(3)), np.zeros(3, dtype=int), 1)
