"""Loops over features for moderated tests: steps of EM, and distribution functions of mixtures of t."""

from __future__ import annotations

import numpy as np
from numba import njit


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
