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
    """Deviance of one feature on a ray, less nu log r'r, and its first two derivatives in log lam."""
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
    """Newton's method for every feature, from `start` and `first` (G,), into the last five arrays (G,)."""
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
