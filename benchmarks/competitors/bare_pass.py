"""The floor of any pass over a sparse matrix: load every value and index once and add them up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    import anndata as ad

NAME = "bare pass over data and indices"


def run(adata: ad.AnnData, *, n_jobs: int) -> float:
    return _in_ranges(_plain, adata, n_jobs)


def run_vectorised(adata: ad.AnnData, *, n_jobs: int) -> float:
    """The same with the order of additions left to the compiler: as fast as memory delivers."""
    return _in_ranges(_vectorised, adata, n_jobs)


def _in_ranges(kernel, adata: ad.AnnData, n_jobs: int) -> float:
    data, indices = adata.X.data, adata.X.indices
    bounds = np.linspace(0, data.size, n_jobs + 1).astype(np.int64)
    if n_jobs == 1:
        return kernel(data, indices, 0, data.size)
    with ThreadPoolExecutor(n_jobs) as pool:
        return sum(pool.map(lambda i: kernel(data, indices, bounds[i], bounds[i + 1]), range(n_jobs)))


def _loop(data, indices, first, last):
    total, index_total = 0.0, 0
    for p in range(first, last):
        total += np.float64(data[p])
        index_total += np.int64(indices[p])
    return total + index_total


_plain = njit(nogil=True)(_loop)
_vectorised = njit(nogil=True, fastmath=True)(_loop)
