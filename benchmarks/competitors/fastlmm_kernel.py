"""FaST-LMM: one kernel and what is left of the means of donors, phenotype by phenotype with one eigendecomposition for all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyscript

if TYPE_CHECKING:
    from kernels import Cohort

NAME = "FaST-LMM findH2, REML, one core"
_CODE = """
import time
import numpy as np
from fastlmm.inference.lmm import LMM

given = np.load("cohort.npz")
model = LMM()
model.setK(given["G"])
model.setX(given["X"])

def fit(y):
    model.sety(y)
    return model.findH2(REML=True)

fit(given["mean"][:, 0])
start = time.process_time()
for y in given["mean"].T:
    fit(y)
open("seconds.txt", "w").write(str((time.process_time() - start) / given["mean"].shape[1]))
"""


def missing() -> str:
    return pyscript.missing("fastlmm")


def seconds(cohort: Cohort, n_features: int) -> float:
    """Processor seconds for each feature."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort.write(folder, n_features)
        pyscript.run(folder, _CODE)
        return float((folder / "seconds.txt").read_text())
