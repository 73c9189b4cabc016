"""The kernel's results for a block of features, as arrays with names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm import kernels

if TYPE_CHECKING:
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._typing import FloatArray


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
