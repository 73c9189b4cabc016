"""Threads over disjoint ranges; numba releases the GIL inside them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from donorwise.errors import DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._typing import IntArray

T = TypeVar("T")

# More ranges than threads, so that a thread that falls behind does not hold up the others.
_RANGES_PER_THREAD = 8


def n_threads(n_jobs: int) -> int:
    """Number of threads; as in joblib, -1 is one per processor and -2 one less."""
    if n_jobs == 0:
        raise DonorwiseError("n_jobs=0 has no meaning; use a positive number of threads, or -1 for all processors.")
    return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)


def run_ranges(task: Callable[[int, int], T], cost: IntArray, n_jobs: int) -> list[T]:
    """Results of ``task(first, last)`` over contiguous ranges of about equal cost that cover all items."""
    threads = min(n_threads(n_jobs), len(cost))
    if threads <= 1:
        return [task(0, len(cost))]
    ranges = _cut(cost, _RANGES_PER_THREAD * threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: task(*pair), ranges))


def _cut(cost: IntArray, n_ranges: int) -> list[tuple[int, int]]:
    reached = np.cumsum(cost + 1)
    inner = np.searchsorted(reached, np.linspace(0, reached[-1], n_ranges + 1)[1:-1]) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(inner, len(cost)), [len(cost)]]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
