"""Generalised mixed models of the cells by donorwise: counts, and whether a gene is detected in a cell."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from benchmarks.calibration.data import CONTRAST, CountData
from benchmarks.calibration.methods import Method

import donorwise as dw
from donorwise.errors import DonorwiseWarning


def p_values(data: CountData, **options: Any) -> np.ndarray:
    """Of the model that the audit asks for; depth is in the exposure and not in the formula."""
    adata = data.adata
    adata.var["tested"] = data.tested
    formula = data.formula if data.paired else "~ condition + (1 | donor)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.glmm(adata, formula, layer="counts", mask_var="tested", progress=False, n_jobs=1, **options)
    table = dw.get.tests(adata, key="glmm", contrast=CONTRAST).set_index("variable")
    return table["p_value"].reindex(adata.var_names[data.tested]).to_numpy(dtype=np.float64)


def _has_cells(data: Any) -> bool:
    return isinstance(data, CountData)


_DETECTED = {"family": "binomial", "response": "detected"}
_OPTIONS = {
    "GLMM nb": {"family": "nb"},
    "GLMM poisson": {"family": "poisson"},
    "GLMM detected, logit": _DETECTED,
    "GLMM detected, cloglog": _DETECTED | {"link": "cloglog"},
}
_MISSING = "" if hasattr(dw.tl, "glmm") else "a donorwise with tl.glmm"
METHODS = tuple(Method(name, partial(p_values, **options), _has_cells, _MISSING) for name, options in _OPTIONS.items())
