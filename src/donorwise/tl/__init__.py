"""Tools: fit and test models across features."""

from __future__ import annotations

from donorwise.tl.lmm import lmm

__all__ = ["lmm"]
