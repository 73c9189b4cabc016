"""Models with a kernel along rays of the space of their variances, on which they have one variance ratio.

On a ray the variances keep their proportions: gamma = lam d, for a direction d. With the columns of a coupled block
(Z̃'WZ̃ = I, A = Z̃'WX̃, t = Z̃'Wr) and the symmetric root H of I - AA', Z̃'PZ̃'s, one eigendecomposition

    H (sum_k d_k B_k) H = Q diag(s) Q'

gives everything at all lam in O(levels) for each feature: with y = Q'H⁺t and h_i = 1 / (1 + lam s_i),

    R = r'r - sum_i (1 - h_i) y_i²,     log|V| + log|X̃'V⁻¹X̃| = sum_i log(1 + lam s_i),
    delta = -lam C' diag(h) y,          Phi = I + lam E - lam² C' diag(h) C,     C = Q'HGA,  E = A'GA,  G = sum_k d_k B_k.

Points on a grid whose axes have the same steps lie on few rays, and so do the nodes of :mod:`ratios`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm.spectral import NULL_SPACE, Spectrum

if TYPE_CHECKING:
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._typing import FloatArray, IntArray

_NULL = 1e-10  # share of a column's length, squared, that the fixed part may leave without being counted
_ROUNDING = 1e-13  # share of the largest eigenvalue of a ray that is rounding of zero
_SAME = 1e-8  # of logarithms of proportions that are equal but for rounding


class Ray(NamedTuple):
    """One direction: s (m,), `turn` (m, m) that takes Z̃'Wr to y, C (m, p) and E (p, p)."""

    s: FloatArray
    turn: FloatArray
    C: FloatArray
    E: FloatArray

    @property
    def spectrum(self) -> Spectrum:
        """The model of the ray as one of a single variance."""
        own = self.s > NULL_SPACE * self.s.max()
        return Spectrum(self.s[own], self.turn[:, own] * np.sqrt(self.s[own]), self.s[own])

    def delta(self, lam: FloatArray, y: FloatArray) -> FloatArray:
        """The steps from least squares of features with `y` (G, m) at `lam` (G,), (G, p)."""
        return np.asarray(-lam[:, None] * ((y / (1 + np.outer(lam, self.s))) @ self.C))

    def Phi(self, lam: FloatArray) -> FloatArray:
        """(X̃'V⁻¹X̃)⁻¹ at `lam` (n,), (n, p, p)."""
        p = self.E.shape[0]
        CC = (self.C[:, :, None] * self.C[:, None, :]).reshape(-1, p * p)
        shrunk = ((1 / (1 + np.outer(lam, self.s))) @ CC).reshape(-1, p, p)
        return np.asarray(np.eye(p) + lam[:, None, None] * self.E - (lam**2)[:, None, None] * shrunk)


def energy_of(zty: FloatArray, rss: FloatArray, turn: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Squares (G, m) of Z'Wr (G, q) in the coordinates that `turn` takes it to, and what these leave of r'r, (G,)."""
    energy = (zty @ turn) ** 2
    return energy, np.clip(rss - energy.sum(axis=1), 0, None)


class _Root(NamedTuple):
    """I + U diag(size - 1) U': a matrix that is no unit matrix in a few orthonormal columns U (m, p) alone."""

    U: FloatArray
    size: FloatArray

    def times(self, M: FloatArray) -> FloatArray:
        """Its product with M."""
        return np.asarray(M + (self.U * (self.size - 1)) @ (self.U.T @ M))


@dataclass(frozen=True, slots=True)
class Rays:
    """What all rays of a coupled block share.

    Attributes
    ----------
    blocks
        The block.
    root, inverse
        H, and its pseudo-inverse.
    B
        Shape (K, m, m). H B_k H.
    BA
        Shape (K, m, p). B_k A.
    """

    blocks: Blocks
    root: _Root
    inverse: _Root
    B: FloatArray
    BA: FloatArray

    @classmethod
    def of(cls, blocks: Blocks) -> Rays:
        """The roots of I - AA'."""
        U, sizes, _ = np.linalg.svd(blocks.A, full_matrices=False)
        left = np.sqrt(np.clip(1 - sizes**2, 0, None))
        left[left**2 < _NULL] = 0.0
        inverse = np.divide(1, left, out=np.zeros_like(left), where=left > 0)
        root = _Root(U, left)
        B = np.stack([root.times(root.times(own).T) for own in blocks.B])  # each is symmetric
        return cls(blocks, root, _Root(U, inverse), B, blocks.B @ blocks.A)

    def at(self, direction: FloatArray) -> Ray:
        """The ray of a direction (K,)."""
        values, vectors = np.linalg.eigh(np.tensordot(direction, self.B, axes=1))
        GA = np.tensordot(direction, self.BA, axes=1)
        C = vectors.T @ self.root.times(GA)
        # with a huge ratio rounding of a zero would count
        s = np.where(values > _ROUNDING * values[-1], values, 0.0)
        return Ray(s, self.inverse.times(vectors), C, self.blocks.A.T @ GA)

    def ml(self, direction: FloatArray) -> FloatArray:
        """Eigenvalues d (m,) of a direction that give log|V| alone, as the sum of log(1 + lam d)."""
        return np.clip(np.linalg.eigvalsh(np.tensordot(direction, self.blocks.B, axes=1)), 0, None)

    def cross(self, k: int, ray: Ray) -> FloatArray:
        """Q'H B_k H Q (m, m): covariance parameter k in the coordinates of a ray."""
        Q = self.root.times(ray.turn)
        return np.asarray(Q.T @ self.B[k] @ Q)


def find_rays(points: FloatArray) -> tuple[FloatArray, IntArray, FloatArray]:
    """Directions (n, K) of points (N, K), the direction of each and how far out it is, (N,) both.

    A direction's largest component is one; that of the origin is any.
    """
    lam = np.abs(points).max(axis=1)
    unit = np.divide(points, lam[:, None], out=np.zeros_like(points), where=lam[:, None] > 0)
    unit[lam == 0] = unit[lam > 0][:1] if (lam > 0).any() else 1.0
    size = np.log(np.where(unit == 0, 1.0, np.abs(unit)))
    labels = np.hstack([np.sign(unit), np.round(size / _SAME)])
    _, first, inverse = np.unique(labels, axis=0, return_index=True, return_inverse=True)
    return unit[first], inverse.reshape(-1), lam


# Variances of rough optima relative to the largest: as many of them as make no more than so many rays.
_SHARES = ((0.0, 0.01, 0.05, 0.2, 0.5, 1.0), (0.0, 0.05, 1.0), (1.0,))
_MOST_RAYS = 256
_CLOSE = 3.0  # of deviances between rays, which may be off by about that
_PEAKS = 3  # that are tried
_SMALLEST = 0.01  # share of a variance that Newton's method starts from
_FIRST, _STEP, _POINTS = np.log(1e-3), np.log(10) / 2, 15  # logarithms of lam along a ray


def rough_optima(rays: Rays, information: FloatArray, response: Responses, nu: int, *, reml: bool) -> FloatArray:
    """Variances of every feature near its peaks, the best first, in units of what a level says, (G, peaks, K).

    They are the best of some points on some rays. A ray that is better than those beside it may lead to a peak of its
    own, as where one variance of two with similar kernels is zero; NaN where there are fewer. Covariances are zero.
    """
    parameter = rays.blocks.parameter
    variances = np.flatnonzero(parameter[:, 1] == parameter[:, 2])
    levels, shares = _rough_shares(variances.size)
    directions = np.zeros((len(levels), len(parameter)))
    directions[:, variances] = shares
    lowest = np.empty((response.rss.size, len(levels)))
    lam = np.empty(lowest.shape)
    for r, direction in enumerate(directions / information[parameter[:, 0]]):
        lowest[:, r], lam[:, r] = _best_along(rays, direction, response, nu, reml=reml)
    beside = np.abs(levels[:, None] - levels).max(axis=2) == 1
    peak = np.stack(
        [(own <= lowest[:, near].T).all(axis=0) for own, near in zip(lowest.T, beside, strict=True)], axis=1
    )
    others = np.where(peak, lowest, np.inf)
    order = np.argsort(others, axis=1)[:, :_PEAKS]
    others, lam = (np.take_along_axis(values, order, axis=1) for values in (others, lam))
    # for Newton's method a variance is not zero to begin with: a column of a factor at zero has no gradient
    started = np.maximum(directions, _SMALLEST * (parameter[:, 1] == parameter[:, 2]))
    close = others <= others[:, :1] + _CLOSE
    return np.where(close[:, :, None], lam[:, :, None] * started[order], np.nan)


def _rough_shares(n: int) -> tuple[IntArray, FloatArray]:
    """Rays of n variances: which of the shares each variance has, (rays, n), and these shares."""
    for shares in _SHARES:
        if len(shares) ** n - (len(shares) - 1) ** n <= _MOST_RAYS:
            break
    levels = np.array([own for own in product(range(len(shares)), repeat=n) if max(own) == len(shares) - 1])
    return levels, np.array(shares)[levels]


def _best_along(
    rays: Rays, direction: FloatArray, response: Responses, nu: int, *, reml: bool
) -> tuple[FloatArray, FloatArray]:
    """Lowest deviance of every feature along a ray, (G,), and where (lam)."""
    ray, points = rays.at(direction), np.exp(_FIRST + _STEP * np.arange(_POINTS))
    logdet = np.log1p(np.outer(ray.s if reml else rays.ml(direction), points)).sum(axis=0)
    energy, floor = energy_of(response.zty, response.rss, ray.turn)
    with np.errstate(divide="ignore"):
        deviance = nu * np.log(floor[:, None] + energy @ (1 / (1 + np.outer(ray.s, points)))) + logdet
    lowest, at = vertices(deviance)
    return lowest, np.exp(_FIRST + _STEP * at)


def vertices(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Value (G,) and place (G,), in steps, of the lowest point of the parabola around the smallest of each row.

    Along rows that are flat in the other direction points alone would not tell which is the lowest.
    """
    at = np.clip(np.argmin(values, axis=1), 1, values.shape[1] - 2)
    before, here, after = (values[np.arange(at.size), at + d] for d in (-1, 0, 1))
    slope, curvature = 0.5 * (after - before), after - 2 * here + before
    move = np.divide(-slope, curvature, out=np.zeros_like(here), where=curvature > 0)
    move = np.clip(move, -1, 1)
    return here + slope * move + 0.5 * curvature * move**2, at + move
