"""Tidy tables out of an AnnData."""

from __future__ import annotations

from donorwise.get.calibration import calibration
from donorwise.get.influence import influence
from donorwise.get.lmm import lmm
from donorwise.get.matrix import matrix
from donorwise.get.power import power
from donorwise.get.ranef import ranef
from donorwise.get.rank_genes_groups import to_rank_genes_groups
from donorwise.get.variances import icc, varcomp, variance_partition
from donorwise.get.varm import to_varm

__all__ = [
    "calibration",
    "icc",
    "influence",
    "lmm",
    "matrix",
    "power",
    "ranef",
    "to_rank_genes_groups",
    "to_varm",
    "varcomp",
    "variance_partition",
]
