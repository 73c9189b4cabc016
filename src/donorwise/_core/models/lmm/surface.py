"""The profiled REML deviance over one or two proportions of variance, of any responses with the same rows.

A point has a total t, the proportion of variance of the random terms together, and of two terms the first one's share r of
that. On the ray of a share the variance ratio lam = t / (1 - t) is the only parameter (see :mod:`rays`), so that many points
cost a product of matrices. Shares are r = (1 - cos theta) / 2 with even steps of theta, of which the deviance is a smooth and
even function; totals are such that the estimate of lam has a standard error of a step or two, wherever it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.lmm.rays import energy_of

if TYPE_CHECKING:
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._typing import FloatArray

SHARES = 21
_LARGEST = 1e4  # lam beyond which nothing is left to the residuals
_STEP = 0.6  # standard errors between totals
_FEWEST, _MOST = 40, 320  # totals
_FINE = 4_000


class Line(NamedTuple):
    """A ray: eigenvalues s (m,), what takes Z'Wr to its coordinates y (q, m), and what takes them back (m, q)."""

    s: FloatArray
    turn: FloatArray
    back: FloatArray


@dataclass(frozen=True, slots=True)
class Surface:
    """The grid of points, and what the deviance needs there.

    Attributes
    ----------
    lines
        One for each of the L shares.
    shares, totals
        Shapes (L,), (J,). r and t.
    logdet
        Shape (L, J). log|V| + log|X̃'V⁻¹X̃|.
    nu
        n - p.
    rank
        Coordinates of a ray that responses can differ in.
    errors
        Standard errors from one total to the next, if there were no second term.
    """

    lines: tuple[Line, ...]
    shares: FloatArray
    totals: FloatArray
    logdet: FloatArray
    nu: int
    rank: int
    errors: float

    @property
    def lam(self) -> FloatArray:
        """Variance ratios (J,)."""
        return np.asarray(self.totals / (1 - self.totals))

    def deviance(self, zty: FloatArray, rss: FloatArray) -> FloatArray:
        """Profiled deviance of G responses at every point, (G, L, J), less nu log r'r."""
        out = np.empty((rss.size, len(self.lines), self.totals.size))
        for l, line in enumerate(self.lines):
            energy, floor = energy_of(zty, rss, line.turn)
            np.matmul(energy, 1 / (1 + np.outer(line.s, self.lam)), out=out[:, l])
            out[:, l] += floor[:, None]
        out /= rss[:, None, None]
        with np.errstate(divide="ignore"):
            np.log(out, out=out)
        out *= self.nu
        out += self.logdet
        return out

    def draw(self, l: int, j: int, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Random responses at a point, as cross-products (n, q) and residual sums of squares (n,)."""
        line = self.lines[l]
        zty = (rng.standard_normal((n, line.s.size)) * np.sqrt(1 + self.lam[j] * line.s)) @ line.back
        inside = ((zty @ line.turn) ** 2).sum(axis=1)
        rest = self.nu - self.rank
        return zty, inside + (rng.chisquare(rest, n) if rest > 0 else 0.0)


def build_surface(equations: Equations, weights: FloatArray, like: Surface | None = None) -> Surface:
    """The surface of a model with one or two variances; a unit of each adds `weights` (K,) to that of a response.

    Its points are those of another surface where one is given.
    """
    nu = equations.nu(reml=True)
    lines = _single(equations, weights) if equations.spectrum is not None else _rays(equations, weights)
    shares = _shares(len(lines))
    lam, errors = _ratios(lines, nu) if like is None else (like.lam, like.errors)
    logdet = np.stack([np.log1p(np.outer(line.s, lam)).sum(axis=0) for line in lines])
    return Surface(lines, shares, lam / (1 + lam), logdet, nu, int(np.linalg.matrix_rank(lines[0].turn)), errors)


def _shares(n: int) -> FloatArray:
    """r of each ray; one alone has all of it."""
    return np.ones(1) if n == 1 else np.asarray(0.5 - 0.5 * np.cos(np.pi * np.arange(n) / (n - 1)))


def _single(equations: Equations, weights: FloatArray) -> tuple[Line, ...]:
    spectrum = equations.spectrum
    assert spectrum is not None
    root = np.sqrt(spectrum.s)
    return (Line(spectrum.s / weights[0], spectrum.vectors / root, (spectrum.vectors * root).T),)


def _rays(equations: Equations, weights: FloatArray) -> tuple[Line, ...]:
    rays, lines = equations.rays, []
    assert rays is not None
    for share in _shares(SHARES):
        ray = rays.at(np.array([share, 1 - share]) / weights)
        lines.append(Line(ray.s, ray.turn, rays.root.times(rays.root.times(ray.turn)).T))
    return tuple(lines)


def _ratios(lines: tuple[Line, ...], nu: int) -> tuple[FloatArray, float]:
    """lam (J,), zero and then even steps in standard errors by the information of the ray that has most, and that step."""
    lowest = min(1e-3 / max(line.s.max() for line in lines), 0.1 * _LARGEST)
    lam = np.concatenate([[0.0], np.geomspace(lowest, _LARGEST, _FINE)])
    information = np.zeros(lam.size)
    for line in lines:
        slope = line.s[:, None] / (1 + np.outer(line.s, lam))
        own = 0.5 * ((slope**2).sum(axis=0) - slope.sum(axis=0) ** 2 / nu)
        information = np.maximum(information, own)
    rate = np.sqrt(np.clip(information, 0, None))
    length = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(lam))])
    length += 1e-3 * length[-1] * lam / (1 + lam)  # strictly increasing, where nothing is told as well
    n = int(np.clip(length[-1] / _STEP, _FEWEST, _MOST)) + 1
    return np.interp(np.linspace(0, length[-1], n), length, lam), float(length[-1] / (n - 1))
