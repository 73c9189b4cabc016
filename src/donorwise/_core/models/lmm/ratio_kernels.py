"""Newton's method for two variances on the interpolant between rays (see :mod:`donorwise._core.models.lmm.ratios`)."""

from __future__ import annotations

import numpy as np

from donorwise._core.models.lmm.algebra import entry, inner

_MAX_ITERATIONS = 60
_DECREMENT = 1e-13  # the squared step in standard errors
_LARGEST_STEP = 1.5  # in the logarithms of lam and rho
_CONVEX = 1e-6  # curvature in x, relative to that in log lam, below which there is none
_LAST = 0.01  # in the logarithms
_LARGE = 1e200  # determinants are multiplied up to here before a logarithm is taken


@inner
def _chebyshev(xi, coefficients, T, w):
    """Weights of the nodes at `xi` in [-1, 1], and their first two derivatives, into `w` (3, L); `T` (3, L) is scratch."""
    L = T.shape[1]
    T[0, 0], T[1, 0], T[2, 0] = 1.0, 0.0, 0.0
    T[0, 1], T[1, 1], T[2, 1] = xi, 1.0, 0.0
    for j in range(2, L):
        T[0, j] = 2.0 * xi * T[0, j - 1] - T[0, j - 2]
        T[1, j] = 2.0 * T[0, j - 1] + 2.0 * xi * T[1, j - 1] - T[1, j - 2]
        T[2, j] = 4.0 * T[1, j - 1] + 2.0 * xi * T[2, j - 1] - T[2, j - 2]
    for d in range(3):
        for l in range(L):
            total = 0.0
            for j in range(L):
                total += T[d, j] * coefficients[j, l]
            w[d, l] = total


@inner
def _along(energy, s, floor, scale, nu, lam):
    """Deviance on a ray, less nu log r'r, and its first two derivatives in log lam: of a feature, or with one column more.

    `energy` (1, m) and `floor` (1,) are of a feature; (3, m) and (3,) of x'x, x'y, y'y for a column x in its fixed part.
    """
    if energy.shape[0] == 3:
        return _along_pair(energy, s, floor, scale, nu, lam)
    return _along_one(energy[0], s, floor[0], scale, nu, lam)


@inner
def _along_pair(energy, s, floor, scale, nu, lam):
    a, b, c = floor[0], floor[1], floor[2]
    a1, b1, c1, a2, b2, c2, L1, L2, logdet, product = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0
    for i in range(s.size):
        whole = 1.0 + lam * s[i]
        h = 1.0 / whole
        gone = 1.0 - h
        e0, e1, e2 = energy[0, i] * h, energy[1, i] * h, energy[2, i] * h
        a += e0
        b += e1
        c += e2
        first, second = gone, gone * (gone - h)
        a1 -= e0 * first
        b1 -= e1 * first
        c1 -= e2 * first
        a2 += e0 * second
        b2 += e1 * second
        c2 += e2 * second
        L1 += gone
        L2 += gone * h
        product *= whole
        if product > _LARGE:
            logdet += np.log(product)
            product = 1.0
    logdet += np.log(product)
    r = b / a
    r1 = (b1 - r * a1) / a
    Q, Q1 = c - b * r, c1 - b1 * r - b * r1
    Q2 = c2 - b2 * r - 2.0 * b1 * r1 - b * (b2 - 2.0 * r1 * a1 - r * a2) / a
    Q1, Q2, a1, a2 = Q1 / Q, Q2 / Q, a1 / a, a2 / a
    return (
        nu * np.log(Q / scale) + np.log(a) + logdet, nu * Q1 + a1 + L1, nu * (Q2 - Q1 * Q1) + a2 - a1 * a1 + L2
    )  # fmt: skip


@inner
def _along_one(energy, s, floor, scale, nu, lam):
    R, R1, R2, L1, L2, logdet, product = floor, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0
    for i in range(s.size):
        a = 1.0 + lam * s[i]
        h = 1.0 / a
        gone = 1.0 - h
        e = energy[i] * h
        R += e
        e *= gone
        R1 -= e
        R2 += e * (gone - h)
        L1 += gone
        L2 += gone * h
        product *= a
        if product > _LARGE:
            logdet += np.log(product)
            product = 1.0
    logdet += np.log(product)
    R1, R2 = R1 / R, R2 / R
    return nu * np.log(R / scale) + logdet, nu * R1 + L1, nu * (R2 - R1 * R1) + L2


@inner
def _surface(energy, s, floor, scale, nu, coefficients, widest, mu, x, T, w, out):
    """The deviance at (log lam, x), its gradient and Hessian into `out` (6,): f, f_mu, f_x, f_mumu, f_mux, f_xx."""
    _chebyshev(x / widest, coefficients, T, w)
    lam = np.exp(mu)
    out[:] = 0.0
    for l in range(s.shape[0]):
        f, f1, f2 = _along(energy[l], s[l], floor, scale, nu, lam)
        w0, w1, w2 = w[0, l], w[1, l] / widest, w[2, l] / widest**2
        out[0] += w0 * f
        out[1] += w0 * f1
        out[2] += w1 * f
        out[3] += w0 * f2
        out[4] += w1 * f1
        out[5] += w2 * f


@inner
def _direction(g0, g1, a, b, c):
    """Newton's step from the gradient and the Hessian [a b; b c].

    Where the deviance is not convex it is nearly flat in x, and linear in exp(x), because one variance is small: the
    longest step downhill then, with what is best of lam for it.
    """
    if not a > 0.0:
        return -_LARGEST_STEP * np.sign(g0), -_LARGEST_STEP * np.sign(g1)
    slope, curvature = g1 - b * g0 / a, c - b * b / a
    d1 = -slope / curvature if curvature > _CONVEX * a else -_LARGEST_STEP * np.sign(slope)
    return -(g0 + b * d1) / a, d1


@inner
def _newton(energy, s, floor, scale, nu, coefficients, widest, mu, x, scratch):
    """Safeguarded Newton from (mu, x); return both, the deviance, the iterations and whether it converged inside."""
    T, w, now, then = scratch
    _surface(energy, s, floor, scale, nu, coefficients, widest, mu, x, T, w, now)
    for iteration in range(1, _MAX_ITERATIONS):
        d0, d1 = _direction(now[1], now[2], now[3], now[4], now[5])
        decrement = -(d0 * now[1] + d1 * now[2])
        largest = max(abs(d0), abs(d1))
        size = min(1.0, _LARGEST_STEP / largest) if largest > 0.0 else 1.0
        if decrement < _DECREMENT:
            if largest < _LAST:  # it is longer where nothing tells the way
                mu, x = mu + d0, x + d1
            return mu, x, now[0], iteration, abs(x) < widest
        while True:
            new_mu, new_x = mu + size * d0, x + size * d1
            if abs(new_x) > widest:
                new_x = widest if new_x > 0.0 else -widest
                if x == new_x:
                    return mu, x, now[0], iteration, False
            _surface(energy, s, floor, scale, nu, coefficients, widest, new_mu, new_x, T, w, then)
            if then[0] <= now[0] + 1e-10 * (1.0 + abs(now[0])):
                break
            size *= 0.25
            if size < 1e-8:
                return mu, x, now[0], iteration, decrement < 1e-8
        mu, x = new_mu, new_x
        now[:] = then
        if abs(mu) > 100.0:
            break
    return mu, x, now[0], iteration, False


@entry
def newton_features(
    energy, s, floor, rss, nu, coefficients, widest, start, first, mu, x, deviance, iterations, converged
):
    """Newton's method for every feature, from `start` and `first` (G,), into the last five arrays (G,).

    `energy` (G, L, k, m) and `floor` (G, k) as for :func:`_along`.
    """
    L = s.shape[0]
    scratch = (np.zeros((3, L)), np.zeros((3, L)), np.zeros(6), np.zeros(6))
    for g in range(rss.size):
        mu[g], x[g], deviance[g], iterations[g], converged[g] = _newton(
            energy[g], s, floor[g], rss[g], nu, coefficients, widest, start[g], first[g], scratch
        )


@entry
def curvature_features(energy, s, floor, rss, nu, coefficients, widest, mu, x, out):
    """Second derivatives of the deviance of every feature at (mu, x) (G,), f_mumu, f_mux and f_xx, into `out` (G, 3)."""
    L = s.shape[0]
    T, w, now = np.zeros((3, L)), np.zeros((3, L)), np.zeros(6)
    for g in range(rss.size):
        _surface(energy[g], s, floor[g], rss[g], nu, coefficients, widest, mu[g], x[g], T, w, now)
        out[g, 0], out[g, 1], out[g, 2] = now[3], now[4], now[5]


@entry
def newton_pairs(ux, uy, s, floor, rss, variants, features, nu, coefficients, widest, start, first, out):
    """Newton's method for pairs of a column x and a feature y that it is a fixed effect of.

    `ux` (V, L, m) and `uy` (G, L, m) in the coordinates of the nodes, `floor` (n, 3) and `rss` (n,) of the pairs, `start` and
    `first` (n,) log lam and x to begin with; into `out` (n, 6): estimate, standard error, log lam, x, deviance, and 1 for those
    that converged.
    """
    L, m = s.shape
    energy = np.empty((L, 3, m))
    T, w = np.zeros((3, L)), np.zeros((3, L))
    scratch = (T, w, np.zeros(6), np.zeros(6))
    for i in range(variants.size):
        v, g = variants[i], features[i]
        for l in range(L):
            for j in range(m):
                energy[l, 0, j] = ux[v, l, j] * ux[v, l, j]
                energy[l, 1, j] = ux[v, l, j] * uy[g, l, j]
                energy[l, 2, j] = uy[g, l, j] * uy[g, l, j]
        mu, x, deviance, _, converged = _newton(
            energy, s, floor[i], rss[i], nu, coefficients, widest, start[i], first[i], scratch
        )
        _chebyshev(x / widest, coefficients, T, w)
        log_a, b, log_Q = 0.0, 0.0, 0.0
        for l in range(L):
            own_a, own_b, own_c = _sums(energy[l], s[l], floor[i], np.exp(mu))
            log_a += w[0, l] * np.log(own_a)
            b += w[0, l] * own_b
            log_Q += w[0, l] * np.log(own_c - own_b * own_b / own_a)
        out[i, 0] = b / np.exp(log_a)
        out[i, 1] = np.sqrt(np.exp(log_Q - log_a) / nu)
        out[i, 2], out[i, 3], out[i, 4], out[i, 5] = mu, x, deviance, 1.0 if converged else 0.0


@inner
def _sums(energy, s, floor, lam):
    a, b, c = floor[0], floor[1], floor[2]
    for i in range(s.size):
        h = 1.0 / (1.0 + lam * s[i])
        a += energy[0, i] * h
        b += energy[1, i] * h
        c += energy[2, i] * h
    return a, b, c


@entry
def edge_pairs(ux, uy, s, other, floor, rss, variants, features, nu, lam, out):
    """The same pairs on a boundary, at their `lam` (n,) there.

    `ux` (V, m), `uy` (G, m), `floor` and `rss` (G,) and the `other` variance (m, m) are in the coordinates of its ray; into `out` (n, 4): estimate,
    standard error, deviance, and its derivative in the other variance.
    """
    m = s.size
    energy, left, h, floors = np.empty((3, m)), np.empty(m), np.empty(m), np.zeros(3)
    for i in range(variants.size):
        x, y = ux[variants[i]], uy[features[i]]
        logdet, trace = 0.0, 0.0
        for j in range(m):
            energy[0, j], energy[1, j], energy[2, j] = x[j] * x[j], x[j] * y[j], y[j] * y[j]
            h[j] = 1.0 / (1.0 + lam[i] * s[j])
            logdet -= np.log(h[j])
            trace += h[j] * other[j, j]
        floors[2] = floor[features[i]]
        a, b, c = _sums(energy, s, floors, lam[i])
        Q, estimate = c - b * b / a, b / a
        for j in range(m):
            left[j] = h[j] * (y[j] - estimate * x[j])
        of_x, of_left = 0.0, 0.0
        for j in range(m):
            total_x, total_left = 0.0, 0.0
            for k in range(m):
                total_x += other[j, k] * h[k] * x[k]
                total_left += other[j, k] * left[k]
            of_x += h[j] * x[j] * total_x
            of_left += left[j] * total_left
        out[i, 0], out[i, 1] = estimate, np.sqrt(Q / (nu * a))
        out[i, 2] = nu * np.log(Q / rss[features[i]]) + np.log(a) + logdet
        out[i, 3] = trace - of_x / a - nu * of_left / Q
