"""glimix-core, the engine of limix, as limix' decomposition of variances calls it: kernels and donors, one phenotype at a time.

The sampling variance of a donor's mean is one more term, as the numbers of cells are unequal. Maximum likelihood, and no tests.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyscript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernels import Cohort

NAME = "glimix-core GP, ML, one core"
_CODE = """
import time
import numpy as np
from glimix_core.cov import EyeCov, GivenCov, SumCov
from glimix_core.gp import GP
from glimix_core.mean import LinearMean

given = np.load("cohort.npz")
names = open("kernels.txt").read().split()

def fit(y):
    terms = [*(GivenCov(given[name]) for name in names), EyeCov(len(y)), GivenCov(np.diag(1 / given["cells"]))]
    GP(y, LinearMean(given["X"]), SumCov(terms)).fit(verbose=False)

start = time.process_time()
for y in given["mean"].T:
    fit(y)
open("seconds.txt", "w").write(str((time.process_time() - start) / given["mean"].shape[1]))
"""


def missing() -> str:
    return pyscript.missing("glimix_core")


def seconds(cohort: Cohort, n_features: int, kernels: Sequence[str]) -> float:
    """Processor seconds for each feature."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort.write(folder, n_features)
        (folder / "kernels.txt").write_text(" ".join(kernels))
        pyscript.run(folder, _CODE)
        return float((folder / "seconds.txt").read_text())
