"""A real cluster of processes: the numbers of one process, small messages, and workers that die."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import anndata as ad
import h5py
import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._anndata import open_source
from donorwise._core.cells import cluster
from donorwise._core.cells.collapse import MOMENTS, collapse, measure_cells
from donorwise._core.cells.counts import count_cells
from donorwise._core.cells.measures import Collapsed
from donorwise._core.cells.moments import DETECTED
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.segments import CodedCells
from donorwise._core.cells.tails import choose_tails
from donorwise._core.cells.threads import Budget
from donorwise.errors import DataError

distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")

pytestmark = [pytest.mark.slow, pytest.mark.dask]

RTOL = 1e-10
BY = ["donor_id", "condition", "cell_type"]
BOUND = 2**15
# Ranges and messages so small that there are many.
SMALL = Budget(chunk_bytes=2**14, range_bytes=2**15, result_bytes=2 * BOUND, message_bytes=BOUND)


class Sizes(distributed.SchedulerPlugin):
    """Bytes of the result of every task."""

    def __init__(self, scheduler) -> None:
        self.scheduler, self.found = scheduler, {}
        scheduler.add_plugin(self, name=f"sizes-{id(self)}")

    def transition(self, key, start, finish, *args, **kwargs) -> None:
        if finish == "memory":
            self.found[key] = self.scheduler.tasks[key].nbytes

    def of(self, name: str) -> list[int]:
        return [size for key, size in self.found.items() if name in str(key)]


@pytest.fixture(scope="module")
def running() -> Iterator[distributed.Client]:
    # a worker that was killed comes back
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
        with distributed.Client(local, set_as_default=False) as found:
            yield found


@pytest.fixture
def client(running) -> distributed.Client:
    """The client, with both workers."""
    running.wait_for_workers(2)
    return running


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> tuple[ad.AnnData, Path]:
    """Cells in memory, and a folder with their files."""
    folder = tmp_path_factory.mktemp("cells")
    adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=3000, n_genes=40, seed=1)
    rng = np.random.default_rng(0)
    adata.obs["time"], adata.obs["precision"] = rng.normal(2020, 2, 3000), rng.uniform(0.5, 2, 3000)
    adata.write_h5ad(folder / "x.h5ad", compression="gzip")
    adata.write_zarr(folder / "x.zarr")
    dense = adata.copy()
    dense.X = adata.X.toarray()
    dense.write_h5ad(folder / "dense.h5ad")
    columns = adata.copy()
    columns.X = adata.X.tocsc()
    columns.write_h5ad(folder / "columns.h5ad")
    return adata, folder


def lazy(matrix, rows: int, columns: int):
    """A dask array of blocks of a matrix."""
    blocks = [
        [
            da.from_array(part, chunks=-1, asarray=False)
            for part in (matrix[i : i + rows, j : j + columns] for j in range(0, matrix.shape[1], columns))
        ]
        for i in range(0, matrix.shape[0], rows)
    ]
    return da.concatenate([da.concatenate(row, axis=1) for row in blocks], axis=0)


def source_of(cells, name: str):
    adata, folder = cells
    if name in ("x.h5ad", "x.zarr", "dense.h5ad", "columns.h5ad"):
        return folder / name
    if name == "read_lazy":
        pytest.importorskip("xarray")
        return ad.experimental.read_lazy(folder / "x.h5ad")
    if name == "memory":
        return adata
    found = adata.copy()
    found.X, found.layers["counts"] = lazy(adata.X, 250, 15), lazy(adata.layers["counts"], 400, 40)
    return found


def as_stored(source):
    """The matrix of a file or of an AnnData."""
    return open_source(source).X if isinstance(source, Path) else source.X


def assert_same(actual: ad.AnnData, expected: ad.AnnData, rtol: float = RTOL) -> None:
    pairs = [(actual.X, expected.X)]
    for slot in ("layers", "obsm", "obs"):
        a, e = getattr(actual, slot), getattr(expected, slot)
        assert set(a.keys()) == set(e.keys())
        pairs += [(a[key], e[key]) for key in e.keys()]
    for got, wanted in pairs:
        if getattr(wanted, "dtype", None) == "category" or np.asarray(wanted).dtype.kind not in "if":
            assert list(got) == list(wanted)
            continue
        got, wanted = np.asarray(got), np.asarray(wanted)
        assert (np.abs(got - wanted) <= rtol * np.abs(wanted).max(initial=0)).all()


@pytest.mark.parametrize(
    ("source", "options"),
    [("x.h5ad", "")]
    + [(s, "all") for s in ("x.h5ad", "x.zarr", "dense.h5ad", "columns.h5ad", "dask", "read_lazy", "memory")],
)
def test_same_as_in_memory(client, cells, source, options):
    chosen = {"by": BY, "progress": False}
    if options:
        mask = np.arange(40) % 3 > 0
        chosen |= {"covariates": ["time"], "weights": "precision", "counts_layer": "counts", "mask_var": mask}
        chosen["glmm"] = ["nb", "cloglog"]
    sizes = Sizes(client.cluster.scheduler)
    found = dw.pp.collapse(source_of(cells, source), client=client, chunk_size=250, **chosen)
    assert_same(found, dw.pp.collapse(cells[0], **chosen))
    # a matrix in memory, or stored by columns, is read here; the counts beside the latter are not
    assert len(sizes.of("donorwise-read")) >= (0 if source == "memory" else 2)


def test_counts_of_files_use_the_client(client, cells):
    counts = open_source(cells[1] / "x.h5ad").layers["counts"]
    depth = np.asarray(cells[0].layers["counts"].sum(axis=1)).ravel().astype(float)
    tails, nodes = (
        choose_tails(cells[0].layers["counts"].max()),
        choose_nodes(*np.log([depth.min(), depth.max()]), "nb"),
    )
    codes = np.arange(3000) % 7
    options = {"exposure": depth, "trials": np.full(3000, 1e6), "nodes": nodes, "tails": tails, "chunk_size": 250}
    expected = count_cells(counts, codes, 7, **options)
    sizes = Sizes(client.cluster.scheduler)
    with client.as_current():
        found = count_cells(counts, codes, 7, **options)
    assert len(sizes.of("donorwise-read")) >= 2
    for name, values in found.arrays().items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=RTOL, atol=1e-10, err_msg=name)


def test_models_of_files_use_the_client(client, cells):
    adata, folder = cells
    formula, options = "~ condition + log_depth + (1 | donor_id)", {"groupby": "cell_type", "progress": False}
    found = ad.read_h5ad(folder / "x.h5ad", backed="r")[np.arange(3000) % 7 > 0]
    expected = adata[np.arange(3000) % 7 > 0].copy()
    dw.tl.lmm(expected, formula, **options)
    sizes = Sizes(client.cluster.scheduler)
    with client.as_current():
        dw.tl.lmm(found, formula, **options)
    assert sizes.of("donorwise-read")
    a, e = dw.get.tests(found), dw.get.tests(expected)
    pd.testing.assert_frame_equal(a, e, rtol=1e-6)


def test_fits_run_on_the_cluster(client, cells):
    adata = cells[0]
    found, expected = adata.copy(), adata.copy()
    dw.tl.lmm(expected, "~ condition + log_depth + (1 | donor_id)", progress=False)
    sizes = Sizes(client.cluster.scheduler)
    with client.as_current(), joblib.parallel_config("dask"):
        dw.tl.lmm(found, "~ condition + log_depth + (1 | donor_id)", progress=False)
    assert sizes.of("fit_block"), sizes.found
    pd.testing.assert_frame_equal(dw.get.tests(found), dw.get.tests(expected))


def test_result_does_not_depend_on_the_workers(client, cells):
    options = {"by": BY, "covariates": ["time"], "client": client, "progress": False, "chunk_size": 250}
    two = dw.pp.collapse(cells[1] / "x.h5ad", **options)
    client.cluster.scale(1)
    while len(client.scheduler_info()["workers"]) > 1:
        time.sleep(0.05)
    one = dw.pp.collapse(cells[1] / "x.h5ad", **options)
    client.cluster.scale(2)
    assert_same(one, two, rtol=0)


@pytest.mark.parametrize("source", ["x.h5ad", "x.zarr", "dense.h5ad", "dask"])
def test_many_ranges_and_tiles(client, cells, source):
    """What is added up besides the statistics is divided and merged as they are."""
    reader = open_reader(as_stored(source_of(cells, source)))
    rng = np.random.default_rng(3)
    codes, columns = rng.integers(-1, 120, 3000).astype(np.int32), np.arange(40)
    given = {"weights": rng.uniform(0.5, 2, 3000), "covariates": rng.normal(2020, 2, (3000, 1))}
    known = CodedCells(codes, 120, *given.values())
    task = partial(measure_cells, measures=(MOMENTS, DETECTED))
    sizes = Sizes(client.cluster.scheduler)
    found, sums = cluster.accumulate_on(client, reader, known, task, columns=columns, budget=SMALL)
    assert len(sizes.of("donorwise-read")) > 2
    assert len(sizes.of("donorwise-pick")) > len(sizes.of("donorwise-read"))
    expected, wanted = task(cells[0].X, known, columns)
    for field in fields(Collapsed):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (np.abs(a - b) <= RTOL * np.abs(b).max(initial=0)).all(), field.name
    np.testing.assert_array_equal(sums.total, wanted.total)


@pytest.mark.parametrize("order", ["by donor", "none"])
def test_messages_are_bounded(client, order, tmp_path, monkeypatch):
    """Whatever the order of the cells; what the client sends is no more than its share of the cells' columns."""
    rng = np.random.default_rng(0)
    n, g, k = 4000, 60, 300
    matrix = sparse.random(n, g, density=0.2, format="csr", random_state=0, dtype=np.float32)
    codes = rng.integers(0, k, n)
    codes = np.sort(codes) if order == "by donor" else codes
    ad.AnnData(matrix).write_h5ad(tmp_path / "x.h5ad", compression="gzip")
    sent = []
    submit = client.submit
    monkeypatch.setattr(client, "submit", lambda f, *a, **k: sent.append(_sent_bytes(a)) or submit(f, *a, **k))
    sizes = Sizes(client.cluster.scheduler)
    with client.as_current():
        found = collapse(open_source(tmp_path / "x.h5ad").X, codes, k, covariates=rng.normal(size=(n, 1)), budget=SMALL)
    assert len(sizes.of("donorwise-read")) >= 4
    assert max(sizes.of("donorwise-read")) <= 2.1 * BOUND  # which is where it stays
    assert max(sizes.of("donorwise-pick") + sizes.of("donorwise-merge")) <= BOUND
    assert np.median(sizes.of("donorwise-pick")) > BOUND / 8  # the sizes are those of the arrays
    assert max(sent) <= BOUND
    assert found.n_obs.sum() == n


def _sent_bytes(args) -> int:
    return sum(len(pickle.dumps(a)) for a in args if not isinstance(a, distributed.Future | list))


def test_a_worker_that_is_killed(client, cells, tmp_path):
    adata, folder = cells
    codes = np.arange(3000) // 300
    marker = tmp_path / "killed"

    def fragile(matrix, cells, columns):
        if cells.codes.size and not marker.exists():
            with open(tmp_path / "seen", "a") as file:
                file.write(".")
            if (tmp_path / "seen").stat().st_size > 4:  # others have been done, some of them here
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return measure_cells(matrix, cells, columns, measures=(MOMENTS,))

    reader = open_reader(open_source(folder / "x.h5ad").X)
    known = CodedCells(codes.astype(np.int32), 10)
    (found,) = cluster.accumulate_on(client, reader, known, fragile, columns=np.arange(40), budget=SMALL)
    assert marker.exists()
    expected = collapse(adata.X, codes, 10)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=RTOL)
    np.testing.assert_allclose(found.within_ss, expected.within_ss, rtol=RTOL)


def broken(cells, tmp_path, how: str) -> Path:
    """A copy of the file with a fault."""
    adata = cells[0].copy()
    if how == "nan":
        adata.X.data[[5, 9000]] = np.nan
    if how == "not counts":
        adata.layers["counts"].data[:] = 0.5
    path = tmp_path / "broken.h5ad"
    adata.write_h5ad(path, compression="gzip")
    if how == "corrupt":
        with h5py.File(path) as file:
            chunk = file["X/data"].id.get_chunk_info(0)
        with open(path, "r+b") as raw:
            raw.seek(chunk.byte_offset + 4)
            raw.write(b"\0" * (chunk.size - 8))
    return path


@pytest.mark.parametrize("how", ["nan", "not counts", "corrupt"])
def test_errors_are_those_of_one_process(client, cells, tmp_path, how):
    path = broken(cells, tmp_path, how)
    options = {"by": BY, "progress": False, "counts_layer": "counts"}
    messages = []
    for used in (None, client):
        with pytest.raises(DataError) as caught:
            dw.pp.collapse(path, client=used, **options)
        messages.append(str(caught.value))
    local, remote = messages
    start = local.split(": rows")[0] if how == "corrupt" else local
    assert remote.startswith(start) and (how == "corrupt" or remote == local)
    assert not client.futures


def test_a_file_that_workers_do_not_have(client, cells, monkeypatch):
    from donorwise._core.cells import remote

    monkeypatch.setattr(remote, "source_file", lambda element: "/no/such/file.h5ad")
    with pytest.raises(DataError, match=r"/no/such/file.h5ad: every worker must have it at the same path"):
        dw.pp.collapse(cells[1] / "x.h5ad", BY, client=client, progress=False)


def test_a_client_that_is_none(cells):
    with pytest.raises(DataError, match="is not a dask.distributed.Client"):
        dw.pp.collapse(cells[0], BY, client="tcp://scheduler:8786")


def test_no_rows_and_patterns_without_rows(client, cells):
    stored = open_source(cells[1] / "x.h5ad").X
    for codes in (np.full(3000, -1), np.where(np.arange(3000) < 10, 2, -1)):
        with client.as_current():
            found = collapse(stored, codes, 4, budget=SMALL)
        expected = collapse(cells[0].X, codes, 4)
        assert isinstance(found, Collapsed) and (found.n_obs == expected.n_obs).all()
        np.testing.assert_allclose(found.mean, expected.mean, rtol=RTOL)
