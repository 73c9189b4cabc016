"""Plots. Importing this is what imports matplotlib."""

from __future__ import annotations

from donorwise.pl.donors import donors
from donorwise.pl.volcano import volcano

__all__ = ["donors", "volcano"]
