"""Tables of generalised models: variances, their shares on the scale of the linear predictor, random effects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.engine.partition import Partition, fixed_labels, term_labels
from donorwise._core.engine.tables import (
    DISPERSION,
    component_rows,
    components,
    components_table,
)
from donorwise._core.models.fixed_part import own_variances
from donorwise._core.models.glmm.effects import coefficients_near, conditional
from donorwise._core.models.lmm.components import covariances, mean_variances, with_correlations, with_covariances

if TYPE_CHECKING:
    from donorwise._core.engine.count_fits import CountFit
    from donorwise._typing import FloatArray


def varcomp_table(fit: CountFit, points: FloatArray) -> pd.DataFrame:
    """Variances and covariances of the terms at variances and correlations (G, parameters), and the dispersion."""
    model, rows = fit.models[0], component_rows(fit.design)
    equations = model.rows.equations
    of_terms = covariances(equations, with_covariances(equations, points[model.features]))
    values, sds = components(of_terms, model.features.size)
    if model.distribution.dispersed:
        rows = [*rows, (DISPERSION, "", "")]
        values, sds = np.column_stack([values, 1 / model.size]), np.column_stack([sds, model.size**-0.5])
    return components_table(fit.variables, rows, fit.spread(values), fit.spread(sds))


def partition_of(fit: CountFit, points: FloatArray) -> Partition:
    """Shares of the variance of the latent response: fixed effects, terms, residual (see `Distribution.latent_variance`)."""
    model, own = fit.models[0], points[fit.models[0].features]
    equations = model.rows.equations
    terms = mean_variances(equations, with_covariances(equations, own))
    beta = coefficients_near(model, own)
    fixed = np.einsum("ga,ab,gb->g", beta, equations.spread, beta)
    values = np.column_stack([fixed, terms, model.latent_variance])
    shares = fit.spread(values / values.sum(axis=1, keepdims=True))
    own = own_variances(beta @ equations.fixed.inverse.T, model.column_spread, fit.design.terms)
    return Partition(fit.variables, fixed_labels(fit.design), tuple(term_labels(fit.design)), shares, fit.spread(own))


def ranef_table(fit: CountFit, points: FloatArray) -> pd.DataFrame:
    """Effects of every term's levels at variances and correlations (G, parameters): term, variable, level, column, ..."""
    found, frames = conditional(fit.models[0], points[fit.models[0].features]), []
    for term, own in zip(fit.design.random_terms, found.effects, strict=True):
        names = [list(fit.variables), term.levels, term.columns]
        index = pd.MultiIndex.from_product(names, names=["variable", "level", "column"])
        mode, sd = (fit.spread(values).ravel() for values in own)
        table = pd.DataFrame({"value": mode, "cond_sd": sd}, index=index).reset_index()
        frames.append(table.assign(term=term.group))
    return pd.concat(frames, ignore_index=True)


def with_stored_sizes(fit: CountFit, varcomp: pd.DataFrame) -> CountFit:
    """The fit with the dispersions that a result holds of the group: those of a few features would lean on these alone."""
    (model,) = fit.models
    own = varcomp[varcomp["term"] == DISPERSION]
    if own.empty:
        return fit
    dispersion = own.set_index(own["variable"].astype(str))["variance"].reindex(fit.variables).to_numpy()
    return replace(fit, models=(replace(model, size=1 / dispersion[model.features]),))


def stored_points(fit: CountFit, varcomp: pd.DataFrame) -> FloatArray:
    """Variances and correlations (G, parameters) from the rows of :func:`varcomp_table` that a result holds of the group."""
    equations = fit.models[0].rows.equations
    keyed = varcomp.astype(dict.fromkeys(("variable", "term", "column1", "column2"), str))
    wide = keyed.set_index(["variable", "term", "column1", "column2"])["variance"]
    gamma = np.full((len(fit.variables), len(equations.blocks.parameter)), np.nan)
    for t, basis in enumerate(equations.terms):
        names = basis.term.columns
        T = np.empty((len(fit.variables), len(names), len(names)))
        for i, first in enumerate(names):
            for j, second in enumerate(names[: i + 1]):
                pair = (basis.term.group, first, "") if i == j else (basis.term.group, first, second)
                T[:, i, j] = T[:, j, i] = wide.reindex([(v, *pair) for v in fit.variables]).to_numpy()
        internal = basis.factor.T @ T @ basis.factor
        for k in np.flatnonzero(equations.blocks.parameter[:, 0] == t):
            gamma[:, k] = internal[:, equations.blocks.parameter[k, 1], equations.blocks.parameter[k, 2]]
    return with_correlations(equations, gamma)
