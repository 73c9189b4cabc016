"""Marginal likelihood of one feature and its gradient: Laplace's approximation, or adaptive Gauss-Hermite quadrature.

With eta = x'beta + a'b + offset, b ~ N(0, I), A = Z Lambda(theta), and the joint log-likelihood

    g(b) = sum_n f_n(eta_n) - b'b / 2,   W = -diag(f''),   H = I + A'WA at its mode b^,

Laplace's approximation is g(b^) - log|H| / 2. For one effect a row, with standard deviations tau_i = H_ii^-1/2 and the
nodes x_k and weights w_k of Gauss and Hermite (Liu and Pierce 1994, Biometrika 81; Pinheiro and Bates 1995),

    sum_i log sum_k w_k exp(x_k^2 + g_i(b^_i + sqrt(2) tau_i x_k)) + log(tau_i / sqrt(pi)).

Restricted likelihoods integrate beta out as well. By Laplace jointly: beta is a part of b without a prior (as in TMB;
Kristensen et al. 2016, J Stat Softw 70(5)), which gives p/2 log 2 pi more. With quadrature see `restricted`.

The gradient counts everything that moves with a parameter: with lev = a'H^-1 a, k = H^-1 a and w = H^-1 A'(lev f'''),

    d/dphi = sum_n e_n (f' + lev f''' / 2 + a'w f'' / 2) + de_n'(f' w / 2 - W k),

e_n the derivative of eta_n at fixed b and de_n that of a_n. Quadrature changes the weights of lev, k and w by level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.models.glmm.derivatives import log_constant, size_slopes, slopes
from donorwise._core.models.glmm.row_effects import cross, gather, images

if TYPE_CHECKING:
    from donorwise._core.models.glmm.derivatives import Slopes
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._core.models.glmm.row_effects import Effects
    from donorwise._typing import BoolArray, FloatArray, IntArray

_STEPS = 200
_CONVERGED = 1e-12  # twice the log-likelihood that the last step was to gain; what is left is about its square
_LONGEST = 3.0  # change of a linear predictor in a step
_HALVINGS = 30


class NotFoundError(ArithmeticError):
    """There is no mode, or no likelihood there: information that is not positive definite."""


@dataclass(frozen=True)
class Observations:
    """What is known of one feature in N rows.

    Attributes
    ----------
    distribution
        The family.
    y, trials
        Shape (N,). Counts or successes; trials.
    offset
        Shape (N,). Offset of the linear predictor, the logarithm of the exposure in it.
    X
        Shape (N, p). Fixed columns.
    effects
        Random effects.
    constant
        What the log-likelihood has beside the terms of the densities.
    """

    distribution: Distribution
    y: FloatArray
    trials: FloatArray
    offset: FloatArray
    X: FloatArray
    effects: Effects
    constant: float

    @classmethod
    def of(
        cls,
        distribution: Distribution,
        y: FloatArray,
        trials: FloatArray,
        offset: FloatArray,
        X: FloatArray,
        effects: Effects,
    ) -> Observations:
        """With the constant of the family."""
        return cls(distribution, y, trials, offset, X, effects, float(log_constant(distribution.code, y, trials).sum()))

    def take(self, rows: BoolArray) -> Observations:
        """Some of the rows."""
        y, trials, offset, X = self.y[rows], self.trials[rows], self.offset[rows], self.X[rows]
        return Observations.of(self.distribution, y, trials, offset, X, self.effects.take(rows))

    def on(self, X: FloatArray) -> Observations:
        """With other fixed columns."""
        return replace(self, X=X)

    def slopes(self, size: float, eta: FloatArray) -> Slopes:
        """Densities at eta (N,) or (N, K)."""
        y, trials = (self.y, self.trials) if eta.ndim == 1 else (self.y[:, None], self.trials[:, None])
        return slopes(self.distribution.code, y, trials, size, eta)


class Mode(NamedTuple):
    """Mode of the joint log-likelihood in v, which is b or (b, beta)."""

    v: FloatArray  # (m,)
    at_v: IntArray  # (N, R) columns of v that a row has
    D: FloatArray  # (N, R) entries of these columns
    eta: FloatArray  # (N,)
    at: Slopes
    g: float
    H: FloatArray  # (m, m)


class Likelihood(NamedTuple):
    """Value at a point, its gradient, the mode there; with quadrature also S, the information about beta."""

    value: float
    beta: FloatArray  # (p,) derivatives
    theta: FloatArray  # (n_theta,)
    log_size: float
    mode: Mode
    information: FloatArray | None = None  # (p, p)


def find_mode(
    obs: Observations, eta0: FloatArray, theta: FloatArray, size: float, start: FloatArray | None, *, joint: bool
) -> Mode:
    """Newton's method with halved steps; `joint` takes beta with the effects, `eta0` is what does not move.

    Raises
    ------
    NotFoundError
        The steps do not converge, or H is singular.
    """
    N, p, q = obs.y.size, obs.X.shape[1], obs.effects.q
    index, D = obs.effects.index, obs.effects.columns(theta)
    if joint:
        index = np.hstack([index, np.broadcast_to(q + np.arange(p), (N, p))])
        D = np.hstack([D, obs.X])
    index = np.ascontiguousarray(index)
    prior = np.r_[np.ones(q), np.zeros(p if joint else 0)]
    v = np.zeros(prior.size) if start is None else start

    def look(v: FloatArray) -> tuple[FloatArray, Slopes, float]:
        eta = eta0 + np.einsum("nr,nr->n", D, v[index])
        at = obs.slopes(size, eta)
        return eta, at, float(at.value.sum() - 0.5 * (prior * v * v).sum())

    def turn(at: Slopes) -> FloatArray:
        H = cross(index, D, -at.second, prior.size)
        H[np.diag_indices_from(H)] += prior
        return np.asarray(H)

    eta, at, g = look(v)
    for _ in range(_STEPS):
        score = gather(index, D, at.first, prior.size) - prior * v
        step = _solve(turn(at), score)
        gain = float(score @ step)
        if not np.isfinite(gain) or gain < 0:
            break
        if gain < _CONVERGED:
            eta, at, g = look(v + step)
            return Mode(v + step, index, D, eta, at, g, turn(at))
        furthest = np.abs(np.einsum("nr,nr->n", D, step[index])).max(initial=0)
        step *= min(1.0, _LONGEST / furthest) if furthest > 0 else 1.0
        for _ in range(_HALVINGS):
            eta, at, new = look(v + step)
            if new >= g - 1e-12 * (1 + abs(g)):
                break
            step /= 2
        v, g = v + step, new
    raise NotFoundError("No mode of the effects was found.")


def _solve(A: FloatArray, b: FloatArray) -> FloatArray:
    try:
        return np.asarray(np.linalg.solve(A, b))
    except np.linalg.LinAlgError as error:
        raise NotFoundError("Information that is singular.") from error


def log_det(A: FloatArray) -> float:
    """log|A|.

    Raises
    ------
    NotFoundError
        A is not positive definite.
    """
    try:
        return float(2 * np.log(np.diag(np.linalg.cholesky(A))).sum())
    except np.linalg.LinAlgError as error:
        raise NotFoundError("Information that is not positive definite.") from error


class _Parts(NamedTuple):
    """What the gradient is made of, see the module: beside the rows' weights, derivatives at fixed b."""

    score: FloatArray  # (N,) derivative of the likelihood in eta
    moved: FloatArray  # (N, R) the same times b: derivative in an entry of A
    size: float  # derivative in log r
    shift: FloatArray  # (m,) derivative in the place of the mode
    stretch: FloatArray  # (m,) weight of the derivative of -log(H_ii) / 2


def at_mode(obs: Observations, mode: Mode, size: float) -> Likelihood:
    """Laplace's approximation."""
    parts = _Parts(
        mode.at.first,
        mode.at.first[:, None] * mode.v[mode.at_v],
        _size_slope(obs, size, mode.eta, None),
        np.zeros(mode.v.size),
        np.ones(mode.v.size),
    )
    value = obs.constant + mode.g - 0.5 * log_det(mode.H)
    free = mode.v.size - obs.effects.q
    return _with_gradient(obs, mode, size, value + 0.5 * free * np.log(2 * np.pi), parts)


def _size_slope(obs: Observations, size: float, eta: FloatArray, share: FloatArray | None) -> float:
    """Derivative of the densities in log r, on average over nodes where they have shares."""
    if not obs.distribution.dispersed or size == np.inf:
        return 0.0
    if share is None:
        return float(size_slopes(obs.y, size, eta).value.sum())
    return float((share * size_slopes(obs.y[:, None], size, eta).value).sum())


def _with_gradient(obs: Observations, mode: Mode, size: float, value: float, parts: _Parts) -> Likelihood:
    """The likelihood with the derivatives that go through the mode and through log|H|."""
    effects, (_, first, second, third) = obs.effects, mode.at
    R = effects.Z.shape[1]
    inverse = np.asarray(np.linalg.inv(mode.H), dtype=np.float64)
    k = images(mode.at_v, mode.D, inverse)
    if not (parts.stretch == 1).all():  # quadrature: H is diagonal
        k = k * parts.stretch[mode.at_v]
    lev = np.einsum("nr,nr->n", mode.D, k)
    w = inverse @ (gather(mode.at_v, mode.D, lev * third, mode.v.size) + 2 * parts.shift)
    own_w = w[mode.at_v]
    dw = np.einsum("nr,nr->n", mode.D, own_w)
    through = 0.5 * (lev * third + dw * second)
    entries = parts.moved + mode.v[mode.at_v] * through[:, None]
    entries += 0.5 * first[:, None] * own_w + second[:, None] * k
    theta = np.einsum("nt,nt->t", effects.Z[:, effects.row], entries[:, :R][:, effects.column])
    log_size = parts.size
    if obs.distribution.dispersed and size < np.inf:
        moved = size_slopes(obs.y, size, mode.eta)
        log_size += float((0.5 * lev * moved.second + 0.5 * dw * moved.first).sum())
    return Likelihood(value, obs.X.T @ (parts.score + through), theta, log_size, mode)


@lru_cache(maxsize=8)
def nodes(n_quad: int) -> tuple[FloatArray, FloatArray]:
    """Nodes x and log w + x^2 of Gauss and Hermite."""
    x, w = np.polynomial.hermite.hermgauss(n_quad)
    return x, np.log(w) + x**2


def by_quadrature(obs: Observations, mode: Mode, size: float, n_quad: int) -> Likelihood:
    """Adaptive quadrature about the mode of b, for one effect a row; rows must stand level by level."""
    x, log_w = nodes(n_quad)
    level, a = mode.at_v[:, 0], mode.D[:, 0]
    tau = 1 / np.sqrt(np.diag(mode.H))
    b = mode.v[:, None] + np.sqrt(2) * tau[:, None] * x
    eta = mode.eta[:, None] + a[:, None] * (b - mode.v[:, None])[level]
    at = obs.slopes(size, eta)
    q = mode.v.size
    terms = log_w + _by_level(at.value, level, q) - 0.5 * b**2
    top = terms.max(axis=1, keepdims=True)
    share = np.exp(terms - top)
    total = share.sum(axis=1, keepdims=True)
    share /= total
    value = float((np.log(total) + top).sum() + np.log(tau).sum() - 0.5 * q * np.log(np.pi))
    pull = share * (_by_level(at.first * a[:, None], level, q) - b)
    own = share[level]
    parts = _Parts(
        (own * at.first).sum(axis=1),
        (own * at.first * b[level]).sum(axis=1)[:, None],
        _size_slope(obs, size, eta, own),
        pull.sum(axis=1),
        1 + np.sqrt(2) * tau * (pull @ x),
    )
    found = _with_gradient(obs, mode, size, obs.constant + value, parts)
    return found._replace(information=_information(obs, mode))


def _by_level(values: FloatArray, level: IntArray, q: int) -> FloatArray:
    """Sums (q, ...) of rows that stand level by level."""
    out = np.zeros((q, *values.shape[1:]))
    starts = np.flatnonzero(np.r_[True, level[1:] != level[:-1]])[: level.size]
    if starts.size:
        out[level[starts]] = np.add.reduceat(values, starts, axis=0)
    return out


def _information(obs: Observations, mode: Mode) -> FloatArray:
    """S = X'WX - X'WA (I + A'WA)^-1 A'WX at the mode, positive definite, (p, p)."""
    level, wx = mode.at_v[:, 0], obs.X * -mode.at.second[:, None]
    crossed = _by_level(mode.D[:, :1] * wx, level, mode.v.size)
    return np.asarray(wx.T @ obs.X - (crossed / np.diag(mode.H)[:, None]).T @ crossed)
