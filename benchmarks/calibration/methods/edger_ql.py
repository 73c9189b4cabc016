"""edgeR's quasi-likelihood F test on sums over the cells of a sample."""

from __future__ import annotations

from functools import partial

from benchmarks.calibration.methods import Method, rscript

_CODE = """
y <- estimateDisp(y, design)
p <- glmQLFTest(glmQLFit(y, design), coef = ncol(design))$table$PValue
"""
METHODS = (Method("edgeR-QL", partial(rscript.p_values, code=_CODE), rscript.has_cells, rscript.missing()),)
