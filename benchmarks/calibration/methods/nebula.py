"""NEBULA-LN in Python: negative binomial gamma mixed models with one random intercept, and z-tests."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from benchmarks.calibration.data import CountData
from benchmarks.calibration.methods import Method


def p_values(data: CountData) -> np.ndarray:
    """Cells are put together by donor, as it wants them; it leaves out genes with hardly a count."""
    from edgepython import glm_sc_fit, glm_sc_test

    adata = data.adata
    adata = adata[np.argsort(adata.obs["donor"].cat.codes.to_numpy(), kind="stable")]
    counts = adata.layers["counts"]
    depth = np.ravel(counts.sum(axis=1, dtype=np.float64))
    case = (adata.obs["condition"].cat.codes.to_numpy() > 0).astype(np.float64)
    fit = glm_sc_fit(
        counts[:, np.flatnonzero(data.tested)].toarray().astype(np.float64).T,
        design=np.column_stack([np.ones(case.size), case]), sample=adata.obs["donor"].astype(str).to_numpy(),
        offset=depth / depth.mean(), verbose=False,
    )  # fmt: skip
    table = glm_sc_test(fit)["table"]
    p = np.full(data.truth.size, np.nan)
    p[fit["gene_mask"]] = table["PValue"].to_numpy(dtype=np.float64)
    return p


def _has_cells(data: Any) -> bool:
    return isinstance(data, CountData)


METHODS = (Method("NEBULA", p_values, _has_cells, "" if find_spec("edgepython") else "the package edgepython"),)
