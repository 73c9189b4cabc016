"""lme4 with a transformed Z, as lme4qtl and pedigreemm have it: Z L for K = LL', gene by gene, on the cells.

The time is that of the fits, without the start of R, the data and the tests.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rscript

if TYPE_CHECKING:
    from kernels import Cohort

NAME = "lme4, Z L for K = LL', one core"
_CODE = """
suppressMessages(library(lme4))
cells <- read.csv("cells.csv", stringsAsFactors = TRUE)
n <- nlevels(cells$donor)
values <- readBin("kernel.bin", "double", n = n^2)
L <- t(chol(matrix(values, n) + 1e-8 * diag(n)))
genes <- matrix(readBin("values.bin", "double", n = file.size("values.bin") / 8), nrow = nrow(cells))
fit <- function(y) {
  parts <- lFormula(y ~ lot + runs + age + (1 | donor), cbind(cells, y = y), REML = TRUE)
  parts$reTrms$Zt <- Matrix::drop0(as(t(L), "CsparseMatrix") %*% parts$reTrms$Zt)
  deviance <- do.call(mkLmerDevfun, parts)
  mkMerMod(environment(deviance), optimizeLmer(deviance), parts$reTrms, fr = parts$fr)
}
used <- system.time(apply(genes, 2, fit))
writeLines(format(sum(used[c("user.self", "sys.self")]) / ncol(genes), digits = 10), "seconds.txt")
"""


def missing() -> str:
    return rscript.missing(("lme4",))


def seconds(cohort: Cohort, n_features: int) -> float:
    """Processor seconds for each feature."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        donor = np.repeat(np.arange(len(cohort.cells)), cohort.cells)
        cohort.obs.iloc[donor].to_csv(folder / "cells.csv", index=False)
        cohort.kernels["G"].to_numpy().tofile(folder / "kernel.bin")
        values = cohort.mean[donor, :n_features] + rng.normal(size=(donor.size, n_features))
        values.ravel(order="F").tofile(folder / "values.bin")
        rscript.run(folder, _CODE)
        return float((folder / "seconds.txt").read_text())
