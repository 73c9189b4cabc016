"""limma-trend: moderated t of log counts per million, with a trend of the variance."""

from __future__ import annotations

from functools import partial

from benchmarks.calibration.methods import Method, rscript

_CODE = """
fit <- eBayes(lmFit(cpm(y, log = TRUE, prior.count = 3), design), trend = TRUE)
p <- fit$p.value[, ncol(design)]
"""
METHODS = (Method("limma-trend", partial(rscript.p_values, code=_CODE), rscript.has_cells, rscript.missing()),)
