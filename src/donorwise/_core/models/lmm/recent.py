"""What the fits of an analysis have in common and that takes long: made once for cell types with the same rows and donors.

The last of each kind is kept while an analysis runs, and forgotten when it ends.
"""

from __future__ import annotations

from hashlib import blake2b
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from donorwise._core.jobs import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

T = TypeVar("T")

_LOCK = RLock()
_KEPT: dict[str, tuple[bytes, object]] = {}
_ON: list[bool] = []


def _start() -> Callable[[], None]:
    _ON.append(True)

    def forget() -> None:
        with _LOCK:
            _ON.clear()
            _KEPT.clear()

    return forget


REMEMBERING = Shared(_start)
"""The context in which things are kept."""


def once(kind: type[T], made_from: Sequence[ArrayLike], make: Callable[[], T]) -> T:
    """What `make` makes from these arrays; the last of its kind where that was made from the same."""
    if not _ON:
        return make()
    with _LOCK:
        key = _digest(made_from)
        kept = _KEPT.get(kind.__name__)
        if kept is not None and kept[0] == key and isinstance(kept[1], kind):
            return kept[1]
        made = make()
        _KEPT[kind.__name__] = (key, made)
        return made


def _digest(arrays: Sequence[ArrayLike]) -> bytes:
    found = blake2b(digest_size=16)
    for values in arrays:
        array = np.ascontiguousarray(values)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.data if array.size else b"")
    return found.digest()
