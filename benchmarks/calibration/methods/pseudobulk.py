"""The count-scale model of donorwise, on sums over the cells of a sample."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from benchmarks.calibration.data import CONTRAST, CountData
from benchmarks.calibration.methods import Method

import donorwise as dw
from donorwise.errors import DonorwiseWarning


def _run(data: CountData, formula: str) -> np.ndarray:
    adata = data.adata
    adata.var["tested"] = data.tested
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DonorwiseWarning)
        dw.tl.pseudobulk(
            adata, formula, layer="counts", donor="donor", sample="sample", mask_var="tested", progress=False
        )
    table = dw.get.tests(adata, key="pseudobulk", contrast=CONTRAST).set_index("variable")
    return table["p_value"].reindex(adata.var_names[data.tested]).to_numpy(dtype=np.float64)


def p_values(data: CountData) -> np.ndarray:
    return _run(data, "~ condition + (1 | donor)" if data.paired else "~ condition")


def _donor_fixed(data: CountData) -> np.ndarray:
    return _run(data, "~ condition + donor")


def _has_cells(data: Any) -> bool:
    return isinstance(data, CountData)


_MISSING = "" if hasattr(dw.tl, "pseudobulk") else "a donorwise with tl.pseudobulk"
METHODS = (
    Method("pseudobulk", p_values, _has_cells, _MISSING),
    Method("pseudobulk, donor fixed", _donor_fixed, lambda data: _has_cells(data) and data.paired, _MISSING),
)
