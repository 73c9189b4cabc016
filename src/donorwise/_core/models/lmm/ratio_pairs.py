"""Two variances of which one at least has a kernel, estimated again with one more fixed effect for each of many pairs.

With u the coordinates of a column x and a feature y on a ray (see :mod:`rays`), h = 1 / (1 + lam s), and sums a, b, c of h u_x²,
h u_x u_y, h u_y², the profiled deviance with x in the model is

    nu log(c - b²/a) + log a + sum log(1 + lam s),

which is analytic in the logarithm of the ratio of the variances as that without x: it is interpolated between the same nodes
(see :mod:`ratios`), from the null model's variances; the boundaries are rays themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm.ratio_kernels import edge_pairs, newton_pairs
from donorwise._core.models.lmm.ratios import WIDEST
from donorwise._core.models.lmm.variant_kernels import one_ratio_pairs

if TYPE_CHECKING:
    from donorwise._core.models.lmm.ratios import Nodes
    from donorwise._core.models.lmm.rays import Ray
    from donorwise._typing import BoolArray, FloatArray, IntArray

_START = 0.01  # lam, relative to what a level says, that a search starts from at the least
_OUTMOST = 5.0  # log ratio of the variances that it starts from at the most, either way
_DOUBLES = 20_000_000  # of coordinates at a time


class PairOptima(NamedTuple):
    """Of n pairs: `estimate`, `se` (n,), variances `gamma` (n, 2), and which were `found` (n,)."""

    estimate: FloatArray
    se: FloatArray
    gamma: FloatArray
    found: BoolArray


class PairProducts(NamedTuple):
    """Cross-products that n pairs of columns and features are made of.

    Attributes
    ----------
    zty_x, zty_y
        Shapes (V, q), (G, q). Those with the random columns, of columns as :class:`denominators.Variances` turns them.
    rss_y, start
        Shapes (G,), (G, 2). Residual sums of squares of the features, and their variances without the columns.
    variants, features
        Shape (n,). Which column and feature, those of a column side by side.
    """

    zty_x: FloatArray
    zty_y: FloatArray
    rss_y: FloatArray
    start: FloatArray
    variants: IntArray
    features: IntArray


def fit_pairs(nodes: Nodes, pairs: PairProducts, nu: int) -> PairOptima:
    """The REML optima of pairs, from the variances of the features without the columns.

    Columns are made of the levels' numbers, of which the random columns say everything.
    """
    n = pairs.variants.size
    out = PairOptima(np.full(n, np.nan), np.full(n, np.nan), np.full((n, 2), np.nan), np.zeros(n, dtype=np.bool_))
    size = max(1, _DOUBLES // (2 * len(nodes.x) * pairs.zty_y.shape[1]))
    for low in range(0, n, size):
        _fit_some(nodes, pairs, slice(low, min(low + size, n)), float(nu), out)
    return out


def _fit_some(nodes: Nodes, pairs: PairProducts, which: slice, nu: float, out: PairOptima) -> None:
    """Some of the pairs, into the arrays of `out`."""
    used_x, v = np.unique(pairs.variants[which], return_inverse=True)
    used_y, g = np.unique(pairs.features[which], return_inverse=True)
    zx, zy, rss, start = pairs.zty_x[used_x], pairs.zty_y[used_y], pairs.rss_y[used_y], pairs.start[used_y]
    floor_y, floor = _floor(zy, rss, nodes.edges[0]), np.zeros((v.size, 3))
    floor[:, 2] = floor_y[g]
    found = _inside(nodes, zx, zy, rss, start, v, g, floor, nu)
    second = 1 / (1 + np.exp(-found[:, 3]))
    gamma = np.exp(found[:, 2, None]) * np.stack([1 - second, second], axis=1) / nodes.information
    best = np.where(found[:, 5] > 0, found[:, 4], np.inf)
    estimate, se = found[:, 0], found[:, 1]
    for k in range(2):
        lam, own = _edge(nodes, k, zx, zy, rss, start, v, g, floor_y, nu)
        better = np.isfinite(own).all(axis=1) & (own[:, 3] >= 0) & (own[:, 2] <= best)
        gamma[better] = 0.0
        gamma[better, k] = lam[better] / nodes.information[k]
        estimate[better], se[better], best[better] = own[better, 0], own[better, 1], own[better, 2]
    out.estimate[which], out.se[which], out.gamma[which], out.found[which] = estimate, se, gamma, np.isfinite(best)


def _floor(zty: FloatArray, rss: FloatArray, ray: Ray) -> FloatArray:
    """What no level explains, (G,)."""
    return np.clip(rss - ((zty @ ray.turn) ** 2).sum(axis=1), 0, None)


def _inside(
    nodes: Nodes,
    zx: FloatArray,
    zy: FloatArray,
    rss: FloatArray,
    start: FloatArray,
    v: IntArray,
    g: IntArray,
    floor: FloatArray,
    nu: float,
) -> FloatArray:
    """See :func:`newton_pairs`, (n, 6)."""
    ux, uy = (np.stack([z @ ray.turn for ray in nodes.inside], axis=1) for z in (zx, zy))
    s, units = np.stack([ray.s for ray in nodes.inside]), np.maximum(start * nodes.information, 1e-300)
    mu = np.log(np.maximum(units.sum(axis=1), _START))
    x = np.clip(np.log(units[:, 1] / units[:, 0]), -_OUTMOST, _OUTMOST)
    out = np.empty((v.size, 6))
    newton_pairs(ux, uy, s, floor, rss[g], v, g, nu, nodes.coefficients, WIDEST, mu[g], x[g], out)
    return out


def _edge(
    nodes: Nodes,
    k: int,
    zx: FloatArray,
    zy: FloatArray,
    rss: FloatArray,
    start: FloatArray,
    v: IntArray,
    g: IntArray,
    floor_y: FloatArray,
    nu: float,
) -> tuple[FloatArray, FloatArray]:
    """lam (n,) on the boundary where the variance other than k is zero, and :func:`edge_pairs` there, (n, 4)."""
    ray = nodes.edges[k]
    ux, uy, single, out = zx @ ray.turn, zy @ ray.turn, np.empty((v.size, 3)), np.empty((v.size, 4))
    one_ratio_pairs(ray.s, ux, uy, floor_y, v, g, start[:, k] * nodes.information[k], nu, single)
    edge_pairs(ux, uy, ray.s, nodes.others[k], floor_y, rss, v, g, nu, single[:, 2], out)
    return single[:, 2], out
