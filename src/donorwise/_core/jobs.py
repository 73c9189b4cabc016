"""Workers of a process: progress bars, threads that keep their order, and changes of the process that threads share."""

from __future__ import annotations

import warnings
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

with warnings.catch_warnings():
    # tqdm warns where it falls back on text in a notebook, which needs nothing to be done
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from joblib import Parallel

Item = TypeVar("Item")
Made = TypeVar("Made")

__all__ = ["Shared", "in_threads", "tqdm", "workers"]


class Shared:
    """A change of the whole process, for as long as any thread is inside: the first makes it, the last undoes it.

    Parameters
    ----------
    change
        Makes the change, and returns what undoes it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change, self._lock, self._inside = change, Lock(), 0
        self._undo: Callable[[], object] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._undo = self._change()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo()


def workers(n_jobs: int) -> Parallel:
    """Workers that give results one by one, in order: threads, or what joblib's configuration asks for.

    A backend that cannot do so (``multiprocessing``, which takes no functions within functions either) gives way to threads.
    """
    from joblib import Parallel
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend(prefer="threads")
    own: dict[str, Any] = {} if backend.supports_return_generator else {"backend": "threading"}
    return Parallel(n_jobs, prefer="threads", return_as="generator", **own)


def in_threads(function: Callable[[Item], Made], items: Iterable[Item], n_jobs: int) -> Iterator[Made]:
    """What a function makes of each item, in their order; items are made one at a time, as they are handed out."""
    if n_jobs == 1:
        return map(function, items)
    from joblib import delayed

    return iter(workers(n_jobs)(delayed(function)(item) for item in items))
