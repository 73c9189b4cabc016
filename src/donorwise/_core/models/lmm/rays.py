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

if TYPE_CHECKING:
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._typing import FloatArray, IntArray

_NULL = 1e-10  # share of a column's length, squared, that the fixed part may leave without being counted
_SAME = 1e-8  # of logarithms of proportions that are equal but for rounding


class Ray(NamedTuple):
    """One direction: s (m,), `turn` (m, m) that takes Z̃'Wr to y, C (m, p) and E (p, p)."""

    s: FloatArray
    turn: FloatArray
    C: FloatArray
    E: FloatArray

    def delta(self, lam: FloatArray, y: FloatArray) -> FloatArray:
        """The steps from least squares of features with `y` (G, m) at `lam` (G,), (G, p)."""
        return np.asarray(-lam[:, None] * ((y / (1 + np.outer(lam, self.s))) @ self.C))

    def Phi(self, lam: FloatArray) -> FloatArray:
        """(X̃'V⁻¹X̃)⁻¹ at `lam` (n,), (n, p, p)."""
        p = self.E.shape[0]
        CC = (self.C[:, :, None] * self.C[:, None, :]).reshape(-1, p * p)
        shrunk = ((1 / (1 + np.outer(lam, self.s))) @ CC).reshape(-1, p, p)
        return np.asarray(np.eye(p) + lam[:, None, None] * self.E - (lam**2)[:, None, None] * shrunk)


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
        return Ray(np.clip(values, 0, None), self.inverse.times(vectors), C, self.blocks.A.T @ GA)

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


_SHARES = (0.0, 0.02, 0.2, 1.0)  # of the variances of rough optima, relative to the largest
_MOST_RAYS = 256
_LAMBDAS = np.geomspace(1e-3, 1e4, 15)


def rough_optimum(rays: Rays, information: FloatArray, response: Responses, nu: int) -> FloatArray:
    """Variances of every feature near its REML optimum, in units of what a level says, (G, K); covariances are zero.

    The best of some points on some rays.
    """
    parameter = rays.blocks.parameter
    variances = np.flatnonzero(parameter[:, 1] == parameter[:, 2])
    shares = np.array(list(product(_SHARES, repeat=variances.size)))
    shares = shares[shares.max(axis=1) == 1] if len(shares) <= _MOST_RAYS else np.ones((1, variances.size))
    best, out = np.full(response.rss.size, np.inf), np.zeros((response.rss.size, len(parameter)))
    for share in shares:
        direction = np.zeros(len(parameter))
        direction[variances] = share
        ray = rays.at(direction / information[parameter[:, 0]])
        scaled = np.outer(ray.s, _LAMBDAS)
        energy = (response.zty @ ray.turn) ** 2
        floor = np.clip(response.rss - energy.sum(axis=1), 0, None)
        with np.errstate(divide="ignore"):
            deviance = nu * np.log(floor[:, None] + energy @ (1 / (1 + scaled))) + np.log1p(scaled).sum(axis=0)
        at = np.argmin(deviance, axis=1)
        lowest = deviance[np.arange(at.size), at]
        better = lowest < best
        best[better] = lowest[better]
        # for Newton's method a variance is not zero to begin with: a column of a factor at zero has no gradient
        out[better] = _LAMBDAS[at[better], None] * np.maximum(direction, _SHARES[1])
    return out
