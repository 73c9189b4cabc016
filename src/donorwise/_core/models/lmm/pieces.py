"""What the variance parameters say about the fixed effects, for a block of features.

Everything is relative to sigma2: V = I + sum_k gamma_k E_k with E_k = ZB_kZ', and the
residual enters as one more component, E_K = I. Its cross-products follow from those of
the others through I = V - sum_k gamma_k E_k, so that no n x n matrix is ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.evaluate import evaluate_block

if TYPE_CHECKING:
    from donorwise._core.models.lmm.fit import Equations, Estimates
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Pieces:
    """Derivative pieces of G features with C = K + 1 variance components, the residual last.

    Attributes
    ----------
    Phi
        Shape (G, p, p). (X̃'V⁻¹X̃)⁻¹.
    P
        Shape (G, C, p, p). X̃'V⁻¹E_iV⁻¹X̃, so that the derivative of Phi is Phi P_i Phi.
    Q
        Shape (G, C, C, p, p). X̃'V⁻¹E_iV⁻¹E_jV⁻¹X̃.
    tr_PE, tr_PEPE
        Shapes (G, C), (G, C, C). Traces of PE_i and PE_iPE_j, P = V⁻¹ - V⁻¹X̃ Phi X̃'V⁻¹
        (for a maximum-likelihood fit, V⁻¹ in place of P).
    quad1, quad2
        Shapes (G, C), (G, C, C). y'PE_iPy and y'PE_iPE_jPy.
    gamma, sigma2
        Shapes (G, K), (G,).
    """

    Phi: FloatArray
    P: FloatArray
    Q: FloatArray
    tr_PE: FloatArray
    tr_PEPE: FloatArray
    quad1: FloatArray
    quad2: FloatArray
    gamma: FloatArray
    sigma2: FloatArray


def pieces(equations: Equations, estimates: Estimates) -> Pieces:
    """Evaluate the derivative pieces at the estimates of a block of fitted features."""
    at = evaluate_block(equations.blocks, estimates.gamma, estimates.responses, equations.nu(reml=True), pieces=True)
    g, Phi = estimates.gamma, estimates.Phi
    P = _append(at.P, np.linalg.inv(Phi) - _contract(g, at.P))
    right = at.P - np.einsum("gj,gkj...->gk...", g, at.Q)  # E_k on the left, the residual on the right
    corner = P[:, -1] - _contract(g, right)
    Q = _border(at.Q, right, np.swapaxes(right, -1, -2), corner)
    tr1 = _append(at.tr1, equations.n_obs - _contract(g, at.tr1))
    tr2 = _bordered_matrix(g, tr1, at.tr2)
    total = estimates.sigma2 * equations.nu(reml=estimates.reml)  # y'PVPy = y'Py
    quad1 = _append(at.quad1, total - _contract(g, at.quad1))
    quad2 = _bordered_matrix(g, quad1, at.quad2)
    if estimates.reml:
        PhiP = np.einsum("gab,gkbc->gkac", Phi, P)
        tr2 = tr2 - 2 * np.einsum("gab,gjkba->gjk", Phi, Q) + np.einsum("gjab,gkba->gjk", PhiP, PhiP, optimize=True)
        tr1 = tr1 - np.einsum("gkaa->gk", PhiP)
    return Pieces(Phi, P, Q, tr1, tr2, quad1, quad2, g, estimates.sigma2)


def _contract(gamma: FloatArray, values: FloatArray) -> FloatArray:
    return np.einsum("gk,gk...->g...", gamma, values)


def _append(values: FloatArray, last: FloatArray) -> FloatArray:
    return np.concatenate([values, last[:, None]], axis=1)


def _bordered_matrix(gamma: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """(G, C, C) from the (G, K, K) part and the (G, C) first-order terms."""
    edge = first[:, :-1] - np.einsum("gj,gjk->gk", gamma, second)
    return _border(second, edge, edge, first[:, -1] - _contract(gamma, edge))


def _border(inner: FloatArray, right: FloatArray, bottom: FloatArray, corner: FloatArray) -> FloatArray:
    G, K = inner.shape[:2]
    out = np.empty((G, K + 1, K + 1, *inner.shape[3:]))
    out[:, :K, :K], out[:, :K, K], out[:, K, :K], out[:, K, K] = inner, right, bottom, corner
    return out


def solve_symmetric(M: FloatArray) -> FloatArray:
    """Inverse of each (C, C) matrix; the pseudo-inverse where information is missing."""
    scale = np.sqrt(np.maximum(np.abs(np.einsum("gkk->gk", M)), 1e-300))
    outer = scale[:, :, None] * scale[:, None, :]
    return np.linalg.pinv(M / outer, rcond=1e-12, hermitian=True) / outer
