"""Tidy tables out of an AnnData."""

from __future__ import annotations

import warnings
from typing import Any

from donorwise.get._checks import calibration, influence, power
from donorwise.get._covariates import covariates
from donorwise.get._export import matrix, to_rank_genes_groups, to_varm
from donorwise.get._gene_sets import gene_sets
from donorwise.get._gwas_ssf import to_gwas_ssf
from donorwise.get._means import means
from donorwise.get._regenie import to_regenie
from donorwise.get._scan import scan
from donorwise.get._tensorqtl import to_tensorqtl
from donorwise.get._term_tests import joint_tests, variance_tests
from donorwise.get._tests import tests
from donorwise.get._variances import heritability, icc, ranef, varcomp, variance_partition

__all__ = [
    "calibration",
    "covariates",
    "gene_sets",
    "heritability",
    "icc",
    "influence",
    "joint_tests",
    "matrix",
    "means",
    "power",
    "ranef",
    "scan",
    "tests",
    "to_gwas_ssf",
    "to_rank_genes_groups",
    "to_regenie",
    "to_tensorqtl",
    "to_varm",
    "varcomp",
    "variance_partition",
    "variance_tests",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "lmm":  # as version 0.1 called the reader, in notebooks that people have
        warnings.warn("dw.get.lmm is called dw.get.tests and will go.", FutureWarning, stacklevel=2)
        return tests
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
