"""Tests that run in R: counts out, p-values back, in files of a temporary folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.calibration.data import CountData

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        (place / "run.R").write_text(_BEGIN + code + _END)
        subprocess.run(["Rscript", "--vanilla", "run.R"], cwd=place, check=True, capture_output=True)
        return np.array([float(line) for line in (place / "p.txt").read_text().replace("NA", "nan").split()])


@cache
def missing(packages: Sequence[str] = ("limma", "edgeR")) -> str:
    """What of R is not installed; empty where all is."""
    if shutil.which("Rscript") is None:
        return "R with limma and edgeR"
    loads = "; ".join(f"loadNamespace('{p}')" for p in packages)
    found = subprocess.run(["Rscript", "--vanilla", "-e", loads], capture_output=True, check=False).returncode == 0
    return "" if found else "R packages limma and edgeR"


def has_cells(data: Any) -> bool:
    """Whether there are counts to sum."""
    return isinstance(data, CountData)
