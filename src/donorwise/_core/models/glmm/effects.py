"""Coefficients and random effects of generalised models at given variances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.glmm.law_kernels import effects
from donorwise._core.models.lmm.components import cholesky_psd, relative_covariance, with_covariances

if TYPE_CHECKING:
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray


class Modes(NamedTuple):
    """Of G features: `beta` (G, p) on the orthonormal columns, `b` (G, C, q) and their covariance (G, C, q, q)."""

    beta: FloatArray
    b: FloatArray
    covariance: FloatArray


def modes(model: GLMM, at: IntArray, points: FloatArray) -> Modes:
    """Modes of some features at their variances and correlations (G, parameters)."""
    rows = model.rows
    if rows.within is not None:
        return Modes(*rows.within.modes(model.counts, at, model.size[at], model.start[at], points))
    A = rows.loadings(points)
    C, q, p = rows.kernel.starts.size - 1, rows.width, rows.X.shape[1]
    out = Modes(np.empty((at.size, p)), np.empty((at.size, C, q)), np.empty((at.size, C, q, q)))
    values = rows.prepared(model.counts.block(at))
    effects(rows.kernel, *values, model.size[at], rows.X, A, model.start[at], *out)
    return out


def coefficients(model: GLMM, at: IntArray, points: FloatArray) -> FloatArray:
    """Coefficients (G, p) on the orthonormal columns."""
    return modes(model, at, points).beta


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
