"""Random effects of features that each have rows of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm.ragged_piece_kernels import effects_ragged

if TYPE_CHECKING:
    from donorwise._core.models.lmm.ragged import RaggedEquations, RaggedEstimates
    from donorwise._typing import FloatArray, IntArray


class RaggedEffects(NamedTuple):
    """The effects of a term, level by level of each feature in turn.

    Attributes
    ----------
    feature
        Shape (Q,). Position of the feature within the model.
    code
        Shape (Q,). Level.
    mode, sd
        Shape (Q, r). Conditional mode and its standard deviation given the fixed effects; NaN where the term is left out.
    """

    feature: IntArray
    code: IntArray
    mode: FloatArray
    sd: FloatArray

    def at(self, feature: IntArray, code: IntArray) -> FloatArray:
        """Modes (M, r) of levels of features, (M,) each; NaN for levels that a feature has no rows of."""
        out = np.full((feature.size, self.mode.shape[1]), np.nan)
        if not self.code.size:
            return out
        n = int(self.code.max()) + 1
        known = self.feature * n + self.code
        order, wanted = np.argsort(known), np.where(code < n, feature * n + code, -1)
        place = order[np.minimum(np.searchsorted(known, wanted, sorter=order), known.size - 1)]
        there = known[place] == wanted
        out[there] = self.mode[place[there]]
        return out


def levels_of(equations: RaggedEquations, t: int) -> tuple[IntArray, IntArray, IntArray]:
    """Levels of term `t` of each feature in turn: where those of a feature begin, (G + 1,), and feature and code, (Q,)."""
    n_levels = equations.n_levels[:, t]
    start = np.concatenate([[0], np.cumsum(n_levels)])
    feature = np.repeat(np.arange(n_levels.size), n_levels)
    code = np.zeros(feature.size, dtype=np.int64)
    code[start[equations.rows.feature] + equations.local[:, t]] = equations.rows.codes[:, t]
    return start, feature, code


def ragged_effects(equations: RaggedEquations, estimates: RaggedEstimates, t: int) -> RaggedEffects:
    """Conditional modes g Z'V⁻¹(y - Xb) of term `t`, g its variance ratio, and variances sigma2 (g - g² diag(Z'V⁻¹Z)).

    These are the ``condVar`` of lme4 (Bates et al. 2015, eq. 58).
    """
    start, feature, code = levels_of(equations, t)
    u, d = np.full(feature.size, np.nan), np.full(feature.size, np.nan)
    known = equations.kept[:, t] & np.isfinite(estimates.sigma2)
    effects_ragged(equations.data, equations.kept, estimates.gamma, estimates.delta, t, known, start, u, d)
    gamma, sigma2 = estimates.gamma[feature, t], estimates.sigma2[feature]
    sd = np.sqrt(np.clip(sigma2 * gamma * (1 - gamma * d), 0, None))
    return RaggedEffects(feature, code, (gamma * u)[:, None], sd[:, None])
