"""Tools: fit and test models across features."""

from __future__ import annotations

from donorwise.tl._calibrate import calibrate
from donorwise.tl._composition import composition
from donorwise.tl._gene_sets import gene_sets
from donorwise.tl._glmm import glmm
from donorwise.tl._influence import influence
from donorwise.tl._joint_test import joint_test
from donorwise.tl._lmm import lmm
from donorwise.tl._power import power
from donorwise.tl._pseudobulk import pseudobulk
from donorwise.tl._residuals import residuals
from donorwise.tl._scan import scan
from donorwise.tl._shrink import shrink
from donorwise.tl._test import test
from donorwise.tl._test_variance import test_variance
from donorwise.tl._variance_partition import variance_partition

__all__ = [
    "calibrate",
    "composition",
    "gene_sets",
    "glmm",
    "influence",
    "joint_test",
    "lmm",
    "power",
    "pseudobulk",
    "residuals",
    "scan",
    "shrink",
    "test",
    "test_variance",
    "variance_partition",
]


def __dir__() -> list[str]:
    return sorted(__all__)
