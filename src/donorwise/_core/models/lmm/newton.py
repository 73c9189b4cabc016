"""Newton's method for several variance components, one feature at a time.

The relative covariance of a term is T = LL'. The free parameters are the entries of L,
save that the last diagonal entry is replaced by its square: that one is bounded below by
zero and the deviance is smooth in it across the boundary, so that a variance at zero is
found exactly, by the sign of a derivative. The other columns of L need no bound, since
their sign is arbitrary.

Steps, ridges and kicks are measured in natural units, so that nothing depends on the units of responses, weights and
columns or on the number of rows: the callers' columns are such that a level says of a column's variance as much as of
the residual's (mean Z'Z = I), where a variance T is known to within a multiple of 1 + T. One unit of an entry of L in
row i is sqrt(1 + T_ii), of the bounded variance 1 + T_ii.

numba's cache on disk does not follow imports from one file to another: whoever edits ``algebra.py``,
``coupled_kernels.py`` or ``kernels.py`` must touch this file, too, or clear ``__pycache__``.
"""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import cholesky_inverse, entry, inner
from donorwise._core.models.lmm.kernels import derivatives, evaluate, workspace

_MAX_ITERATIONS = 200
_SMALLEST_STEP = 1e-12
_ROUNDING = 1e-12  # of a deviance, relative to its largest terms
_RIDGE, _SINGULAR, _SCORING = 0.01, 1e-9, 10
_KICK, _MAX_KICKS = 0.3, 2  # units
# A Newton decrement is the squared step in standard errors; the step after it is accurate to its square.
_DECREMENT = 1e-12
_LAST = 1e-5  # units; a last step beyond would be rounding noise along a ridge, of which the end is lower
_LEFT = 0.01  # a tenth, squared
_LIMIT = 1e12  # variances beyond this, relative to what a level says, mean that there is no residual variance


@inner
def gamma_of(phi, parameter, bounded, gamma):
    """Entries of T from the parameters, into `gamma`."""
    K = phi.size
    for k in range(K):
        gamma[k] = 0.0
        t, i, j = parameter[k]
        for m in range(K):
            if parameter[m, 0] != t or parameter[m, 1] != i or parameter[m, 2] > j:
                continue
            for l in range(K):
                if parameter[l, 0] == t and parameter[l, 1] == j and parameter[l, 2] == parameter[m, 2]:
                    gamma[k] += phi[m] if bounded[m] else phi[m] * phi[l]


@inner
def _jacobian(phi, parameter, bounded, J):
    """The derivatives d gamma / d phi into `J`."""
    K = phi.size
    J[:] = 0.0
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


@inner
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


@inner
def _units(gamma, parameter, bounded, unit):
    """The natural unit of every parameter into `unit`."""
    for k in range(gamma.size):
        for m in range(gamma.size):
            if parameter[m, 0] == parameter[k, 0] and parameter[m, 1] == parameter[m, 2] == parameter[k, 1]:
                unit[k] = 1.0 + gamma[m] if bounded[k] else np.sqrt(1.0 + gamma[m])


@inner
def _congruence(J, H, out):
    """J'HJ into `out`."""
    K = J.shape[0]
    for i in range(K):
        for j in range(K):
            out[i, j] = 0.0
            for a in range(K):
                for b in range(K):
                    out[i, j] += J[a, i] * H[a, b] * J[b, j]


@inner
def _step(gradient, hessian, expected, free, bounded, unit, scoring, step, M, inverse):
    """Newton step over the free parameters into `step`; `M` (the Hessian in units) and `inverse` are scratch.

    Where the Hessian is not positive definite: Fisher scoring, which is good far from the optimum, or
    (not `scoring`) the Hessian with a diagonal added, which leaves a saddle. Scoring knows nothing of a
    column of L at zero, where T does not change to first order: a ridge keeps its step in bounds. Returns the
    decrement (the squared length of the step in standard errors), and whether the Hessian was positive definite.
    """
    K = gradient.size
    definite = True
    for attempt in range(60):
        used = hessian if attempt == 0 or not scoring else expected
        largest = 1e-300
        for i in range(K):
            for j in range(K):
                M[i, j] = unit[i] * used[i, j] * unit[j] if free[i] and free[j] else 0.0
            largest = max(largest, abs(M[i, i]))
        for i in range(K):
            if attempt > 0 and scoring and not bounded[i]:
                M[i, i] += _RIDGE * largest
            if attempt > 1 or (attempt > 0 and not scoring):  # damp directions without information, more and more
                M[i, i] += largest * 10.0 ** (attempt - 10 if scoring else 0.5 * attempt - 4)
            if not free[i]:  # alone with itself
                M[i, i] = 1.0
        if np.isfinite(cholesky_inverse(M, inverse, _SINGULAR)):
            definite = attempt == 0
            break
    decrement = 0.0
    for i in range(K):
        step[i] = 0.0
        for j in range(K):
            if free[i] and free[j]:
                step[i] -= unit[i] * inverse[i, j] * unit[j] * gradient[j]
        decrement -= step[i] * gradient[i]
    return decrement, definite


@inner
def _kick(phi, bounded, unit):
    """Move columns of L off zero: a stationary point there may be a saddle."""
    for k in range(phi.size):
        if not bounded[k] and abs(phi[k]) < _KICK * unit[k]:
            phi[k] = _KICK * unit[k] if phi[k] >= 0.0 else -_KICK * unit[k]


@inner
def _moved(phi, step, size, bounded, out):
    """The parameters after a step, projected on the bounds, into `out`."""
    for k in range(phi.size):
        out[k] = phi[k] + size * step[k]
        if bounded[k] and out[k] < 0.0:
            out[k] = 0.0


@inner
def _leads_to(gamma, known, decrement):
    """Whether a Newton step with this decrement, to `gamma`, leads to the optimum `known` (gamma, Hessian in gamma).

    A step of at most a standard error that leaves a tenth of its length satisfies the condition of Newton and
    Kantorovich with room to spare: the iterations converge, and to that optimum.
    """
    there, hessian = known
    left = 0.0
    for k in range(gamma.size):
        for m in range(gamma.size):
            left += (gamma[k] - there[k]) * hessian[k, m] * (gamma[m] - there[m])
    return decrement <= 1.0 and left <= _LEFT * decrement


@inner
def scratch_of(K):
    """The arrays that :func:`minimise` works in: vectors, matrices and a mask."""
    return np.zeros((7, K)), np.zeros((7, K, K)), np.zeros(K, dtype=np.bool_)


@inner
def minimise(blocks, phi, bounded, zty, rss, nu, reml, out, scratch, known, is_known):
    """Minimise the profiled deviance from `phi`, in place; return (deviance, iterations, converged, regular).

    Derivatives are evaluated at every trial, since nearly all are accepted; and there is one call of
    `evaluate`, since each is compiled anew. It ends without having converged where it comes to the optimum
    `known` (gamma, Hessian in gamma), if one `is_known`. At a `regular` optimum, where that Hessian is positive
    definite, the first of the vectors and matrices of `scratch` are those.
    """
    parameter = blocks[8]
    K = phi.size
    vectors, matrices, free = scratch
    gamma, gradient, g, step, trial, best = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4], vectors[5]
    unit = vectors[6]
    hessian, expected, H, I = matrices[0], matrices[1], matrices[2], matrices[3]
    J, M, inverse = matrices[4], matrices[5], matrices[6]
    f, best_f, decrement, size, iteration, kicks, fresh = np.inf, np.inf, 0.0, 1.0, 0, 0, True
    converged, regular, definite = False, False, False
    trial[:] = phi
    while iteration < _MAX_ITERATIONS:
        gamma_of(trial, parameter, bounded, gamma)
        if is_known and definite and size == 1.0 and _leads_to(gamma, known, decrement):
            return f, iteration, False, False
        value, R, _, _ = evaluate(blocks, gamma, zty, rss, nu, reml, np.int64(1), out)
        wanted = 1e-4 * size * min(decrement, 1.0 + abs(f)) if decrement > 1e-6 else -_ROUNDING * (1.0 + abs(f) + nu)
        if not fresh and not value <= f - wanted:
            size *= 0.5
            if size < _SMALLEST_STEP:
                converged = decrement < 1e-8
                break
            _moved(phi, step, size, bounded, trial)
            continue
        f, size, fresh, largest = value, 1.0, False, 0.0
        for k in range(K):
            phi[k] = trial[k]
            largest = max(largest, abs(gamma[k]))
        if not np.isfinite(f) or largest > _LIMIT:
            break
        derivatives(out, R, nu, gradient, hessian, expected)
        _units(gamma, parameter, bounded, unit)
        _jacobian(phi, parameter, bounded, J)
        _congruence(J, hessian, H)
        _congruence(J, expected, I)
        _curvature(gradient, parameter, bounded, H)
        for k in range(K):
            g[k] = 0.0
            for m in range(K):
                g[k] += J[m, k] * gradient[m]
            free[k] = not (bounded[k] and phi[k] <= 0.0 and g[k] >= 0.0)
        decrement, definite = _step(g, H, I, free, bounded, unit, iteration < _SCORING, step, M, inverse)
        iteration += 1
        if decrement < _DECREMENT:
            converged = True
            if definite:
                if np.max(np.abs(step) / unit) <= _LAST:
                    _moved(phi, step, 1.0, bounded, phi)
                M[:] = hessian
                regular = np.isfinite(cholesky_inverse(M, inverse, _SINGULAR))
            if definite or kicks == _MAX_KICKS:
                break
            if f < best_f:
                best_f = f
                best[:] = phi
            trial[:] = phi
            _kick(trial, bounded, unit)
            converged, fresh, decrement = False, True, 0.0
            kicks += 1
            continue
        _moved(phi, step, 1.0, bounded, trial)
    converged = converged or (iteration == _MAX_ITERATIONS and decrement < 1e-8)
    if best_f <= f + 1e-9 or (np.isfinite(best_f) and not converged):
        f, converged, regular = best_f, True, False
        phi[:] = best
    return f, iteration, converged, regular


@entry
def fit_features(blocks, starts, size, n_always, bounded, zty, rss, nu, reml, gamma, iterations, converged):
    """Fit every feature: from the first `n_always` starts, and from all when they end on a boundary.

    `starts` (n_starts, K) are parameter vectors for variances of one, which are those of a feature times its `size`
    (G, K); `gamma` (G, K) receives the entries of T.
    """
    parameter = blocks[8]
    K = starts.shape[1]
    out, scratch = workspace(blocks), scratch_of(K)
    phi, known = np.zeros(K), (np.zeros(K), np.zeros((K, K)))
    for feature in range(zty.shape[0]):
        best, is_known = np.inf, False
        for s in range(starts.shape[0]):
            for k in range(K):
                phi[k] = starts[s, k] * (size[feature, k] if bounded[k] else np.sqrt(size[feature, k]))
            f, n, ok, regular = minimise(
                blocks, phi, bounded, zty[feature], rss[feature], nu, reml, out, scratch, known, is_known
            )
            iterations[feature] += n
            if (ok and not converged[feature]) or (ok == converged[feature] and f < best - 1e-9):
                best, converged[feature], is_known = f, ok, regular
                gamma_of(phi, parameter, bounded, gamma[feature])
                known[0][:], known[1][:] = scratch[0][0], scratch[1][0]
            inside = ok
            for k in range(K):
                inside = inside and not (bounded[k] and phi[k] <= 0.0)
            if s + 1 >= n_always and inside:
                break
