"""lme4 and pbkrtest, protein by protein in R: a fit, and Kenward-Roger's test of the condition.

The time is that of fits and tests, without the start of R and the data; a warm-up fit comes first. No weights are given: pbkrtest
takes no notice of them, and its p-values would be those of another model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rscript

if TYPE_CHECKING:
    import pandas as pd

NAME = "lme4 + pbkrtest, one core"
_CODE = """
suppressMessages({library(lme4); library(pbkrtest)})
rows <- read.csv("rows.csv", stringsAsFactors = TRUE)
rows$condition <- relevel(rows$condition, "control")
test <- function(own) {
  fit <- suppressMessages(lmer(level ~ condition + (1 | peptide) + (1 | donor_id), droplevels(own)))
  getKR(KRmodcomp(fit, rbind(c(0, 1))), "p.value")
}
proteins <- split(rows, rows$protein)
test(proteins[[1]])
used <- system.time(p <- sapply(proteins, test))
writeLines(format(c(sum(used[c("user.self", "sys.self")]) / length(proteins), p), digits = 15), "found.txt")
"""


def missing() -> str:
    return rscript.missing(("lme4", "pbkrtest"))


def run(rows: pd.DataFrame) -> tuple[float, np.ndarray]:
    """Processor seconds for each protein, and the p-values in the order of their names.

    `rows` are measurements: `level`, `protein`, `peptide`, `donor_id`, `condition`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows.to_csv(folder / "rows.csv", index=False)
        rscript.run(folder, _CODE)
        found = np.loadtxt(folder / "found.txt")
    return float(found[0]), found[1:]
