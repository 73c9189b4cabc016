"""The one look at the values of a model of counts: its naive twin, and every container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from donorwise._anndata import open_source
from donorwise._core.cells.examined import Examined, examine
from donorwise._core.cells.stored import Stored

N, M = 120, 17


def _values(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.poisson(0.6, (N, M)).astype(np.float64)
    values[7, 3], values[7, 9], values[20, 0], values[21, 16], values[40, 5] = 1.5, -2, np.nan, np.inf, 1e6
    return values


def _twin(values: np.ndarray, most: np.ndarray, features: np.ndarray) -> Examined:
    """Value by value."""
    seen = Examined(np.zeros(N), np.zeros(N), np.zeros(N, int), np.zeros(N, int), np.full(N, np.nan))
    for i, row in enumerate(values):
        for j, y in enumerate(row):
            seen.total[i] += y
            if np.isfinite(y) and 0 <= y <= most[i] and y == int(y):
                seen.largest[i] = max(seen.largest[i], y) if j in features else seen.largest[i]
                continue
            if not seen.n_bad[i]:
                seen.column[i], seen.value[i] = j, y
            seen.n_bad[i] += 1
    return seen


def _same(found: Examined, right: Examined) -> None:
    for name, values in found._asdict().items():
        np.testing.assert_allclose(values, getattr(right, name), rtol=1e-12, err_msg=name)


CONTAINERS: dict[str, Any] = {
    "dense": lambda x: x,
    "columns first": np.asfortranarray,
    "float32": lambda x: x.astype(np.float32),
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_array,
    "coo": sparse.coo_matrix,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_every_container_is_seen_as_its_naive_twin(container: str, n_jobs: int) -> None:
    most = np.where(np.arange(N) % 2, 2.0, np.inf)
    features = np.array([1, 3, 5, 16])
    found = examine(CONTAINERS[container](_values()), most, features, n_jobs=n_jobs)
    _same(found, _twin(_values(), most, features))


def test_features_alone_can_be_looked_at() -> None:
    features = np.array([12, 3])
    found = examine(sparse.csr_array(_values()), np.full(N, np.inf), features, whole=False)
    assert found.n_bad.sum() == 1
    assert (found.column[7], found.value[7]) == (3, 1.5)
    np.testing.assert_array_equal(found.total, _values()[:, features].sum(axis=1))


@pytest.mark.parametrize("dtype", [bool, np.uint16, np.int32])
def test_whole_numbers_of_any_kind(dtype: type) -> None:
    values = np.nan_to_num(_values(), posinf=3).clip(0, 9).astype(dtype)
    for matrix in (values, sparse.csr_matrix(values), sparse.csc_matrix(values)):
        found = examine(matrix, np.full(N, np.inf))
        assert not found.n_bad.any()
        np.testing.assert_array_equal(found.total, values.sum(axis=1))
        np.testing.assert_array_equal(found.largest, values.max(axis=1))


def test_duplicates_of_a_sparse_matrix_add_up() -> None:
    matrix = sparse.csr_matrix(
        (np.array([2.0, 3.0, 0.5, 0.5]), np.array([1, 1, 0, 0]), np.array([0, 2, 4])), shape=(2, 2)
    )
    found = examine(matrix, np.array([4.0, 4.0]))
    assert found.n_bad.tolist() == [1, 0]
    assert found.total.tolist() == [5, 1]


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_what_is_not_in_memory(form: str, tmp_path: Path) -> None:
    values = _values()
    X = values if form == "dense" else sparse.csr_matrix(values) if form == "csr" else sparse.csc_matrix(values)
    ad.AnnData(X).write_h5ad(tmp_path / "a.h5ad")
    most, features = np.full(N, np.inf), np.arange(4)
    backed = open_source(tmp_path / "a.h5ad").X
    _same(examine(Stored(backed), most, features), _twin(values, most, features))
    rows, columns = np.array([40, 7, 20, 3]), np.array([9, 3, 0, 5])
    found = examine(Stored(backed, rows, columns), np.full(4, np.inf), np.array([1, 3]))
    np.testing.assert_allclose(found.total, values[np.ix_(rows, columns)].sum(axis=1))
    assert found.n_bad.tolist() == [0, 2, 1, 0]
    assert (found.largest[0], found.column[2]) == (1e6, 2)
