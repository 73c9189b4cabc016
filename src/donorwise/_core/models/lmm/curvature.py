"""How well the variance ratios of a feature are known: the inverse of the information about them at the estimates.

With v = (sigma2 gamma, sigma2) and P of the restricted likelihood the information about v is, in units of sigma2,

    observed  y'PE_iPE_jPy / sigma2 - tr(PE_iPE_j) / 2,   average  y'PE_iPE_jPy / (2 sigma2),   expected  tr(PE_iPE_j) / 2

(Gilmour, Thompson and Cullis 1995, Biometrics 51:1440). Variances at zero are left out: known to be there. For ratios
alone the observed one is the curvature of the profiled deviance, which rays give without a matrix for every feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.components import without_responses
from donorwise._core.models.lmm.evaluate import pieces
from donorwise._core.models.lmm.ratio_kernels import curvature_features
from donorwise._core.models.lmm.ratios import WIDEST, at_nodes
from donorwise._core.models.lmm.rays import energy_of

if TYPE_CHECKING:
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._core.models.lmm.ratios import Nodes
    from donorwise._typing import BoolArray, FloatArray

INFORMATION = ("observed", "average", "expected")
ZERO = 1e-6  # variance, relative to what a level says of it, below which it is at zero: that of a singular fit
_DOUBLES = 6_000_000  # of temporary arrays
_DEFINITE = 1e-10  # smallest eigenvalue, relative to a diagonal of ones, of information that is positive definite


def ratio_covariance(equations: Equations, estimates: Estimates, information: str | None = None) -> FloatArray:
    """Covariance of the estimated ratios gamma of fitted features, (G, K, K); zero for those at zero.

    `information` is one of :data:`INFORMATION`; for None it is the observed one, and where that is not positive definite the
    average, or the expected. NaN where that is not, either.
    """
    G, K = estimates.gamma.shape
    out = np.zeros((G, K, K))
    size = max(1, _DOUBLES // _doubles(equations))
    for low in range(0, G, size):
        own = estimates.take(np.arange(low, min(low + size, G)))
        at = slice(low, low + size)
        if information is None and equations.nodes is not None and estimates.reml:
            out[at] = _from_nodes(equations, equations.nodes, own)
        else:
            out[at] = _from_pieces(equations, own, information)
    return out


def _doubles(equations: Equations) -> int:
    """Of temporary arrays of a feature."""
    p, C = equations.p, len(equations.blocks.parameter) + 1
    return 3 * C * C * p * p + 70 * equations.blocks.order.size


def free(equations: Equations, gamma: FloatArray) -> BoolArray:
    """Which parameters are not at zero, (G, K)."""
    return np.asarray(np.abs(gamma) * equations.parameter_information > ZERO)


def _from_pieces(equations: Equations, estimates: Estimates, information: str | None) -> FloatArray:
    """See :func:`ratio_covariance`, for any model."""
    own, kept = pieces(equations, estimates), free(equations, estimates.gamma)
    out = np.full((*kept.shape, kept.shape[1]), np.nan)
    for kind in INFORMATION if information is None else (information,):
        rest = np.isnan(out[:, 0, 0])
        if rest.any():
            out[rest] = _inverse(information_about(own, kind)[rest], kept[rest], estimates.gamma[rest])
    return out


def information_about(own: Pieces, kind: str) -> FloatArray:
    """Information of a kind about variances, the residual's last, in units of sigma2, (G, C, C)."""
    squares = own.quad2 / own.sigma2[:, None, None]
    parts = {"observed": squares - 0.5 * own.tr_PEPE, "average": 0.5 * squares, "expected": 0.5 * own.tr_PEPE}
    return parts[kind]


def _inverse(information: FloatArray, kept: BoolArray, gamma: FloatArray) -> FloatArray:
    """Covariance (G, K, K) of ratios from the information about variances; NaN where it is not positive definite."""
    G, K = kept.shape
    all_kept = np.concatenate([kept, np.ones((G, 1), dtype=bool)], axis=1)
    own = np.where(all_kept[:, :, None] & all_kept[:, None, :], information, np.eye(K + 1))
    diagonal = np.einsum("gkk->gk", own)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    unit = own / (scale[:, :, None] * scale[:, None, :])
    definite = (diagonal > 0).all(axis=1) & (np.linalg.eigvalsh(unit)[:, 0] > _DEFINITE)
    covariance = np.full_like(own, np.nan)
    covariance[definite] = np.linalg.inv(unit[definite]) / (scale[:, :, None] * scale[:, None, :])[definite]
    # gamma = v / sigma2, at sigma2 = 1
    J = np.concatenate([np.eye(K) * kept[:, :, None], -(gamma * kept)[:, :, None]], axis=2)
    return np.asarray(J @ covariance @ J.swapaxes(1, 2))


def _from_nodes(equations: Equations, nodes: Nodes, estimates: Estimates) -> FloatArray:
    """See :func:`ratio_covariance`, for two variances, by the interpolant between rays or on one of them."""
    kept = free(equations, estimates.gamma)
    out = np.zeros((len(kept), 2, 2))
    nu = float(equations.nu(reml=True))
    both = np.flatnonzero(kept.all(axis=1))
    inside, known = _inside(nodes, estimates.take(both), nu)
    out[both] = inside
    for k in range(2):
        edge = np.flatnonzero(kept[:, k] & ~kept[:, 1 - k])
        out[edge, k, k] = _on_edge(nodes, k, estimates.take(edge), nu)
    rest = np.concatenate([both[~known], np.flatnonzero(np.isnan(out).any(axis=(1, 2)))])
    rest = np.unique(rest)
    if rest.size:
        out[rest] = _from_pieces(equations, estimates.take(rest), None)
    return out


def _inside(nodes: Nodes, estimates: Estimates, nu: float) -> tuple[FloatArray, BoolArray]:
    """Covariance (G, 2, 2) of features with two variances, and which of them lie between nodes and are convex, (G,)."""
    units = estimates.gamma * nodes.information
    lam = units.sum(axis=1)
    x = np.log(units[:, 1] / units[:, 0])
    y, s, floor = at_nodes(nodes, estimates.responses.zty, estimates.responses.rss)
    hessian = np.empty((lam.size, 3))
    curvature_features(
        (y**2)[:, :, None],
        s,
        floor[:, None],
        estimates.responses.rss,
        nu,
        nodes.coefficients,
        WIDEST,
        np.log(lam),
        x,
        hessian,
    )
    a, b, c = 0.5 * hessian.T
    det = a * c - b * b
    known = (np.abs(x) < WIDEST) & (a > 0) & (det > _DEFINITE * a * np.abs(c))
    inverse = (
        np.stack([np.stack([c, -b], axis=1), np.stack([-b, a], axis=1)], axis=1)
        / np.where(known, det, np.nan)[:, None, None]
    )
    share = units[:, 1] / lam
    turn = (lam * share * (1 - share))[:, None] * np.array([-1.0, 1.0]) / nodes.information
    J = np.stack([estimates.gamma, turn], axis=2)
    return np.asarray(J @ inverse @ J.swapaxes(1, 2)), known


def _on_edge(nodes: Nodes, k: int, estimates: Estimates, nu: float) -> FloatArray:
    """Variance (G,) of the ratio of features of which the other variance is zero; NaN where the deviance is not convex."""
    ray, lam = nodes.edges[k], estimates.gamma[:, k] * nodes.information[k]
    energy, floor = energy_of(estimates.responses.zty, estimates.responses.rss, ray.turn)
    scaled = np.outer(lam, ray.s)
    h = 1 / (1 + scaled)
    slope, own = h * ray.s, energy * h
    R, R1, R2 = floor + own.sum(axis=1), -(own * slope).sum(axis=1), 2 * (own * slope**2).sum(axis=1)
    curvature = 0.5 * (nu * (R2 / R - (R1 / R) ** 2) - (slope**2).sum(axis=1))
    return np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1.0), np.nan) / nodes.information[k] ** 2


def expected_covariance(equations: Equations, gamma: FloatArray) -> FloatArray:
    """Covariance of the estimates at ratios `gamma` (n, K) by the expected information about all of them, (n, K, K)."""
    n, K = gamma.shape
    out = np.empty((n, K, K))
    size = max(1, _DOUBLES // _doubles(equations))
    for low in range(0, n, size):
        own = gamma[low : low + size]
        information = information_about(pieces(equations, without_responses(equations, own)), "expected")
        out[low : low + size] = _inverse(information, np.ones(own.shape, dtype=bool), own)
    return out
