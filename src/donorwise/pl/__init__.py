"""Plots. Importing this is what imports matplotlib."""

from __future__ import annotations

from donorwise.pl.donors import donors
from donorwise.pl.icc import icc
from donorwise.pl.variance_partition import variance_partition
from donorwise.pl.volcano import volcano

__all__ = ["donors", "icc", "variance_partition", "volcano"]
