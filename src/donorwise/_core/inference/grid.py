"""The likelihood of many features on a shared grid of variance ratios.

Given the ratios everything that depends on the design is shared, so a grid point costs one
product with the block-diagonal matrix W = G(I + SG)⁻¹ for all features: with t = Z'r,

    y'V⁻¹y = r'r - t'Wt,   X̃'V⁻¹r = -A'Wt,   X̃'V⁻¹X̃ = I - A'WA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.fit import Model
    from donorwise._typing import FloatArray

# Nonzero points of an axis from _LOWEST / (largest level) to _HIGHEST, and at most, for one term and for two.
_POINTS = {1: (63, 250), 2: (23, 40)}
_LOWEST, _HIGHEST = 0.02, 30.0
_SLACK = 1e-6  # of a step
_BEYOND = 10.0  # the axis goes on to this many times the largest estimate


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One grid point for G features.

    Attributes
    ----------
    loglik
        Shape (G,). REML log-likelihood profiled over sigma2, up to a constant of the feature.
    R
        Shape (G,). y'Py.
    delta
        Shape (G, p). Step from least squares to the fixed effects, orthonormal basis.
    Phi
        Shape (p, p). (X̃'V⁻¹X̃)⁻¹.
    """

    loglik: FloatArray
    R: FloatArray
    delta: FloatArray
    Phi: FloatArray


def ratio_axes(model: Model, largest: FloatArray) -> list[FloatArray]:
    """Grid of every term's variance ratio: zero, then geometric from 0.02 / (largest level) to 30 or beyond.

    It reaches well above the `largest` (terms,) estimates of the features, since a feature off the grid would
    be tested as if its ratio were at the end of it. Ratios are per unit of weight, so 30 is divided by the
    (geometric) mean weight.
    """
    usual, most = _POINTS[len(model.terms)]
    top = _HIGHEST / np.exp(model.log_weight / model.n_obs)
    axes = []
    for level, estimate in zip(_largest_levels(model), largest, strict=True):
        low = _LOWEST / level
        step = np.log(top / low) / (usual - 1)
        # by whole steps, and not one more for a rounding error: the grid must not hang on the last digit
        beyond = max(0, int(np.ceil(np.log(max(_BEYOND * estimate, top) / top) / step - _SLACK)))
        high = top * np.exp(beyond * step)
        axes.append(np.concatenate([[0.0], np.geomspace(low, high, min(most, usual + beyond))]))
    return axes


def _largest_levels(model: Model) -> list[float]:
    """Largest diagonal entry of Z'WZ of every term."""
    blocks = model.blocks
    diagonal = _block_matrix(blocks, blocks.S).diagonal()
    return [float(diagonal[blocks.term == t].max()) for t in range(len(model.terms))]


def tensor(axes: list[FloatArray]) -> FloatArray:
    """All combinations of the axes, (points, terms), the last axis fastest."""
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)


def evaluate_grid(model: Model, response: Responses, ratios: FloatArray) -> Iterator[GridPoint]:
    """Evaluate G features at each row of `ratios` (points, K); only scalar terms."""
    blocks, nu = model.blocks, model.nu(reml=True)
    S = _block_matrix(blocks, blocks.S)
    t = np.ascontiguousarray(response.zty.T)
    for gamma in ratios:
        W, logdet_V = _shrinkage(blocks, S, gamma[blocks.term])
        Wt = W @ t
        XVX = np.eye(model.p) - blocks.A.T @ (W @ blocks.A)
        sign, logdet_X = np.linalg.slogdet(XVX)
        Phi = np.linalg.inv(XVX)
        XVr = -(blocks.A.T @ Wt).T
        delta = XVr @ Phi
        R = response.rss - np.einsum("qg,qg->g", t, Wt) - np.einsum("gp,gp->g", XVr, delta)
        R = np.maximum(R, np.finfo(float).tiny)
        loglik = -0.5 * (logdet_V + logdet_X + nu * np.log(R)) if sign > 0 else np.full(R.size, -np.inf)
        yield GridPoint(loglik, R, delta, Phi)


def _block_matrix(blocks: Blocks, values: FloatArray) -> sparse.csr_array:
    """The (q, q) block-diagonal matrix whose blocks lie one after another in `values`."""
    sizes = np.diff(blocks.start)
    size = np.repeat(sizes, sizes)  # of each row's block
    first = np.repeat(blocks.start[:-1], sizes)
    indptr = np.concatenate([[0], np.cumsum(size)])
    columns = np.arange(indptr[-1]) - np.repeat(indptr[:-1], size) + np.repeat(first, size)
    q = int(blocks.start[-1])
    return sparse.csr_array((values, columns, indptr), shape=(q, q))


def _shrinkage(blocks: Blocks, S: sparse.csr_array, g: FloatArray) -> tuple[sparse.csr_array, float]:
    """W = G(I + SG)⁻¹ and log|I + SG| for G = diag(g), all blocks of a size at once."""
    values, logdet = np.empty_like(blocks.S), 0.0
    sizes = np.diff(blocks.start)
    for size in np.unique(sizes):
        own = np.flatnonzero(sizes == size)
        at = blocks.S_start[own, None] + np.arange(size**2)
        g_own = g[blocks.start[own, None] + np.arange(size)]
        M = np.eye(size) + blocks.S[at].reshape(-1, size, size) * g_own[:, None, :]
        logdet += float(np.linalg.slogdet(M)[1].sum())
        values[at] = (g_own[:, :, None] * np.linalg.inv(M)).reshape(at.shape)
    return _block_matrix(blocks, values), logdet
