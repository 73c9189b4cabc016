"""Mixed models of a million cells against scanpy's t-test of the same matrix."""

from __future__ import annotations

from competitors import donorwise_lmm, donorwise_moderated
from data import Size
from report import Section

from measurements.end_to_end import compare


def run(quick: bool) -> Section:
    size = Size(cells=100_000 if quick else 1_000_000, donors=100)
    return compare("k", size, {donorwise_lmm: 0.12, donorwise_moderated: 0.2}, repeats=3 if quick else 5)
