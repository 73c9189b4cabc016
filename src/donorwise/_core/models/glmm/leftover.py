"""How much rows vary about a fitted model, beyond what counts, or yes and no, vary by chance.

Where several rows share their random effects (two arms of a donor with `(1 | donor)` alone) they are to differ by their fixed
effects and by chance. With the mean m and the variance v of each row, at the modes, Pearson's statistic

    X² = sum_k (y_k - m_k)² / v_k

has about K - tr(H) degrees of freedom, H = C (C'WC + P)^-1 C'W the hat matrix of C = [X, Lambda'z], P = diag(0, I). Rows with a
random effect of their own leave nothing over, and nothing is wrong then: their effects take in what counts vary more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import chi2

from donorwise._core.models.glmm.effects import modes
from donorwise._core.models.glmm.families import LOGIT, POISSON

if TYPE_CHECKING:
    from donorwise._core.models.glmm.model import GLMM
    from donorwise._typing import FloatArray, IntArray

_MOST = 200  # features that are looked at: those of most counts
_DOUBLES = 4_000_000  # of the largest array
_ENOUGH = 5.0  # counts of a row on average, for its square to have the law that it is compared with
_LEAST_DF = 1.0
_CHANCE = 1e-3


class Leftover(NamedTuple):
    """Features that were looked at, those that vary more than by chance, and how many times as much all of them vary."""

    n: int
    n_over: int
    times: float


def leftover(model: GLMM, points: FloatArray) -> Leftover:
    """What is left over at variances and correlations (G, parameters), of the features with enough counts."""
    counts = model.counts
    code, K = counts.distribution.code, counts.n_obs.size
    if code not in (POISSON, LOGIT):
        return Leftover(0, 0, np.nan)
    total = counts.sums().sum(axis=1)
    scarce = np.minimum(total, counts.most.sum() - total)  # successes or failures, whichever are fewer
    known = np.flatnonzero((scarce >= _ENOUGH * K) & np.isfinite(points).all(axis=1))
    width = model.rows.width + model.rows.X.shape[1]
    most = int(min(_MOST, _DOUBLES // (K * width**2)))
    at = np.sort(known[np.argsort(-scarce[known], kind="stable")[:most]])
    if not at.size:
        return Leftover(0, 0, np.nan)
    squares, df = pearson(model, at, points[at])
    kept = df >= _LEAST_DF
    if not kept.any():
        return Leftover(0, 0, np.nan)
    over = chi2.sf(squares[kept], df[kept]) < _CHANCE
    return Leftover(int(kept.sum()), int(over.sum()), float(squares[kept].sum() / df[kept].sum()))


def pearson(model: GLMM, at: IntArray, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pearson's statistic and its degrees of freedom, (B,), of B features at their variances and correlations."""
    rows, counts = model.rows, model.counts
    found, A = modes(model, at, points), rows.loadings(points)
    starts = rows.kernel.starts
    component = np.repeat(np.arange(starts.size - 1), np.diff(starts))
    eta = found.beta @ rows.X.T + np.einsum("bkq,bkq->bk", A, found.b[:, component])
    size = (counts.shared * counts.exposures).sum(axis=1)[rows.order]
    mean = size * (expit(eta) if rows.kernel.code == LOGIT else np.exp(eta))
    W = mean * expit(-eta) if rows.kernel.code == LOGIT else mean
    squares = ((counts.block(at).total[rows.order].T - mean) ** 2 / W).sum(axis=1)
    return squares, size.size - _hat_trace(rows.X, A, W, starts)


def _hat_trace(X: FloatArray, A: FloatArray, W: FloatArray, starts: IntArray) -> FloatArray:
    """tr H (B,) of fixed columns (K, p), random ones (B, K, q) of C components, and weights (B, K).

    It is p + C q - tr(T), T the block of the inverse of C'WC + P that belongs to the random columns: with M = A'WA + I, component
    by component, N = A'WX and S = X'WX - N'M^-1 N this is M^-1 + M^-1 N S^-1 N'M^-1.
    """
    AW, first = A * W[:, :, None], starts[:-1]
    M = np.add.reduceat(AW[:, :, :, None] * A[:, :, None, :], first, axis=1) + np.eye(A.shape[2])
    N = np.add.reduceat(AW[:, :, :, None] * X[None, :, None, :], first, axis=1)
    inverse = np.linalg.inv(M)
    turned = inverse @ N
    S = np.einsum("bk,kp,kr->bpr", W, X, X, optimize=True) - np.einsum("bcqp,bcqr->bpr", N, turned)
    T = np.einsum("bcqq->b", inverse) + np.einsum("bpr,bcqp,bcqr->b", np.linalg.inv(S), turned, turned, optimize=True)
    return np.asarray(X.shape[1] + M.shape[1] * M.shape[2] - T)
