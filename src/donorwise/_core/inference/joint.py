"""F tests of several contrasts L beta = 0: the p-value at every point of the variances, averaged over the posterior.

Given the variances a family says what has the distribution F(r, nu) where all r contrasts are zero (see
:class:`donorwise._core.models.law.JointLaw`): of Gaussian models, with L beta in a t distribution about L b_k with
n - p degrees of freedom (flat prior, see :mod:`donorwise._core.inference.moderation`),

    F_k = (L b_k)'(L Phi_k L')⁻¹(L b_k) / (r s_k²),   p_k = P(F(r, n - p) > F_k),   p = sum_k q_k p_k,

which says that zero lies on the ellipsoid of its that has the content 1 - p_k; of models of counts r F_k is twice the
log-likelihood that zeros cost, which is chi-squared with r degrees of freedom and finite where estimates are not.

Where the points change the size of the ellipsoids alone (donors that are replicated alike) this is the posterior
probability of what lies beyond the one through zero, which is exact as the single test is; where they change shape
or centre as well it is the average over them. Of one contrast it is the square of the t test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import betaln, chdtrc, chdtri, fdtrc

from donorwise._core.design.replicates import known_df
from donorwise._core.inference.moderation import moderated_tests, posterior, tests_by_law
from donorwise._core.inference.student import solve_log
from donorwise._core.inference.wald import JointTests, joint_status
from donorwise._core.jobs import in_threads
from donorwise._core.models.law import BUDGET, chunks, tensor
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.inference.moderation import Learned
    from donorwise._core.inference.wald import ContrastTests
    from donorwise._core.models.law import JointLaw, Model
    from donorwise._typing import FloatArray, IntArray, StrArray

_LIKELY = 1e-3  # weight of the points that a first bound of p comes from
_UNSEEN = 1e-17  # share of p that a point without influence on it can have
_LEAST, _MOST = 2 * float(np.finfo(float).tiny), 1 - 1e-16  # p of what has a quantile that is not zero
_NORMAL = 1e7  # degrees of freedom, of families without any, that are as good as infinitely many


class _Made(NamedTuple):
    """Of a chunk of features: statistics, degrees of freedom of the denominator and p-values, (G,) each."""

    statistic: FloatArray
    den_df: FloatArray
    p_value: FloatArray


def moderated_joint_tests(
    model: Model, L: FloatArray, learned: Learned, n_jobs: int = 1, *, chunk: int = BUDGET
) -> JointTests:
    """F tests that all contrasts L (r, p), independent and given in the basis of the formula, are zero.

    What is reported is the F that has this p-value, with the denominator's degrees of freedom of
    :func:`denominator_df`.
    """
    rank = len(L)
    if rank == 1:
        return _of_one(moderated_tests(model, L, learned, 0.95, n_jobs).tests, joint_status(model, L))
    points = learned.points
    grid = model.on(points, L)

    def test(at: IntArray) -> _Made:
        features = model.features[at]
        law = grid.joint(at, learned.known(features))
        q = posterior(law.loglik, learned.prior.at(learned.rank[features]))
        p, den_df = mean_p(q, law.F, rank, law.nu), denominator_df(q, law.size, law.nu)
        return _Made(f_of_p(p, rank, den_df), den_df, p)

    return _tested(model, L, len(points), test, n_jobs, chunk)


def joint_tests_by_law(model: Model, L: FloatArray, ddf: str, n_jobs: int = 1, *, chunk: int = BUDGET) -> JointTests:
    """The same without a prior, at the REML estimates of the variances; see :func:`tests_by_law`.

    The denominator has the fewest degrees of freedom that the design gives one of the contrasts; with ``"wald"`` the
    statistic is that of the estimates, and r times it chi-squared.
    """
    rank = len(L)
    if rank == 1:
        return _of_one(tests_by_law(model, L, ddf, 0.95, n_jobs).tests, joint_status(model, L))
    points = tensor(model.fine_axes())
    grid, wald = model.on(points, L), ddf == "wald"
    df = np.inf if wald else float(known_df(model.design, int(model.n_obs), L).min())

    def test(at: IntArray) -> _Made:
        law: JointLaw = grid.joint(at)
        best = np.arange(at.size), law.loglik.argmax(axis=1)
        F, den_df = (law.wald if wald else law.F)[best], np.full(at.size, df)
        return _Made(F, den_df, f_tail(rank, den_df, F))

    return _tested(model, L, len(points), test, n_jobs, chunk)


def _tested(
    model: Model, L: FloatArray, n_points: int, test: Callable[[IntArray], _Made], n_jobs: int, chunk: int
) -> JointTests:
    """Every feature its row, in the order of the chunks."""
    status = joint_status(model, L)
    usable = model.usable[np.isin(status[model.usable], FITTED)]
    made = list(in_threads(test, chunks(usable, n_points, chunk // len(L) ** 2, model.most_together), n_jobs))
    found = np.full((len(_Made._fields), status.size), np.nan)
    if made:
        found[:, usable] = np.concatenate(made, axis=1)
    statistic, den_df, p_value = found
    return _joint(statistic, den_df, p_value, status)


def _of_one(t: ContrastTests, status: StrArray) -> JointTests:
    """The F test of one contrast from its t test."""
    return _joint(t.statistic[:, 0] ** 2, t.df[:, 0], t.p_value[:, 0], status)


def _joint(statistic: FloatArray, den_df: FloatArray, p_value: FloatArray, status: StrArray) -> JointTests:
    return JointTests(statistic, den_df, np.where(np.isfinite(p_value), 1.0, np.nan), p_value, status)


def f_tail(rank: int, df: FloatArray, F: FloatArray) -> FloatArray:
    """P(F(rank, df) > F); of infinitely many degrees of freedom that of chi-squared."""
    return np.where(np.isinf(df), chdtrc(rank, rank * F), fdtrc(rank, np.where(np.isinf(df), 1.0, df), F))


def mean_p(q: FloatArray, F: FloatArray, rank: int, nu: float | FloatArray) -> FloatArray:
    """sum_k q_k P(F(rank, nu) > F_k), from arrays (G, points), and degrees of freedom that may be (G,)."""
    likely, df = q > _LIKELY, np.broadcast_to(np.reshape(nu, (-1, 1)), q.shape)
    tail = np.zeros_like(q)
    tail[likely] = f_tail(rank, df[likely], F[likely])
    seen = ~likely & (q > _UNSEEN * (q * tail).sum(axis=1, keepdims=True))
    tail[seen] = f_tail(rank, df[seen], F[seen])
    return np.minimum((q * tail).sum(axis=1), 1.0)


def denominator_df(q: FloatArray, size: FloatArray, nu: float | FloatArray) -> FloatArray:
    """Degrees of freedom d of the denominator whose relative variance, 2 / d, is that of size_k chi²_nu / nu."""
    mean, square = (q * size).sum(axis=1), (q * size**2).sum(axis=1) * (1 + 2 / nu)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.clip(2 / (square / mean**2 - 1), 1.0, nu)
    return np.where(np.isinf(nu) & (df > _NORMAL), np.inf, df)


def f_of_p(p: FloatArray, rank: int, df: FloatArray) -> FloatArray:
    """F with P(F(rank, df) > F) = p, from arrays (G,), down to the smallest p."""
    target = np.log(np.clip(p, _LEAST, _MOST))
    chi2, finite = chdtri(rank, np.exp(target)), np.isfinite(df)
    out = chi2 / rank
    out[finite] = _f_of_log_p(target[finite], chi2[finite], rank, df[finite])
    return np.where(p == 1, 0.0, out)


def _f_of_log_p(target: FloatArray, chi2: FloatArray, rank: int, df: FloatArray) -> FloatArray:
    """The same for finite degrees of freedom, from where infinitely many would have it."""
    height, square = -betaln(0.5 * rank, 0.5 * df), chi2 / df
    with np.errstate(divide="ignore"):  # nearly: log(1 + rank F / df) is straight
        log_f = np.log(df / rank) + square + np.log(-np.expm1(-square))

    def tail(log_f: FloatArray, at: IntArray) -> tuple[FloatArray, FloatArray]:
        log_tail = np.log(np.maximum(fdtrc(rank, df[at], np.exp(log_f)), _LEAST))
        odds = log_f + np.log(rank / df[at])
        return log_tail, -np.exp(
            height[at] + 0.5 * rank * odds - 0.5 * (df[at] + rank) * np.logaddexp(0, odds) - log_tail
        )

    return np.exp(solve_log(target, log_f, tail))
