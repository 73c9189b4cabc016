"""lme4 with lmerTest, gene by gene in R, as dream does it: Satterthwaite's degrees of freedom, on one core.

The time is that of a whole R process: its start, some 3 s for the packages, the data through files, and the fits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rscript

if TYPE_CHECKING:
    import anndata as ad

NAME = "lme4 + lmerTest in R, gene by gene, one core"
_CODE = """
suppressMessages(library(lmerTest))
samples <- read.csv("samples.csv", stringsAsFactors = TRUE)
samples$condition <- factor(samples$condition, levels = c("control", "case"))
values <- readBin("values.bin", "double", n = file.size("values.bin") / 8)
genes <- matrix(values, nrow = nrow(samples))
p <- apply(genes, 2, function(y) {
  fit <- suppressMessages(lmer(y ~ condition + (1 | donor), cbind(samples, y = y)))
  coef(summary(fit))["conditioncase", "Pr(>|t|)"]
})
writeLines(format(p, digits = 17), "p.txt")
"""


def missing() -> str:
    return rscript.missing(("lme4", "lmerTest"))


def run(adata: ad.AnnData, *, n_jobs: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adata.obs[["donor", "condition"]].to_csv(folder / "samples.csv", index=False)
        adata.X.toarray().astype(np.float64).ravel(order="F").tofile(folder / "values.bin")
        rscript.run(folder, _CODE)
        return np.array((folder / "p.txt").read_text().split(), dtype=np.float64)
