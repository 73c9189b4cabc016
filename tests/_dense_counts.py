"""Generalised mixed models cell by cell, by their textbook definition: dense matrices, scipy, nothing of the package.

Standardised effects b ~ N(0, I) stand beside the coefficients; the joint mode is found by a trust region, the restricted
likelihood is Laplace's with the Hessian of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.linalg import null_space
from scipy.optimize import minimize
from scipy.special import expit, gammaln, log_expit
from tests._dense import Term


class Density(NamedTuple):
    """Log-density of cells and its two derivatives, of (y, failures, exposure, eta, size), summed over nothing."""

    value: Callable[..., np.ndarray]
    first: Callable[..., np.ndarray]
    second: Callable[..., np.ndarray]


def _log_fails(z: np.ndarray) -> np.ndarray:
    return np.log(-np.expm1(-z))


def _odds(z: np.ndarray) -> np.ndarray:
    return z / np.expm1(np.minimum(z, 700))


DENSITIES = {
    "nb": Density(
        lambda y, f, e, eta, r: y * (eta - np.log(r)) - (y + r) * np.logaddexp(0, eta + np.log(e / r)),
        lambda y, f, e, eta, r: y - (y + r) * expit(eta + np.log(e / r)),
        lambda y, f, e, eta, r: -(y + r) * expit(eta + np.log(e / r)) * expit(-eta - np.log(e / r)),
    ),
    "poisson": Density(
        lambda y, f, e, eta, r: y * eta - e * np.exp(eta),
        lambda y, f, e, eta, r: y - e * np.exp(eta),
        lambda y, f, e, eta, r: -e * np.exp(eta),
    ),
    "logit": Density(
        lambda y, f, e, eta, r: y * log_expit(eta) + f * log_expit(-eta),
        lambda y, f, e, eta, r: y - (y + f) * expit(eta),
        lambda y, f, e, eta, r: -(y + f) * expit(eta) * expit(-eta),
    ),
    "cloglog": Density(
        lambda y, f, e, eta, r: y * _log_fails(e * np.exp(eta)) - f * e * np.exp(eta),
        lambda y, f, e, eta, r: y * _odds(e * np.exp(eta)) - f * e * np.exp(eta),
        lambda y, f, e, eta, r: (
            y * _odds(e * np.exp(eta)) * (1 - e * np.exp(eta) - _odds(e * np.exp(eta))) - f * e * np.exp(eta)
        ),
    ),
}


class Optimum(NamedTuple):
    """Joint mode of (beta, b): its height, place and negative Hessian."""

    height: float
    at: np.ndarray
    H: np.ndarray


class Contrast(NamedTuple):
    """Centre, scale and root of a contrast given the variances."""

    centre: float
    scale: float
    root: float


@dataclass(frozen=True)
class DenseCounts:
    """Cells of one feature.

    `kind` is one of DENSITIES; `X` (n, p) has orthonormal columns for the constants of the package; `exposure` and
    `trials` are of cells. Half the leverage of a cell, weighted by its exposure or trials, is added to its counts, and to
    the failures of yes/no data.
    """

    kind: str
    y: np.ndarray
    X: np.ndarray
    terms: Sequence[Term]
    exposure: np.ndarray
    trials: np.ndarray
    size: float = 1.0

    @cached_property
    def half(self) -> np.ndarray:
        weight = self.trials if self.kind == "logit" else self.exposure * self.trials
        root = np.sqrt(weight)[:, None] * self.X
        return 0.5 * np.einsum("ij,jk,ik->i", root, np.linalg.inv(root.T @ root), root)

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts and failures with what is added to them."""
        failures = self.trials - self.y + self.half
        return self.y + self.half, failures

    def Z(self, covariances: Sequence[np.ndarray]) -> np.ndarray:
        """Columns of the standardised effects, level by level within terms, (n, q)."""
        columns = []
        for term, T in zip(self.terms, covariances, strict=True):
            w, V = np.linalg.eigh(T)
            half = V * np.sqrt(np.clip(w, 0, None))
            loaded = np.einsum("rnl,rs->nls", term.effects(), half)
            columns.append(loaded.reshape(len(loaded), -1))
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(self.y), 0))

    def optimum(
        self, covariances: Sequence[np.ndarray], N: np.ndarray | None = None, fixed: np.ndarray | None = None
    ) -> Optimum:
        """With coefficients N gamma + fixed (p,), all of them if N is None; no others if `fixed` is."""
        X = self.X if N is None else self.X @ N
        C = np.concatenate([X, self.Z(covariances)], axis=1)
        penalty = np.r_[np.zeros(X.shape[1]), np.ones(C.shape[1] - X.shape[1])]
        density, (y, f) = DENSITIES[self.kind], self.data
        offset = 0.0 if fixed is None else self.X @ fixed

        def args(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
            return y, f, self.exposure, C @ x + offset, self.size

        def minus(x: np.ndarray) -> float:
            return float(-density.value(*args(x)).sum() + 0.5 * (penalty * x * x).sum())

        def gradient(x: np.ndarray) -> np.ndarray:
            return -C.T @ density.first(*args(x)) + penalty * x

        def hessian(x: np.ndarray) -> np.ndarray:
            return -(C.T * density.second(*args(x))) @ C + np.diag(penalty)

        x = np.zeros(C.shape[1])
        if C.shape[1]:
            level = np.log(self.y.sum() / (self.exposure * self.trials).sum())
            x = np.linalg.lstsq(C, np.full(len(y), level), rcond=None)[0]
            x = minimize(minus, x, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-7}).x
            x -= np.linalg.solve(hessian(x), gradient(x))
        return Optimum(-minus(x), x, hessian(x))

    def loglik(self, covariances: Sequence[np.ndarray]) -> float:
        """Restricted, without what depends on the data alone."""
        found = self.optimum(covariances)
        return found.height - 0.5 * float(np.linalg.slogdet(found.H)[1])

    def contrast(self, covariances: Sequence[np.ndarray], c: np.ndarray, value: float = 0.0) -> Contrast:
        """The law of c'beta, with the root of its being `value`."""
        found, p = self.optimum(covariances), self.X.shape[1]
        centre = float(c @ found.at[:p])
        scale = float(np.sqrt(c @ np.linalg.inv(found.H)[:p, :p] @ c))
        null = self.optimum(covariances, null_space(c[None]), value * c / (c @ c))
        return Contrast(centre, scale, float(np.sign(centre - value) * np.sqrt(2 * (found.height - null.height))))

    def effects(self, covariances: Sequence[np.ndarray], t: int) -> tuple[np.ndarray, np.ndarray]:
        """Effects of the levels of a term on its columns, and their variances given the coefficients."""
        found, p = self.optimum(covariances), self.X.shape[1]
        sizes = [(int(term.codes.max()) + 1, term.columns.shape[1]) for term in self.terms]
        start = p + sum(levels * r for levels, r in sizes[:t])
        levels, r = sizes[t]
        w, V = np.linalg.eigh(covariances[t])
        half = V * np.sqrt(np.clip(w, 0, None))
        b = found.at[start : start + levels * r].reshape(levels, r) @ half.T
        given = np.linalg.inv(found.H[p:, p:])
        own = [given[start - p + i * r : start - p + (i + 1) * r][:, start - p + i * r : start - p + (i + 1) * r]
               for i in range(levels)]  # fmt: skip
        return b, np.array([np.diag(half @ S @ half.T) for S in own])


def profile(y: np.ndarray, exposure: np.ndarray, pattern: np.ndarray, phi: float) -> float:
    """Adjusted profile of a dispersion: every pattern a mean of its own, less half the log information of these."""
    total, r = 0.0, 1 / phi
    for k in np.unique(pattern):
        own, e = y[pattern == k], exposure[pattern == k]
        if own.sum() == 0:
            continue

        def minus(eta: float, own: np.ndarray = own, e: np.ndarray = e) -> float:
            mean = e * np.exp(eta)
            return -float(stats.nbinom.logpmf(own, r, r / (r + mean)).sum())

        start = np.log(own.sum() / e.sum())
        found = minimize(lambda x: minus(x[0]), [start], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        w = e * np.exp(found.x[0]) / (r + e * np.exp(found.x[0]))
        total += -found.fun - 0.5 * float(np.log(((own + r) * w * (1 - w)).sum()))
        total += float((gammaln(own + 1) - own * np.log(e)).sum())  # what the package leaves out
    return total
