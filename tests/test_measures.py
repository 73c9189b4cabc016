"""Measures: what a pass accumulates; one that is defined here goes through every container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import sparse

from donorwise._anndata import open_source
from donorwise._core.cells.chunks import Chunk, SparseChunk
from donorwise._core.cells.collapse import MOMENTS, accumulate, collapse
from donorwise._core.cells.exponential import exp2m1
from donorwise._core.cells.kernels import Segmented
from donorwise._core.cells.measures import ByPattern, Measure
from donorwise._core.cells.moments import DETECTED, Moments, Sums
from donorwise._core.cells.segments import Segments
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.threads import Budget

N, G, K = 600, 23, 7
SMALL = Budget(segment_rows=40, chunk_bytes=2**10, range_bytes=2**12, result_bytes=2**13, message_bytes=2**12)


@dataclass(frozen=True, slots=True)
class Extremes(ByPattern):
    """Largest value of every feature, (K, G), and the number of cells, (K,)."""

    n: NDArray[np.int64]
    largest: NDArray[np.float64]
    of_features: ClassVar[tuple[str, ...]] = ("largest",)

    def merge(self, other: Extremes) -> Extremes:
        return Extremes(self.n + other.n, np.maximum(self.largest, other.largest))


@dataclass(frozen=True, slots=True)
class Largest(Measure[Extremes]):
    """A measure that is no sum, in which zeros count."""

    def empty(self, segments: Segments, n_features: int) -> Extremes:
        return Extremes(segments.n_obs.copy(), np.full((len(segments.n_obs), n_features), -np.inf))

    def add(self, running: Extremes, chunk: Chunk, n_jobs: int | None) -> None:
        features, values = _dense(chunk, running.largest.shape[1])
        used = chunk.cells.segment >= 0
        at = np.ix_(chunk.cells.segment[used], features)
        np.maximum.at(running.largest, at, values[used])


def _dense(chunk: Chunk, n_features: int) -> tuple[NDArray[Any], NDArray[Any]]:
    if not isinstance(chunk, SparseChunk):
        return np.arange(chunk.start, chunk.start + chunk.values.shape[1]), chunk.values
    place, n = chunk.position, len(chunk.indptr) - 1
    width = n_features if place is None else len(place)
    block = sparse.csr_array((chunk.data, chunk.indices, chunk.indptr), shape=(n, width)).toarray()
    kept = np.arange(width) if place is None else np.flatnonzero(place < n_features)
    return kept if place is None else place[kept], block[:, kept]


def squares(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.square(values, dtype=np.float64)


def by_weight(cells: Segmented) -> NDArray[np.float64]:
    return cells.weights[:, None]


def by_covariates(cells: Segmented) -> NDArray[np.float64]:
    return cells.covariates


MEASURES = (
    Largest(),
    MOMENTS,
    Sums(squares, by_weight),
    DETECTED,
    Sums(np.asarray, by_covariates, n=2),
    Moments(np.e),
    Moments(2.0),
)


@pytest.fixture(scope="module")
def values() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    found = np.where(rng.random((N, G)) < 0.3, rng.normal(size=(N, G)), 0).astype(np.float32)
    found[:, 4] = -np.abs(found[:, 4]) - 1  # so that zeros are not the largest
    return found


def lazy(matrix: Any, rows: int, columns: int) -> Any:
    da = pytest.importorskip("dask.array")
    blocks = [
        [da.from_array(matrix[i : i + rows, j : j + columns], chunks=-1, asarray=False) for j in range(0, G, columns)]
        for i in range(0, N, rows)
    ]
    return da.concatenate([da.concatenate(row, axis=1) for row in blocks], axis=0)


def written(matrix: Any, folder: Any, file: str) -> Any:
    path = folder / f"x.{file}"
    adata = ad.AnnData(matrix)
    adata.write_h5ad(path) if file == "h5ad" else adata.write_zarr(path)
    return open_source(path).X


def duplicated(matrix: Any) -> Any:
    """CSR or CSC with every entry stored twice, half each."""
    twice = np.repeat(matrix.data / 2, 2), np.repeat(matrix.indices, 2), 2 * matrix.indptr
    return type(matrix)(twice, shape=matrix.shape)


CONTAINERS = {
    "csr": lambda x, _: sparse.csr_matrix(x),
    "csr, duplicates": lambda x, _: duplicated(sparse.csr_array(x)),
    "csc": lambda x, _: sparse.csc_matrix(x),
    "csc, duplicates": lambda x, _: duplicated(sparse.csc_array(x)),
    "coo": lambda x, _: sparse.coo_array(x),
    "dense": lambda x, _: x,
    "fortran": lambda x, _: np.asfortranarray(x),
    "frame": lambda x, _: pd.DataFrame(x),
    "h5ad csr": lambda x, folder: written(sparse.csr_matrix(x), folder, "h5ad"),
    "h5ad csc": lambda x, folder: written(sparse.csc_matrix(x), folder, "h5ad"),
    "h5ad dense": lambda x, folder: written(x, folder, "h5ad"),
    "zarr csr": lambda x, folder: written(sparse.csr_matrix(x), folder, "zarr"),
    "dask csr": lambda x, _: lazy(sparse.csr_matrix(x), 70, G),
    "dask blocks": lambda x, _: lazy(sparse.csr_matrix(x), 70, 9),
    "dask columns": lambda x, _: lazy(x, N, 9),
}


def assert_results(found: tuple[Any, ...], x: NDArray[Any], codes: Any, weights: Any, covariates: Any) -> None:
    largest, moments, squares, detected, loaded, natural, binary = found
    x = x.astype(np.float64)
    for k in range(K):
        own = codes == k
        np.testing.assert_array_equal(largest.largest[k], x[own].max(axis=0) if own.any() else -np.inf)
        np.testing.assert_allclose(squares.total[k, 0], weights[own] @ x[own] ** 2, rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(detected.total[k, 0], (x[own] > 0).sum(axis=0))
        np.testing.assert_allclose(loaded.total[k], covariates[own].T @ x[own], rtol=1e-10, atol=1e-11)
        for logged, base in ((natural, np.e), (binary, 2.0)):
            mean = weights[own] @ np.expm1(x[own] * np.log(base)) / weights[own].sum() if own.any() else 0.0
            np.testing.assert_allclose(logged.abundance[k], mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(largest.n, moments.n_obs)
    for name, array in moments.arrays().items():
        if name != "abundance":
            np.testing.assert_array_equal(getattr(natural, name), array)
    assert moments.abundance.shape == (K, 0)


def given(seed: int = 1) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, K - 1, N)  # the last pattern has no cells
    return codes, rng.uniform(0.5, 2, N), rng.normal(size=(N, 2))


@pytest.mark.parametrize("features", [None, [9, 10, 3, 22, 4]], ids=["all", "some"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container(name, features, values, tmp_path):
    """Several measures, two of them defined here, in one pass."""
    matrix = CONTAINERS[name](values, tmp_path)
    codes, weights, covariates = given()
    options = {"weights": weights, "covariates": covariates, "features": features, "budget": SMALL}
    kept = values if features is None else values[:, features]
    for n_jobs in (1, 3, None):
        found = accumulate(matrix, codes, K, MEASURES, n_jobs=n_jobs, **options)
        assert_results(found, kept, codes, weights, covariates)
    alone = collapse(matrix, codes, K, **options)
    for name_, array in alone.arrays().items():
        np.testing.assert_array_equal(getattr(found[1], name_), array)


def test_exponential():
    """The polynomial against the C library's, over all values that logarithms of counts can have, and beyond."""
    x = np.concatenate([np.linspace(-30, 60, 40_001), np.geomspace(1e-300, 1000, 5_000), [1000.0, 1e6, -1e6]])
    out = np.array([exp2m1(value) for value in x])
    x = np.clip(x, -1000, 1000)
    expected = np.where(np.abs(x) < 1, np.expm1(x * np.log(2)), np.exp2(x) - 1)
    assert (np.abs(out - expected) <= 3e-12 * (1 + np.abs(expected))).all()
    assert exp2m1(0.0) == 0.0


def test_abundances_merge(values):
    codes, weights, _ = given(4)
    whole = collapse(values, codes, K, weights=weights, log_base=np.e)
    halves = [collapse(values[i::2], codes[i::2], K, weights=weights[i::2], log_base=np.e) for i in range(2)]
    np.testing.assert_allclose(halves[0].merge(halves[1]).abundance, whole.abundance, rtol=1e-12, atol=1e-14)
    plain = collapse(values[1::2], codes[1::2], K, weights=weights[1::2])
    assert halves[0].merge(plain).abundance.shape == plain.merge(halves[0]).abundance.shape == (K, 0)
    np.testing.assert_array_equal(whole.take_features(np.array([4, 2])).abundance, whole.abundance[:, [4, 2]])
    assert plain.take_features(np.array([4, 2])).abundance.shape == (K, 0)


@pytest.mark.parametrize("file", ["h5ad", "zarr"])
def test_a_file_is_read_once(values, tmp_path, file, monkeypatch):
    stored = Stored(written(sparse.csr_matrix(values), tmp_path, file), np.arange(N)[::-1], np.array([3, 1, 20]))
    codes, weights, covariates = given(2)
    from donorwise._core.cells.readers import SparseFile

    read, load = [], SparseFile.load
    monkeypatch.setattr(SparseFile, "load", lambda self, *at: read.append(at) or load(self, *at))
    found = accumulate(stored, codes, K, MEASURES, weights=weights, covariates=covariates, chunk_size=50)
    assert len(read) == N // 50
    assert_results(found, values[::-1][:, [3, 1, 20]], codes, weights, covariates)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as local:
        with distributed.Client(local, set_as_default=False) as found:
            yield found


@pytest.mark.parametrize("name", ["h5ad csr", "h5ad dense", "zarr csr", "dask blocks"])
def test_workers_of_a_cluster(client, name, values, tmp_path):
    matrix = CONTAINERS[name](values, tmp_path)
    codes, weights, covariates = given(3)
    options = {"weights": weights, "covariates": covariates, "budget": SMALL}
    found = accumulate(matrix, codes, K, MEASURES, client=client, **options)
    assert_results(found, values, codes, weights, covariates)
