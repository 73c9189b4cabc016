"""Newton's method for several variance components, one feature at a time.

The relative covariance of a term is T = LL'. The free parameters are the entries of L,
save that the last diagonal entry is replaced by its square: that one is bounded below by
zero and the deviance is smooth in it across the boundary, so that a variance at zero is
found exactly, by the sign of a derivative. The other columns of L need no bound, since
their sign is arbitrary.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from donorwise.lmm.kernels import _cholesky_inverse, derivatives, evaluate, workspace

_MAX_ITERATIONS = 200
_MAX_HALVINGS = 40
# A Newton decrement is the squared step in standard errors; the step after it is accurate to its square.
_DECREMENT = 1e-12
_LIMIT = 1e10  # relative variances beyond this mean that there is no residual variance


@njit(nogil=True, cache=True)
def gamma_of(phi, parameter, bounded):
    """Entries of T from the parameters."""
    K = phi.size
    gamma = np.zeros(K)
    for k in range(K):
        t, i, j = parameter[k]
        for m in range(K):
            if parameter[m, 0] != t or parameter[m, 1] != i or parameter[m, 2] > j:
                continue
            for l in range(K):
                if parameter[l, 0] == t and parameter[l, 1] == j and parameter[l, 2] == parameter[m, 2]:
                    gamma[k] += phi[m] if bounded[m] else phi[m] * phi[l]
    return gamma


@njit(nogil=True, cache=True)
def _jacobian(phi, parameter, bounded):
    """d gamma / d phi."""
    K = phi.size
    J = np.zeros((K, K))
    for m in range(K):
        t, a, c = parameter[m]
        if bounded[m]:
            J[m, m] = 1.0
            continue
        for k in range(K):
            if parameter[k, 0] != t:
                continue
            i, j = parameter[k, 1], parameter[k, 2]
            for l in range(K):
                if parameter[l, 0] == t and parameter[l, 2] == c:
                    if i == a and parameter[l, 1] == j:
                        J[k, m] += phi[l]
                    if j == a and parameter[l, 1] == i:
                        J[k, m] += phi[l]
    return J


@njit(nogil=True, cache=True)
def _curvature(gradient, parameter, bounded, hessian):
    """Add the second derivatives of gamma in phi, weighted by the gradient in gamma."""
    K = gradient.size
    for m in range(K):
        if bounded[m]:
            continue
        for l in range(K):
            if bounded[l] or parameter[l, 0] != parameter[m, 0] or parameter[l, 2] != parameter[m, 2]:
                continue
            hi, lo = max(parameter[m, 1], parameter[l, 1]), min(parameter[m, 1], parameter[l, 1])
            for k in range(K):
                if parameter[k, 0] == parameter[m, 0] and parameter[k, 1] == hi and parameter[k, 2] == lo:
                    hessian[m, l] += gradient[k] * (2.0 if hi == lo else 1.0)


@njit(nogil=True, cache=True)
def _step(gradient, hessian, expected, free):
    """Newton step over the free parameters; scoring where the Hessian is not positive definite."""
    K = gradient.size
    index = np.nonzero(free)[0]
    n = index.size
    step = np.zeros(K)
    M, inverse = np.empty((n, n)), np.empty((n, n))
    for attempt in range(60):
        for i in range(n):
            for j in range(n):
                M[i, j] = hessian[index[i], index[j]] if attempt == 0 else expected[index[i], index[j]]
        if attempt > 1:  # a direction without information: damp it, more and more
            largest = 1e-300
            for i in range(n):
                largest = max(largest, abs(M[i, i]))
            for i in range(n):
                M[i, i] += largest * 10.0 ** (attempt - 14)
        if np.isfinite(_cholesky_inverse(M, inverse)):
            break
    decrement = 0.0
    for i in range(n):
        for j in range(n):
            step[index[i]] -= inverse[i, j] * gradient[index[j]]
        decrement -= step[index[i]] * gradient[index[i]]
    return step, decrement


@njit(nogil=True, cache=True)
def _moved(phi, step, size, bounded):
    """The parameters after a step, projected on the bounds."""
    out = phi + size * step
    for k in range(phi.size):
        if bounded[k] and out[k] < 0.0:
            out[k] = 0.0
    return out


@njit(nogil=True, cache=True)
def minimise(blocks, phi, bounded, zty, rss, nu, reml, out):
    """Minimise the profiled deviance from `phi`; return (phi, deviance, iterations, converged)."""
    parameter = blocks[8]
    K = phi.size
    gradient, g = np.zeros(K), np.zeros(K)
    hessian, expected = np.zeros((K, K)), np.zeros((K, K))
    f = evaluate(blocks, gamma_of(phi, parameter, bounded), zty, rss, nu, reml, 0, out)[0]
    for iteration in range(_MAX_ITERATIONS):
        gamma = gamma_of(phi, parameter, bounded)
        f, R, _, _ = evaluate(blocks, gamma, zty, rss, nu, reml, 1, out)
        if not np.isfinite(f) or np.abs(gamma).max() > _LIMIT:
            return phi, f, iteration, False
        derivatives(out, R, nu, reml, gradient, hessian, expected)
        J = _jacobian(phi, parameter, bounded)
        g = J.T @ gradient
        H = J.T @ hessian @ J
        _curvature(gradient, parameter, bounded, H)
        free = ~(bounded & (phi <= 0.0) & (g >= 0.0))
        step, decrement = _step(g, H, J.T @ expected @ J, free)
        if decrement < _DECREMENT:
            return _moved(phi, step, 1.0, bounded), f, iteration, True
        size, slack = 1.0, 1e-13 * (1.0 + abs(f))
        for _ in range(_MAX_HALVINGS):
            trial = _moved(phi, step, size, bounded)
            value = evaluate(blocks, gamma_of(trial, parameter, bounded), zty, rss, nu, reml, 0, out)[0]
            if value <= f + slack - 1e-4 * size * min(decrement, abs(f)) * (decrement > 1e-6):
                break
            size *= 0.5
        else:
            return phi, f, iteration, decrement < 1e-8
        phi = trial
    return phi, f, _MAX_ITERATIONS, False


@njit(nogil=True, cache=True)
def fit_features(blocks, starts, n_always, bounded, zty, rss, nu, reml, gamma, iterations, converged):
    """Fit every feature: from the first `n_always` starts, and from all when they end on a boundary.

    `starts` (n_starts, K) are parameter vectors; `gamma` (G, K) receives the entries of T.
    """
    S, A, parameter = blocks[1], blocks[3], blocks[8]
    K = starts.shape[1]
    out = workspace(A.shape[0], S.size, A.shape[1], K)
    for feature in range(zty.shape[0]):
        best = np.inf
        for s in range(starts.shape[0]):
            phi, f, n, ok = minimise(blocks, starts[s].copy(), bounded, zty[feature], rss[feature], nu, reml, out)
            iterations[feature] += n
            if (ok and not converged[feature]) or (ok == converged[feature] and f < best - 1e-9):
                best = f
                converged[feature] = ok
                gamma[feature] = gamma_of(phi, parameter, bounded)
            if s + 1 >= n_always and ok and not np.any(bounded & (phi <= 0.0)):
                break
