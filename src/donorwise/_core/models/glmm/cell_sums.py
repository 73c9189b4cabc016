"""Sums over the cells of a pattern: its log-density, the gradient and the Hessian, in what its cells share and what they do not.

A cell i of pattern k has the linear predictor eta_k + u_i'gamma_k. One pass over the cells, in loops that LLVM makes vector
instructions of, leaves numbers of the pattern.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from donorwise._core.models.glmm.families import LOGIT, NB, POISSON
from donorwise._core.models.glmm.lanes import exponential, logarithm, loops

# sums may be taken in any order: LLVM makes vector instructions of them
summed = partial(njit, nogil=True, cache=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
    fastmath={"reassoc", "contract"}
)

_HIGHEST, _LOWEST = 300.0, -690.0  # of the linear predictor


class Cells(NamedTuple):
    """What features share: N cells, pattern by pattern, P patterns, component by component.

    Attributes
    ----------
    code
        The family.
    starts, first
        Shapes (C + 1,), (P + 1,). First pattern of each component, first cell of each pattern.
    U
        Shape (m, N). What is within patterns.
    t, trials
        Shape (N,). Exposures, and trials; of negative binomial counts as many cells as each stands for.
    """

    code: int
    starts: np.ndarray
    first: np.ndarray
    U: np.ndarray
    t: np.ndarray
    trials: np.ndarray


class Sums(NamedTuple):
    """Room for a pattern: exp(eta), scores and weights of its cells; gradient and Hessian in (eta, gamma); J and K J."""

    numbers: np.ndarray  # (3, cells)
    gamma: np.ndarray  # (m,)
    score: np.ndarray  # (1 + m,)
    K: np.ndarray  # (1 + m, 1 + m)
    J: np.ndarray  # (1 + m, p + q)
    KJ: np.ndarray  # (1 + m, p + q)


@loops
def new_sums(cells, p, q):
    """Room for the largest pattern."""
    m, most = cells.U.shape[0], 0
    for k in range(cells.first.size - 1):
        most = max(most, cells.first[k + 1] - cells.first[k])
    return Sums(
        np.empty((3, most)), np.empty(m), np.empty(1 + m), np.empty((1 + m, 1 + m)), np.empty((1 + m, p + q)),
        np.empty((1 + m, p + q)),
    )  # fmt: skip


@summed
def _means(U, first, last, gamma, eta, mean):
    """exp(eta + u'gamma) of the cells."""
    n = last - first
    for i in range(n):
        mean[i] = eta
    for a in range(U.shape[0]):
        own, slope = U[a, first:last], gamma[a]
        for i in range(n):
            mean[i] += slope * own[i]
    for i in range(n):
        mean[i] = exponential(min(max(mean[i], _LOWEST), _HIGHEST))


@summed
def _nb_slopes(y, t, trials, size, mean, score, weight):
    for i in range(y.size):
        z = t[i] * mean[i]
        w = z / (size + z)
        a = (y[i] + trials[i] * size) * w
        score[i] = y[i] - a
        weight[i] = a * (1.0 - w)


@summed
def _nb_value(y, t, trials, size, mean):
    total, scale = 0.0, 1.0 / size
    for i in range(y.size):
        total += (y[i] + trials[i] * size) * logarithm(1.0 + t[i] * mean[i] * scale)
    return -total


@summed
def _poisson_slopes(y, t, mean, score, weight):
    for i in range(y.size):
        weight[i] = t[i] * mean[i]
        score[i] = y[i] - weight[i]


@summed
def _poisson_value(t, mean):
    total = 0.0
    for i in range(t.size):
        total += t[i] * mean[i]
    return -total


@summed
def _logit_slopes(y, trials, mean, score, weight):
    for i in range(y.size):
        rest = 1.0 / (1.0 + mean[i])
        score[i] = y[i] - trials[i] * mean[i] * rest
        weight[i] = trials[i] * mean[i] * rest * rest


@summed
def _logit_value(trials, mean):
    total = 0.0
    for i in range(trials.size):
        total += trials[i] * logarithm(1.0 + mean[i])
    return -total


@loops
def _cloglog_slopes(y, t, trials, mean, score, weight):
    for i in range(y.size):
        z = t[i] * mean[i]
        odds = z / np.expm1(z) if z < 700.0 else 0.0
        failed = (trials[i] - y[i]) * z
        score[i] = y[i] * odds - failed
        weight[i] = failed - y[i] * odds * (1.0 - z - odds)


@loops
def _cloglog_value(y, t, trials, mean):
    total = 0.0
    for i in range(y.size):
        z = t[i] * mean[i]
        total += y[i] * np.log(-np.expm1(-z)) - (trials[i] - y[i]) * z
    return total


@loops
def _slopes(code, size, y, t, trials, mean, score, weight):
    """First and negative second derivatives of the cells' log-densities."""
    if code == NB:
        _nb_slopes(y, t, trials, size, mean, score, weight)
    elif code == POISSON:
        _poisson_slopes(y, t, mean, score, weight)
    elif code == LOGIT:
        _logit_slopes(y, trials, mean, score, weight)
    else:
        _cloglog_slopes(y, t, trials, mean, score, weight)


@loops
def _curved(code, size, y, t, trials, mean):
    """The sum of the cells' log-densities, without what is linear in eta."""
    if code == NB:
        return _nb_value(y, t, trials, size, mean)
    if code == POISSON:
        return _poisson_value(t, mean)
    if code == LOGIT:
        return _logit_value(trials, mean)
    return _cloglog_value(y, t, trials, mean)


@summed
def _condense(U, first, last, score, weight, out, K):
    """Gradient and negative Hessian in (eta, gamma) from the scores and weights of the cells."""
    n, m = last - first, U.shape[0]
    total, information = 0.0, 0.0
    for i in range(n):
        total += score[i]
        information += weight[i]
    out[0], K[0, 0] = total, information
    for a in range(m):
        own = U[a, first:last]
        total, information = 0.0, 0.0
        for i in range(n):
            total += own[i] * score[i]
            information += own[i] * weight[i]
        out[1 + a], K[1 + a, 0], K[0, 1 + a] = total, information, information
        for c in range(a + 1):
            other, information = U[c, first:last], 0.0
            for i in range(n):
                information += own[i] * other[i] * weight[i]
            K[1 + a, 1 + c], K[1 + c, 1 + a] = information, information


@loops
def add_up(cells, y, linear, size, k, eta, sums, with_value):
    """Sums of a pattern at its eta and `sums.gamma`, into `sums.score` and `sums.K`; its log-density if that is asked for.

    `linear` (1 + m,) are the responses, and what is within the pattern times them (for a cloglog link none).
    """
    first, last = cells.first[k], cells.first[k + 1]
    n = last - first
    mean, score, weight = sums.numbers[0, :n], sums.numbers[1, :n], sums.numbers[2, :n]
    own, t, trials = y[first:last], cells.t[first:last], cells.trials[first:last]
    _means(cells.U, first, last, sums.gamma, eta, mean)
    _slopes(cells.code, size, own, t, trials, mean, score, weight)
    _condense(cells.U, first, last, score, weight, sums.score, sums.K)
    if not with_value:
        return 0.0
    value = _curved(cells.code, size, own, t, trials, mean) + linear[0] * eta
    for a in range(sums.gamma.size):
        value += linear[1 + a] * sums.gamma[a]
    return value
