"""Small cohorts with genotypes, and null models of them on the level of arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import donorwise as dw
from donorwise._core.cells.collapse import collapse
from donorwise._core.models.lmm.crossproducts import Columns, column_means
from donorwise._core.models.lmm.variants import NullModels, null_models


def null_of(
    Y: Any,
    obs: pd.DataFrame,
    formula: str,
    genotypes: pd.DataFrame,
    *,
    donor: str = "donor_id",
    interaction: str = "",
    pointwise: bool = False,
    **options: Any,
) -> tuple[NullModels, np.ndarray]:
    """Null models of all features, and the genotypes (V, D) of their donors; `pointwise` for those of any variances."""
    fit = dw.fit_lmm(Y, obs, formula, **options)
    model = fit.models[0]
    design = model.design
    names, of = np.unique(obs[donor].astype(str).to_numpy(), return_inverse=True)
    codes = np.zeros(design.n_patterns, dtype=np.int64)
    codes[design.codes] = of
    assert (codes[design.codes] == of).all(), "patterns of several donors"
    rows = collapse(np.asarray(Y, dtype=float).reshape(len(obs), -1)[:, model.features], design.codes, design.n_patterns,
                    covariates=design.covariates)  # fmt: skip
    columns = [Columns(np.ones((design.n_patterns, 1)), np.zeros((design.covariates.shape[1], 1)))]
    if interaction:
        at = list(design.fixed_names).index(interaction)
        columns.append(column_means(design.X[:, [at]], [design.varying[at]], rows))
    if pointwise:
        model = replace(model, equations=replace(model.equations, spectrum=None))
    x = np.ascontiguousarray(genotypes.loc[names].to_numpy(dtype=float).T)
    return null_models(model, rows, codes, len(names), columns), x
