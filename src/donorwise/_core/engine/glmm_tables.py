"""Tables of generalised models: variances, their shares on the scale of the linear predictor, random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.engine.tables import FIXED, RESIDUAL, component_rows, term_labels
from donorwise._core.models.glmm.effects import coefficients, modes, random_effects
from donorwise._core.models.glmm.rows import feature_blocks
from donorwise._core.models.lmm.components import covariances, relative_covariance, with_correlations, with_covariances

if TYPE_CHECKING:
    from donorwise._core.engine.glmm import GLMMFit
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray

DISPERSION = "dispersion"
_LATENT = {"logit": np.pi**2 / 3, "cloglog": np.pi**2 / 6}


def varcomp_table(fit: GLMMFit, points: FloatArray) -> pd.DataFrame:
    """Variances and covariances of the terms at variances and correlations (G, parameters), and the dispersion."""
    model, rows = fit.models[0], component_rows(fit.design)[:-1]
    gamma = with_covariances(model.rows.equations, points[model.features])
    values, sds = [], []
    for T in covariances(model.rows.equations, gamma):
        sd = np.sqrt(np.clip(np.einsum("gii->gi", T), 0, None))
        r = T.shape[1]
        pairs = [(i, j) for i in range(r) for j in range(i + 1, r)]
        values += [*(T[:, i, i] for i in range(r)), *(T[:, j, i] for i, j in pairs)]
        with np.errstate(divide="ignore", invalid="ignore"):
            sds += [*(sd[:, i] for i in range(r)), *(T[:, j, i] / (sd[:, i] * sd[:, j]) for i, j in pairs)]
    if model.distribution.dispersed:
        rows, values, sds = [*rows, (DISPERSION, "", "")], [*values, 1 / model.size], [*sds, model.size**-0.5]
    term, first, second = (np.tile(c, len(fit.variables)) for c in zip(*rows, strict=True))
    variable = np.repeat(np.array(fit.variables, dtype=object), len(rows))
    columns = {"variable": variable, "term": term, "column1": first, "column2": second}
    spread = [fit.spread(np.stack(own, axis=1)).ravel() for own in (values, sds)]
    return pd.DataFrame(columns | {"variance": spread[0], "sd": spread[1]})


def partition_table(fit: GLMMFit, points: FloatArray) -> pd.DataFrame:
    """Shares of the variance of the latent response: fixed effects, terms, residual (Nakagawa et al. 2017).

    Of log rates the residual is log(1 + 1/mean + 1/size) (J R Soc Interface 14:20170213, eq. 5.8), of log odds pi²/3, of the
    complementary log-log pi²/6.
    """
    model, own = fit.models[0], points[fit.models[0].features]
    equations = model.rows.equations
    gamma = with_covariances(equations, own)
    terms = [
        np.einsum("gii->g", relative_covariance(t, equations.blocks.parameter, gamma))
        for t in range(len(equations.terms))
    ]
    beta = np.concatenate([coefficients(model, at, own[at]) for at in feature_blocks(model.counts, model.usable)])
    fixed = np.einsum("ga,ab,gb->g", beta, equations.spread, beta)
    values = np.stack([fixed, *terms, _residual(model)], axis=1)
    shares = fit.spread(values / values.sum(axis=1, keepdims=True))
    index = pd.Index(fit.variables, name="variable")
    return pd.DataFrame(shares, index=index, columns=[FIXED, *term_labels(fit.design), RESIDUAL])


def _residual(model: GLMM) -> FloatArray:
    if model.distribution.counts:
        dispersion = 1 / model.size if model.distribution.dispersed else 0.0
        return np.asarray(np.log1p(model.n_obs / model.mean + dispersion))
    return np.full(model.features.size, _LATENT[model.distribution.link])


def ranef_table(fit: GLMMFit, points: FloatArray) -> pd.DataFrame:
    """Effects of every term's levels at variances and correlations (G, parameters): term, variable, level, column, ..."""
    model, frames = fit.models[0], []
    own, labels = points[model.features], np.array(fit.variables, dtype=object)[model.features]
    for at in feature_blocks(model.counts, model.usable):
        found = modes(model, at, own[at])
        for t, term in enumerate(fit.design.random_terms):
            mode, covariance = random_effects(model, found, own[at], t)
            sd = np.sqrt(np.clip(np.einsum("glii->gli", covariance), 0, None))
            index = pd.MultiIndex.from_product(
                [labels[at], term.levels, term.columns], names=["variable", "level", "column"]
            )
            values = pd.DataFrame({"value": mode.ravel(), "cond_sd": sd.ravel()}, index=index).reset_index()
            frames.append(values.assign(term=term.group))
    return pd.concat(frames, ignore_index=True)


def stored_points(fit: GLMMFit, varcomp: pd.DataFrame) -> FloatArray:
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
