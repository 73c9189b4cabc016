"""Work in threads: the kernels and matrix products release the interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from joblib import Parallel, delayed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_threads(function: Callable[[Item], Made], items: Iterable[Item], n_jobs: int) -> list[Made]:
    """What a function makes of each item, in their order."""
    if n_jobs == 1:
        return [function(item) for item in items]
    return list(Parallel(n_jobs, prefer="threads")(delayed(function)(item) for item in items))
