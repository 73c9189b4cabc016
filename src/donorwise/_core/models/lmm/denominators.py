"""x'Py and x'Px of many columns at once, at the variances of features whose columns of the model they are not.

Given variances both are bilinear. Of a model with one ratio gamma, in the eigenbasis of Z'PZ with u = V'Z'Px / sqrt(s),

    x'Py = x'My - sum_i u_xi u_yi (1 - h_i),   h_i = 1 / (1 + gamma s_i),

M the projection of least squares; so x'Px depends on gamma alone, and is interpolated between Chebyshev points that all
features share, of log((1 + gamma max s) / (1 + gamma min s)), min s = 0 where some of x lies outside of the eigenbasis: its
poles in this are pi away from where it is asked for, and the range is short for any gamma. Of other models, with G the
relative covariances, W = G(I + SG)⁻¹ and t = Z'Mx,

    x'Py = x'My - t_x'W t_y - (A't_x*)'Phi(A't_y*),   t* = W t,   Phi = (X̃'V⁻¹X̃)⁻¹

feature by feature; where levels are coupled Z'WZ = I, and W = I - C⁻¹ with C = I + sum_k gamma_k B_k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import numpy as np
from scipy import linalg, sparse

from donorwise._core.models.lmm.law import block_matrix, some_points
from donorwise._core.models.lmm.ratio_pairs import PairOptima, PairProducts, fit_pairs
from donorwise._core.models.lmm.variant_kernels import ROUNDING, one_ratio_pairs
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.models.lmm.donor_columns import Axis, DonorColumns
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.ratios import Nodes
    from donorwise._core.models.lmm.spectral import Spectrum
    from donorwise._typing import FloatArray, IntArray

_IN_CACHE, _WHOLE = (256, 1024), (4096, 64)
_PER_DECADE, _FEWEST = 6, 12  # points between which is interpolated
_SPANNED = 1e-9  # share of a squared length that is none
_WITHIN = 0.9  # of the smallest s: the logarithm has a range where all s are the same, too


Whitened = tuple["FloatArray", "FloatArray", "FloatArray | None"]
Products = Callable[[slice, "IntArray"], "FloatArray"]
"""x'Pz (V, G) of some variants and, in their order, some features."""


def as_slice(positions: IntArray) -> IntArray | slice:
    """Positions one after the other as a slice, so that what they take is not copied; others as they are."""
    if positions.size and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


class Variances(Protocol):
    """Variances of G features, at which columns are weighed.

    Attributes
    ----------
    tile
        Variants and features that are best worked out together.
    """

    tile: ClassVar[tuple[int, int]]

    def sums(self, axis: Axis, turned: FloatArray) -> FloatArray:
        """Maps (D, G) with x @ sums = x'Py of columns made of donors' numbers, whose cross-products are `turned` (D, q)."""

    def products(self, t: FloatArray, u: FloatArray, rss: FloatArray, axes: tuple[int, int]) -> Products:
        """x'Pz of columns of two axes with cross-products (V, q) and x'Mz (V,), at the variances of features."""

    def whitened(self, columns: DonorColumns, x: FloatArray, turned: FloatArray, feature: int) -> Whitened:
        """Genotypes x (V, D), `turned` (V, q), and a feature as independent numbers; see :meth:`NullModels.whitened`."""

    def refitted(self, pairs: PairProducts, nu: int) -> PairOptima | None:
        """Pairs of a single column and a feature with variances of their own; None where nothing shared makes that easier."""


@dataclass(frozen=True)
class NoVariances:
    """Models without random effects: least squares."""

    tile: ClassVar[tuple[int, int]] = _IN_CACHE

    def sums(self, axis: Axis, turned: FloatArray) -> FloatArray:
        """See :class:`Variances`."""
        return axis.y

    def products(self, t: FloatArray, u: FloatArray, rss: FloatArray, axes: tuple[int, int]) -> Products:
        """See :class:`Variances`."""
        return lambda variants, features: np.repeat(rss[variants, None], features.size, axis=1)

    def whitened(self, columns: DonorColumns, x: FloatArray, turned: FloatArray, feature: int) -> Whitened:
        """See :class:`Variances`: rows of the donors, less the fixed part."""
        axis, size = columns.axes[0], np.sqrt(columns.lengths[0, 0])
        there = np.flatnonzero(size > 0)
        Q = axis.ols[there] / size[there, None]
        return x[:, there] * size[there] - (x @ axis.ols) @ Q.T, axis.y[there, feature] / size[there], Q

    def refitted(self, pairs: PairProducts, nu: int) -> PairOptima | None:
        """See :class:`Variances`."""
        return None


@dataclass(frozen=True)
class OneRatio:
    """One ratio `gamma` (G,) for each feature, in an eigenbasis; `u_y` (G, q) are the features in it.

    Cross-products are those in the eigenbasis as well.
    """

    tile: ClassVar[tuple[int, int]] = _IN_CACHE

    spectrum: Spectrum
    gamma: FloatArray
    u_y: FloatArray
    typical: FloatArray
    """Shape (q,). Squared coordinates of a usual column, which takes out most of how x'Px varies with gamma."""
    spanned: tuple[bool, ...]
    """Whether the eigenbasis explains every column, once the fixed part is taken out, as that of donors does.

    What is left of variants is rounding then, and would be more than what large ratios leave of those that the fixed part
    nearly explains.
    """

    @classmethod
    def of(
        cls, spectrum: Spectrum, gamma: FloatArray, u_y: FloatArray, columns: DonorColumns, turned: Sequence[FloatArray]
    ) -> OneRatio:
        """Of fitted features, and of donors' columns in the eigenbasis, (D, q) each."""
        own = [
            _spans(t, axis, columns.lengths[a, a]) for a, (t, axis) in enumerate(zip(turned, columns.axes, strict=True))
        ]
        return cls(spectrum, gamma, u_y, (turned[0] ** 2).mean(axis=0), tuple(own))

    def shrunk(self, gamma: FloatArray) -> FloatArray:
        """h (q, n) at ratios (n,)."""
        return np.asarray(1 / (1 + np.outer(self.spectrum.s, gamma)))

    def sums(self, axis: Axis, turned: FloatArray) -> FloatArray:
        """See :class:`Variances`."""
        h = self.shrunk(self.gamma)
        return turned @ (self.u_y.T * h) if all(self.spanned) else axis.y - turned @ (self.u_y.T * (1 - h))

    @cached_property
    def _points(self) -> tuple[FloatArray, FloatArray]:
        """Ratios (L,) whose x'Px is worked out, and the weights (G, L) of theirs in that of each feature."""
        points, at = np.unique(self.gamma, return_inverse=True)
        z = _chebyshev(float(self._stretched(points[-1:])[0]))
        if points.size <= z.size:
            return points, np.eye(points.size)[at]
        low, high = self._ends
        chosen = np.expm1(z) / (high - low * np.exp(z))
        at_points, own = (self.typical @ self.shrunk(g) for g in (chosen, self.gamma))
        return chosen, _barycentric(z, self._stretched(self.gamma)) * own[:, None] / at_points

    @property
    def _ends(self) -> tuple[float, float]:
        """The `low` and `high` of :meth:`_stretched`."""
        s = self.spectrum.s
        return _WITHIN * float(s.min()) if all(self.spanned) else 0.0, float(s.max())

    def _stretched(self, gamma: FloatArray) -> FloatArray:
        """log(1 + gamma high) - log(1 + gamma low): what is interpolated in."""
        low, high = self._ends
        return np.log1p(gamma * high) - np.log1p(gamma * low)

    def products(self, t: FloatArray, u: FloatArray, rss: FloatArray, axes: tuple[int, int]) -> Products:
        """See :class:`Variances`."""
        points, weights = self._points
        energy = t * u
        at_points = energy @ self.shrunk(points)
        if not any(self.spanned[axis] for axis in axes):
            at_points += (rss - energy.sum(axis=1))[:, None]
        return lambda variants, features: at_points[variants] @ weights[as_slice(features)].T

    def whitened(self, columns: DonorColumns, x: FloatArray, turned: FloatArray, feature: int) -> Whitened:
        """See :class:`Variances`: coordinates of the eigenbasis, of variance one each."""
        root = np.sqrt(self.shrunk(self.gamma[[feature]])[:, 0])
        return turned * root, self.u_y[feature] * root, None

    def refitted(self, pairs: PairProducts, nu: int) -> PairOptima | None:
        """See :class:`Variances`."""
        if not self.spanned[0]:
            return None
        out, rss = np.empty((pairs.variants.size, 3)), pairs.rss_y
        floor = rss - (self.u_y**2).sum(axis=1)
        floor[floor < ROUNDING * rss] = 0.0  # which would say that there is no residual variance at a ratio of its own
        one_ratio_pairs(
            self.spectrum.s, pairs.zty_x, self.u_y, floor, pairs.variants, pairs.features, self.gamma, float(nu), out
        )
        return PairOptima(out[:, 0], out[:, 1], out[:, 2:], np.ones(len(out), dtype=np.bool_))


def _spans(turned: FloatArray, axis: Axis, lengths: FloatArray) -> bool:
    """Whether the columns of an axis, whose squared lengths are (D,), have no more than coordinates `turned` (D, m)."""
    left = lengths - (axis.ols**2).sum(axis=1) - (turned**2).sum(axis=1)
    return bool((left <= _SPANNED * lengths).all())


def _chebyshev(highest: float) -> FloatArray:
    """Chebyshev points (L,) between 0 and the `highest` logarithm."""
    n = _FEWEST + int(np.ceil(_PER_DECADE * highest / np.log(10)))
    return np.asarray(highest * (1 + np.cos(np.pi * np.arange(n) / (n - 1))) / 2)


def _barycentric(z: FloatArray, at: FloatArray) -> FloatArray:
    """Weights (G, L) of Chebyshev points z (L,) within their range (Berrut and Trefethen 2004, SIAM Rev 46:501)."""
    sign = (-1.0) ** np.arange(z.size)
    sign[[0, -1]] /= 2
    apart = at[:, None] - z
    hit = apart == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = sign / apart
        weights /= weights.sum(axis=1, keepdims=True)
    exact = hit.any(axis=1)
    weights[exact] = hit[exact]
    return np.asarray(weights)


@dataclass(frozen=True)
class FeatureByFeature:
    """Any variances `gamma` (G, K), worked out for one feature after the other.

    `zty` and `delta` (G, q) and (G, p) are the features' cross-products and steps from least squares to their estimates; `nodes`
    are those of two variances, where they say everything of a donor's column, so that optima of pairs lie between them.
    """

    tile: ClassVar[tuple[int, int]] = _WHOLE

    equations: Equations
    gamma: FloatArray
    zty: FloatArray
    delta: FloatArray
    nodes: Nodes | None

    @classmethod
    def of(
        cls, equations: Equations, gamma: FloatArray, zty: FloatArray, delta: FloatArray, columns: DonorColumns
    ) -> FeatureByFeature:
        """Of fitted features, and of donors' columns."""
        nodes, axis = equations.nodes, columns.axes[0]
        known = nodes is not None and _spans(axis.zty @ nodes.edges[0].turn, axis, columns.lengths[0, 0])
        return cls(equations, gamma, zty, delta, nodes if known else None)

    def sums(self, axis: Axis, turned: FloatArray) -> FloatArray:
        """See :class:`Variances`."""
        A = self.equations.blocks.A
        modes = np.empty_like(self.zty)
        for g in range(len(self.gamma)):
            modes[g] = self._at(g).shrunk((self.zty[g] - A @ self.delta[g])[None])[0]
        return axis.y - axis.zty @ modes.T

    def products(self, t: FloatArray, u: FloatArray, rss: FloatArray, axes: tuple[int, int]) -> Products:
        """See :class:`Variances`."""

        def of(variants: slice, features: IntArray) -> FloatArray:
            one = t[variants]
            out = np.empty((len(one), features.size))
            for column, g in enumerate(features):
                at = self._at(int(g))
                own = at.halves(one)
                left = (one, *own) if t is u else (u[variants], *at.halves(u[variants]))
                out[:, column] = rss[variants] - at.product((one, *own), left)
            return out

        return of

    def whitened(self, columns: DonorColumns, x: FloatArray, turned: FloatArray, feature: int) -> Whitened:
        """There is no basis that makes numbers of levels independent.

        Raises
        ------
        DesignError
            Always: there are several variances, or too many levels for an eigenbasis.
        """
        raise DesignError(
            f"gene_test='permutations' needs an eigenbasis of the levels, which {self.equations.design.formula!r} has too many of "
            "(or several variances): take gene_test='acat'."
        )

    def refitted(self, pairs: PairProducts, nu: int) -> PairOptima | None:
        """See :class:`Variances`."""
        return None if self.nodes is None else fit_pairs(self.nodes, pairs, nu)

    def _at(self, g: int) -> _Blocked | _Coupled:
        kind = _Coupled if self.equations.blocks.coupled else _Blocked
        return kind.of(self.equations, self.gamma[g])


class _Blocked(NamedTuple):
    """W, block by block, and Phi (p, p), at the variances of one feature."""

    W: sparse.csr_array
    A: FloatArray
    Phi: FloatArray

    @classmethod
    def of(cls, equations: Equations, gamma: FloatArray) -> _Blocked:
        own = next(iter(some_points(equations, gamma[None])))
        return cls(block_matrix(equations.blocks, own.W[0]).T, equations.blocks.A, own.Phi[0])

    def shrunk(self, t: FloatArray) -> FloatArray:
        """t W of columns (V, q)."""
        return np.asarray((self.W @ t.T).T)

    def halves(self, t: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What products of columns need of each: t W, and A't* (V, p)."""
        own = self.shrunk(t)
        return own, own @ self.A

    def product(self, one: tuple[FloatArray, ...], other: tuple[FloatArray, ...]) -> FloatArray:
        """x'Mz less x'Pz of pairs of columns."""
        (t, _, of_t), (_, shrunk, of_u) = one, other
        return np.einsum("vq,vq->v", t, shrunk) + np.einsum("vp,pr,vr->v", of_t, self.Phi, of_u, optimize=True)


class _Coupled(NamedTuple):
    """The Cholesky factor L of C, L⁻¹A, and Phi (p, p): a triangular system for each column is all that products need."""

    factor: FloatArray
    A: FloatArray
    half_A: FloatArray
    Phi: FloatArray

    @classmethod
    def of(cls, equations: Equations, gamma: FloatArray) -> _Coupled:
        A = equations.blocks.A
        C = np.eye(len(A)) + np.tensordot(gamma, equations.blocks.B, axes=1)
        factor: FloatArray = np.asarray(np.linalg.cholesky(C), dtype=np.float64)
        half = _half(factor, A)
        Phi: FloatArray = np.asarray(np.linalg.inv(np.eye(equations.p) - A.T @ A + half.T @ half), dtype=np.float64)
        return cls(factor, A, half, Phi)

    def shrunk(self, t: FloatArray) -> FloatArray:
        """t W of columns (V, q)."""
        return np.asarray(t - linalg.cho_solve((self.factor, True), t.T, check_finite=False).T)

    def halves(self, t: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What products of columns need of each: t L⁻ᵀ, and A't* (V, p)."""
        own = _half(self.factor, t.T).T
        return own, t @ self.A - own @ self.half_A

    def product(self, one: tuple[FloatArray, ...], other: tuple[FloatArray, ...]) -> FloatArray:
        """x'Mz less x'Pz of pairs of columns."""
        (t, half_t, of_t), (u, half_u, of_u) = one, other
        left = np.einsum("vq,vq->v", t, u) - np.einsum("vq,vq->v", half_t, half_u)
        return left + np.einsum("vp,pr,vr->v", of_t, self.Phi, of_u, optimize=True)


def _half(factor: FloatArray, columns: FloatArray) -> FloatArray:
    return np.asarray(linalg.solve_triangular(factor, columns, lower=True, check_finite=False))
