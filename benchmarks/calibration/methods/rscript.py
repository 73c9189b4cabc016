"""Tests that run in R: counts out, p-values back, in files of a temporary folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import rscript
from benchmarks.calibration.data import CountData

_BEGIN = """
suppressMessages({library(limma); library(edgeR)})
counts <- t(as.matrix(read.csv("counts.csv", row.names = 1)))
samples <- read.csv("samples.csv", row.names = 1)
samples$condition <- factor(samples$condition, levels = c("control", "case"))
paired <- max(table(samples$donor)) > 1
design <- if (paired) model.matrix(~ donor + condition, samples) else model.matrix(~ condition, samples)
y <- calcNormFactors(DGEList(counts, lib.size = samples$library))
"""
_END = """
writeLines(format(p, digits = 17), "p.txt")
"""


def p_values(data: CountData, code: str) -> np.ndarray:
    """Run R code that makes ``p`` of ``y`` (a DGEList, normalised) and ``design`` (the condition comes last)."""
    counts, samples = data.sums()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        counts.to_csv(place / "counts.csv")
        samples.to_csv(place / "samples.csv")
        rscript.run(place, _BEGIN + code + _END)
        return np.array([float(line) for line in (place / "p.txt").read_text().replace("NA", "nan").split()])


def missing() -> str:
    """What of R is not installed; empty where all is."""
    return rscript.missing(("limma", "edgeR"))


def has_cells(data: Any) -> bool:
    """Whether there are counts to sum."""
    return isinstance(data, CountData)
