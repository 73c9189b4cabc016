"""Tools: fit and test models across features."""

from __future__ import annotations

from donorwise.tl._calibrate import calibrate
from donorwise.tl._composition import composition
from donorwise.tl._glmm import glmm
from donorwise.tl._influence import influence
from donorwise.tl._lmm import lmm
from donorwise.tl._power import power
from donorwise.tl._pseudobulk import pseudobulk
from donorwise.tl._scan import scan
from donorwise.tl._shrink import shrink
from donorwise.tl._test import test

__all__ = ["calibrate", "composition", "glmm", "influence", "lmm", "power", "pseudobulk", "scan", "shrink", "test"]


def __dir__() -> list[str]:
    return sorted(__all__)
