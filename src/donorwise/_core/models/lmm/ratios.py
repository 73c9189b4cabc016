"""Two variances of which one at least has a kernel: the optimum of every feature between nodes that all share.

With rho = gamma_2 / gamma_1 and lam = gamma_1 + gamma_2 the profiled deviance f(lam, rho) costs O(levels) on a ray of one rho
(see :mod:`rays`). In x = log rho it is analytic, so that between the Chebyshev points of an interval it is its interpolant

    f(lam, x) = sum_l w_l(x) f_l(lam),

which errs by some 1e-10 with 80 of them. Newton's method works on that, in log lam and x. The boundaries, where one of the
variances is zero, are rays themselves, with the sign of the derivative in the other variance for a condition; features whose
optimum is beyond the interval but not on the boundary are left to Newton's method without nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm.ratio_kernels import newton_features
from donorwise._core.models.lmm.rays import vertices
from donorwise._core.models.lmm.spectral import fit_spectral

if TYPE_CHECKING:
    from donorwise._core.models.lmm.rays import Ray, Rays
    from donorwise._typing import BoolArray, FloatArray, IntArray

NODES = 80
WIDEST = 9.5  # log of the largest and smallest rho between nodes, for columns with as much information
_LAMBDAS = 24  # starting points along a ray
_LOWEST, _HIGHEST = 1e-3, 1e6  # lam that they span, relative to what the mean level says
_DOUBLES = 6_000_000  # of rotated responses at a time


class Optimum(NamedTuple):
    """Where the optima of G features are, and what the likelihood and the fixed effects are there.

    `gamma` (G, 2), `deviance`, `R`, `logdet_V`, `logdet_X` (G,), `Phi` (G, p, p), `delta` (G, p), `iterations` (G,),
    and which were `found` (G,).
    """

    gamma: FloatArray
    deviance: FloatArray
    R: FloatArray
    logdet_V: FloatArray
    logdet_X: FloatArray
    Phi: FloatArray
    delta: FloatArray
    iterations: IntArray
    found: BoolArray

    def some(self, at: slice) -> Optimum:
        """Those of some features, in the same memory."""
        return Optimum(
            self.gamma[at], self.deviance[at], self.R[at], self.logdet_V[at], self.logdet_X[at], self.Phi[at],
            self.delta[at], self.iterations[at], self.found[at],
        )  # fmt: skip


@dataclass(frozen=True)
class Nodes:
    """The rays of a coupled block with two variances, worked out when they are first asked for.

    Attributes
    ----------
    rays
        What they share.
    information
        Shape (2,). What a level says of each variance, on average.
    """

    rays: Rays
    information: FloatArray

    @cached_property
    def x(self) -> FloatArray:
        """Nodes (L,) in the logarithm of rho, for variances in units of what a level says."""
        return WIDEST * np.cos(np.pi * np.arange(NODES) / (NODES - 1))

    @cached_property
    def coefficients(self) -> FloatArray:
        """What takes values at the nodes to coefficients of Chebyshev polynomials, (L, L)."""
        n = NODES - 1
        each = np.cos(np.pi * np.outer(np.arange(NODES), np.arange(NODES)) / n) * 2 / n
        each[:, [0, n]] /= 2
        each[[0, n]] /= 2
        return each

    @cached_property
    def directions(self) -> FloatArray:
        """Directions of the nodes, (L, 2)."""
        second = 1 / (1 + np.exp(-self.x))
        return np.stack([1 - second, second], axis=1) / self.information

    @cached_property
    def inside(self) -> tuple[Ray, ...]:
        """The rays of the nodes."""
        return tuple(self.rays.at(direction) for direction in self.directions)

    @cached_property
    def edges(self) -> tuple[Ray, Ray]:
        """The rays on which the second variance is zero, and the first."""
        first, second = np.eye(2) / self.information
        return self.rays.at(first), self.rays.at(second)

    @cached_property
    def others(self) -> tuple[FloatArray, FloatArray]:
        """On each edge, the other variance in the coordinates of the ray, (m, m)."""
        first, second = self.edges
        return self.rays.cross(1, first) / self.information[1], self.rays.cross(0, second) / self.information[0]

    def work_out(self) -> None:
        """Work out all rays now: threads that find them missing would each do so for itself."""
        _ = self.inside, self.others


def fit_two(nodes: Nodes, zty: FloatArray, rss: FloatArray, nu: int) -> Optimum:
    """The REML optimum of features with cross-products `zty` (G, m) and residual sums of squares `rss` (G,)."""
    out = _unknown(rss.size, nodes.rays.blocks.A.shape[1])
    size = max(1, _DOUBLES // (NODES * zty.shape[1]))
    for low in range(0, rss.size, size):
        at = slice(low, low + size)
        _fit_some(nodes, zty[at], rss[at], float(nu), out.some(at))
    return out


def _unknown(G: int, p: int) -> Optimum:
    """Optima of G features that are still to be found."""
    each = [np.full(G, np.nan) for _ in range(4)]
    return Optimum(
        np.full((G, 2), np.nan), each[0], each[1], each[2], each[3], np.full((G, p, p), np.nan), np.full((G, p), np.nan),
        np.zeros(G, dtype=np.int64), np.zeros(G, dtype=np.bool_),
    )  # fmt: skip


def _fit_some(nodes: Nodes, zty: FloatArray, rss: FloatArray, nu: float, out: Optimum) -> None:
    """Fit some features into the arrays of `out`."""
    y, s, floor = at_nodes(nodes, zty, rss)
    start, first = _starts(y, s, floor, rss, nu)
    mu, x, best = np.empty(rss.size), np.empty(rss.size), np.empty(rss.size)
    newton_features(
        (y**2)[:, :, None], s, floor[:, None], rss, nu, nodes.coefficients, WIDEST, start, nodes.x[first], mu, x, best,
        out.iterations, out.found,
    )  # fmt: skip
    best[~out.found] = np.inf
    _inside(nodes, y, s, floor, rss, nu, mu, x, np.flatnonzero(out.found), out)
    for k in range(2):
        _edge(nodes, k, zty, floor, rss, nu, best, out)


def at_nodes(nodes: Nodes, zty: FloatArray, rss: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Features in the coordinates of every node, (G, L, m), the nodes' s (L, m), and what no level explains, (G,)."""
    y = np.empty((rss.size, NODES, zty.shape[1]))
    for l, ray in enumerate(nodes.inside):
        y[:, l] = zty @ ray.turn
    return y, np.stack([ray.s for ray in nodes.inside]), np.clip(rss - (y[:, 0] ** 2).sum(axis=1), 0, None)


def _starts(y: FloatArray, s: FloatArray, floor: FloatArray, rss: FloatArray, nu: float) -> tuple[FloatArray, IntArray]:
    """Log lam (G,) and node (G,) of the lowest of the parabolas through the best of some points on every ray."""
    mu, step = np.linspace(np.log(_LOWEST), np.log(_HIGHEST), _LAMBDAS, retstep=True)
    best, start, first = np.full(rss.size, np.inf), np.zeros(rss.size), np.zeros(rss.size, dtype=np.int64)
    for l in range(NODES):
        scaled = np.outer(s[l], np.exp(mu))
        R = floor[:, None] + (y[:, l] ** 2) @ (1 / (1 + scaled))
        with np.errstate(divide="ignore"):
            deviance = nu * np.log(R / rss[:, None]) + np.log1p(scaled).sum(axis=0)
        lowest, at = vertices(deviance)
        better = lowest < best
        best[better], start[better], first[better] = lowest[better], mu[0] + step * at[better], l
    return start, first


def weights_at(nodes: Nodes, x: FloatArray) -> FloatArray:
    """Weights (G, L) of the nodes at `x` (G,)."""
    angles = np.arccos(np.clip(x / WIDEST, -1, 1))
    return np.asarray(np.cos(np.outer(angles, np.arange(NODES))) @ nodes.coefficients)


def _inside(
    nodes: Nodes,
    y: FloatArray,
    s: FloatArray,
    floor: FloatArray,
    rss: FloatArray,
    nu: float,
    mu: FloatArray,
    x: FloatArray,
    at: IntArray,
    out: Optimum,
) -> None:
    """Likelihood and fixed effects of features `at` some positions, whose optimum is between the nodes."""
    lam, w = np.exp(mu[at]), weights_at(nodes, x[at])
    R, logdet, (p, _) = np.zeros(at.size), np.zeros(at.size), nodes.inside[0].E.shape
    Phi, delta = np.zeros((at.size, p, p)), np.zeros((at.size, p))
    for l, ray in enumerate(nodes.inside):
        scaled, own = np.outer(lam, s[l]), w[:, l]
        R += own * np.log(floor[at] + (y[at, l] ** 2 / (1 + scaled)).sum(axis=1))
        logdet += own * np.log1p(scaled).sum(axis=1)
        Phi += own[:, None, None] * ray.Phi(lam)
        delta += own[:, None] * ray.delta(lam, y[at, l])
    second = 1 / (1 + np.exp(-x[at]))
    gamma = lam[:, None] * np.stack([1 - second, second], axis=1) / nodes.information
    _write(out, at, gamma, np.exp(R), logdet, Phi, delta, nu)


def _write(
    out: Optimum,
    at: IntArray,
    gamma: FloatArray,
    R: FloatArray,
    logdet: FloatArray,
    Phi: FloatArray,
    delta: FloatArray,
    nu: float,
) -> None:
    """Write the optimum of features `at`; `logdet` is log|V| + log|X̃'V⁻¹X̃|."""
    out.gamma[at], out.R[at], out.Phi[at], out.delta[at] = gamma, R, Phi, delta
    out.deviance[at] = logdet + nu * np.log(R)
    out.logdet_X[at] = -np.linalg.slogdet(Phi)[1]
    out.logdet_V[at] = logdet - out.logdet_X[at]


def _edge(
    nodes: Nodes, k: int, zty: FloatArray, floor: FloatArray, rss: FloatArray, nu: float, best: FloatArray, out: Optimum
) -> None:
    """Take the optimum on a boundary, with the other variance zero, where that is one and none better is known."""
    ray, other = nodes.edges[k], nodes.others[k]
    lam, iterations, converged = fit_spectral(ray.spectrum, zty, rss, int(nu), reml=True)
    lam, y = lam[:, 0], zty @ ray.turn
    h = 1 / (1 + np.outer(lam, ray.s))
    v = h * y
    R = floor + (v * y).sum(axis=1)
    slope = h @ np.diag(other) - nu * np.einsum("gi,ij,gj->g", v, other, v, optimize=True) / R
    logdet = np.log1p(np.outer(lam, ray.s)).sum(axis=1)
    deviance = logdet + nu * np.log(R / rss)
    better = converged & (slope >= 0) & (deviance <= best)
    at = np.flatnonzero(better)
    gamma = np.zeros((at.size, 2))
    gamma[:, k] = lam[at] / nodes.information[k]
    _write(out, at, gamma, R[at], logdet[at], ray.Phi(lam[at]), ray.delta(lam[at], y[at]), nu)
    best[at], out.found[at] = deviance[at], True
    out.iterations[:] += iterations
