"""Plots. Importing this is what imports matplotlib."""

from __future__ import annotations

from donorwise.pl._checks import calibration, power
from donorwise.pl._covariates import covariates
from donorwise.pl._design import design
from donorwise.pl._donors import donors
from donorwise.pl._genotype import genotype
from donorwise.pl._heatmap import heatmap
from donorwise.pl._heritability import heritability
from donorwise.pl._influence import influence
from donorwise.pl._intervals import forest, ranef
from donorwise.pl._locus import locus
from donorwise.pl._manhattan import manhattan
from donorwise.pl._means import means
from donorwise.pl._prior import prior
from donorwise.pl._pvalues import pvalues, qq
from donorwise.pl._trajectories import trajectories
from donorwise.pl._variances import icc, variance_partition
from donorwise.pl._volcano import ma, volcano

__all__ = [
    "calibration",
    "covariates",
    "design",
    "donors",
    "forest",
    "genotype",
    "heatmap",
    "heritability",
    "icc",
    "influence",
    "locus",
    "ma",
    "manhattan",
    "means",
    "power",
    "prior",
    "pvalues",
    "qq",
    "ranef",
    "trajectories",
    "variance_partition",
    "volcano",
]


def __dir__() -> list[str]:
    return sorted(__all__)
