"""Coefficients and random effects of generalised models at given variances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.glmm.law_kernels import coefficients as coefficients_at
from donorwise._core.models.glmm.law_kernels import effects
from donorwise._core.models.glmm.rows import feature_blocks
from donorwise._core.models.lmm.components import cholesky_psd, relative_covariance, with_covariances

if TYPE_CHECKING:
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray

_SMALLEST = 1e-4  # variance


class Modes(NamedTuple):
    """Of G features: `beta` (G, p) on the orthonormal columns, `b` (G, C, q) and their covariance (G, C, q, q)."""

    beta: FloatArray
    b: FloatArray
    covariance: FloatArray


def modes(model: GLMM, at: IntArray, points: FloatArray) -> Modes:
    """Modes of some features at their variances and correlations (G, parameters)."""
    rows = model.rows
    if rows.within is not None:
        return Modes(*rows.within.modes(model.counts.responses(at), model.size[at], model.start[at], points))
    A = rows.loadings(points)
    C, q, p = rows.kernel.starts.size - 1, rows.width, rows.X.shape[1]
    out = Modes(np.empty((at.size, p)), np.empty((at.size, C, q)), np.empty((at.size, C, q, q)))
    values = rows.prepared(model.counts.block(at))
    effects(rows.kernel, *values, model.size[at], rows.X, A, np.ascontiguousarray(model.start[at].T), *out)
    return out


def coefficients(model: GLMM, at: IntArray, point: FloatArray) -> FloatArray:
    """Coefficients (G, p) on the orthonormal columns of some features, at a point (parameters,) that they share."""
    rows = model.rows
    if rows.within is not None:
        return modes(model, at, np.repeat(point[None], at.size, axis=0)).beta
    beta, start = np.empty((rows.X.shape[1], at.size)), np.ascontiguousarray(model.start[at].T)
    values = rows.prepared(model.counts.block(at))
    coefficients_at(rows.kernel, *values, model.size[at], rows.X, rows.loadings(point[None])[0], start, beta)
    return beta.T


def coefficients_near(model: GLMM, points: FloatArray) -> FloatArray:
    """Coefficients (G, p) of all features, about at their points (G, parameters).

    They hardly hang on the variances, and features that share these are worked out together: variances to half a power of
    ten, correlations to a half.
    """
    logs = 0.5 * np.round(2 * np.log10(np.maximum(points, _SMALLEST)))
    near = np.where(model.are_variances, 10**logs, 0.5 * np.round(2 * points))
    beta = np.full((len(points), model.rows.X.shape[1]), np.nan)
    known = np.flatnonzero(np.isfinite(near).all(axis=1))
    shared, group = np.unique(near[known], axis=0, return_inverse=True)
    for i, point in enumerate(shared):
        for at in feature_blocks(model.counts, known[group.ravel() == i]):
            beta[at] = coefficients(model, at, point)
    return beta


class Conditional(NamedTuple):
    """Of G features, in the basis of the formula: `beta` (G, p), and of every term modes and conditional sds, (G, levels, r) each."""

    beta: FloatArray
    effects: tuple[tuple[FloatArray, FloatArray], ...]


def conditional(model: GLMM, points: FloatArray) -> Conditional:
    """Fixed and random effects of all features at their variances and correlations (G, parameters); NaN where these are."""
    terms, G = model.design.random_terms, len(points)
    beta = np.full((G, model.rows.X.shape[1]), np.nan)
    made = tuple(
        (np.full((G, len(t.levels), len(t.columns)), np.nan), np.full((G, len(t.levels), len(t.columns)), np.nan))
        for t in terms
    )
    for at in feature_blocks(model.counts, np.flatnonzero(np.isfinite(points).all(axis=1))):
        found = modes(model, at, points[at])
        beta[at] = found.beta
        for t, (mode, sd) in enumerate(made):
            mode[at], covariance = random_effects(model, found, points[at], t)
            sd[at] = np.sqrt(np.clip(np.einsum("glii->gli", covariance), 0, None))
    return Conditional(beta @ model.rows.equations.fixed.inverse.T, made)


def random_effects(model: GLMM, found: Modes, points: FloatArray, t: int) -> tuple[FloatArray, FloatArray]:
    """Effects of the levels of term `t` on its columns as the formula has them, and their covariances given beta.

    Returns
    -------
    (modes (G, levels, r), covariances (G, levels, r, r))
    """
    rows = model.rows
    basis, gamma = rows.equations.terms[t], with_covariances(rows.equations, points)
    factor = cholesky_psd(relative_covariance(t, rows.equations.blocks.parameter, gamma))
    turn = basis.back @ factor  # effects are back Lambda b
    first, r = rows.first_places[t], basis.factor.shape[0]
    component = rows.component_of_levels(t)
    at = first[:, None] + np.arange(r)
    b = found.b[:, component[:, None], at]
    covariance = found.covariance[:, component[:, None, None], at[:, :, None], at[:, None, :]]
    return b @ np.swapaxes(turn, 1, 2), turn[:, None] @ covariance @ np.swapaxes(turn, 1, 2)[:, None]
