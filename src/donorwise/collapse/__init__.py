"""Cells x features to exact sufficient statistics per design pattern, in one pass."""

from __future__ import annotations

from donorwise.collapse.accumulate import collapse
from donorwise.collapse.missing import missing_patterns
from donorwise.collapse.statistics import Collapsed

__all__ = ["Collapsed", "collapse", "missing_patterns"]
