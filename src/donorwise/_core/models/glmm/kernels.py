"""Newton's method for the joint mode of effects and coefficients, for B features side by side.

Given the variances, the joint log-likelihood of the standardised effects b ~ N(0, I) and the coefficients beta is

    g(b, beta) = sum_k f_k(x_k'beta + a_k'b) - b'b / 2,     a_k = Lambda'z_k,

concave for every family. With W = -diag(f''), its negative Hessian is H = [I + A'WA, A'WX; X'WA, X'WX], block-diagonal
in b over the components of the graph of levels, and Laplace's approximation of the restricted likelihood is

    g(b, beta) - log|H| / 2 = g - log|I + A'WA| / 2 - log|S| / 2,     S = X'WX - X'WA (I + A'WA)^-1 A'WX.

The last axis of every array is the features ("lanes"); a feature that has converged stays as it is, so that none depends
on its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from donorwise._core.models.glmm.lanes import add_heights, exponentials, logarithm, loops, short, slopes

_LONGEST = 2.0  # change of a row's linear predictor in a step
_STEPS = 60
_CONVERGED = (
    1e-7  # twice the log-likelihood that the last step gains; what is added for it is off by about its power 3/2
)
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
        Shape (K, J). Cells, trials or exposure at the nodes (see `families`), and the exposures there.
    offset
        Shape (K,). Linear predictor where all coefficients and effects are zero.
    """

    code: int
    starts: np.ndarray
    shared: np.ndarray
    t: np.ndarray
    offset: np.ndarray


class Data(NamedTuple):
    """Of B features: `total` (K, B), `own` (K, J, B), and `size` and its logarithm, (B,)."""

    total: np.ndarray
    own: np.ndarray
    size: np.ndarray
    log_size: np.ndarray


class Work(NamedTuple):
    """What a step leaves, of p coefficients and components with q effects.

    Attributes
    ----------
    factor, cross, score
        Shapes (C, q, q, B), (C, q, p, B), (C, q, B). Cholesky factor L of I + A'WA, and L^-1 A'WX and L^-1 of the score.
    S, s
        Shapes (p, p, B), (p, B). The factor of S, and its inverse times what is left of the score.
    numbers
        Shape (4, B). Of a row: eta, its exponential, score and weight.
    """

    factor: np.ndarray
    cross: np.ndarray
    score: np.ndarray
    S: np.ndarray
    s: np.ndarray
    numbers: np.ndarray


class Found(NamedTuple):
    """At the mode, (B,) each: g, log|I + A'WA|, log|S|; and the factor of S, (p, p, B). NaN where it was not found."""

    height: np.ndarray
    logdet: np.ndarray
    logdet_s: np.ndarray
    S: np.ndarray


@loops
def make_work(n_components, q, p, B):
    """Room for the steps of B features."""
    return Work(
        np.empty((n_components, q, q, B)), np.empty((n_components, q, p, B)), np.empty((n_components, q, B)),
        np.empty((p, p, B)), np.empty((p, B)), np.empty((4, B)),
    )  # fmt: skip


@loops
def make_found(p, B):
    """Room for what is found of B features."""
    return Found(np.empty(B), np.empty(B), np.empty(B), np.empty((p, p, B)))


@short
def _add_product(out, a, b, scale):
    """out += a b scale."""
    for l in range(out.size):
        out[l] += a[l] * b[l] * scale


@short
def _take_product(out, a, b):
    """out -= a b."""
    for l in range(out.size):
        out[l] -= a[l] * b[l]


@short
def _add_scaled(out, a, scale):
    """out += a scale."""
    for l in range(out.size):
        out[l] += a[l] * scale


@short
def _divide(out, a):
    for l in range(out.size):
        out[l] /= a[l]


@short
def _root(diagonal, logdet):
    """Square roots, the logarithms of what they are of added to `logdet`; NaN below zero."""
    for l in range(diagonal.size):
        logdet[l] += logarithm(max(diagonal[l], 1e-300))
        diagonal[l] = np.sqrt(diagonal[l])


@loops
def cholesky(A, logdet):
    """Cholesky factors in the lower triangles of A (n, n, B), in place, their log-determinants added to `logdet`."""
    for j in range(A.shape[0]):
        for k in range(j):
            _take_product(A[j, j], A[j, k], A[j, k])
        _root(A[j, j], logdet)
        for i in range(j + 1, A.shape[0]):
            for k in range(j):
                _take_product(A[i, j], A[i, k], A[j, k])
            _divide(A[i, j], A[j, j])


@loops
def forward(L, b):
    """Solve L x = b (n, B) in place."""
    for j in range(b.shape[0]):
        for k in range(j):
            _take_product(b[j], L[j, k], b[k])
        _divide(b[j], L[j, j])


@loops
def backward(L, b):
    """Solve L'x = b (n, B) in place."""
    for j in range(b.shape[0] - 1, -1, -1):
        for k in range(j + 1, b.shape[0]):
            _take_product(b[j], L[k, j], b[k])
        _divide(b[j], L[j, j])


@loops
def invert(L, column, out):
    """The inverse of L L', one matrix (q, q, 1), into `out` (q, q); `column` (q, 1) is room."""
    for i in range(out.shape[0]):
        column[:] = 0.0
        column[i] = 1.0
        forward(L, column)
        backward(L, column)
        out[i] = column[:, 0]


@loops
def predict(X, A, beta, b, k, offset, eta):
    """The linear predictors of row k, whose component has the effects b (q, B), into `eta`."""
    eta[:] = offset
    for j in range(X.shape[1]):
        _add_scaled(eta, beta[j], X[k, j])
    for j in range(A.shape[1]):
        _add_scaled(eta, b[j], A[k, j])


@loops
def _add_row(X, A, k, first, weight, H, M, v, S, s):
    """Add row k, with its scores and weights (B,), to I + A'WA, A'WX, X'WX and the score."""
    p, q = X.shape[1], A.shape[1]
    for i in range(q):
        _add_scaled(v[i], first, A[k, i])
        for j in range(i + 1):
            _add_scaled(H[i, j], weight, A[k, i] * A[k, j])
        for j in range(p):
            _add_scaled(M[i, j], weight, A[k, i] * X[k, j])
    for i in range(p):
        _add_scaled(s[i], first, X[k, i])
        for j in range(i + 1):
            _add_scaled(S[i, j], weight, X[k, i] * X[k, j])


@loops
def eliminate(H, M, v, S, s, logdet, gain):
    """Factorise I + A'WA of a component, take its part out of S and s, and add its part of the gain."""
    cholesky(H, logdet)
    forward(H, v)
    for i in range(v.shape[0]):
        _add_product(gain, v[i], v[i], 1.0)
    for i in range(s.shape[0]):
        forward(H, M[:, i])
        for r in range(v.shape[0]):
            _take_product(s[i], M[r, i], v[r])
            for j in range(i + 1):
                _take_product(S[i, j], M[r, i], M[r, j])


@loops
def factorise(rows, data, X, A, beta, b, work, with_height, height, logdet, logdet_s, gain):
    """Scores and factors of H at beta (p, B) and b (C, q, B), into `work`.

    `height`, `logdet`, `logdet_s` and `gain` (B,) become g (0 unless it is asked for), log|I + A'WA|, log|S|, and twice
    the gain of a Newton step.
    """
    code, starts, shared, t, offset = rows
    total, own, size, log_size = data
    factor, cross, score, S, s, numbers = work
    eta, m, first, weight = numbers[0], numbers[1], numbers[2], numbers[3]
    for out in (height, logdet, logdet_s, gain):
        out[:] = 0.0
    S[:] = 0.0
    s[:] = 0.0
    for c in range(starts.size - 1):
        H, M, v = factor[c], cross[c], score[c]
        H[:] = 0.0
        M[:] = 0.0
        v[:] = 0.0
        for i in range(v.shape[0]):
            H[i, i] += 1.0
            _add_scaled(v[i], b[c, i], -1.0)
            _add_product(height, b[c, i], b[c, i], -0.5)
        for k in range(starts[c], starts[c + 1]):
            predict(X, A, beta, b[c], k, offset[k], eta)
            exponentials(eta, m)
            slopes(code, size, total[k], own[k], shared[k], t[k], m, first, weight)
            if with_height:
                add_heights(code, size, log_size, total[k], own[k], shared[k], t[k], eta, m, height)
            _add_row(X, A, k, first, weight, H, M, v, S, s)
        eliminate(H, M, v, S, s, logdet, gain)
    cholesky(S, logdet_s)
    forward(S, s)
    for i in range(s.shape[0]):
        _add_product(gain, s[i], s[i], 1.0)


@loops
def step(starts, X, A, beta, b, work, moving):
    """Take the Newton step whose pieces are in `work`, where a feature is `moving` (B,), rows by no more than they may."""
    factor, cross, score, S, s, numbers = work
    eta, furthest = numbers[0], numbers[1]
    backward(S, s)
    furthest[:] = 0.0
    for c in range(starts.size - 1):
        for i in range(score.shape[1]):
            for j in range(s.shape[0]):
                _take_product(score[c, i], cross[c, i, j], s[j])
        backward(factor[c], score[c])
        for k in range(starts[c], starts[c + 1]):
            predict(X, A, s, score[c], k, 0.0, eta)
            for l in range(eta.size):
                furthest[l] = max(furthest[l], abs(eta[l]))
    share = numbers[2]
    for l in range(share.size):
        share[l] = min(1.0, _LONGEST / max(furthest[l], 1e-300)) if moving[l] else 0.0
    for j in range(s.shape[0]):
        _add_product(beta[j], s[j], share, 1.0)
    for c in range(starts.size - 1):
        for i in range(score.shape[1]):
            _add_product(b[c, i], score[c, i], share, 1.0)


@loops
def _restart(beta, b, start, l):
    """Coefficients to begin with, and no effects, for feature l."""
    for j in range(start.shape[0]):
        beta[j, l] = start[j, l]
    for c in range(b.shape[0]):
        for i in range(b.shape[1]):
            b[c, i, l] = 0.0


@loops
def mode(rows, data, X, A, beta, b, start, work, found):
    """Move beta and b to the mode, and write what is there into `found`.

    A feature that gets lost, or nowhere, begins once more at the coefficients `start` (p, B), without effects.

    Heights take most of the time, so they are asked for where the step before was to gain so little that this is the
    last one, whose gain is added.
    """
    B = data.size.size
    height, logdet, logdet_s, gain = np.empty(B), np.empty(B), np.empty(B), np.empty(B)
    near, moving, anew = np.zeros(B, np.bool_), np.ones(B, np.bool_), np.zeros(B, np.bool_)
    found.height[:] = np.nan
    for i_step in range(_STEPS):
        factorise(rows, data, X, A, beta, b, work, near.any(), height, logdet, logdet_s, gain)
        for l in range(B):
            if moving[l] and near[l] and gain[l] < _CONVERGED:
                found.height[l] = height[l] + 0.5 * gain[l]
                found.logdet[l], found.logdet_s[l] = logdet[l], logdet_s[l]
                for i in range(X.shape[1]):
                    for j in range(i + 1):
                        found.S[i, j, l] = work.S[i, j, l]
        step(rows.starts, X, A, beta, b, work, moving)
        for l in range(B):
            lost = not np.isfinite(gain[l])
            if moving[l] and near[l] and gain[l] < _CONVERGED:
                moving[l] = False
            elif moving[l] and not anew[l] and (lost or i_step == _STEPS // 2):
                anew[l], gain[l] = True, np.inf
                _restart(beta, b, start, l)
            elif lost:
                moving[l] = False
            near[l] = moving[l] and gain[l] < _NEAR
        if not moving.any():
            break
