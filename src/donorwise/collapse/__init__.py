"""Cells x features to exact sufficient statistics per design pattern, in one pass.

Names are imported when they are used: a worker that only reads a file needs nothing of the kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from donorwise.collapse.accumulate import collapse
    from donorwise.collapse.missing import missing_patterns
    from donorwise.collapse.statistics import Collapsed
    from donorwise.collapse.stored import Stored

__all__ = ["Collapsed", "Stored", "collapse", "missing_patterns"]

_HOMES = {
    "Collapsed": "statistics",
    "Stored": "stored",
    "collapse": "accumulate",
    "missing_patterns": "missing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"donorwise.collapse.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
