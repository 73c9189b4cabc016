"""The likelihoods that a fit maximises, as functions of the free parameters.

Maximum likelihood has beta among the parameters. Restricted likelihoods integrate it out by Laplace's method: with one
node jointly with the effects, as glmmTMB does; with more nodes about the maximum beta^ of the likelihood by quadrature,

    l(beta^, theta, r) - log|S| / 2 + p/2 log 2 pi,

S the information about beta of the joint log-likelihood at the mode of b (as in the former, so that it is never
singular, however coarse the nodes). In both X is that of the formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.glmm.marginal import (
    Likelihood,
    NotFoundError,
    at_mode,
    by_quadrature,
    find_mode,
    log_det,
)
from donorwise._core.models.glmm.maximise import Point, differences

if TYPE_CHECKING:
    from donorwise._core.models.glmm.marginal import Observations
    from donorwise._typing import BoolArray, FloatArray

_STEP = 1e-3  # for differences, in standard errors or as a share of a standard deviation
_SMALLEST = 0.05  # standard deviation, on the scale of the linear predictor, down to which steps shrink
_FURTHEST = 3.0  # change of a linear predictor in a step
_ROUNDS, _HALVINGS = 20, 12
_INFORMED = 6  # rounds in which S is the Hessian
_CONVERGED = 1e-16  # twice the likelihood that a step in beta was to gain
_BEYOND = 20.0  # standard deviation of log odds, or log rates, that stands for an infinite one
_POISSON = 14.0  # log r at which a negative binomial is as good as Poisson's


class UndispersedError(ArithmeticError):
    """The size of a negative binomial grows without bound."""


class UnboundedError(ArithmeticError):
    """A variance grows without bound: the levels of a term are all yes or all no."""


class Objective:
    """Log-likelihood of one feature in its free parameters: (beta,) theta and, of a negative binomial, log r.

    Parameters
    ----------
    obs
        The feature, its fixed columns with about unit information.
    n_quad
        Nodes; more than one for one effect a row only.
    reml
        Whether the likelihood is the restricted one.
    free
        Shape (n_theta,). Which of theta are parameters; the others are zero.
    sized
        Whether log r is one; otherwise r is infinite.
    """

    def __init__(self, obs: Observations, n_quad: int, *, reml: bool, free: BoolArray, sized: bool) -> None:
        self.obs, self.n_quad, self.reml, self.free, self.sized = obs, n_quad, reml, free, sized
        self.p = obs.X.shape[1]
        self._v: dict[bool, FloatArray | None] = {True: None, False: None}
        self._beta = np.zeros(self.p)

    def pack(self, beta: FloatArray, theta: FloatArray, log_size: float) -> FloatArray:
        """Parameters x of a point."""
        return np.concatenate([[] if self.reml else beta, theta[self.free], [log_size] if self.sized else []])

    def unpack(self, x: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Coefficients (those found last where they are no parameters), theta and log r."""
        n = 0 if self.reml else self.p
        theta = np.zeros(self.free.size)
        theta[self.free] = x[n : n + int(self.free.sum())]
        return (self._beta if self.reml else x[:n]), theta, float(x[-1]) if self.sized else np.inf

    def begin(self, beta: FloatArray) -> None:
        """Where to look for coefficients that are no parameters."""
        self._beta = beta

    def __call__(self, x: FloatArray) -> Point:
        """The log-likelihood at x."""
        beta, theta, log_size = self.unpack(x)
        if self.sized and log_size > _POISSON:
            raise UndispersedError
        if (np.abs(theta) * self.obs.effects.spread).max(initial=0) > _BEYOND:
            raise UnboundedError
        if not self.reml:
            found = self.marginal(beta, theta, log_size)
            return Point(found.value, self.pack(found.beta, found.theta, found.log_size), beta)
        if self.n_quad == 1:
            found, beta = self.jointly(theta, log_size)
            return Point(found.value, self.pack(beta, found.theta, found.log_size), beta)
        return self._about_best(theta, log_size)

    def marginal(self, beta: FloatArray, theta: FloatArray, log_size: float) -> Likelihood:
        """Likelihood at given coefficients."""
        obs, size = self.obs, float(np.exp(log_size))
        mode = find_mode(obs, obs.offset + obs.X @ beta, theta, size, self._v[False], joint=False)
        self._v[False] = mode.v
        return at_mode(obs, mode, size) if self.n_quad == 1 else by_quadrature(obs, mode, size, self.n_quad)

    def jointly(self, theta: FloatArray, log_size: float) -> tuple[Likelihood, FloatArray]:
        """Laplace's approximation over effects and coefficients, and the latter."""
        start = self._v[True]
        if start is None:
            start = np.concatenate([np.zeros(self.obs.effects.q), self._beta])
        mode = find_mode(self.obs, self.obs.offset, theta, float(np.exp(log_size)), start, joint=True)
        self._v[True] = mode.v
        return at_mode(self.obs, mode, float(np.exp(log_size))), mode.v[self.obs.effects.q :]

    def _best(self, theta: FloatArray, log_size: float) -> tuple[Likelihood, FloatArray]:
        """The largest likelihood in the coefficients, and where it is.

        S serves as Hessian; where that does not get there, differences of the gradient do.
        """
        beta, found = self._beta, self.marginal(self._beta, theta, log_size)
        for k in range(_ROUNDS):
            H = _informed(found) if k < _INFORMED else self._curvature(beta, theta, log_size)
            log_det(H)
            step = np.linalg.solve(H, found.beta)
            if found.beta @ step < _CONVERGED:
                self._beta = beta
                return found, beta
            step *= self._within(self.obs.X @ step)
            for _ in range(_HALVINGS):
                new = self.marginal(beta + step, theta, log_size)
                if new.value >= found.value - 1e-11 * (1 + abs(found.value)):
                    break
                step = step / 2
            beta, found = beta + step, new
        raise NotFoundError("No maximum in the coefficients was found.")

    def _curvature(self, beta: FloatArray, theta: FloatArray, log_size: float) -> FloatArray:
        def at(beta: FloatArray) -> Point:
            found = self.marginal(beta, theta, log_size)
            return Point(found.value, found.beta, beta)

        return differences(at, beta, np.full(self.p, _STEP), self.p)[0]

    def _about_best(self, theta: FloatArray, log_size: float) -> Point:
        """The restricted likelihood; how log|S| changes is taken from differences, about which it is exact to 1e-10."""
        found, beta = self._best(theta, log_size)
        x = self.pack(beta, theta, log_size)
        gradient = self.pack(beta, found.theta, found.log_size)
        for i, h in enumerate(self.steps(x) / 4):
            sides = []
            for side in (x[i] + h, x[i] - h):
                moved = x.copy()
                moved[i] = side
                sides.append(log_det(_informed(self._best(*self.unpack(moved)[1:])[0])))
            gradient[i] -= 0.5 * (sides[0] - sides[1]) / (2 * h)
        self._beta = beta
        value = found.value - 0.5 * log_det(_informed(found)) + 0.5 * self.p * np.log(2 * np.pi)
        return Point(value, gradient, beta)

    def precision(self, x: FloatArray) -> FloatArray:
        """Information about beta given the other parameters, (p, p), of a restricted likelihood."""
        _, theta, log_size = self.unpack(x)
        if self.n_quad > 1:
            return self._curvature(self._best(theta, log_size)[1], theta, log_size)
        found, _ = self.jointly(theta, log_size)
        q, H = self.obs.effects.q, found.mode.H
        return np.asarray(H[q:, q:] - H[q:, :q] @ np.linalg.solve(H[:q, :q], H[:q, q:]))

    def steps(self, x: FloatArray) -> FloatArray:
        """How far to go for differences."""
        _, theta, _ = self.unpack(x)
        spread = self.obs.effects.spread
        h = np.maximum(np.abs(theta), _SMALLEST / np.where(spread > 0, spread, 1))
        return _STEP * self.pack(np.ones(self.p), h, 1.0)

    def share(self, step: FloatArray) -> float:
        """How much of a step may be taken: rows and standard deviations move by no more than a few units."""
        _, theta, _ = self.unpack(step)
        moves = theta * self.obs.effects.spread * _FURTHEST
        fixed = np.zeros(0) if self.reml else self.obs.X @ step[: self.p]
        size = step[-1:] if self.sized else np.zeros(0)
        return self._within(np.concatenate([fixed, moves, size]))

    @staticmethod
    def _within(moves: FloatArray) -> float:
        return float(min(1.0, _FURTHEST / max(np.abs(moves).max(initial=0.0), 1e-300)))


def _informed(found: Likelihood) -> FloatArray:
    assert found.information is not None
    return found.information
