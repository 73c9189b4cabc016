"""The hits of a whole transcriptome without every donor."""

from __future__ import annotations

from report import Section

from measurements.influence import measure


def run(quick: bool) -> Section:
    return measure("p", 2_000 if quick else 20_000, 20 if quick else 40, 30.0)
