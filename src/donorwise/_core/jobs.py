"""Workers of a process: progress bars, and threads that keep their order."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, TypeVar

with warnings.catch_warnings():
    # tqdm warns where it falls back on text in a notebook, which needs nothing to be done
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Made = TypeVar("Made")

__all__ = ["in_threads", "tqdm"]


def in_threads(function: Callable[[Item], Made], items: Iterable[Item], n_jobs: int) -> Iterator[Made]:
    """What a function makes of each item, in their order; items are made one at a time, as they are handed out."""
    if n_jobs == 1:
        return map(function, items)
    from joblib import Parallel, delayed

    return iter(Parallel(n_jobs, prefer="threads", return_as="generator")(delayed(function)(item) for item in items))
