"""Workers of a process: progress, requests to stop, threads that keep their order, changes of the process that threads share."""

from __future__ import annotations

import sys
import warnings
from threading import Lock, current_thread, main_thread
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

__all__ = ["Progress", "Shared", "asked_to_stop", "forget", "in_threads", "workers"]

_asked: list[type[BaseException]] = []


def asked_to_stop(kind: type[BaseException]) -> None:
    """Note an exception that a signal raises, which is lost where it meets a library's callback or a destructor."""
    _asked.append(kind)


def forget() -> None:
    """Forget what was noted: it has been obeyed."""
    _asked.clear()


def obey() -> None:
    """Raise what was noted, in the thread that signals arrive in."""
    if _asked and current_thread() is main_thread():
        kind = _asked[-1]
        forget()
        raise kind


class Progress(tqdm):  # type: ignore[misc]
    """A progress bar that obeys requests to stop at every step, also those that Python ignored ("Exception ignored in ...").

    No handler of signals is touched: what Python could not raise (an exception that is no error, such as
    KeyboardInterrupt) goes through ``sys.unraisablehook``, which is looked at while the bar is there.
    """

    def __enter__(self) -> Progress:
        if current_thread() is main_thread():
            self._hook = sys.unraisablehook
            sys.unraisablehook = self._look
        super().__enter__()
        return self

    def _look(self, ignored: sys.UnraisableHookArgs) -> None:
        if not issubclass(ignored.exc_type, Exception | GeneratorExit):
            asked_to_stop(ignored.exc_type)
        self._hook(ignored)

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        super().__exit__(kind, *error)
        if current_thread() is not main_thread():
            return
        sys.unraisablehook = self._hook
        if kind is None:
            obey()
        elif not issubclass(kind, Exception) or not isinstance(getattr(self._hook, "__self__", None), Progress):
            forget()  # it is on its way, or an error ends the outermost

    def update(self, n: float | None = 1) -> bool | None:
        """Go on by `n`."""
        obey()
        return super().update(n)


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
