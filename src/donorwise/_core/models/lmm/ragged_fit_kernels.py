"""Newton's method and evaluation of features that each have rows of their own; see ``ragged_kernels``."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner
from donorwise._core.models.lmm.ragged_kernels import (
    assemble,
    blocks_at,
    deviance_at,
    deviance_of,
    products,
    reduced,
    traces,
)

# Variances that a search looks at first, in units of what a level says: of one or two terms, three, and more.
_SIZES = np.array([0.0, 0.3, 3.0, 30.0, 300.0, 1e4])
_FEWER = np.array([0.0, 0.3, 3.0, 30.0, 1e3])
_FEWEST = np.array([0.0, 3.0])
_SMALL, _RELEASED = 0.3, 0.01  # in the same units: below which zero is tried, and where a search leaves zero
_LARGEST = 1e13  # beyond which a variance is taken for infinite
_STEPS, _HALVINGS = 100, 40
_STARTS = 3  # peaks of a coarse grid that a search begins at
_RIVAL = 4.0  # deviance above the best peak so far, up to which another is looked for
_LONGEST = 3.0  # step of a logarithm
_DONE, _NEAR = 1e-15, 1e-6  # twice the log-likelihood that a step still promises: where to stop, and no longer to check


@inner
def information(s, C, begin, e, kept, n_levels):
    """Mean information on a level of every kept term, (T,)."""
    out = np.ones(kept.size)
    for t in range(kept.size):
        if kept[t]:
            total = 0.0
            if t == e:
                total = s.sum()
            else:
                for k in range(begin[t], begin[t] + n_levels[t]):
                    total += C[k, k]
            if total > 0.0:
                out[t] = total / n_levels[t]
    return out


@inner
def _grid(s, B, C, begin, e, kept, n_levels, info, nu, reml, M):
    """A coarse grid of the variances of the kept terms, (S, T), their deviances (S,), and which have no better neighbour (S,).

    Of neighbours that are as good the first counts.
    """
    at = np.flatnonzero(kept)
    n = at.size
    sizes = _SIZES if n <= 2 else (_FEWER if n == 3 else _FEWEST)
    gammas = np.zeros((sizes.size**n, kept.size))
    deviances, lowest = np.empty(len(gammas)), np.ones(len(gammas), dtype=np.bool_)
    for point in range(len(gammas)):
        stride = 1
        for t in at:
            gammas[point, t] = sizes[point // stride % sizes.size] / info[t]
            stride *= sizes.size
    whole = np.empty_like(M)
    for size in sizes:  # points with the same variance of e share their sums
        own = size / info[e] if e >= 0 else 0.0
        logdet = reduced(s, B, C, own, whole)
        for point in range(len(gammas)):
            if e < 0 or gammas[point, e] == own:
                M[:] = whole
                deviances[point] = deviance_of(logdet, begin, e, kept, n_levels, gammas[point], nu, reml, M)[0]
        if e < 0:
            break
    for point in range(len(gammas)):
        stride = 1
        for _ in range(n):
            if point // stride % sizes.size > 0:  # each pair of neighbours once
                better = deviances[point] < deviances[point - stride]
                lowest[point] &= better
                lowest[point - stride] &= not better
            stride *= sizes.size
    return gammas, deviances, lowest


@inner
def _derivatives(s, B, C, begin, e, kept, n_levels, gamma, nu, reml, R, gradient, hessian):
    """Of the deviance in the variances."""
    T = kept.size
    m, c = begin[T], begin[T + 1]
    tr1, tr2, quad1, quad2 = np.empty(T), np.empty((T, T)), np.empty(T), np.empty((T, T))
    a, Bn, BK, D_er, D_rr, F_e, F_r = blocks_at(s, B, C, begin, e, kept, n_levels, gamma, c, c, 1)
    traces(a, Bn, BK, D_er, D_rr, begin, e, kept, n_levels, tr1, tr2)
    products(F_e[:, 0].copy(), F_r[:, 0].copy(), a, Bn, BK, D_er, D_rr, begin, e, kept, n_levels, quad1, quad2)
    if not reml:
        a, Bn, BK, D_er, D_rr, F_e, F_r = blocks_at(s, B, C, begin, e, kept, n_levels, gamma, m, c, 1)
        traces(a, Bn, BK, D_er, D_rr, begin, e, kept, n_levels, tr1, tr2)
    for i in range(T):
        gradient[i] = tr1[i] - nu * quad1[i] / R
        for j in range(T):
            hessian[i, j] = -tr2[i, j] + nu * (2.0 * (quad2[i, j] / R) - (quad1[i] / R) * (quad1[j] / R))


@inner
def _direction(gamma, gradient, hessian, free, step):
    """Newton's step of the logarithms of the free variances; returns what it promises, infinity where nothing is known."""
    n = free.sum()
    step[:] = 0.0
    if n == 0:
        return 0.0
    at = np.flatnonzero(free)
    H, slope = np.empty((n, n)), np.empty(n)
    for i in range(n):
        slope[i] = gamma[at[i]] * gradient[at[i]]
        for j in range(n):
            H[i, j] = gamma[at[i]] * gamma[at[j]] * hessian[at[i], at[j]]
        H[i, i] += slope[i]
    if not np.isfinite(H).all():
        return np.inf
    values, vectors = np.linalg.eigh(H)
    promised = 0.0
    for k in range(n):
        along = 0.0
        for i in range(n):
            along += vectors[i, k] * slope[i]
        curvature = max(abs(values[k]), 1e-8)
        promised += along**2 / curvature
        for i in range(n):
            step[at[i]] -= vectors[i, k] * along / curvature
    longest = np.abs(step).max()
    if longest > _LONGEST:
        step *= _LONGEST / longest
    return promised


@inner
def _optimum(s, B, C, begin, e, kept, n_levels, nu, reml, gamma):
    """Minimise the deviance over the variances of the kept terms, into gamma (T,): (iterations, converged).

    The likelihood may have several peaks: the search begins at the best points of a coarse grid that have no better neighbour,
    and where the variance of one term is that of another, which is zero at the best peak so far.
    """
    info = information(s, C, begin, e, kept, n_levels)
    M = np.empty_like(C)
    gammas, deviances, lowest = _grid(s, B, C, begin, e, kept, n_levels, info, nu, reml, M)
    lowest &= deviances < np.inf
    best, total, trial = np.inf, 0, np.empty(kept.size)
    for _ in range(_STARTS):
        if not lowest.any():
            break
        first = np.argmin(np.where(lowest, deviances, np.inf))
        lowest[first] = False
        trial[:] = gammas[first]
        iterations, converged, reached = _descend(
            s, B, C, begin, e, kept, n_levels, nu, reml, info, deviances[first], trial, M
        )
        total += iterations
        if converged and reached < best:
            best = reached
            gamma[:] = trial
    for t in np.flatnonzero(gamma > 0.0):
        for o in np.flatnonzero(kept & (gamma == 0.0)):
            trial[:] = gamma
            trial[t], trial[o] = 0.0, gamma[t] * info[t] / info[o]
            deviance = deviance_at(s, B, C, begin, e, kept, n_levels, trial, nu, reml, M)[0]
            if not deviance < best + _RIVAL:
                continue
            iterations, converged, reached = _descend(
                s, B, C, begin, e, kept, n_levels, nu, reml, info, deviance, trial, M
            )
            total += iterations
            if converged and reached < best:
                best = reached
                gamma[:] = trial
    return total, best < np.inf


@inner
def _descend(s, B, C, begin, e, kept, n_levels, nu, reml, info, deviance, gamma, M):
    """Newton's method from gamma (T,) with this deviance, in place: (iterations, converged, deviance)."""
    T = kept.size
    gradient, hessian, step, trial = np.zeros(T), np.zeros((T, T)), np.zeros(T), np.zeros(T)
    free = np.zeros(T, dtype=np.bool_)
    promised = np.inf
    for iteration in range(_STEPS):
        R = deviance_at(s, B, C, begin, e, kept, n_levels, gamma, nu, reml, M)[1]
        _derivatives(s, B, C, begin, e, kept, n_levels, gamma, nu, reml, R, gradient, hessian)
        moved = False
        for t in range(T):
            if not kept[t]:
                continue
            if gamma[t] == 0.0 and gradient[t] < -1e-9 * info[t]:
                trial[:] = gamma
                trial[t] = _RELEASED / info[t]
                reached = deviance_at(s, B, C, begin, e, kept, n_levels, trial, nu, reml, M)[0]
                while reached > deviance and trial[t] * info[t] > 1e-9:
                    trial[t] *= 0.1
                    reached = deviance_at(s, B, C, begin, e, kept, n_levels, trial, nu, reml, M)[0]
                if reached < deviance:
                    gamma[t], deviance, moved = trial[t], reached, True
            elif gamma[t] > 0.0 and gamma[t] * info[t] < _SMALL and gradient[t] > 0.0:
                trial[:] = gamma
                trial[t] = 0.0
                reached = deviance_at(s, B, C, begin, e, kept, n_levels, trial, nu, reml, M)[0]
                if reached <= deviance:
                    gamma[t], deviance, moved = 0.0, reached, True
        if moved:
            continue
        for t in range(T):
            free[t] = kept[t] and gamma[t] > 0.0
            if free[t] and gamma[t] * info[t] > _LARGEST:
                return iteration, False, deviance
        promised = _direction(gamma, gradient, hessian, free, step)
        if promised == np.inf:
            return iteration, False, deviance
        size, accepted = 1.0, False
        for _ in range(_HALVINGS):
            for t in range(T):
                trial[t] = gamma[t] * np.exp(size * step[t])
            reached = deviance_at(s, B, C, begin, e, kept, n_levels, trial, nu, reml, M)[0]
            if reached <= deviance or (promised < _NEAR and reached < np.inf):
                accepted = True
                break
            size *= 0.5
        if accepted:
            gamma[:] = trial
            deviance = reached
        if promised < _DONE or not accepted:
            return iteration + 1, promised < _NEAR, deviance
    return _STEPS, promised < _NEAR, deviance  # where the residual variance is nearly zero, derivatives are rounded


@entry
def fit_ragged(data, basis, rank, kept, usable, reml, gamma, iterations, converged):
    """Variances (G, T) relative to that of the residuals, of features that are `usable`."""
    start, pattern, y, w, local, n_levels, z, X = data
    for g in range(start.size - 1):
        if not usable[g]:
            continue
        N = np.ascontiguousarray(basis[g, :, : rank[g]])
        n = start[g + 1] - start[g]
        s, B, C, begin, e = assemble(start[g], start[g + 1], pattern, y, w, local, n_levels[g], kept[g], z, X, N, -1)
        nu = float(n - rank[g] if reml else n)
        iterations[g], converged[g] = _optimum(s, B, C, begin, e, kept[g], n_levels[g], nu, reml, gamma[g])


@entry
def evaluate_ragged(data, basis, rank, kept, gamma, reml, info, likelihood, Phi, delta):
    """Of every feature at its variances: deviance, y'Py, log|V|, log|X'V⁻¹X| (in its basis); Phi (G, p, p), delta (G, p)."""
    start, pattern, y, w, local, n_levels, z, X = data
    T = n_levels.shape[1]
    for g in range(start.size - 1):
        N = np.ascontiguousarray(basis[g, :, : rank[g]])
        s, B, C, begin, e = assemble(start[g], start[g + 1], pattern, y, w, local, n_levels[g], kept[g], z, X, N, -1)
        info[g] = information(s, C, begin, e, kept[g], n_levels[g])
        M = np.empty_like(C)
        nu = float(start[g + 1] - start[g] - rank[g] if reml else start[g + 1] - start[g])
        d, R, of_random, of_fixed = deviance_at(s, B, C, begin, e, kept[g], n_levels[g], gamma[g], nu, reml, M)
        likelihood[g, 0], likelihood[g, 1], likelihood[g, 2], likelihood[g, 3] = d, R, of_random, of_fixed
        m, c = begin[T], begin[T + 1]
        U = np.triu(M[m:c, m:c])
        if c > m and R == R:
            inverse = np.linalg.solve(U, np.eye(c - m))
            Phi[g] = N @ (inverse @ inverse.T) @ N.T
            delta[g] = N @ (inverse @ np.ascontiguousarray(M[m:c, c]))
