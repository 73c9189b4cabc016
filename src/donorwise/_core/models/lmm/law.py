"""The law of Gaussian models on a grid of variance ratios.

Given the ratios everything that depends on the design is shared. With W = G(I + SG)⁻¹, t = Z'r, Phi =
(X̃'V⁻¹X̃)⁻¹ and delta the step from least squares,

    R = y'Py = r'r - t'Wt - (A'Wt)'Phi(A'Wt),   c'delta = -c'Phi A'Wt,   se² = R c'Phi c / nu,

with G the relative covariances of the random effects. So all points are matrix products: of t for the steps; for R of
the squared rotated t where a spectrum makes Z'PZ diagonal, else of the products of those t that share a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from donorwise._core.models.law import JointLaw, Law, LocationScale, law_of
from donorwise._core.models.lmm.rays import energy_of, find_rays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.rays import Rays
    from donorwise._core.models.lmm.spectral import Spectrum
    from donorwise._typing import FloatArray, IntArray

# Nonzero points of an axis from _LOWEST / (largest level) to _HIGHEST, and at most, for so many axes.
_POINTS = {1: (63, 250), 2: (23, 40), 3: (13, 18)}
_CORRELATIONS = np.array([0.0, -0.8, -0.4, 0.4, 0.8])  # of two columns of a term, both of standard size
_LOWEST, _HIGHEST = 0.02, 30.0
_SLACK = 1e-6  # of a step
_BEYOND = 10.0  # the axis goes on to this many times the largest estimate
# Pairs of random effects in one block beyond which a point at a time costs less, and doubles of some points' matrices.
_MOST_PAIRS = 4000
_DOUBLES = 2_000_000
_IMPOSSIBLE = -1e300  # log-likelihood where rounding leaves no information on the fixed effects


@dataclass(frozen=True, slots=True)
class LMMGrid(LocationScale):
    """Gaussian models of one design at K points, for n contrasts.

    Attributes
    ----------
    responses
        Of all features.
    nu
        n - p.
    half
        Shape (K,). -1/2 (log|V| + log|X̃'V⁻¹X̃|).
    R
        Gives y'Py (G, K) of responses.
    L
        Shape (n, p). The contrasts, orthonormal basis.
    step
        Shape (n, q, K). t'step is the step of an estimate from least squares.
    spread
        Shape (K, n, n). L Phi L' / nu.
    abundance
        Log abundances of all features as responses; None where these are not known.
    terms
        Shape (K, T). Mean variance over the rows of every random term, relative to sigma2.
    """

    responses: Responses
    nu: float
    half: FloatArray
    R: Callable[[Responses], FloatArray]
    L: FloatArray
    step: FloatArray
    spread: FloatArray
    abundance: Responses | None = None
    terms: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    def loglik(self, at: IntArray) -> FloatArray:
        """REML log-likelihood profiled over sigma2, (G, K)."""
        return self._loglik(self.responses.take(at))

    def _loglik(self, response: Responses) -> FloatArray:
        R = np.maximum(self.R(response), np.finfo(float).tiny)
        out = np.log(R, out=R)
        out *= -0.5 * self.nu
        out += self.half
        return out

    def law(self, at: IntArray, loglik: FloatArray | None = None) -> Law:
        """The law of the contrasts."""
        response = self.responses.take(at)
        loglik = self._loglik(response) if loglik is None else loglik
        root_R, scale = self._root_R(loglik), np.empty((len(self.L), *loglik.shape))
        for i in range(len(self.L)):
            np.multiply(root_R, np.sqrt(self.spread[:, i, i]), out=scale[i])
        return law_of(loglik, self._centre(response), scale, self.nu)

    def joint(self, at: IntArray, loglik: FloatArray | None = None) -> JointLaw:
        """The law of all contrasts together."""
        response = self.responses.take(at)
        loglik = self._loglik(response) if loglik is None else loglik
        root_R, factor = self._root_R(loglik), np.linalg.cholesky(self.spread)
        whitened = np.einsum("kij,jgk->igk", np.linalg.inv(factor), self._centre(response)) / root_R
        diagonal = np.einsum("kii->ki", factor)
        size = root_R**2 * self.nu * np.exp(2 * np.log(diagonal).mean(axis=1))
        F = (whitened**2).mean(axis=0)
        return JointLaw(loglik, F, F, size, self.nu)

    def _root_R(self, loglik: FloatArray) -> FloatArray:
        """sqrt(y'Py), which is what the likelihood was made of, (G, K)."""
        return np.exp((self.half - loglik) / self.nu)

    def _centre(self, response: Responses) -> FloatArray:
        """Estimates, (n, G, K)."""
        centre = np.empty((len(self.L), response.rss.size, self.half.size))
        for i, row in enumerate(self.L):
            np.matmul(response.zty, self.step[i], out=centre[i])
            centre[i] += (response.ols @ row)[:, None]
        return centre

    def parts(self, at: IntArray, loglik: FloatArray) -> FloatArray:
        """Variance over the rows of every random term, and of what is left, (G, K, T + 1)."""
        sigma2 = self._root_R(loglik) ** 2 / self.nu
        return np.asarray(sigma2[:, :, None] * np.column_stack([self.terms, np.ones(len(self.terms))]))

    def log_fc(self, at: IntArray, law: Law, weight: FloatArray) -> FloatArray:
        """What the law's estimates are of the responses, of the log abundances; NaN where these are not known."""
        if self.abundance is None:
            return np.full((at.size, len(self.L)), np.nan)
        own = self.abundance.take(at)
        found = [
            (own.zty * (weight @ step.T)).sum(axis=1) + own.ols @ row
            for step, row in zip(self.step, self.L, strict=True)
        ]
        return np.stack(found, axis=1) if found else np.empty((at.size, 0))


def on_grid(
    equations: Equations,
    responses: Responses,
    points: FloatArray,
    L: FloatArray | None,
    *,
    most_pairs: int = _MOST_PAIRS,
) -> LMMGrid:
    """Equations at points (K, parameters): relative covariances of the random effects, internal basis.

    Beyond `most_pairs` pairs of random effects in one block y'Py is worked out point by point.
    """
    L = np.empty((0, equations.p)) if L is None else equations.turned(L)
    nu, spectrum = float(equations.nu(reml=True)), equations.spectrum
    if equations.rays is not None:
        return _on_rays(equations.rays, responses, points, L, nu)
    if spectrum is not None and not len(L):
        half = -0.5 * np.log1p(np.outer(spectrum.s, points[:, 0])).sum(axis=0)
        return LMMGrid(responses, nu, half, _spectral(spectrum, points[:, 0]), L, np.empty(0), np.empty(0))
    pairs = _Pairs(equations.blocks)
    by_products = spectrum is None and pairs.first.size <= most_pairs
    made = [_gathered(own, L, nu, pairs if by_products else None) for own in some_points(equations, points)]
    half, step = (np.concatenate([getattr(own, name) for own in made], axis=-1) for name in ("half", "step"))
    spread = np.concatenate([own.spread for own in made])
    if spectrum is not None:
        R = _spectral(spectrum, points[:, 0])
    elif by_products:
        R = _products(pairs, *(np.concatenate([getattr(own, name) for own in made], axis=1) for name in ("W", "XVr")))
    else:
        R = _pointwise(equations, points)
    return LMMGrid(responses, nu, half, R, L, step, spread)


def _on_rays(rays: Rays, responses: Responses, points: FloatArray, L: FloatArray, nu: float) -> LMMGrid:
    """The grid of a model whose levels are tied together: points that lie on one ray share its eigenvectors."""
    directions, of_point, lam = find_rays(points)
    K, (m, _), n = len(points), rays.blocks.A.shape, len(L)
    half, step, spread = np.empty(K), np.empty((n, m, K)), np.empty((K, n, n))
    own = []
    for number, direction in enumerate(directions):
        ray, at = rays.at(direction), np.flatnonzero(of_point == number)
        shrunk = 1 / (1 + np.outer(ray.s, lam[at]))
        half[at] = 0.5 * np.log(shrunk).sum(axis=0)
        if n:
            turned = ray.C @ L.T  # (m, n)
            for i in range(n):
                step[i][:, at] = ray.turn @ (-lam[at] * shrunk * turned[:, i, None])
            spread[at] = L @ ray.Phi(lam[at]) @ L.T / nu
        own.append((ray.turn, shrunk, at))

    def R(response: Responses) -> FloatArray:
        out = np.empty((response.rss.size, K))
        for turn, shrunk, at in own:
            energy, floor = energy_of(response.zty, response.rss, turn)
            out[:, at] = floor[:, None] + energy @ shrunk
        return out

    return LMMGrid(responses, nu, half, R, L, step, spread)


@dataclass(frozen=True, slots=True)
class _GridPoints:
    """The shared matrices at k points: W's blocks (k, size of S), WA (k, q, p), Phi (k, p, p) and `half` (k,)."""

    W: FloatArray
    WA: FloatArray
    Phi: FloatArray
    half: FloatArray


def some_points(equations: Equations, points: FloatArray) -> Iterator[_GridPoints]:
    """The shared matrices, some points at a time."""
    blocks, p = equations.blocks, equations.p
    size = max(1, _DOUBLES // (blocks.S.size + blocks.order.size * p + 1))
    for start in range(0, len(points), size):
        W, WA, logdet_V = _shrinkage(blocks, points[start : start + size])
        XVX = np.eye(p) - blocks.A.T @ WA
        sign, logdet_X = np.linalg.slogdet(XVX)
        Phi: FloatArray = np.linalg.inv(XVX).astype(np.float64, copy=False)
        yield _GridPoints(W, WA, Phi, np.where(sign > 0, -0.5 * (logdet_V + logdet_X), _IMPOSSIBLE))


def _shrinkage(blocks: Blocks, gamma: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """W = G(I + SG)⁻¹, WA and log|I + SG| at gamma (k, parameters), all blocks of a size at once."""
    k, (q, p) = len(gamma), blocks.A.shape
    W, WA, logdet = np.empty((k, blocks.S.size)), np.empty((k, q, p)), np.zeros(k)
    sizes = np.diff(blocks.start)
    for size in np.unique(sizes):
        own = np.flatnonzero(sizes == size)
        at = blocks.S_start[own, None] + np.arange(size**2)
        columns = blocks.start[own, None] + np.arange(size)
        G = _covariances(blocks, gamma, columns)
        M = np.eye(size) + blocks.S[at].reshape(-1, size, size) @ G
        # numbers are no matrices to invert one by one
        inverse, logdets = (1 / M, np.log(M[..., 0, 0])) if size == 1 else (np.linalg.inv(M), np.linalg.slogdet(M)[1])
        own_W = G @ inverse
        logdet += logdets.sum(axis=1)
        W[:, at] = own_W.reshape(k, *at.shape)
        WA[:, columns] = own_W @ blocks.A[columns]
    return W, WA, logdet


def _covariances(blocks: Blocks, gamma: FloatArray, columns: IntArray) -> FloatArray:
    """G of blocks of one size with these columns (blocks, size), at gamma (k, parameters)."""
    G = np.zeros((len(gamma), *columns.shape, columns.shape[1]))
    for own, partner in zip(gamma.T, blocks.partner, strict=True):
        block, row = np.nonzero(partner[columns] >= 0)
        G[:, block, row, partner[columns[block, row]] - columns[block, 0]] = own[:, None]
    return G


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Of k points: `half` (k,), `step` (n, q, k), `spread` (k, n, n); for products W (pairs, k) and XVr (q, k * p)."""

    half: FloatArray
    step: FloatArray
    spread: FloatArray
    W: FloatArray
    XVr: FloatArray


def _gathered(own: _GridPoints, L: FloatArray, nu: float, pairs: _Pairs | None) -> _Gathered:
    Phi_c = own.Phi @ L.T  # (k, p, n)
    step = np.ascontiguousarray(-(own.WA @ Phi_c).transpose(2, 1, 0))
    spread = L @ Phi_c / nu
    if pairs is None:
        return _Gathered(own.half, step, spread, np.empty((0, 0)), np.empty((0, 0)))
    values, vectors = np.linalg.eigh(own.Phi)
    factor = vectors * np.sqrt(np.clip(values, 0, None))[:, None, :]
    XVr = (own.WA @ factor).transpose(1, 0, 2).reshape(own.WA.shape[1], -1)
    return _Gathered(own.half, step, spread, (own.W[:, pairs.place] * pairs.times).T, XVr)


class _Pairs:
    """Pairs of random columns of one block: `first` and `second` of each, `place` in the blocks, `times` it counts."""

    def __init__(self, blocks: Blocks) -> None:
        sizes = np.diff(blocks.start)
        found = [np.triu_indices(size) for size in sizes]
        self.first = np.concatenate([start + a for start, (a, _) in zip(blocks.start, found, strict=False)])
        self.second = np.concatenate([start + b for start, (_, b) in zip(blocks.start, found, strict=False)])
        own = zip(blocks.S_start, sizes, found, strict=False)
        self.place = np.concatenate([start + a * size + b for start, size, (a, b) in own])
        self.times = np.where(self.first == self.second, 1.0, 2.0)


def _spectral(spectrum: Spectrum, ratios: FloatArray) -> Callable[[Responses], FloatArray]:
    """y'Py through the eigenpairs of Z'PZ, see :mod:`donorwise._core.models.lmm.spectral`."""
    shrunk = 1.0 / (1.0 + np.outer(spectrum.s, ratios))

    def R(response: Responses) -> FloatArray:
        energy = (response.zty @ spectrum.vectors) ** 2 / spectrum.s
        out = energy @ shrunk
        out += np.clip(response.rss - energy.sum(axis=1), 0, None)[:, None]
        return out

    return R


def _products(pairs: _Pairs, W: FloatArray, XVr: FloatArray) -> Callable[[Responses], FloatArray]:
    """y'Py from products of the pairs, with W (pairs, K), and X̃'V⁻¹r turned so that Phi is the identity (q, K * p)."""
    K = W.shape[1]

    def R(response: Responses) -> FloatArray:
        t = response.zty
        out = response.rss[:, None] - (t[:, pairs.first] * t[:, pairs.second]) @ W
        turned = (t @ XVr).reshape(len(t), K, -1)
        out -= np.einsum("gkp,gkp->gk", turned, turned)
        return out

    return R


def _pointwise(equations: Equations, points: FloatArray) -> Callable[[Responses], FloatArray]:
    """y'Py point by point, where a block has too many pairs."""

    def R(response: Responses) -> FloatArray:
        t = np.ascontiguousarray(response.zty.T)
        out, k = np.empty((t.shape[1], len(points))), 0
        for own in some_points(equations, points):
            for W, WA, Phi in zip(own.W, own.WA, own.Phi, strict=True):
                XVr = t.T @ WA
                out[:, k] = response.rss - np.einsum("qg,qg->g", t, block_matrix(equations.blocks, W) @ t)
                out[:, k] -= np.einsum("gp,pr,gr->g", XVr, Phi, XVr, optimize=True)
                k += 1
        return out

    return R


def parameter_axes(equations: Equations, largest: FloatArray) -> list[FloatArray]:
    """Grid of every parameter of the random part.

    Of a variance, relative to the residual: zero, then geometric from 0.02 / (largest level) to 30 or beyond.
    It reaches well above the `largest` (parameters,) estimates of the features, since a feature off the grid would
    be tested as if its ratio were at the end of it. Ratios are per unit of weight, so 30 is divided by the
    (geometric) mean weight. Of a covariance: the correlation.
    """
    parameter = equations.blocks.parameter
    usual, most = _POINTS[len(parameter)]
    top = _HIGHEST / np.exp(equations.log_weight / equations.n_obs)
    axes = []
    for (_, i, j), level, estimate in zip(parameter, _largest_levels(equations), largest, strict=True):
        low = _LOWEST / level
        step = np.log(top / low) / (usual - 1)
        # by whole steps, and not one more for a rounding error: the grid must not hang on the last digit
        beyond = max(0, int(np.ceil(np.log(max(_BEYOND * estimate, top) / top) / step - _SLACK)))
        high = top * np.exp(beyond * step)
        variances = np.concatenate([[0.0], np.geomspace(low, high, min(most, usual + beyond))])
        axes.append(variances if i == j else _CORRELATIONS)
    return axes


def _largest_levels(equations: Equations) -> list[float]:
    """What the level with most rows says of every parameter's (first) column, relative to the residual.

    Of a model on rays the largest of all for each, so that the axes have equal steps and many points lie on one ray.
    """
    blocks = equations.blocks
    largest = [float(blocks.levels_of(k).max()) for k in range(len(blocks.parameter))]
    return largest if equations.rays is None else [max(largest)] * len(largest)


def block_matrix(blocks: Blocks, values: FloatArray) -> sparse.csr_array:
    """The (q, q) block-diagonal matrix whose blocks lie one after another in `values`."""
    q = int(blocks.start[-1])
    return sparse.csr_array((values, blocks.places), shape=(q, q))
