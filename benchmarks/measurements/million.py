"""Mixed models of a million cells against scanpy's t-test of the same matrix."""

from __future__ import annotations

from data import Size
from report import Section

from measurements.end_to_end import compare


def run(quick: bool) -> Section:
    size = Size(cells=100_000 if quick else 1_000_000, donors=100)
    return compare("k", size, 1 / 5, repeats=3 if quick else 7)
