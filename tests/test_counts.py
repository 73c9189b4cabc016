"""The pass of the generalised models against dense sums, and the log-likelihoods it gives against those cell by cell."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, special, stats

from donorwise._core.cells.counts import Counted, bytes_of_counts, count_cells
from donorwise._core.cells.examined import examine
from donorwise._core.cells.nodes import Nodes, choose_nodes
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.tails import Tails, choose_tails
from donorwise._core.cells.threads import BUDGET
from donorwise.errors import DataError

N, G, K = 240, 17, 5
LARGEST = 400.0


def make(seed: int = 0, dtype: type = np.float32):
    """Counts, some of them large, with an empty feature; an empty pattern and unused rows; exposures."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.5, (N, G)) * np.where(rng.random((N, G)) < 0.1, rng.integers(1, 60, (N, G)), 1)
    counts[:, 4] = 0
    counts[3, 5] = LARGEST
    codes = rng.integers(-1, K - 1, N)
    codes[3] = 0
    return counts.astype(dtype), codes, np.exp(rng.uniform(6, 9, N))


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    return choose_nodes(6, 9, "nb")


@pytest.fixture(scope="module")
def tails() -> Tails:
    return choose_tails(LARGEST)


def naive(counts, codes, exposure, nodes, tails, trials=None):
    """Dense sums."""
    y, trials = np.asarray(counts, dtype=float), np.ones(len(codes)) if trials is None else trials
    x = np.log(exposure)
    basis = np.array([[_lagrange(nodes.at, j, at) for j in range(len(nodes.at))] for at in x])
    heads = np.stack([tails.loadings(y[:, g]) for g in range(y.shape[1])], axis=2)
    parts = [codes == k for k in range(K)]
    return Counted(
        np.array([p.sum() for p in parts]),
        np.array([(exposure * trials)[p].sum() for p in parts]),
        np.array([trials[p] @ basis[p] for p in parts]),
        np.array([y[p].sum(axis=0) for p in parts]),
        np.array([basis[p].T @ y[p] for p in parts]),
        np.array([heads[p].sum(axis=0) for p in parts]),
    )


def _lagrange(at, j, x):
    others = np.delete(at, j)
    return np.prod((x - others) / (at[j] - others))


def assert_close(got: Counted, wanted: Counted, atol: float = 1e-9) -> None:
    for field in fields(Counted):
        a, b = getattr(got, field.name), getattr(wanted, field.name)
        assert a.shape == b.shape, field.name
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=atol, err_msg=field.name)


def counted(matrix, codes, exposure, nodes, tails, **options) -> Counted:
    return count_cells(matrix, codes, K, exposure=exposure, nodes=nodes, tails=tails, **options)


CONTAINERS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_array,
    "coo": sparse.coo_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "whole": lambda y: y.astype(np.int16),
    "frame": pd.DataFrame,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_dense_sums(container, nodes, tails):
    counts, codes, exposure = make()
    got = counted(CONTAINERS[container](counts), codes, exposure, nodes, tails)
    assert_close(got, naive(counts, codes, exposure, nodes, tails))
    y = counts.astype(float)
    np.testing.assert_array_equal(got.total, [y[codes == k].sum(axis=0) for k in range(K)])  # whole numbers are exact


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_features_rows_and_segments(kind, nodes, tails):
    counts, codes, exposure = make(1)
    matrix, features = CONTAINERS[kind](counts), np.array([7, 2, 16, 4])
    wanted = naive(counts, codes, exposure, nodes, tails).take_features(features)
    small = BUDGET._replace(segment_rows=13)
    for n_jobs in (1, 3):
        assert_close(
            counted(matrix, codes, exposure, nodes, tails, features=features, n_jobs=n_jobs, budget=small), wanted
        )
    order = np.random.default_rng(2).permutation(N)
    assert_close(counted(matrix[order], codes[order], exposure[order], nodes, tails, features=features), wanted)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_files_are_read_in_any_chunks(tmp_path, kind, compression, nodes, tails):
    ad, h5py = pytest.importorskip("anndata"), pytest.importorskip("h5py")
    counts, codes, exposure = make(3)
    path = tmp_path / "cells.h5ad"
    X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[kind](counts)
    ad.AnnData(X).write_h5ad(path, compression=compression)
    keep = np.sort(np.random.default_rng(4).choice(N, 100, replace=False))
    with h5py.File(path, "r") as file:
        X = file["X"] if kind == "dense" else ad.io.sparse_dataset(file["X"])
        by_chunk = [counted(X, codes, exposure, nodes, tails, chunk_size=c, n_jobs=2) for c in (None, 1, 7)]
        some = counted(Stored(X, keep), codes[keep], exposure[keep], nodes, tails)
        seen, two = (examine(own, np.full(N, np.inf)) for own in (Stored(X), Stored(X, None, np.array([0, 1]))))
        assert seen.largest.max() == LARGEST
        np.testing.assert_array_equal(two.largest, counts[:, :2].max(axis=1))
    for got in by_chunk:
        for field in fields(Counted):
            np.testing.assert_array_equal(getattr(got, field.name), getattr(by_chunk[0], field.name))
    assert_close(by_chunk[0], naive(counts, codes, exposure, nodes, tails))
    assert_close(some, naive(counts[keep], codes[keep], exposure[keep], nodes, tails))


def test_dask_and_zarr(tmp_path, nodes, tails):
    da, zarr = pytest.importorskip("dask.array"), pytest.importorskip("zarr")
    counts, codes, exposure = make(5)
    wanted = naive(counts, codes, exposure, nodes, tails)
    stored = zarr.open(str(tmp_path / "x.zarr"), mode="w", shape=counts.shape, chunks=(50, 6), dtype="f4")
    stored[:] = counts
    lazy = da.from_array(counts, chunks=(31, -1)).map_blocks(sparse.csr_matrix)
    for matrix in (stored, lazy):
        assert_close(counted(matrix, codes, exposure, nodes, tails), wanted)


def test_patterns_add_up(nodes, tails):
    counts, codes, exposure = make(6)
    whole = counted(counts, codes, exposure, nodes, tails)
    halves = [counted(counts[i::2], codes[i::2], exposure[i::2], nodes, tails) for i in (0, 1)]
    assert_close(halves[0].merge(halves[1]), whole)
    assert whole.take(np.array([2, 0])).total.shape == (2, G)


def test_what_is_not_wanted_is_empty():
    counts, codes, exposure = make(7)
    got = count_cells(sparse.csr_matrix(counts), codes, K, exposure=exposure)
    assert (got.own.shape, got.tail.shape, got.shared.shape) == ((K, 0, G), (K, 0, G), (K, 0))
    np.testing.assert_allclose(got.exposure, [exposure[codes == k].sum() for k in range(K)], rtol=1e-12)
    yes = count_cells(sparse.csr_matrix(counts), codes, K, detected=True)
    np.testing.assert_array_equal(yes.total, [(counts[codes == k] > 0).sum(axis=0) for k in range(K)])


def test_memory_is_what_it_is_said_to_be():
    rng = np.random.default_rng(12)
    n_cells, n_features, n_patterns = 3000, 4000, 30
    matrix = sparse.random(n_cells, n_features, density=0.01, format="csr", random_state=rng)
    matrix.data = np.ceil(matrix.data * 5)
    nodes, tails = choose_nodes(6, 9, "nb"), choose_tails(100.0)
    args = (matrix, rng.integers(0, n_patterns, n_cells), n_patterns)
    options = {"exposure": np.exp(rng.uniform(6, 9, n_cells)), "nodes": nodes, "tails": tails}
    count_cells(*args, **options)
    tracemalloc.start()
    got = count_cells(*args, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = bytes_of_counts(n_patterns, n_features, len(nodes.at), len(tails.values))
    assert sum(values.nbytes for values in got.arrays().values()) < expected
    assert 0.8 * expected < peak < 1.1 * expected


def test_successes_of_trials(nodes, tails):
    counts, codes, exposure = make(8)
    trials = counts.max(axis=1).astype(float) + 1
    got = counted(counts, codes, exposure, nodes, tails, trials=trials)
    assert_close(got, naive(counts, codes, exposure, nodes, tails, trials), atol=1e-8)
    with pytest.raises(DataError, match="more successes than trials .columns 5"):
        count_cells(counts, codes, K, trials=np.full(N, 399.0))


@pytest.mark.parametrize(
    ("bad", "what"), [(np.nan, "missing"), (-1.0, "negative"), (np.inf, "infinite"), (401.0, "above 400")]
)
@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_values_that_are_no_counts_are_refused(kind, bad, what, tails):
    counts, codes, exposure = make(9)
    counts[3, 6] = bad
    with pytest.raises(DataError, match=rf"1 of 17 features have values that are no counts: .*{what}.*features 'g6'"):
        count_cells(CONTAINERS[kind](counts), codes, K, tails=tails, names=[f"g{i}" for i in range(G)])
    count_cells(CONTAINERS[kind](counts), np.where(np.arange(N) == 3, -1, codes), K, tails=tails)  # not in use


def test_cells_without_exposure_have_no_counts(nodes, tails):
    counts, codes, exposure = make(11)
    none = np.arange(N) % 7 == 0
    counts[none], exposure[none] = 0, 0.0
    got = counted(sparse.csr_matrix(counts), codes, exposure, nodes, tails)
    rest = counted(counts[~none], codes[~none], exposure[~none], nodes, tails)
    for name in ("exposure", "shared", "total", "own", "tail"):
        np.testing.assert_allclose(getattr(got, name), getattr(rest, name), rtol=1e-12, atol=1e-12)
    assert got.n_obs.sum() == (codes >= 0).sum()
    counts[none, 0] = 1
    for matrix in (counts, sparse.csr_matrix(counts)):
        with pytest.raises(DataError, match="above zero in a cell without exposure"):
            counted(matrix, codes, exposure, nodes, tails)


def test_cells_without_a_place_are_refused(nodes):
    counts, codes, exposure = make(10)
    with pytest.raises(DataError, match="choose nodes for all cells"):
        counted(counts, codes, exposure * 1e3, nodes, None)
    used = np.maximum(codes, 0)
    for bad in (np.nan, -1.0, np.inf):
        with pytest.raises(DataError, match="exposure must be finite, zero or more; 1 of the 240 cells"):
            counted(counts, used, np.where(np.arange(N) == 2, bad, exposure), nodes, None)
    with pytest.raises(DataError, match=r"trials must have shape \(240,\)"):
        count_cells(counts, codes, K, trials=np.ones(3))


# --- what they are for: log-likelihoods ---------------------------------------------------------------------------------


def test_basis():
    nodes = Nodes(choose_nodes(2, 5, "nb").at, 2, 5)
    basis = nodes.loadings(np.linspace(2, 5, 40))
    np.testing.assert_allclose(basis.sum(axis=1), 1, rtol=1e-13)
    np.testing.assert_array_equal(nodes.loadings(nodes.at), np.eye(len(nodes.at)))
    np.testing.assert_allclose(nodes.exposures, np.exp(nodes.at))
    np.testing.assert_allclose(basis @ nodes.at**3, np.linspace(2, 5, 40) ** 3, rtol=1e-12)


def test_one_exposure_has_one_node():
    for kind in ("nb", "cloglog"):
        nodes = choose_nodes(np.log(2000), np.log(2000), kind)
        np.testing.assert_array_equal(nodes.at, [np.log(2000)])
        np.testing.assert_array_equal(nodes.loadings([np.log(2000)] * 3), np.ones((3, 1)))


@pytest.mark.parametrize("kind", ["nb", "cloglog"])
def test_nodes_grow_with_the_range(kind):
    found = [choose_nodes(7, 7 + width, kind) for width in (1e-3, 0.5, 2, 4, 6)]
    numbers = [len(nodes.at) for nodes in found]
    assert numbers == sorted(numbers)
    assert all(nodes.error <= 1e-8 / np.sqrt(5000) for nodes in found)


RANGES = {"narrow": (2000, 3000), "usual": (1000, 20_000), "wide": (500, 60_000), "widest": (200, 100_000)}


def _depths(low, high, rng, n=5000):
    """Depths of a usual shape that reach both ends."""
    depth = np.exp(rng.normal(np.log(low * high) / 2, np.log(high / low) / 5, n)).clip(low, high)
    depth[:2] = low, high
    return depth


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("mean", [1e-4, 1e-2, 1.0, 100.0])
def test_negative_binomial_log_likelihood(name, mean):
    rng = np.random.default_rng(round(mean * 1e4))
    depth = _depths(*RANGES[name], rng)
    rate = mean / np.exp(np.log(depth).mean())
    nodes = choose_nodes(np.log(depth).min(), np.log(depth).max(), "nb")
    for size in (0.01, 0.3, 10.0, 1000.0):
        y = rng.poisson(rate * depth * rng.gamma(size, 1 / size, depth.size))[:, None]
        tails = choose_tails(y.max())
        got = count_cells(y.astype(float), np.zeros(len(y), int), 1, exposure=depth, nodes=nodes, tails=tails)
        for r, m in ((size, rate), (size * 3, rate / 2)):
            right = stats.nbinom.logpmf(y[:, 0], r, r / (r + m * depth)).sum()
            right += special.gammaln(y + 1.0).sum() - (y[:, 0] * np.log(depth)).sum()
            found = got.total[0, 0] * np.log(m / r)
            found -= (got.own[0, :, 0] + r * got.shared[0]) @ np.log1p(nodes.exposures * m / r)
            found += got.tail[0, :, 0] @ (special.gammaln(tails.values + r) - special.gammaln(r))
            # scipy's own sums of 5,000 terms and log Gamma of large counts are right to some 1e-13 of their terms
            scale = np.abs(special.gammaln(y + r) - special.gammaln(r)).sum()
            assert abs(found - right) < 1e-8 + 3e-13 * scale


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("mean", [1e-4, 1e-2, 1.0, 20.0])
def test_detection_log_likelihood(name, mean):
    rng = np.random.default_rng(round(mean * 1e4))
    depth = _depths(*RANGES[name], rng)
    nodes = choose_nodes(np.log(depth).min(), np.log(depth).max(), "cloglog")
    rate = mean / np.exp(np.log(depth).mean())
    y = rng.poisson(rate * depth)[:, None].astype(float)
    got = count_cells(y, np.zeros(len(y), int), 1, exposure=depth, nodes=nodes, detected=True)
    yes = y[:, 0] > 0
    for m in (rate, rate / 2):
        right = np.log(-np.expm1(-depth[yes] * m)).sum() - depth[~yes].sum() * m
        own, t = got.own[0, :, 0], nodes.exposures
        found = own @ np.log(-np.expm1(-t * m)) - (got.shared[0] - own) @ t * m
        assert abs(found - right) < 1e-8 * max(1.0, abs(right) / 1e4)


@pytest.mark.parametrize("largest", [0.0, 1.0, 5.0, 20.0, 100.0, 3000.0, 1e5, 1e6])
def test_tails(largest):
    tails = choose_tails(largest)
    rng = np.random.default_rng(0)
    y = np.floor(np.exp(rng.uniform(0, np.log(largest + 1), 5000)) - 1 + 1e-9).clip(0, largest)
    tail = tails.loadings(y).sum(axis=0)
    for r in (0.01, 0.5, 1.0, 30.0, 1000.0):
        right = special.gammaln(y + r) - special.gammaln(r)
        found = tail @ (special.gammaln(tails.values + r) - special.gammaln(r))
        assert abs(found - right.sum()) < 1e-8 + 1e-12 * np.abs(right).sum()
    np.testing.assert_allclose(tail @ tails.values, y.sum(), rtol=1e-10)


def test_small_counts_are_exact():
    tails = choose_tails(9.0)
    np.testing.assert_array_equal(tails.values, np.arange(1, 10))
    np.testing.assert_array_equal(tails.loadings(np.arange(10.0)), np.eye(10)[:, 1:])


def test_counts_between_whole_numbers_are_shared():
    np.testing.assert_allclose(
        choose_tails(2.6).loadings([0.25, 1.5, 2.6]), [[0.25, 0, 0], [0.5, 0.5, 0], [0, 0.4, 0.6]]
    )
    tails = choose_tails(5000.0)
    y = np.array([0.2, 3.7, 7.9, 8.1, 56.5, 4999.5])
    np.testing.assert_allclose(tails.loadings(y) @ tails.values, y, rtol=1e-10)
