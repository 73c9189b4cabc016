"""The data sets of scenarios A to F, each made from a seed of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.calibration.real import relabelled
from benchmarks.calibration.simulate import Recipe, counts, gaussian

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.calibration.data import CountData, GaussianData

TITLES = {
    "A": "Gaussian statistics",
    "B": "NB counts",
    "C": "donors differ in depth",
    "D": "few cells, odd donors",
    "E": "paired designs",
    "F": "real cells, random labels",
}
_GENES, _QUICK_GENES = 2_000, 600
_FEATURES, _QUICK_FEATURES = 20_000, 4_000
_LOW = (np.log(0.05), 1.0)
_FEW = (10, 100)
_VARIANTS: dict[str, dict[str, Recipe]] = {
    "B": {"": Recipe()},
    "C": {"": Recipe(depth_sd=0.3)},
    "D": {
        "few cells": Recipe(cells=_FEW),
        "sd rises": Recipe(cells=_FEW, sd_rises=True),
        "t4": Recipe(cells=_FEW, heavy_tails=True),
        "doubled sd": Recipe(cells=_FEW, case_sd=2.0),
        "low counts": Recipe(cells=_FEW, log_mean=_LOW, detected=0.01),
        "all of it": Recipe(_FEW, _LOW, sd_rises=True, heavy_tails=True, case_sd=2.0, detected=0.01),
    },
    "E": {
        "no slopes": Recipe(cells=(50, 500), paired=True),
        "slopes": Recipe(cells=(50, 500), paired=True, slope_sd=0.4),
    },
}
# Donors per arm (donors, where paired) and data sets of that size: all of them, and in a quick run.
_SIZES: dict[str, dict[int, tuple[int, int]]] = {
    "A": {2: (15, 3), 3: (15, 3), 5: (15, 3)},
    "B": {3: (30, 4), 5: (16, 3), 10: (10, 2), 20: (6, 1)},
    "C": {3: (12, 3), 5: (12, 3), 10: (8, 1)},
    "D": {5: (12, 2)},
    "E": {3: (12, 2), 5: (10, 2), 10: (6, 1)},
    "F": {3: (60, 6), 5: (40, 4), 15: (30, 3)},
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where a data set comes from; it is made when it is needed."""

    scenario: str
    variant: str
    size: int
    replicate: int
    quick: bool

    @property
    def name(self) -> str:
        """Name of its folder in the cache."""
        variant = f"-{self.variant.replace(' ', '-')}" if self.variant else ""
        return f"{self.scenario}{variant}-{self.size:02d}-{self.replicate:03d}"

    def make(self, file: Path | None) -> CountData | GaussianData:
        """Make it; the same one every time. `file` holds the cells of scenario F."""
        rng = np.random.default_rng([ord(self.scenario), self.size, self.replicate, *map(ord, self.variant)])
        if self.scenario == "A":
            return gaussian(rng, self.size, _QUICK_FEATURES if self.quick else _FEATURES)
        if self.scenario == "F":
            if file is None:
                raise ValueError("Scenario F needs a file of cells.")
            return relabelled(rng, self.size, file)
        recipe = _VARIANTS[self.scenario][self.variant]
        return counts(rng, self.size, _QUICK_GENES if self.quick else _GENES, recipe)


def data_sets(scenarios: str, *, quick: bool) -> list[DataSet]:
    """All data sets of some scenarios, named by their letters."""
    variants: Mapping[str, object]
    out = []
    for scenario in scenarios:
        variants = _VARIANTS.get(scenario, {"": None})
        for variant in variants:
            for size, n in _SIZES[scenario].items():
                out += [DataSet(scenario, variant, size, r, quick) for r in range(n[quick])]
    return out
