"""The random effects themselves: conditional modes and their covariances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.relative import relative_covariance

if TYPE_CHECKING:
    from donorwise._core.models.lmm.fit import Equations, Estimates
    from donorwise._typing import FloatArray, IntArray


def random_effects(equations: Equations, estimates: Estimates, t: int) -> tuple[FloatArray, FloatArray]:
    """Conditional modes of term `t` and their conditional covariances given beta, original basis.

    The mode is GZ'Py and its covariance sigma2 (G - G D G), D = Z'V⁻¹Z (lme4's condVar).

    Returns
    -------
    (modes (G, levels, r), covariances (G, levels, r, r))
    """
    at = evaluate_block(equations.blocks, estimates.gamma, estimates.responses, equations.nu(reml=True), posterior=True)
    basis = equations.terms[t]
    T = relative_covariance(basis, t, equations.blocks.parameter, estimates.gamma)
    columns = _columns(equations, t)
    modes = np.einsum("gij,glj->gli", T, at.u[:, columns])
    T = T[:, None]
    covariance = estimates.sigma2[:, None, None, None] * (T - T @ at.D[:, _diagonal_blocks(equations, columns)] @ T)
    return modes @ basis.back.T, basis.back @ covariance @ basis.back.T


def _columns(equations: Equations, t: int) -> IntArray:
    """Block-order positions of the columns of term `t`, (levels, r)."""
    order = equations.blocks.order
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    sizes = [len(m.term.levels) * m.factor.shape[0] for m in equations.terms]
    first = sum(sizes[:t])
    return place[first : first + sizes[t]].reshape(-1, equations.terms[t].factor.shape[0])


def _diagonal_blocks(equations: Equations, columns: IntArray) -> IntArray:
    """Positions in the concatenated blocks of the r x r diagonal block of every level."""
    b = equations.blocks
    block = np.searchsorted(b.start, columns[:, 0], side="right") - 1
    size = np.diff(b.start)[block][:, None, None]
    local = columns - b.start[block][:, None]
    return b.S_start[block][:, None, None] + local[:, :, None] * size + local[:, None, :]
