"""How the time grows with cells, genes and donors, one at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from competitors import donorwise_lmm
from data import Size, cohort
from report import Section
from timing import exponent, interleave

AXES: dict[str, tuple[Size, tuple[int, ...]]] = {
    "cells": (Size(), (50_000, 100_000, 200_000, 400_000)),
    "genes": (Size(cells=50_000), (500, 1_000, 2_000, 4_000, 8_000)),
    "donors": (Size(), (10, 20, 50, 100, 200)),
}


def run(quick: bool) -> Section:
    rows = [row for axis, (base, values) in AXES.items() for row in _along(axis, base, values, quick)]
    return Section("e", "growth of tl.lmm, 2 threads (the exponent is over the whole axis: 1 is proportional)", rows)


def _along(axis: str, base: Size, values: tuple[int, ...], quick: bool) -> list[dict[str, Any]]:
    if quick:
        base, values = replace(base, cells=10_000, genes=500), tuple(v if axis == "donors" else v // 10 for v in values)
    seconds = [_seconds(replace(base, **{axis: v}), 3 if quick else 5) for v in values]
    rows = [{"axis": axis, "size": v, "median s": s} for v, s in zip(values, seconds, strict=True)]
    rows[-1]["exponent"] = exponent(values, seconds)
    return rows


def _seconds(size: Size, repeats: int) -> float:
    adata = cohort(size)
    (seconds,) = interleave({"lmm": partial(donorwise_lmm.run, adata, n_jobs=2)}, repeats=repeats).values()
    return median(seconds.wall)
