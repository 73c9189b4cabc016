"""Fits in which single measurements that lie far away count for less: Huber's psi in a mixed model.

With residuals r of the fit (fixed effects and modes of the random ones), leverages h = diag(I - W⁻¹P) and a scale s,

    u = r / (s sqrt((1 - h) / w)),   y* = fitted + s sqrt((1 - h) / w) psi(u) K / kappa,   psi(u) = max(-k, min(u, k)),

the mixed model is fitted to the pseudo-measurements y* (Fellner 1986), variances by REML, and both in turns until
they agree. The estimates are those with weights w min(1, k / |u|). At normal errors the residual variance of y* is that of y
over the efficiency of psi, kappa² / E psi² with kappa = E psi', so that whatever is made from y* (standard errors, degrees of
freedom, laws for moderation) has the right size to first order; weighted rows do not (the squares of what is left
are smaller than the weights say). K = 1 + (1 - kappa) / kappa mean(h) is Huber's correction to the second order: K² of the
variance of the estimates, half of which is what few rows take from the scale, so that the efficiency that is used is
kappa² / (K E psi²).
The scale solves sum (1 - h) (psi_c(u)² - E psi_c²) = 0 (Huber's proposal 2) with a wider c: with c = k it has two thirds of
the degrees of freedom of the residuals, with c = 2 nine tenths, and kappa stays what it is where tails are heavy.

References
----------
Huber (1964), Annals of Mathematical Statistics 35:73-101. Huber (1973), Annals of Statistics 1:799-821 (K, pseudo-measurements).
Fellner (1986), Technometrics 28:51-60. Street, Carroll and Ruppert (1988), American Statistician 42:152-154.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.ragged import fit_ragged_rows
from donorwise._core.models.lmm.ragged_design_kernels import least_squares
from donorwise._core.models.lmm.robust_kernels import winsorise

if TYPE_CHECKING:
    from donorwise._core.models.lmm.ragged import RaggedEquations
    from donorwise._typing import FloatArray

logger = logging.getLogger("donorwise")

_ROUNDS = 100  # of variances and pseudo-measurements
_DONE = 1e-8  # standard deviations that a pseudo-measurement still moves
_FEWEST = 5  # rows more than fixed effects, below which no residual can be told to be far away


def winsorised(equations: RaggedEquations, *, reml: bool) -> RaggedEquations:
    """The equations of pseudo-measurements in the place of measurements.

    Their weights are multiplied by their efficiency, so that the residual variance is that of a measurement. Features
    stay what they are that have no fit or fewer than five rows more than fixed effects, or most rows of which the fit hits
    exactly, and, which is logged, those whose pseudo-measurements have no fit. One whose pseudo-measurements still move after
    a hundred rounds keeps the last; that is logged as well.

    Parameters
    ----------
    equations
        Of the measurements.
    reml
        Restricted or full maximum likelihood.
    """
    rows, plain = equations.rows, fit_ragged_rows(equations, reml=reml)
    at = np.flatnonzero(np.isfinite(plain.sigma2) & (equations.nu(reml=True) >= _FEWEST))
    fitted = rows.y - equations.residual
    pseudo, gamma = equations.residual.copy(), plain.gamma.copy()
    scale, efficiency = np.sqrt(plain.sigma2), np.ones(rows.n_features)
    n_lost = 0
    for _ in range(_ROUNDS):
        if not at.size:
            break
        own, mine = equations.take(at), np.isin(rows.feature, at)
        values, of_scale, of_efficiency, moved = pseudo[mine], scale[at], np.ones(at.size), np.empty(at.size)
        winsorise(
            own.data, own.basis, own.rank, own.kept, gamma[at], np.sqrt(plain.sigma2[at]), values, of_scale, of_efficiency,
            moved,
        )  # fmt: skip
        pseudo[mine], scale[at], efficiency[at] = values, of_scale, of_efficiency
        found = fit_ragged_rows(_answering(own, values, own.rows.w), reml=reml)
        lost = np.isnan(found.sigma2)
        if lost.any():
            alone = np.isin(rows.feature, at[lost])
            pseudo[alone], efficiency[at[lost]], n_lost = equations.residual[alone], 1.0, n_lost + int(lost.sum())
        gamma[at] = found.gamma
        at = at[(moved > _DONE) & ~lost]
    _tell(at.size, n_lost)
    return _answering(equations, fitted + pseudo, rows.w * efficiency[rows.feature])


def _tell(n_moving: int, n_lost: int) -> None:
    if n_moving:
        logger.warning(
            "Proteins whose Huber weights still changed after %d rounds, and are the last: %d.", _ROUNDS, n_moving
        )
    if n_lost:
        logger.warning(
            "Proteins that are fitted without Huber's weights, with which their fit does not converge: %d.", n_lost
        )


def _answering(equations: RaggedEquations, y: FloatArray, w: FloatArray) -> RaggedEquations:
    """The same rows with other responses and weights (M,)."""
    rows = replace(equations.rows, y=y, w=w)
    basis, rank, ols = np.zeros_like(equations.basis), np.zeros_like(equations.rank), np.zeros_like(equations.ols)
    residual, sums = np.empty_like(y), np.empty((rows.n_features, 3))
    log_weight = np.bincount(rows.feature, weights=np.log(w), minlength=rows.n_features).astype(np.float64)
    least_squares(rows.start, rows.pattern, y, w, equations.X, basis, rank, ols, residual, sums)
    return replace(
        equations, rows=rows, basis=basis, rank=rank, ols=ols, residual=residual, rss=sums[:, 0], spread=sums[:, 1],
        mean=sums[:, 2], log_weight=log_weight,
    )  # fmt: skip
