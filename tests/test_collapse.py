"""The collapse against a naive two-pass twin in extended precision, for every container."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.matrices import missing_patterns
from donorwise._core.cells.measures import Collapsed
from donorwise._core.cells.segments import Cutter, check_cells, cut_segments
from donorwise._core.cells.threads import BUDGET, Budget
from donorwise.errors import DataError, DonorwiseError

RTOL = 1e-10  # agreement that does not depend on container, order, threads or chunks
FLOOR = 1e-25  # squares of the rounding of the extended precision of the twin itself
N, G, K = 60, 23, 5


def naive(dense, codes, n_patterns, weights=None, covariates=None):
    """Two passes over each pattern in extended precision."""
    y = np.asarray(dense).astype(np.longdouble)
    w = np.ones(len(y)) if weights is None else weights
    c = np.zeros((len(y), 0)) if covariates is None else covariates
    m, g = c.shape[1], y.shape[1]
    shapes = ((), (), (), (g,), (g,), (m,), (m, m), (m, g), (0,))
    out = [np.zeros((n_patterns, *shape), dtype=np.longdouble) for shape in shapes]
    for k in range(n_patterns):
        use = np.asarray(codes) == k
        if not use.any():
            continue
        wk, yk, ck = w[use].astype(np.longdouble)[:, None], y[use], c[use].astype(np.longdouble)
        y_mean, c_mean = (wk * yk).sum(0) / wk.sum(), (wk * ck).sum(0) / wk.sum()
        dy, dc = yk - y_mean, ck - c_mean
        log_weight = np.log(wk).sum() if weights is not None else 0
        values = (
            use.sum(),
            wk.sum(),
            log_weight,
            y_mean,
            (wk * dy**2).sum(0),
            c_mean,
            dc.T @ (wk * dc),
            dc.T @ (wk * dy),
            np.zeros(0),
        )
        for target, value in zip(out, values, strict=True):
            target[k] = value
    return Collapsed(*(a.astype(np.int64) if i == 0 else a.astype(np.float64) for i, a in enumerate(out)))


def assert_equal(actual, expected, rtol=RTOL):
    """Equal up to rounding; a cross-product relative to what it could be at most."""
    yy, cc = expected.within_ss, np.einsum("kmm->km", expected.covariate_ss)
    scales = {"covariate_ss": cc.sum(axis=1)[:, None, None], "covariate_y": np.sqrt(cc[:, :, None] * yy[:, None, :])}
    for field in fields(Collapsed):
        got, wanted = getattr(actual, field.name), getattr(expected, field.name)
        assert got.dtype == wanted.dtype
        scale = np.maximum(np.abs(wanted), scales.get(field.name, 0.0))
        assert got.shape == wanted.shape
        assert (np.abs(got - wanted) <= rtol * scale + FLOOR).all(), field.name


def assert_identical(actual, expected):
    for field in fields(Collapsed):
        np.testing.assert_array_equal(getattr(actual, field.name), getattr(expected, field.name))


def make(seed=0, n=N, g=G, k=K, dtype=np.float32):
    """Counts-like data with all-zero, constant and dense columns; an empty pattern and unused rows."""
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.4, (n, g)) * (1 + rng.integers(0, 40, (n, g)))
    dense = (dense / (3 if np.dtype(dtype).kind == "f" else 1)).astype(dtype)
    dense[:, 0] = 0
    dense[:, 1] = 7
    dense[:, 2] = rng.integers(1, 9, n)
    codes = rng.integers(-1, k - 1, n)
    return dense, codes, rng.uniform(0.3, 3.0, n), rng.normal([0.0, 2020.0], [1.0, 2.0], (n, 2))


def rebuilt(matrix, how):
    """The same sparse matrix stored in a less usual way."""
    data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
    if how == "int64":
        copy = matrix.copy()
        copy.indices, copy.indptr = indices.astype(np.int64), indptr.astype(np.int64)
        return copy
    pieces_i, pieces_d = [], []
    for low, high in zip(indptr[:-1], indptr[1:], strict=True):
        i, d = indices[low:high], data[low:high]
        if how == "unsorted":
            i, d = i[::-1], d[::-1]
        elif how == "duplicates":
            part = np.zeros_like(d) if d.dtype == bool else d // 2
            i, d = (
                np.concatenate([i, i[::-1]]),
                np.concatenate([part, (d ^ part if d.dtype == bool else d - part)[::-1]]),
            )
        elif how == "explicit zeros":
            i = np.arange(matrix.shape[1 if matrix.format == "csr" else 0])
            d = np.zeros(len(i), data.dtype)
            d[indices[low:high]] = data[low:high]
        pieces_i.append(i)
        pieces_d.append(d)
    starts = np.concatenate([[0], np.cumsum([len(i) for i in pieces_i])])
    return type(matrix)((np.concatenate(pieces_d), np.concatenate(pieces_i), starts), shape=matrix.shape)


def frozen(matrix):
    for array in (matrix,) if isinstance(matrix, np.ndarray) else (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False
    return matrix


def strided(dense):
    wide = np.full((2 * dense.shape[0], 2 * dense.shape[1]), 99, dense.dtype)
    wide[::2, ::2] = dense
    return wide[::2, ::2]


def view_of(make_x):
    """The `.X` of a view of an AnnData that holds more rows and columns."""

    def build(dense):
        padded = np.pad(dense, ((1, 2), (3, 1)), constant_values=99)
        adata = ad.AnnData(make_x(padded))[1:-2, 3:-1]
        assert adata.is_view
        return adata.X

    return build


CONTAINERS = {
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_matrix": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
    "coo": sparse.coo_matrix,
    "lil_array": sparse.lil_array,
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "rows padded": lambda dense: np.pad(dense, ((0, 0), (0, 3)))[:, :-3],
    "strided": strided,
    "np.matrix": lambda dense: dense.view(np.matrix),
    "frame": pd.DataFrame,
    "mixed frame": lambda dense: pd.DataFrame(dense).astype({0: "float64", 1: "int64", 2: "Int64"}),
    "csr read-only": lambda dense: frozen(sparse.csr_matrix(dense)),
    "C read-only": lambda dense: frozen(dense.copy()),
    "AnnData csr view": view_of(sparse.csr_matrix),
    "AnnData csc view": view_of(sparse.csc_matrix),
    "AnnData dense view": view_of(np.asarray),
    "big-endian": lambda dense: dense.astype(">f4"),
} | {
    f"{form} {how}": lambda dense, form=form, how=how: rebuilt(getattr(sparse, f"{form}_matrix")(dense), how)
    for form in ("csr", "csc")
    for how in ("int64", "unsorted", "duplicates", "explicit zeros")
}
KINDS = [sparse.csr_matrix, sparse.csc_matrix, np.ascontiguousarray, np.asfortranarray]


@pytest.fixture(params=[BUDGET.segment_rows, 4], ids=["whole", "cut"])
def budget(request):
    """Patterns whole, and cut into parts of a few rows as large patterns are."""
    return Budget(segment_rows=request.param)


@pytest.mark.parametrize("options", ["", "weights", "covariates", "features", "weights covariates features"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_agrees_with_the_naive_twin(container, options, budget):
    dense, codes, weights, covariates = make()
    features = np.random.default_rng(3).permutation(G)[:11] if "features" in options else None
    chosen = {
        "weights": weights if "weights" in options else None,
        "covariates": covariates if "covariates" in options else None,
    }
    matrix = CONTAINERS[container](dense)
    before, dense = matrix.copy(), matrix.toarray() if sparse.issparse(matrix) else dense
    actual = collapse(matrix, codes, K, features=features, n_jobs=2, **chosen, budget=budget)
    expected = naive(dense, codes, K, **chosen)
    assert_equal(actual, expected if features is None else expected.take_features(features))
    assert np.array_equal(*(a.toarray() if sparse.issparse(a) else np.asarray(a) for a in (matrix, before)))


@pytest.mark.parametrize("dtype", ["float16", "float64", "longdouble", "int64", "bool", ">i4"])
@pytest.mark.parametrize(
    ("kind", "how"), [*((kind, "") for kind in KINDS), *((kind, "duplicates") for kind in KINDS[:2])]
)
def test_every_dtype_is_added_up_in_float64(kind, how, dtype):
    dense, codes, weights, covariates = make(dtype=dtype)
    matrix = kind(dense.astype(np.float64))
    if sparse.issparse(matrix):  # scipy reads these dtypes from arrays only
        matrix.data = matrix.data.astype(dtype)
        if how:
            matrix = rebuilt(matrix, how)
    else:
        matrix = kind(dense)
    actual = collapse(matrix, codes, K, weights=weights, covariates=covariates)
    assert_equal(actual, naive(dense, codes, K, weights, covariates))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 30),
    g=st.integers(0, 12),
    k=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e3]),
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([1, 3, 1000]),
    n_jobs=st.sampled_from([1, 3]),
)
def test_random_matrices_agree_with_the_naive_twin(seed, n, g, k, offset, kind, size, n_jobs):
    budget = Budget(segment_rows=size)
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, g)) < rng.random(), offset + rng.normal(size=(n, g)), 0.0)
    codes, weights, covariates = rng.integers(-1, k, n), rng.uniform(0.5, 2, n), rng.normal(size=(n, 2))
    actual = collapse(kind(dense), codes, k, weights=weights, covariates=covariates, n_jobs=n_jobs, budget=budget)
    assert_equal(actual, naive(dense, codes, k, weights, covariates), rtol=1e-9)


@pytest.mark.parametrize("kind", [*KINDS, pd.DataFrame])
@pytest.mark.parametrize("weighted", [False, True])
def test_number_of_threads_changes_no_bit(kind, weighted):
    dense, codes, weights, covariates = make(n=900, g=40)
    chosen = {"weights": weights if weighted else None, "covariates": covariates, "budget": Budget(segment_rows=50)}
    results = [collapse(kind(dense), codes, K, n_jobs=n_jobs, **chosen) for n_jobs in (1, 2, 3, -1)]
    for result in results[1:]:
        assert_identical(result, results[0])


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_does_not_matter(kind, budget):
    dense, codes, weights, covariates = make(n=400)
    order = np.random.default_rng(1).permutation(400)
    one = collapse(kind(dense), codes, K, weights=weights, covariates=covariates, budget=budget)
    other = collapse(
        kind(dense[order]), codes[order], K, weights=weights[order], covariates=covariates[order], budget=budget
    )
    assert_equal(other, one)


@pytest.mark.parametrize("kind", [*KINDS, pd.DataFrame])
@pytest.mark.parametrize("weighted", [False, True])
def test_constant_features_have_no_variance_at_all(kind, weighted, budget):
    rng = np.random.default_rng(0)
    codes, weights = rng.integers(0, 3, 200), rng.uniform(0.1, 5, 200) if weighted else None
    dense = np.zeros((200, 6))
    dense[:, 1] = 0.1
    dense[:, 2] = np.array([0.1, 1e9 / 3, 0.0])[codes]
    dense[:, 3] = -1e-3 / 7
    dense[:, 4] = rng.normal(size=200)
    covariates = np.column_stack([rng.normal(size=200), np.full(200, 2020.3), codes / 7])
    result = collapse(kind(dense), codes, 3, weights=weights, covariates=covariates, budget=budget)
    constant = [0, 1, 2, 3, 5]
    assert (result.within_ss[:, constant] == 0.0).all()
    assert (result.covariate_y[:, :, constant] == 0.0).all()
    assert (result.covariate_y[:, 1:] == 0.0).all()
    assert (result.within_ss[:, 4] > 0).all()
    np.testing.assert_array_equal(result.mean[:, 2], [0.1, 1e9 / 3, 0.0])
    np.testing.assert_array_equal(result.mean[:, [0, 5]], 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["offset", "offset and outlier first", "offset and zeros", "weighted"])
def test_a_large_offset_costs_no_digits(kind, case, budget):
    rng = np.random.default_rng(0)
    dense = 1e6 + rng.normal(size=(3000, 4))
    dense[0] = 1e9 if "outlier" in case else dense[0]
    dense[rng.random(dense.shape) < 0.3] = 0.0 if "zeros" in case else 1e6
    codes, covariates = rng.integers(0, 2, 3000), rng.normal(2020, 1, (3000, 1))
    weights = rng.uniform(0.5, 2, 3000) if case == "weighted" else None
    actual = collapse(kind(dense), codes, 2, weights=weights, covariates=covariates, budget=budget)
    assert_equal(actual, naive(dense, codes, 2, weights, covariates), rtol=1e-10)


def test_large_patterns_are_cut_by_the_data_alone():
    codes = np.repeat([0, 1, 2, -1], [200_000, 3, 50_000, 7]).astype(np.int32)
    cells = check_cells(codes, 4, None, None, len(codes))
    segments = cut_segments(cells)
    segment = Cutter(cells, segments).all().segment
    size = np.bincount(segment[codes >= 0])
    np.testing.assert_array_equal(segments.n_obs, size)
    assert size.max() <= BUDGET.segment_rows
    assert segments.pieces.tolist() == [13, 1, 4, 0]
    assert len(size) == 4 + 12 + 3
    assert (segment[codes == -1] == -1).all()
    assert (segment[codes == 1] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_merge_and_take_equal_the_whole(kind):
    dense, codes, weights, covariates = make(n=300)
    first = np.arange(300) < 120
    given_ = {"weights": weights, "covariates": covariates}
    whole = collapse(kind(dense), codes, K, **given_)
    parts = [collapse(kind(dense), np.where(use, codes, -1), K, **given_) for use in (first, ~first)]
    assert_equal(parts[0].merge(parts[1]), whole)
    assert_equal(parts[1].merge(parts[0]), whole)
    nothing = collapse(kind(dense), np.full(300, -1), K, **given_)
    assert_identical(whole.merge(nothing), whole)
    assert_identical(nothing.merge(whole), whole)

    patterns, features = np.array([3, 0]), np.array([5, 1, 9])
    some = whole.take(patterns).take_features(features)
    assert some.shape == (2, 2, 3)
    mask_k, mask_g = np.isin(np.arange(K), patterns), np.isin(np.arange(G), features)
    assert_identical(some.take([1, 0]).take_features(np.argsort(features)), whole.take(mask_k).take_features(mask_g))
    assert_identical(whole.take(slice(0, K)).take_features(slice(None)), whole)
    relabelled = np.where(np.isin(codes, patterns), np.where(codes == 3, 0, 1), -1)
    assert_identical(collapse(kind(dense), relabelled, 2, features=features, **given_), some)
    with pytest.raises(DataError, match="same patterns"):
        whole.merge(some)


@pytest.mark.parametrize("kind", [*KINDS, pd.DataFrame])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(kind, value):
    dense, codes, _, _ = make(dtype=np.float64)
    codes[:3] = 0, 1, -1
    dense[[0, 1], [4, 9]] = value
    dense[2, 6] = value
    names = [f"gene{j}" for j in range(G)]
    with pytest.raises(DataError, match=r"2 of 23 features .*'gene4', 'gene9'"):
        collapse(kind(dense), codes, K, names=names)
    with pytest.raises(DataError, match=r"1 of 2 features .*columns 9"):
        collapse(kind(dense), codes, K, features=[3, 9])
    with pytest.raises(DataError, match=r"1 of 2 features .*'nine'"):
        collapse(kind(dense), codes, K, features=[3, 9], names=["three", "nine"])
    others = np.setdiff1d(np.arange(G), [4, 9])
    assert np.isfinite(collapse(kind(dense), codes, K, features=others).within_ss).all()


class Stub:
    shape = (N, G)


@pytest.mark.parametrize(
    ("matrix", "changes", "message"),
    [
        ([[1.0]], {}, "builtins.list"),
        (Stub(), {}, "Stub"),
        (np.ma.masked_invalid(np.ones((N, G))), {}, "MaskedArray"),
        (np.ones(N), {}, "two dimensions"),
        (np.ones((N, G), dtype=complex), {}, "complex128"),
        (sparse.csr_matrix(np.ones((N, G), dtype=complex)), {}, "complex128"),
        (np.full((N, G), "a", dtype=object), {}, "object"),
        (pd.DataFrame({"a": ["x"] * N, "b": 1.0}), {}, "Column 'a'"),
        (None, {"codes": np.zeros(N - 1, dtype=int)}, "codes must be 60 integers"),
        (None, {"codes": np.zeros(N)}, "codes must be 60 integers"),
        (None, {"codes": np.full(N, K)}, "between -1 and 4"),
        (None, {"codes": np.full(N, -2)}, "between -1 and 4"),
        (None, {"weights": np.ones(3)}, "weights must have shape"),
        (None, {"weights": np.zeros(N)}, "positive and finite"),
        (None, {"weights": np.full(N, np.nan)}, "positive and finite"),
        (None, {"covariates": np.ones(N)}, "covariates must have shape"),
        (None, {"covariates": np.full((N, 1), np.nan)}, "covariates must be finite"),
        (None, {"features": [0, 0]}, "twice"),
        (None, {"features": [G]}, "between 0 and 22"),
        (None, {"features": [-1]}, "between 0 and 22"),
        (None, {"features": [0.5]}, "column numbers"),
        (None, {"features": np.ones(G, dtype=bool)}, "column numbers"),
        (None, {"n_jobs": 0}, "n_jobs=0"),
    ],
)
def test_bad_input_is_refused_with_a_reason(matrix, changes, message):
    arguments = {"codes": np.zeros(N, dtype=int), "n_patterns": K} | changes
    with pytest.raises(DonorwiseError, match=message):
        collapse(np.ones((N, G)) if matrix is None else matrix, **arguments)


def test_unused_rows_are_never_read():
    dense, codes, weights, covariates = make(dtype=np.float64)
    unused = codes == -1
    assert unused.any()
    expected = naive(dense, codes, K, weights, covariates)
    dense[unused], weights[unused], covariates[unused] = np.nan, -1, np.inf
    for kind in KINDS:
        assert_equal(collapse(kind(dense), codes, K, weights=weights, covariates=covariates), expected)


@pytest.mark.parametrize("kind", [*KINDS, pd.DataFrame])
def test_memory_beyond_the_matrix_stays_small(kind):
    rng = np.random.default_rng(0)
    matrix = kind(rng.random((60_000, 300)).astype(np.float32) + 1)
    codes = rng.integers(0, 4, 60_000)
    collapse(matrix, codes, 4)
    tracemalloc.start()
    collapse(matrix, codes, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.35 * 60_000 * 300 * 4


def nullable(dense):
    return pd.DataFrame(dense.astype("float64")).astype({2: "Float64", 3: "Float64"})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", [np.ascontiguousarray, np.asfortranarray, pd.DataFrame, nullable])
def test_columns_that_miss_the_same_rows_are_grouped(dtype, kind):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(19, 9)).astype(dtype)
    dense[[1, 5], 2] = dense[[1, 5], 7] = dense[[1, 5], 0] = np.nan
    dense[1, 4] = np.nan
    dense[:, 8] = np.nan
    groups = missing_patterns(kind(dense))
    assert [group.tolist() for group, _ in groups] == [[1, 3, 5, 6], [0, 2, 7], [4], [8]]
    assert groups[0][1] is None
    for group, present in groups[1:]:
        for column in group:
            np.testing.assert_array_equal(present, ~np.isnan(dense[:, column]))
    chosen = missing_patterns(kind(dense), [7, 3, 8, 2])
    assert [group.tolist() for group, _ in chosen] == [[3], [7, 2], [8]]
    for group, present in chosen[:2]:
        codes = np.zeros(19, dtype=int) if present is None else np.where(present, 0, -1)
        assert_equal(collapse(kind(dense), codes, 1, features=group), naive(dense[:, group], codes, 1))


def test_missing_patterns_do_not_depend_on_blocks():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((11, 30)) < 0.05, np.nan, 1.0)
    whole = missing_patterns(dense)
    blocks = missing_patterns(dense, block_numbers=40)
    for (a, rows_a), (b, rows_b) in zip(whole, blocks, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(rows_a, rows_b)
    assert [group.tolist() for group, _ in missing_patterns(np.ones((3, 2), dtype=int))] == [[0, 1]]
    assert missing_patterns(np.ones((3, 0))) == []
    for other in (sparse.csr_matrix(dense), dense[0], dense.astype(object)):
        with pytest.raises(DataError):
            missing_patterns(other)
