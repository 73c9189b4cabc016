"""Kenward and Roger (1997): adjusted covariance, scaled F and denominator degrees of freedom.

Kenward MG, Roger JH (1997). Small sample inference for fixed effects from restricted
maximum likelihood. Biometrics 53:983-997. The forms are those of Halekoh and Højsgaard
(2014), J Stat Softw 59(9), with the expected information of the variance components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.evaluate import solve_symmetric

if TYPE_CHECKING:
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Adjustment:
    """W = covariance of the variance components (relative), (G, C, C); vcov = adjusted covariance, (G, p, p)."""

    W: FloatArray
    vcov: FloatArray


def adjust(pieces: Pieces) -> Adjustment:
    """The adjusted covariance of the fixed effects in the orthonormal basis (eq. 5 of the paper)."""
    W = 2 * solve_symmetric(pieces.tr_PEPE)
    Phi, P = pieces.Phi, pieces.P
    PhiP = np.einsum("gab,gkbc->gkac", Phi, P)
    inner = np.einsum("gjk,gjkab->gab", W, pieces.Q)
    weighted = np.einsum("gjk,gkbc->gjbc", W, PhiP)
    inner = inner - np.einsum("gjab,gjbc->gac", P, weighted)
    adjusted = Phi + 2 * Phi @ inner @ Phi
    return Adjustment(W, pieces.sigma2[:, None, None] * 0.5 * (adjusted + np.swapaxes(adjusted, 1, 2)))


def contrast_df(pieces: Pieces, W: FloatArray, L: FloatArray) -> FloatArray:
    """Degrees of freedom of one-row contrasts L (n, p) in the orthonormal basis, (G, n).

    For one row the scale of F is 1 and m = 2 / A2, A2 = h'Wh with h_i = c'Phi P_i Phi c / c'Phi c.
    """
    c = L @ pieces.Phi
    variance = (c * L).sum(axis=-1)
    h = np.einsum("gna,gkab,gnb->gnk", c, pieces.P, c, optimize=True) / variance[:, :, None]
    return 2 / np.einsum("gnk,gkj,gnj->gn", h, W, h, optimize=True)


def joint_f(pieces: Pieces, adjustment: Adjustment, beta: FloatArray, L: FloatArray) -> tuple[FloatArray, ...]:
    """Scaled F of L beta = 0 (section 3 of the paper), everything in the orthonormal basis.

    Returns
    -------
    (F scaled, denominator df, scaling), each of shape (G,)
    """
    rank = L.shape[0]
    Phi = pieces.Phi
    middle = np.linalg.inv(L @ Phi @ L.T)
    Theta = L.T @ middle @ L
    R = np.einsum("gab,gbc,gkcd,gde->gkae", Theta, Phi, pieces.P, Phi, optimize=True)
    traces = np.einsum("gkaa->gk", R)
    A1 = np.einsum("gjk,gj,gk->g", adjustment.W, traces, traces)
    A2 = np.einsum("gjk,gjab,gkba->g", adjustment.W, R, R, optimize=True)
    df, scaling = _match_moments(A1, A2, rank)
    value = np.einsum("np,gp->gn", L, beta)
    wald = np.einsum("gn,gnm,gm->g", value, np.linalg.inv(L @ adjustment.vcov @ L.T), value)
    return scaling * wald / rank, df, scaling


def _match_moments(A1: FloatArray, A2: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    B = (A1 + 6 * A2) / (2 * rank)
    g = ((rank + 1) * A1 - (rank + 4) * A2) / ((rank + 2) * A2)
    divisor = 3 * rank + 2 * (1 - g)
    c1, c2, c3 = g / divisor, (rank - g) / divisor, (rank + 2 - g) / divisor
    E = 1 / (1 - A2 / rank)
    V = 2 / rank * (1 + c1 * B) / ((1 - c2 * B) ** 2 * (1 - c3 * B))
    rho = V / (2 * E**2)
    df = 4 + (rank + 2) / (rank * rho - 1)
    return df, df / (E * (df - 2))
