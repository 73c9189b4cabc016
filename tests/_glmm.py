"""Generalised mixed models, dense and naive: densities of scipy, effects as one vector, derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]


def log_density(family: str, link: str, y: Array, eta: Array, size: float, trials: Array) -> Array:
    """Log-density of every observation, eta with the exposure in it."""
    if family == "poisson":
        return np.asarray(stats.poisson.logpmf(y, np.exp(eta)))
    if family == "nb":
        return np.asarray(stats.nbinom.logpmf(y, size, size / (size + np.exp(eta))))
    if link == "logit":
        return np.asarray(stats.binom.logpmf(y, trials, 1 / (1 + np.exp(-eta))))
    ways = special.gammaln(trials + 1) - special.gammaln(y + 1) - special.gammaln(trials - y + 1)
    return np.asarray(ways + special.xlogy(y, -np.expm1(-np.exp(eta))) - (trials - y) * np.exp(eta))


def hessian(f: Callable[[Array], float], x: Array, h: float = 1e-3) -> Array:
    """Of a function at x, by differences of fourth order."""
    out = np.zeros((x.size, x.size))
    weights = [(-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)]
    for i, j in np.ndindex(out.shape):
        total = 0.0
        for a, wa in weights:
            for b, wb in weights:
                point = x.copy()
                point[i] += a * h
                point[j] += b * h
                total += wa * wb * f(point)
        out[i, j] = total / h**2
    return out


def laplace(f: Callable[[Array], float], start: Array) -> tuple[float, Array]:
    """Laplace's approximation of the log of the integral of exp(f), and the mode."""
    x = optimize.minimize(lambda v: -f(v), start, method="BFGS", options={"gtol": 1e-7}).x
    for _ in range(2):  # what BFGS leaves
        H = hessian(f, x)
        slope = np.array([(f(x + 1e-4 * e) - f(x - 1e-4 * e)) / 2e-4 for e in np.eye(x.size)])
        x = x - np.linalg.solve(H, slope)
    return float(f(x) + 0.5 * x.size * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(-hessian(f, x))[1]), x


def integral(f: Callable[[Array], Array], n: int = 4001, reach: float = 12.0) -> float:
    """Log of the integral of exp(f) over a line, f of a vector of points, by the trapezoid rule."""
    x = np.linspace(-reach, reach, n)
    values = f(x)
    return float(np.log(np.trapezoid(np.exp(values - values.max()), x)) + values.max())
