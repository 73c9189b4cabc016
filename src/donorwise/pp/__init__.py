"""Preparation: tables of peptides, covariates and kernels that the models need, and cells collapsed to rows."""

from __future__ import annotations

from donorwise.pp._collapse import collapse
from donorwise.pp._log_depth import log_depth
from donorwise.pp._merge_collapsed import merge_collapsed
from donorwise.pp._pivot import pivot
from donorwise.pp._quality_weights import quality_weights
from donorwise.pp._read_relatedness import read_relatedness
from donorwise.pp._relatedness import relatedness
from donorwise.pp._similarity import similarity
from donorwise.pp._size_factors import size_factors

__all__ = [
    "collapse",
    "log_depth",
    "merge_collapsed",
    "pivot",
    "quality_weights",
    "read_relatedness",
    "relatedness",
    "similarity",
    "size_factors",
]


def __dir__() -> list[str]:
    return sorted(__all__)
