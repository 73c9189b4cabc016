"""Moderated F tests of several contrasts L beta = 0: the exact p-value of every point, averaged over the posterior.

Given the variances L beta has a t distribution about L b_k with n - p degrees of freedom (flat prior, see
:mod:`donorwise._core.inference.moderation`), and zero lies on the ellipsoid of its that has the content 1 - p_k,

    F_k = (L b_k)'(L Phi_k L')⁻¹(L b_k) / (r s_k²),   p_k = P(F(r, n - p) > F_k),   p = sum_k q_k p_k.

Where the points change the size of the ellipsoids alone (donors that are replicated alike) this is the posterior
probability of what lies beyond the one through zero, which is exact as the single test is; where they change shape
or centre as well it is the average over them. Of one contrast it is the square of the t test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaln, chdtri, fdtrc

from donorwise._core.inference.moderation import moderated_tests, posterior
from donorwise._core.inference.student import solve_log
from donorwise._core.inference.wald import JointTests, joint_status
from donorwise._core.models.law import BUDGET, chunks
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.models.lmm.model import LMM
    from donorwise._core.models.lmm.ragged_model import RaggedLMM
    from donorwise._typing import FloatArray, IntArray, StrArray

_LIKELY = 1e-3  # weight of the points that a first bound of p comes from
_UNSEEN = 1e-17  # share of p that a point without influence on it can have
_LEAST, _MOST = 2 * float(np.finfo(float).tiny), 1 - 1e-16  # p of what has a quantile that is not zero


def moderated_joint_tests(
    model: LMM | RaggedLMM, L: FloatArray, learned: Learned, *, chunk: int = BUDGET
) -> JointTests:
    """F tests that all contrasts L (r, p), given in the basis of the formula, are zero.

    What is reported is the F that has this p-value, with the denominator's degrees of freedom of
    :func:`denominator_df`.
    """
    points, rank, status = learned.points, len(L), joint_status(model, L)
    if rank == 1:
        t = moderated_tests(model, L, learned, 0.95).tests
        return _joint(t.statistic[:, 0] ** 2, t.df[:, 0], t.p_value[:, 0], status)
    grid = model.on(points, L)
    p_value, den_df = (np.full(model.features.size, np.nan) for _ in range(2))
    usable = model.usable[np.isin(status[model.usable], FITTED)]
    for at in chunks(usable, len(points), chunk // rank):
        features = model.features[at]
        law = grid.joint(at, learned.known(features))
        q = posterior(law.loglik, learned.prior.at(learned.rank[features]))
        p_value[at] = mean_p(q, law.F, rank, law.nu)
        den_df[at] = denominator_df(q, law.size, law.nu)
    statistic = np.full(p_value.size, np.nan)
    statistic[usable] = f_of_p(p_value[usable], rank, den_df[usable])
    return _joint(statistic, den_df, p_value, status)


def _joint(statistic: FloatArray, den_df: FloatArray, p_value: FloatArray, status: StrArray) -> JointTests:
    return JointTests(statistic, den_df, np.where(np.isfinite(p_value), 1.0, np.nan), p_value, status)


def mean_p(q: FloatArray, F: FloatArray, rank: int, nu: float | FloatArray) -> FloatArray:
    """sum_k q_k P(F(rank, nu) > F_k), from arrays (G, points), and degrees of freedom that may be (G,)."""
    likely, df = q > _LIKELY, np.broadcast_to(np.reshape(nu, (-1, 1)), q.shape)
    tail = np.zeros_like(q)
    tail[likely] = fdtrc(rank, df[likely], F[likely])
    seen = ~likely & (q > _UNSEEN * (q * tail).sum(axis=1, keepdims=True))
    tail[seen] = fdtrc(rank, df[seen], F[seen])
    return np.minimum((q * tail).sum(axis=1), 1.0)


def denominator_df(q: FloatArray, size: FloatArray, nu: float | FloatArray) -> FloatArray:
    """Degrees of freedom d of the denominator whose relative variance, 2 / d, is that of size_k chi²_nu / nu."""
    mean, square = (q * size).sum(axis=1), (q * size**2).sum(axis=1) * (1 + 2 / nu)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(2 / (square / mean**2 - 1), 1.0, nu))


def f_of_p(p: FloatArray, rank: int, df: FloatArray) -> FloatArray:
    """F with P(F(rank, df) > F) = p, from arrays (G,), down to the smallest p."""
    target = np.log(np.clip(p, _LEAST, _MOST))
    height = -betaln(0.5 * rank, 0.5 * df)
    square = chdtri(rank, np.exp(target)) / df
    with np.errstate(divide="ignore"):  # nearly: log(1 + rank F / df) is straight
        log_f = np.log(df / rank) + square + np.log(-np.expm1(-square))

    def tail(log_f: FloatArray, at: IntArray) -> tuple[FloatArray, FloatArray]:
        log_tail = np.log(np.maximum(fdtrc(rank, df[at], np.exp(log_f)), _LEAST))
        odds = log_f + np.log(rank / df[at])
        return log_tail, -np.exp(
            height[at] + 0.5 * rank * odds - 0.5 * (df[at] + rank) * np.logaddexp(0, odds) - log_tail
        )

    return np.where(p == 1, 0.0, np.exp(solve_log(target, log_f, tail)))
