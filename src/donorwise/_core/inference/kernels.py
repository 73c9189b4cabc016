"""Loops over features for moderated tests: steps of EM, and distribution functions of mixtures of t."""

from __future__ import annotations

import numpy as np
from numba import njit

from donorwise._core.models.lmm.algebra import entry, inner

_UNSEEN = 1e-17  # share of a tail that a point without influence on it can have at most
_NEGLIGIBLE = 1e-10  # weight of a point that no quantile reported here can feel
_HUGE = 1e9  # asinh is a logarithm from here on
_STEEP = 30.0  # beyond a table that ends below 1e-290, where only zero is left to reach


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def em_counts(likelihood, knot, share, weights, counts):
    """One pass over the features for a step of EM: add up `counts` (knots, points), return the log-likelihood.

    With w_g = (1 - share_g) weights[knot_g] + share_g weights[knot_g + 1] and l_g = likelihood[g], the marginal
    likelihood of feature g is m_g = w_g'l_g, and its counts are l_g / m_g, split between its two knots.
    """
    total = 0.0
    for g in range(likelihood.shape[0]):
        l, k, upper = likelihood[g], knot[g], share[g]
        below, above, low, high = weights[k], weights[k + 1], counts[k], counts[k + 1]
        a, b = 0.0, 0.0
        for j in range(l.size):
            a += l[j] * below[j]
            b += l[j] * above[j]
        marginal = (1.0 - upper) * a + upper * b
        total += np.log(marginal)
        a, b = (1.0 - upper) / marginal, upper / marginal
        for j in range(l.size):
            low[j] += a * l[j]
            high[j] += b * l[j]
    return total


@inner
def _upper_tail(x, table):
    """P(T > x) for x >= 0 from a :class:`~donorwise._core.inference.mixture.TailTable`; NaN for NaN."""
    r, v = x / table.root, x
    if r > _HUGE:
        v = table.root * np.log(2.0 * r)
    elif table.root < np.inf:  # asinh, exact for small r, too
        v = table.root * np.log1p(r + r * r / (1.0 + np.sqrt(1.0 + r * r)))
    at, n = v * table.per, table.log_tail.shape[0]
    if at < n:
        piece = int(at)
        z, beyond = 2.0 * (at - piece) - 1.0, 0.0
    else:  # a power of x: straight in v
        piece, z, beyond = n - 1, 1.0, (at - n) / table.per
    logarithm = 0.0
    for k in range(table.log_tail.shape[1] - 1, -1, -1):
        logarithm = logarithm * z + table.log_tail[piece, k]
    return np.exp(logarithm - beyond * min(table.root, _STEEP))


@inner
def _on_side(side, q, m, s, table):
    """Probability of a mixture on one side of zero, above it (1) or below it (-1)."""
    total = 0.0
    for k in range(q.size):
        if q[k] <= _UNSEEN * total:
            continue
        t = side * m[k] / s[k]
        upper = _upper_tail(abs(t), table)
        total += q[k] * (upper if t < 0.0 else 1.0 - upper)
    return total


@entry
def tails_at_zero(q, m, s, table, tail):
    """Of each mixture (row of q, m, s): its probability on the side of zero where it has little, into `tail`."""
    for g in range(q.shape[0]):
        side = 0.0
        for k in range(q.shape[1]):
            side += q[g, k] * m[g, k] / s[g, k]
        tail[g] = _on_side(-np.sign(side), q[g], m[g], s[g], table)


@entry
def tails_beyond(side, q, roots, table, tail):
    """Of each row of q: averages of T(side root) over the points, `side` (G,), `roots` and `tail` (2, G, K) and (2, G)."""
    one = np.ones(q.shape[1])
    for i in range(roots.shape[0]):
        for g in range(q.shape[0]):
            tail[i, g] = _on_side(side[g], q[g], roots[i, g], one, table)


@entry
def t_density(u, nu):
    """Density of t; the constant's error of order 1/nu³ only bends a Newton step."""
    if nu == np.inf:
        return np.exp(-0.5 * u**2) / np.sqrt(2.0 * np.pi)
    constant = -1.0 / (4.0 * nu) - 0.5 * np.log(2.0 * np.pi)
    return np.exp(constant - 0.5 * (nu + 1.0) * np.log1p(u**2 / nu))


@entry
def distributions(x, rows, q, m, s, table, cdf, density):
    """Distribution function and density of some `rows` of the mixtures, each at its own x."""
    per, near = table.per_near, table.near
    for i in range(rows.size):
        g = rows[i]
        cdf[i], density[i] = 0.0, 0.0
        for k in range(q.shape[1]):
            if q[g, k] <= _NEGLIGIBLE:
                continue
            u = (x[g] - m[g, k]) / s[g, k]
            at = abs(u) * per
            if at < near.shape[0]:
                piece = int(at)
                z, upper, height = 2.0 * (at - piece) - 1.0, 0.0, 0.0
                for d in range(near.shape[1] - 1, -1, -1):
                    upper = upper * z + near[piece, d, 0]
                    height = height * z + near[piece, d, 1]
            else:
                upper, height = _upper_tail(abs(u), table), t_density(u, table.nu)
            cdf[i] += q[g, k] * (upper if u < 0.0 else 1.0 - upper)
            density[i] += q[g, k] * height / s[g, k]
