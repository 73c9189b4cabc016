"""One variance ratio: every feature through one eigendecomposition.

With P = I - X̃X̃' and the eigenpairs (s_i, v_i) of Z'PZ, the profiled deviance of a
feature with residual sum of squares rss and eta = V'Z'Py is

    nu log R(lam) + sum_i log(1 + lam s_i),   R(lam) = rss - sum_i lam eta_i² / (1 + lam s_i),

with nu = n - p for REML; for ML the determinant is log|I + lam Z'Z| and nu = n.
R is evaluated as R(inf) + sum_i (eta_i²/s_i) / (1 + lam s_i), which does not cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner

if TYPE_CHECKING:
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._typing import BoolArray, FloatArray, IntArray

_GRID = 80
_LARGEST = 1e11  # ratio, in units of the smallest level, beyond which there is no residual variance
_MAX_ITERATIONS = 100
_STEP = 1e-7  # convergence is quadratic: the step after one this small (in log lam) would be rounding
_ZERO = 1e-12  # share of the smallest grid point below which a ratio is zero
_ROUNDING = 1e-13  # of a deviance, relative to its largest terms
NULL_SPACE = 1e-11  # eigenvalues below this share of the largest are the null space of P


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Nonzero eigenvalues s (r,) and eigenvectors (q, r) of Z'PZ, and the diagonal of Z'Z (q,)."""

    s: FloatArray
    vectors: FloatArray
    diagonal: FloatArray


def spectrum(blocks: Blocks) -> Spectrum:
    """Decompose the blocks of a single term with one column (Z'Z is diagonal)."""
    values, vectors = np.linalg.eigh(np.diag(blocks.S) - blocks.A @ blocks.A.T)
    kept = values > NULL_SPACE * max(blocks.S.max(), 1e-300)
    return Spectrum(values[kept], vectors[:, kept], blocks.S)


def fit_spectral(
    spectrum: Spectrum, zty: FloatArray, rss: FloatArray, nu: int, *, reml: bool
) -> tuple[FloatArray, IntArray, BoolArray]:
    """Relative variance of the one random column of every feature.

    Parameters
    ----------
    spectrum
        What the features share.
    zty
        Shape (G, q), in block order.
    rss
        Shape (G,).
    nu
        n - p for REML, n for maximum likelihood.

    Returns
    -------
    (lam (G, 1), iterations (G,), converged (G,))
    """
    s, d = spectrum.s, spectrum.diagonal
    energy = (zty @ spectrum.vectors) ** 2 / s
    determinant = s if reml else d
    grid = np.concatenate([[0.0], np.geomspace(0.01 / d.max(), _LARGEST / d[d > 0].min(), _GRID)])
    start = _best_on_grid(energy, s, determinant, rss, nu, grid)
    lam, iterations, converged = _newton_features(energy, s, determinant, rss, float(nu), grid, start)
    return lam[:, None], iterations, converged


def _best_on_grid(
    energy: FloatArray, s: FloatArray, determinant: FloatArray, rss: FloatArray, nu: int, grid: FloatArray
) -> IntArray:
    """Index of the best grid point of every feature: one matrix product for all of them.

    The first of those that are equal up to rounding: with one row a level nothing tells the ratio, and a
    huge one would cost digits.
    """
    floor = np.clip(rss - energy.sum(axis=1), 0, None)
    R = floor[:, None] + energy @ (1.0 / (1.0 + np.outer(s, grid)))
    logdet = np.log1p(np.outer(determinant, grid)).sum(axis=0)
    with np.errstate(divide="ignore"):
        deviance = nu * np.log(R) + logdet
    return np.argmax(deviance <= deviance.min(axis=1, keepdims=True) + _ROUNDING * (nu + logdet[-1]), axis=1)


@inner
def _slope(lam, energy, s, determinant, floor, nu):
    """First and second derivative of the deviance in lam."""
    R, R1, R2, d1, d2 = floor, 0.0, 0.0, 0.0, 0.0
    for i in range(s.size):
        h = 1.0 / (1.0 + lam * s[i])
        e = energy[i] * h
        R += e
        R1 -= e * h * s[i]
        R2 += 2.0 * e * (h * s[i]) ** 2
    for i in range(determinant.size):
        h = determinant[i] / (1.0 + lam * determinant[i])
        d1 += h
        d2 -= h * h
    return nu * R1 / R + d1, nu * (R2 / R - (R1 / R) ** 2) + d2


@inner
def _newton(energy, s, determinant, rss, nu, grid, start):
    """Safeguarded Newton in log lam between the neighbours of the best grid point."""
    floor = rss
    for value in energy:
        floor -= value
    floor = max(floor, 0.0)
    lower = grid[max(start - 1, 0)]
    upper = grid[min(start + 1, grid.size - 1)]
    if start <= 1:
        if _slope(0.0, energy, s, determinant, floor, nu)[0] >= 0.0:
            if start == 0:
                return 0.0, 1, True
        else:
            lower = 0.0
    if start == grid.size - 1 and _slope(upper, energy, s, determinant, floor, nu)[0] < 0.0:
        return upper, 1, False
    lam = grid[start] if start > 0 else 0.5 * upper
    for iteration in range(1, _MAX_ITERATIONS):
        d1, d2 = _slope(lam, energy, s, determinant, floor, nu)
        if d1 > 0.0:
            upper = lam
        else:
            lower = lam
        curvature = d1 * lam + d2 * lam * lam  # in log lam
        step = -d1 * lam / curvature if curvature > 0.0 else np.inf
        if abs(step) <= _STEP:  # also where the next value is the same to the last bit
            return lam * np.exp(step), iteration, True
        trial = lam * np.exp(step) if abs(step) < 5.0 else -1.0
        if not (lower < trial < upper):
            trial = np.sqrt(lower * upper) if lower > 0.0 else 0.1 * upper
        lam = trial
        if upper < _ZERO * grid[1]:
            return 0.0, iteration, True
    return lam, _MAX_ITERATIONS, upper - lower <= 1e-9 * upper


@entry
def _newton_features(energy, s, determinant, rss, nu, grid, start):
    n = rss.size
    lam, iterations, converged = np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    for g in range(n):
        lam[g], iterations[g], converged[g] = _newton(energy[g], s, determinant, rss[g], nu, grid, start[g])
    return lam, iterations, converged
