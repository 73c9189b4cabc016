"""Newton's method for the joint mode of effects and coefficients, feature by feature and point by point.

Given the variances, the joint log-likelihood of the standardised effects b ~ N(0, I) and the coefficients beta is

    g(b, beta) = sum_k f_k(x_k'beta + a_k'b) - b'b / 2,     a_k = Lambda'z_k,

concave for every family. With W = -diag(f''), its negative Hessian is H = [I + A'WA, A'WX; X'WA, X'WX], block-diagonal
in b over the components of the graph of levels, and Laplace's approximation of the restricted likelihood is

    g(b, beta) - log|H| / 2 = g - log|I + A'WA| / 2 - log|S| / 2,     S = X'WX - X'WA (I + A'WA)^-1 A'WX.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from donorwise._core.models.glmm.densities import inner, slopes, value

entry = njit(nogil=True, cache=True, error_model="numpy")

_LONGEST = 2.0  # change of a row's linear predictor in a step
_STEPS = 60
_CONVERGED = 1e-7  # twice the log-likelihood that the last step gains, to about its square
_NEAR = 1e-3  # the same of the step before, after which the last one is expected


class Rows(NamedTuple):
    """What features share: K rows, component by component.

    Attributes
    ----------
    code
        The family.
    starts
        Shape (C + 1,). First row of each component, and K.
    shared, t
        Shape (K, J). Cells (or trials) at the nodes, and the exposures there.
    """

    code: int
    starts: np.ndarray
    shared: np.ndarray
    t: np.ndarray


class State(NamedTuple):
    """The mode, and what Newton's method keeps of each component: factors of H, and solutions with them."""

    beta: np.ndarray  # (p,)
    b: np.ndarray  # (C, q)
    factor: np.ndarray  # (C, q, q)
    cross: np.ndarray  # (C, q, p)
    score: np.ndarray  # (C, q)
    S: np.ndarray  # (p, p)
    s: np.ndarray  # (p,)


@inner
def new_state(n_components, q, p):
    """A mode of zeros."""
    return State(
        np.zeros(p), np.zeros((n_components, q)), np.zeros((n_components, q, q)), np.zeros((n_components, q, p)),
        np.zeros((n_components, q)), np.zeros((p, p)), np.zeros(p),
    )  # fmt: skip


@inner
def cholesky(A, n):
    """Cholesky factor in the lower triangle of the leading (n, n) of A, in place; log|A|, inf where it is singular."""
    logdet = 0.0
    for j in range(n):
        d = A[j, j]
        for k in range(j):
            d -= A[j, k] * A[j, k]
        if not d > 0.0:
            return np.inf
        A[j, j] = np.sqrt(d)
        logdet += np.log(d)
        for i in range(j + 1, n):
            s = A[i, j]
            for k in range(j):
                s -= A[i, k] * A[j, k]
            A[i, j] = s / A[j, j]
    return logdet


@inner
def forward(L, b, n):
    """Solve L x = b in place; the squared length of x."""
    total = 0.0
    for j in range(n):
        s = b[j]
        for k in range(j):
            s -= L[j, k] * b[k]
        b[j] = s / L[j, j]
        total += b[j] * b[j]
    return total


@inner
def backward(L, b, n):
    """Solve L'x = b in place."""
    for j in range(n - 1, -1, -1):
        s = b[j]
        for k in range(j + 1, n):
            s -= L[k, j] * b[k]
        b[j] = s / L[j, j]


@inner
def predictor(X, A, beta, b, k, p, q):
    """The linear predictor of row k, whose component has the effects b."""
    eta = 0.0
    for j in range(p):
        eta += X[k, j] * beta[j]
    for j in range(q):
        eta += A[k, j] * b[j]
    return eta


@inner
def factorise(rows, total, own, size, X, A, state, with_value):
    """Score and factors of H at the state: (value g, log|I + A'WA|, log|S|, twice the gain of a Newton step).

    The value is 0 unless it is asked for. `state.cross` has the solutions L^-1 A'WX, `state.score` L^-1 of the score,
    `state.S` and `state.s` the factor of S and its L^-1 s.
    """
    p, q = X.shape[1], A.shape[1]
    g, logdet, gain = 0.0, 0.0, 0.0
    state.S[:] = 0.0
    state.s[:] = 0.0
    for c in range(rows.starts.size - 1):
        H, M, v, b = state.factor[c], state.cross[c], state.score[c], state.b[c]
        H[:] = 0.0
        M[:] = 0.0
        for i in range(q):
            H[i, i] = 1.0
            v[i] = -b[i]
            g -= 0.5 * b[i] * b[i]
        for k in range(rows.starts[c], rows.starts[c + 1]):
            eta = predictor(X, A, state.beta, b, k, p, q)
            first, second = slopes(rows.code, size, total[k], own[k], rows.shared[k], rows.t[k], eta)
            if with_value:
                g += value(rows.code, size, total[k], own[k], rows.shared[k], rows.t[k], eta)
            for i in range(q):
                wa = -second * A[k, i]
                v[i] += first * A[k, i]
                for j in range(i + 1):
                    H[i, j] += wa * A[k, j]
                for j in range(p):
                    M[i, j] += wa * X[k, j]
            for i in range(p):
                wx = -second * X[k, i]
                state.s[i] += first * X[k, i]
                for j in range(i + 1):
                    state.S[i, j] += wx * X[k, j]
        logdet += cholesky(H, q)
        gain += forward(H, v, q)
        for j in range(p):
            forward(H, M[:, j], q)
            for i in range(q):
                state.s[j] -= M[i, j] * v[i]
        for i in range(p):
            for j in range(i + 1):
                for r in range(q):
                    state.S[i, j] -= M[r, i] * M[r, j]
    logdet_s = cholesky(state.S, p)
    gain += forward(state.S, state.s, p)
    return g, logdet, logdet_s, gain


@inner
def step(rows, X, A, state, largest):
    """Take the Newton step whose pieces are in the state, no row's predictor moving by more than `largest`."""
    p, q = X.shape[1], A.shape[1]
    d_beta = state.s.copy()
    backward(state.S, d_beta, p)
    furthest = 0.0
    for c in range(rows.starts.size - 1):
        d = state.score[c]
        for i in range(q):
            for j in range(p):
                d[i] -= state.cross[c, i, j] * d_beta[j]
        backward(state.factor[c], d, q)
        for k in range(rows.starts[c], rows.starts[c + 1]):
            furthest = max(furthest, abs(predictor(X, A, d_beta, d, k, p, q)))
    share = 1.0 if furthest <= largest else largest / furthest
    for j in range(p):
        state.beta[j] += share * d_beta[j]
    for c in range(rows.starts.size - 1):
        for i in range(q):
            state.b[c, i] += share * state.score[c, i]


@inner
def mode(rows, total, own, size, X, A, state):
    """Move the state to the mode: (g, log|I + A'WA|, log|S|, whether it converged), the factors being those there.

    Values take most of the time, so they are asked for where the step before was to gain so little that this is the
    last one, whose gain is added.
    """
    near = False
    for _ in range(_STEPS):
        g, logdet, logdet_s, gain = factorise(rows, total, own, size, X, A, state, near)
        if not np.isfinite(gain) or logdet_s == np.inf:
            break
        step(rows, X, A, state, _LONGEST)
        if near and gain < _CONVERGED:
            return g + 0.5 * gain, logdet, logdet_s, True
        near = gain < _NEAR
    return -np.inf, 0.0, 0.0, False
