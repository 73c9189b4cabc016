"""Likelihood and its derivatives for a block of features, at given variances and at the estimates.

Everything is relative to sigma2: V = I + sum_k gamma_k E_k with E_k = ZB_kZ', and at the estimates the residual
enters as one more component, E_K = I. Its cross-products follow from those of the others through
I = V - sum_k gamma_k E_k, so that no n x n matrix is ever formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm import kernels

if TYPE_CHECKING:
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Likelihood and fixed effects of G features at given variances (see the kernel).

    Attributes
    ----------
    deviance, R, logdet_V, logdet_X
        Shape (G,). Profiled deviance without constants, y'Py, log|V|, log|X̃'V⁻¹X̃|.
    Phi, delta
        Shapes (G, p, p), (G, p). (X̃'V⁻¹X̃)⁻¹ and the step from least squares to beta.
    P, Q, tr1, tr2, quad1, quad2
        Derivative pieces per covariance parameter (K) and pair of them; no rows unless asked for.
    u, D
        Z'Py (G, q) and the blocks of Z'V⁻¹Z (G, size of S); no rows unless asked for.
    """

    deviance: FloatArray
    R: FloatArray
    logdet_V: FloatArray
    logdet_X: FloatArray
    Phi: FloatArray
    delta: FloatArray
    P: FloatArray
    Q: FloatArray
    tr1: FloatArray
    tr2: FloatArray
    quad1: FloatArray
    quad2: FloatArray
    u: FloatArray
    D: FloatArray


def evaluate_block(
    blocks: Blocks,
    gamma: FloatArray,
    response: Responses,
    nu: int,
    *,
    reml: bool = True,
    pieces: bool = False,
    posterior: bool = False,
) -> Evaluation:
    """Evaluate G features at relative covariances `gamma` (G, K)."""
    G, K = gamma.shape
    q, p = blocks.A.shape
    g, h = G * pieces, G * posterior
    likelihood, Phi, delta = np.empty((G, 4)), np.empty((G, p, p)), np.empty((G, p))
    derived = (
        np.zeros((g, K, p, p)), np.zeros((g, K, K, p, p)), np.zeros((g, K)), np.zeros((g, K, K)),
        np.zeros((g, K)), np.zeros((g, K, K)),
    )  # fmt: skip
    modes = (np.zeros((h, q)), np.zeros((h, blocks.S.size)))
    if K == 1:
        results = (likelihood, Phi, delta)
        evaluate_single(
            blocks.S, blocks.A, gamma[:, 0], response.zty, response.rss, float(nu), reml, results, derived, modes
        )
    else:
        kernels.evaluate_features(
            blocks.arrays(), gamma, response.zty, response.rss, float(nu), reml, 2 * int(pieces or posterior),
            likelihood, Phi, delta, derived, modes,
        )  # fmt: skip
    deviance, R, logdet_V, logdet_X = likelihood.T
    return Evaluation(deviance, R, logdet_V, logdet_X, Phi, delta, *derived, *modes)


# Numbers of a temporary array (features x levels): half the L2 cache.
_BLOCK = 32_768


def evaluate_single(
    d: FloatArray,
    A: FloatArray,
    lam: FloatArray,
    zty: FloatArray,
    rss: FloatArray,
    nu: float,
    reml: bool,
    out: tuple[FloatArray, ...],
    pieces: tuple[FloatArray, ...],
    posterior: tuple[FloatArray, ...],
) -> None:
    """Fill the arrays that the kernel ``evaluate_features`` fills."""
    q, p = A.shape
    AA = (A[:, :, None] * A[:, None, :]).reshape(q, p * p)
    size = max(1, _BLOCK // max(q, 1))
    for low in range(0, lam.size, size):
        at = slice(low, low + size)
        own = tuple(a[at] for a in pieces) if len(pieces[0]) else ()
        modes = tuple(a[at] for a in posterior) if len(posterior[0]) else ()
        _evaluate(d, A, AA, lam[at], zty[at], rss[at], nu, reml, tuple(a[at] for a in out), own, modes)


def _evaluate(
    d: FloatArray,
    A: FloatArray,
    AA: FloatArray,
    lam: FloatArray,
    t: FloatArray,
    rss: FloatArray,
    nu: float,
    reml: bool,
    out: tuple[FloatArray, ...],
    pieces: tuple[FloatArray, ...],
    posterior: tuple[FloatArray, ...],
) -> None:
    """One chunk of features; `AA` (q, p * p) holds the outer products of the rows of A."""
    likelihood, Phi, delta = out
    g, p = lam.size, A.shape[1]
    scaled = np.outer(lam, d)
    h = 1 / (1 + scaled)
    w = h * t
    XVX = np.eye(p) - lam[:, None, None] * (h @ AA).reshape(g, p, p)
    Phi[:] = np.linalg.inv(XVX)
    XVr = -lam[:, None] * (w @ A)
    delta[:] = np.einsum("gij,gj->gi", Phi, XVr)
    R = rss - lam * np.einsum("gi,gi->g", w, t) - np.einsum("gi,gi->g", XVr, delta)
    with np.errstate(divide="ignore", invalid="ignore"):  # features without estimates are NaN
        logdet_V, logdet_X = np.log1p(scaled).sum(axis=1), np.linalg.slogdet(XVX)[1]
        deviance = logdet_V + nu * np.log(R) + (logdet_X if reml else 0.0)
    likelihood[:] = np.stack([deviance, R, logdet_V, logdet_X], axis=1)
    if pieces or posterior:
        u = w - h * (delta @ A.T)
    if posterior:
        posterior[0][:], posterior[1][:] = u, h * d
    if pieces:
        P, Q, tr1, tr2, quad1, quad2 = pieces
        D = h * d
        P[:] = ((h * h) @ AA).reshape(P.shape)
        Q[:] = ((h * h * D) @ AA).reshape(Q.shape)
        tr1[:, 0] = D.sum(axis=1)
        tr2[:, 0, 0] = np.einsum("gi,gi->g", D, D)
        quad1[:, 0] = np.einsum("gi,gi->g", u, u)
        FBu = (h * u) @ A
        quad2[:, 0, 0] = np.einsum("gi,gi,gi->g", D, u, u) - np.einsum("gi,gij,gj->g", FBu, Phi, FBu)


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
    parameter
        Shape (K, 3). Term, row and column of each entry of gamma.
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
    parameter: IntArray


def pieces(equations: Equations, estimates: Estimates) -> Pieces:
    """Evaluate the derivative pieces at the estimates of a block of fitted features."""
    at = evaluate_block(equations.blocks, estimates.gamma, estimates.responses, equations.nu(reml=True), pieces=True)
    total = estimates.sigma2 * equations.nu(reml=estimates.reml)
    return with_residual(
        at, estimates.gamma, estimates.Phi, np.asarray(np.linalg.inv(estimates.Phi)), equations.n_obs, estimates.sigma2, total,
        equations.blocks.parameter, reml=estimates.reml,
    )  # fmt: skip


class Derived(NamedTuple):
    """Derivative pieces of the random terms, as in :class:`Evaluation`."""

    P: FloatArray
    Q: FloatArray
    tr1: FloatArray
    tr2: FloatArray
    quad1: FloatArray
    quad2: FloatArray


def with_residual(
    at: Derived | Evaluation,
    g: FloatArray,
    Phi: FloatArray,
    XVX: FloatArray,
    n_obs: IntArray | int,
    sigma2: FloatArray,
    total: FloatArray,
    parameter: IntArray,
    *,
    reml: bool,
) -> Pieces:
    """Pieces of the terms at variances g (G, K), with those of the residual; `total` is y'PVPy = y'Py."""
    P = _append(at.P, XVX - _contract(g, at.P))
    right = at.P - np.einsum("gj,gkj...->gk...", g, at.Q)  # E_k on the left, the residual on the right
    corner = P[:, -1] - _contract(g, right)
    Q = _border(at.Q, right, np.swapaxes(right, -1, -2), corner)
    tr1 = _append(at.tr1, n_obs - _contract(g, at.tr1))
    tr2 = _bordered_matrix(g, tr1, at.tr2)
    quad1 = _append(at.quad1, total - _contract(g, at.quad1))
    quad2 = _bordered_matrix(g, quad1, at.quad2)
    if reml:
        PhiP = np.einsum("gab,gkbc->gkac", Phi, P)
        tr2 = tr2 - 2 * np.einsum("gab,gjkba->gjk", Phi, Q) + np.einsum("gjab,gkba->gjk", PhiP, PhiP, optimize=True)
        tr1 = tr1 - np.einsum("gkaa->gk", PhiP)
    return Pieces(Phi, P, Q, tr1, tr2, quad1, quad2, g, sigma2, parameter)


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
