"""What patterns have of their own beside the fixed effects, on the scale of the linear predictor.

With the sum Y of the counts (or successes) of a pattern, their mean M given the fixed effects alone, and g the link of such
sums with half a count added (:meth:`Distribution.linked`), it is

    g(Y) - g(M),   of counts log((Y + 1/2) / (M + 1/2)),

which estimates the random effects of the pattern, is finite where nothing was counted, tends to zero where nothing can be, and
does not hang on the level of exposures. Its precision is about (dM/deta)² / Var(Y), that of Y given the random effects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.glmm.families import Moments
from donorwise._core.models.glmm.rows import feature_blocks

if TYPE_CHECKING:
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray


class LinkedResiduals(NamedTuple):
    """Residuals of G features in P patterns and their precision, (G, P) each."""

    values: FloatArray
    precision: FloatArray


def linked_residuals(model: GLMM, beta: FloatArray) -> LinkedResiduals:
    """Residuals of all features of a model with fixed effects `beta` (G, p), in the basis of the formula."""
    counts = model.counts
    Y, P = counts.sums(), counts.most.size
    out = LinkedResiduals(np.full((len(beta), P), np.nan), np.full((len(beta), P), np.nan))
    for at in feature_blocks(counts, np.flatnonzero(np.isfinite(beta).all(axis=1))):
        M = _sums(model, at, beta[at], P)
        distribution = counts.distribution
        out.values[at] = distribution.linked(Y[at], counts.most) - distribution.linked(M.mean, counts.most)
        with np.errstate(divide="ignore", invalid="ignore"):
            out.precision[at] = np.where(M.variance > 0, M.slope**2 / M.variance, 0.0)
    return out


def _sums(model: GLMM, at: IntArray, beta: FloatArray, P: int) -> Moments:
    """Moments of the sums over the cells of patterns, (g, P) each, feature by feature: cells lie on J nodes of exposure."""
    counts, X = model.counts, model.design.X
    made = [
        counts.distribution.moments((X @ own)[:, None], counts.exposures, size)
        for own, size in zip(beta, model.size[at], strict=True)
    ]

    def total(values: FloatArray) -> FloatArray:
        sums = np.bincount(counts.pattern, weights=(counts.shared * values).sum(axis=1), minlength=P)
        return np.asarray(sums, dtype=np.float64)

    return Moments(*(np.stack([total(own[i]) for own in made]) for i in range(len(Moments._fields))))
