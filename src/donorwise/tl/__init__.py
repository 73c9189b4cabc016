"""Tools: fit and test models across features."""

from __future__ import annotations

from donorwise.tl.calibrate import calibrate
from donorwise.tl.influence import influence
from donorwise.tl.lmm import lmm
from donorwise.tl.power import power
from donorwise.tl.pseudobulk import pseudobulk

__all__ = ["calibrate", "influence", "lmm", "power", "pseudobulk"]
