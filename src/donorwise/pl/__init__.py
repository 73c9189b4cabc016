"""Plots. Importing this is what imports matplotlib."""

from __future__ import annotations

from donorwise.pl.calibration import calibration
from donorwise.pl.design import design
from donorwise.pl.donors import donors
from donorwise.pl.forest import forest
from donorwise.pl.heatmap import heatmap
from donorwise.pl.icc import icc
from donorwise.pl.influence import influence
from donorwise.pl.ma import ma
from donorwise.pl.power import power
from donorwise.pl.prior import prior
from donorwise.pl.pvalues import pvalues
from donorwise.pl.qq import qq
from donorwise.pl.ranef import ranef
from donorwise.pl.trajectories import trajectories
from donorwise.pl.variance_partition import variance_partition
from donorwise.pl.volcano import volcano

__all__ = [
    "calibration",
    "design",
    "donors",
    "forest",
    "heatmap",
    "icc",
    "influence",
    "ma",
    "power",
    "prior",
    "pvalues",
    "qq",
    "ranef",
    "trajectories",
    "variance_partition",
    "volcano",
]
