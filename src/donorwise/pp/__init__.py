"""Preparation: covariates that the models need, and cells collapsed to rows."""

from __future__ import annotations

from donorwise.pp._collapse import collapse
from donorwise.pp._log_depth import log_depth
from donorwise.pp._merge_collapsed import merge_collapsed
from donorwise.pp._size_factors import size_factors

__all__ = ["collapse", "log_depth", "merge_collapsed", "size_factors"]


def __dir__() -> list[str]:
    return sorted(__all__)
