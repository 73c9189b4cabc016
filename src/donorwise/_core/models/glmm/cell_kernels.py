"""Newton's method where covariates differ between the cells of a pattern: sums over cells, then a system of patterns.

A cell i of pattern k has the linear predictor eta_k + u_i'gamma_k: its columns are those of the pattern's mean plus what
is within it, u_i (m,). With F_k(eta, gamma) the log-density of the pattern, a pass over its cells gives F_k, its gradient
(1 + m) and its negative Hessian K_k, and with J_k the derivatives of (eta_k, gamma_k) in (beta, b),

    sum_k J_k'K_k J_k + [0, 0; 0, I]

is that of the joint log-likelihood; from there all is as in the kernels of patterns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from donorwise._core.cells.nodes import spread
from donorwise._core.models.glmm.cell_sums import add_up, new_sums
from donorwise._core.models.glmm.families import LOGIT
from donorwise._core.models.glmm.kernels import backward, cholesky, eliminate, forward, invert
from donorwise._core.models.glmm.lanes import loops
from donorwise._core.models.glmm.law_kernels import entry

_LONGEST = 2.0  # change of a cell's linear predictor in a step
_STEPS = 100
# Twice the log-likelihood that the last step gains (what is added for it is off by about its power 3/2): where
# determinants, which are off by about its root, are asked for, and where they are not.
_CONVERGED, _CONVERGED_HEIGHT = 1e-6, 1e-4
_NEAR = 0.5  # the same of the step before, after which the last one is expected


class Basis(NamedTuple):
    """Fixed columns: means of the patterns (P, p), and what is within them on U, (m, p); (eta, gamma) without them."""

    mean: np.ndarray
    within: np.ndarray
    eta: np.ndarray  # (P,)
    gamma: np.ndarray  # (m,)


class Loadings(NamedTuple):
    """Of standardised effects, point by point: means of the patterns (T, P, q), and within them, (T, P, m, q)."""

    mean: np.ndarray
    within: np.ndarray


class Mode(NamedTuple):
    """Coefficients (p,) and effects (C, q) of one feature, and what Newton's method keeps of them: one lane of its kernels."""

    beta: np.ndarray
    b: np.ndarray
    H: np.ndarray  # (C, q, q, 1)
    M: np.ndarray  # (C, q, p, 1)
    v: np.ndarray  # (C, q, 1)
    S: np.ndarray  # (p, p, 1)
    s: np.ndarray  # (p, 1)


@loops
def new_mode(C, q, p):
    """A mode of zeros."""
    return Mode(
        np.zeros(p), np.zeros((C, q)), np.zeros((C, q, q, 1)), np.zeros((C, q, p, 1)), np.zeros((C, q, 1)),
        np.zeros((p, p, 1)), np.zeros((p, 1)),
    )  # fmt: skip


@loops
def _derivatives(basis, loadings, t, k, J):
    """The derivatives of (eta_k, gamma_k) in (beta, b)."""
    p, q = basis.mean.shape[1], loadings.mean.shape[2]
    for j in range(p):
        J[0, j] = basis.mean[k, j]
        for a in range(J.shape[0] - 1):
            J[1 + a, j] = basis.within[a, j]
    for j in range(q):
        J[0, p + j] = loadings.mean[t, k, j]
        for a in range(J.shape[0] - 1):
            J[1 + a, p + j] = loadings.within[t, k, a, j]


@loops
def _place(J, beta, b, row):
    """Row 0 (eta) or 1 + a (gamma_a) of J times (beta, b)."""
    total = 0.0
    for j in range(beta.size):
        total += J[row, j] * beta[j]
    for j in range(b.size):
        total += J[row, beta.size + j] * b[j]
    return total


@loops
def _add_pattern(sums, H, M, v, S, s):
    """Add J'K J and J' times the gradient of a pattern."""
    p, q = len(s), len(v)
    J, K, KJ = sums.J, sums.K, sums.KJ
    for r in range(J.shape[0]):
        for j in range(p + q):
            KJ[r, j] = 0.0
            for o in range(J.shape[0]):
                KJ[r, j] += K[r, o] * J[o, j]
    for r in range(J.shape[0]):
        for i in range(q):
            v[i, 0] += J[r, p + i] * sums.score[r]
            for j in range(i + 1):
                H[i, j, 0] += J[r, p + i] * KJ[r, p + j]
            for j in range(p):
                M[i, j, 0] += J[r, p + i] * KJ[r, j]
        for i in range(p):
            s[i, 0] += J[r, i] * sums.score[r]
            for j in range(i + 1):
                S[i, j, 0] += J[r, i] * KJ[r, j]


@loops
def _factorise(cells, y, linear, size, basis, loadings, t, mode, sums, with_value):
    """Score and factors of the joint Hessian: (g, log|I + A'WA|, log|S|, twice the gain of a Newton step)."""
    q = mode.v.shape[1]
    g, gain, logdet, logdet_s = 0.0, np.zeros(1), np.zeros(1), np.zeros(1)
    mode.S[:] = 0.0
    mode.s[:] = 0.0
    for c in range(cells.starts.size - 1):
        H, M, v, b = mode.H[c], mode.M[c], mode.v[c], mode.b[c]
        H[:] = 0.0
        M[:] = 0.0
        for i in range(q):
            H[i, i] = 1.0
            v[i] = -b[i]
            g -= 0.5 * b[i] * b[i]
        for k in range(cells.starts[c], cells.starts[c + 1]):
            _derivatives(basis, loadings, t, k, sums.J)
            for a in range(sums.gamma.size):
                sums.gamma[a] = basis.gamma[a] + _place(sums.J, mode.beta, b, 1 + a)
            eta = basis.eta[k] + _place(sums.J, mode.beta, b, 0)
            g += add_up(cells, y, linear[k], size, k, eta, sums, with_value)
            _add_pattern(sums, H, M, v, mode.S, mode.s)
        eliminate(H, M, v, mode.S, mode.s, logdet, gain)
    cholesky(mode.S, logdet_s)
    forward(mode.S, mode.s)
    return g, logdet[0], logdet_s[0], gain[0] + (mode.s * mode.s).sum()


@loops
def _step(cells, basis, loadings, t, mode, sums):
    """Take the Newton step; patterns and what is within them move no further than they may."""
    p, q = len(mode.s), mode.v.shape[1]
    backward(mode.S, mode.s)
    furthest = 0.0
    for c in range(cells.starts.size - 1):
        d = mode.v[c]
        for i in range(q):
            for j in range(p):
                d[i] -= mode.M[c, i, j] * mode.s[j]
        backward(mode.H[c], d)
        for k in range(cells.starts[c], cells.starts[c + 1]):
            _derivatives(basis, loadings, t, k, sums.J)
            moved = 0.0
            for r in range(sums.J.shape[0]):  # the columns of U are at most one in size
                moved += abs(_place(sums.J, mode.s[:, 0], d[:, 0], r))
            furthest = max(furthest, moved)
    share = 1.0 if furthest <= _LONGEST else _LONGEST / furthest
    for j in range(p):
        mode.beta[j] += share * mode.s[j, 0]
    for c in range(cells.starts.size - 1):
        for i in range(q):
            mode.b[c, i] += share * mode.v[c, i, 0]


@loops
def find(cells, y, linear, size, basis, loadings, t, start, mode, sums, converged):
    """Move to the mode: (g, log|I + A'WA|, log|S|), NaN where it is not found; the factors are those there.

    A feature that gets lost, or nowhere, begins once more at the coefficients `start` (p,), without effects.
    Log-densities are worked out where the next step is expected to be the last one.
    """
    near, anew = False, False
    for i_step in range(_STEPS):
        g, logdet, logdet_s, gain = _factorise(cells, y, linear, size, basis, loadings, t, mode, sums, near)
        lost = not np.isfinite(gain)
        if not anew and (lost or i_step == _STEPS // 2):
            anew, near = True, False
            mode.beta[:] = start
            mode.b[:] = 0.0
            continue
        if lost:
            break
        _step(cells, basis, loadings, t, mode, sums)
        if near and gain < converged:
            return g + 0.5 * gain, logdet, logdet_s
        near = gain < _NEAR
    return np.nan, np.nan, np.nan


@loops
def _linear(cells, y, out):
    """See `add_up`, of every pattern (P, 1 + m)."""
    out[:] = 0.0
    if cells.code > LOGIT:
        return
    for k in range(cells.first.size - 1):
        for i in range(cells.first[k], cells.first[k + 1]):
            out[k, 0] += y[i]
            for a in range(cells.U.shape[0]):
                out[k, 1 + a] += y[i] * cells.U[a, i]


@loops
def _next(mode, past, ratio, order):
    """Begin a point where a polynomial of degree `order` (0 to 2) through the last ones leads.

    `past` (2, p + C q) has the modes of the points before the last; effects are multiplied by `ratio` (q,) as their
    standard deviations change.
    """
    p, (C, q) = mode.beta.size, mode.b.shape
    for j in range(p):
        last = mode.beta[j]
        mode.beta[j] = _onward(last, past[0, j], past[1, j], order)
        past[1, j], past[0, j] = past[0, j], last
    for c in range(C):
        for i in range(q):
            j = p + c * q + i
            last = mode.b[c, i]
            mode.b[c, i] = _onward(last, past[0, j], past[1, j], order) * ratio[i]
            past[1, j], past[0, j] = past[0, j] * ratio[i], last * ratio[i]


@loops
def _onward(last, before, first, order):
    if order == 0:
        return last
    if order == 1:
        return 2.0 * last - before
    return 3.0 * (last - before) + first


@loops
def _begin(mode, start):
    mode.beta[:] = start
    mode.b[:] = 0.0


@entry
def evaluate_cells(
    cells, y, size, basis, nulls, null_value, loadings, ratios, order, L, start, null_start, loglik, centre, scale, root
):
    """Restricted log-likelihood and law of contrasts at every point, as for patterns; y has shape (G, N).

    `nulls` has means (n', P, p - r) and within (n', m, p - r) of the columns for coefficients at which each of n' questions
    of r contrasts is answered by `null_value`, and (eta, gamma) where these are zero, (n', P) and (n', m); `order` (T,) is the
    degree of the polynomial through the points before that leads to each.
    """
    C, q, p, n = cells.starts.size - 1, loadings.mean.shape[2], basis.mean.shape[1], L.shape[0]
    n_null, p_null = nulls.mean.shape[0], nulls.mean.shape[2]
    linear = np.empty((cells.first.size - 1, 1 + cells.U.shape[0]))
    full, sums, past = new_mode(C, q, p), new_sums(cells, p, q), np.zeros((2, p + C * q))
    null, null_sums, null_past = new_mode(C, q, p_null), new_sums(cells, p_null, q), np.zeros((2, p_null + C * q))
    c, heights = np.empty((p, 1)), np.empty(loadings.mean.shape[0])
    for g in range(y.shape[0]):
        _linear(cells, y[g], linear)
        _begin(full, start[g])
        for t in range(heights.size):
            _next(full, past, ratios[t], order[t])
            heights[t], logdet, logdet_s = find(
                cells, y[g], linear, size[g], basis, loadings, t, start[g], full, sums, _CONVERGED
            )
            if not np.isfinite(heights[t]):
                _begin(full, start[g])
            loglik[g, t] = heights[t] - 0.5 * (logdet + logdet_s)
            for i in range(n):
                c[:, 0] = L[i]
                centre[g, t, i] = np.dot(L[i], full.beta)
                forward(full.S, c)
                scale[g, t, i] = np.sqrt((c * c).sum())
        for i in range(n_null):
            own = Basis(nulls.mean[i], nulls.within[i], nulls.eta[i], nulls.gamma[i])
            _begin(null, null_start[i, g])
            for t in range(heights.size):
                _next(null, null_past, ratios[t], order[t])
                height, _, _ = find(
                    cells, y[g], linear, size[g], own, loadings, t, null_start[i, g], null, null_sums, _CONVERGED_HEIGHT
                )  # fmt: skip
                if not np.isfinite(height):
                    _begin(null, null_start[i, g])
                ratio = 2.0 * (heights[t] - height)
                root[g, t, i] = np.sign(centre[g, t, i] - null_value) * np.sqrt(max(ratio, 0.0)) + 0.0 * ratio


@entry
def effects_of_cells(cells, y, size, basis, loadings, start, beta, b, variance):
    """Coefficients and standardised effects at the mode, each feature at its own point; shapes as for patterns."""
    C, q, p = cells.starts.size - 1, loadings.mean.shape[2], basis.mean.shape[1]
    linear, column = np.empty((cells.first.size - 1, 1 + cells.U.shape[0])), np.empty((q, 1))
    mode, sums = new_mode(C, q, p), new_sums(cells, p, q)
    for g in range(y.shape[0]):
        _linear(cells, y[g], linear)
        _begin(mode, start[g])
        height, _, _ = find(cells, y[g], linear, size[g], basis, loadings, g, start[g], mode, sums, _CONVERGED)
        missing = 0.0 * height
        beta[g] = mode.beta + missing
        b[g] = mode.b + missing
        for c in range(C):
            invert(mode.H[c], column, variance[g, c])


@entry
def on_nodes(cells, y, log_exposure, at, weight, own, shared):
    """Cells and counts y (N,) of every pattern at nodes `at` (J,) of log exposures (N,) of their own; (P, J) are filled."""
    share = np.empty(at.size)
    own[:] = 0.0
    shared[:] = 0.0
    for k in range(cells.first.size - 1):
        for i in range(cells.first[k], cells.first[k + 1]):
            spread(at, weight, log_exposure[i], share)
            for j in range(at.size):
                shared[k, j] += share[j]
            if y[i] != 0.0:
                for j in range(at.size):
                    own[k, j] += y[i] * share[j]
