"""limma with precision weights from the trend of the variance on the mean."""

from __future__ import annotations

from functools import partial

from benchmarks.calibration.methods import Method, rscript

_CODE = """
p <- eBayes(lmFit(voom(y, design), design))$p.value[, ncol(design)]
"""
METHODS = (Method("voom", partial(rscript.p_values, code=_CODE), rscript.has_cells, rscript.missing()),)
