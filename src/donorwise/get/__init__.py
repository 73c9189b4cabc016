"""Tidy tables out of an AnnData."""

from __future__ import annotations

from donorwise.get._checks import calibration, influence, power
from donorwise.get._export import matrix, to_rank_genes_groups, to_varm
from donorwise.get._tests import tests
from donorwise.get._variances import icc, ranef, varcomp, variance_partition

__all__ = [
    "calibration",
    "icc",
    "influence",
    "matrix",
    "power",
    "ranef",
    "tests",
    "to_rank_genes_groups",
    "to_varm",
    "varcomp",
    "variance_partition",
]


def __dir__() -> list[str]:
    return sorted(__all__)
