"""Sparse matrices in memory whose arrays do not fit together are refused before anything follows their positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import donorwise as dw
from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.kernels import any_outside, increasing
from donorwise._core.cells.matrices import row_sums
from donorwise._core.cells.structure import check_structure
from donorwise.errors import DataError

N, G = 60, 17


def _matrix(kind: Any = sparse.csr_matrix) -> Any:
    return kind(sparse.random(N, G, density=0.4, format="csr", random_state=np.random.default_rng(0)))


def _set(name: str, at: int, value: int) -> Callable[[Any], None]:
    def damage(matrix: Any) -> None:
        getattr(matrix, name)[at] = value

    return damage


def _shorter(matrix: Any) -> None:
    matrix.data = matrix.data[:-3]


DAMAGES = {
    "one too far": (lambda m: m.indices.__setitem__(5, m.shape[m.format == "csr"]), "indices lie outside"),
    "negative": (_set("indices", 5, -1), r"indices lie outside 0 to \d+ \(-1 is one\)"),
    "far away": (_set("indices", -1, 2**31 - 1), "indices lie outside .*2,147,483,647 is one"),
    "indptr falls": (_set("indptr", 3, 10**6), "indptr falls"),
    "indptr begins late": (_set("indptr", 0, 2), "indptr does not fit"),
    "indptr ends late": (_set("indptr", -1, 10**6), "indptr does not fit"),
    "fewer values": (_shorter, "indptr does not fit"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array])
def test_damaged(kind: Any, damage: str) -> None:
    matrix = _matrix(kind)
    change, words = DAMAGES[damage]
    change(matrix)
    for read in (check_structure, row_sums, lambda m: collapse(m, np.zeros(N, dtype=int), 1)):
        with pytest.raises(DataError, match=f"The sparse matrix: {words}.*check_format"):
            read(matrix)


def test_damaged_coordinates_and_blocks() -> None:
    coo = sparse.coo_matrix(_matrix())
    coo.col[3] = G
    with pytest.raises(DataError, match=rf"column numbers lie outside 0 to {G - 1} \({G} is one\)"):
        collapse(coo, np.zeros(N, dtype=int), 1)
    bsr = sparse.bsr_matrix(_matrix()[:, :16], blocksize=(2, 4))
    check_structure(bsr)
    bsr.indices[0] = 4
    with pytest.raises(DataError, match="indices lie outside 0 to 3"):
        collapse(bsr, np.zeros(N, dtype=int), 1)


@pytest.mark.parametrize("wide", [False, True])
def test_whole_matrices_pass(wide: bool) -> None:
    """Of every format, with 64-bit positions, unsorted, without values."""
    for format in ("csr", "csc", "coo", "bsr", "lil", "dok", "dia"):
        matrix = _matrix().asformat(format)
        if wide and hasattr(matrix, "indices"):
            matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
        check_structure(matrix)
    check_structure(sparse.csr_matrix((0, 3)))
    check_structure(sparse.csc_matrix((5, 0)))
    check_structure(np.zeros((2, 2)))


@pytest.mark.parametrize(("slot", "words"), [("X", "X: indices lie"), ("counts", "layers/counts: indices lie")])
def test_tools_name_the_element(slot: str, words: str) -> None:
    adata = dw.datasets.simulate_cohort(n_donors=4, n_cells=200, n_genes=12, seed=1)
    matrix = sparse.csr_matrix(adata.X if slot == "X" else adata.layers[slot])
    matrix.indices[7] = 12
    if slot == "X":
        adata.X = matrix
    else:
        adata.layers[slot] = matrix
    calls: list[Callable[[], object]] = [
        lambda: dw.pp.collapse(adata, ["donor_id"], counts_layer="counts", progress=False),
        lambda: dw.tl.pseudobulk(adata, "~ condition", layer=None if slot == "X" else slot, progress=False),
    ]
    if slot == "X":
        calls += [lambda: dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)]
    for call in calls:
        with pytest.raises(DataError, match=words):
            call()


def test_kernels_are_what_they_say() -> None:
    """Against plain loops."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        indptr = np.sort(np.concatenate([[0, 8], rng.integers(0, 9, 3)]))
        indices = rng.integers(-1 if rng.random() < 0.2 else 0, 6, 8)
        rows = [indices[a:b] for a, b in zip(indptr[:-1], indptr[1:], strict=True)]
        assert increasing(indices, indptr) == all((np.diff(row) > 0).all() for row in rows)
        assert any_outside(indices, np.int64(5)) == bool(((indices < 0) | (indices >= 5)).any())
    none = np.zeros(0, dtype=np.int32)
    assert increasing(none, np.zeros(3, dtype=np.int32)) and not any_outside(none, np.int32(0))
