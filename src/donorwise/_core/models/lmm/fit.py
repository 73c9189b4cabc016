"""Fit one design to many features: pick the path, then evaluate at the optimum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.law import STATUS_DTYPE
from donorwise._core.models.lmm.components import smallest_variance
from donorwise._core.models.lmm.coupled_kernels import LARGEST
from donorwise._core.models.lmm.equations import Estimates
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.newton import fit_features
from donorwise._core.models.lmm.ratios import fit_two
from donorwise._core.models.lmm.rays import rough_optima
from donorwise._core.models.lmm.spectral import fit_spectral

if TYPE_CHECKING:
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.evaluate import Evaluation
    from donorwise._core.models.lmm.ratios import Nodes, Optimum
    from donorwise._typing import BoolArray, FloatArray, IntArray

# Variance, relative to what a level says of it, below which a fit is singular (for 100 rows a level that is where a
# standard deviation relative to the residual's is 1e-4, as in lme4).
_SINGULAR = 1e-6
_SMALLEST = 0.01  # variance, in units of what a level says, that a search starts from where another model's is zero
# Variance of the first column and of the others, relative to the best that all share, and correlation.
_STARTS = (
    (1.0, 1.0, 0.0),
    (0.1, 0.1, 0.0),
    (50.0, 7.0, 0.95),
    (50.0, 7.0, -0.95),
    (100.0, 0.1, 0.0),
    (0.1, 100.0, 0.0),
)
_SIZES = np.geomspace(1, 1e10, 11)  # variances that all columns might share, relative to what a level says


def fit_collapsed(equations: Equations, collapsed: Collapsed, *, reml: bool) -> Estimates:
    """Fit all features of `collapsed`."""
    return fit_responses(equations, equations.responses(collapsed), reml=reml)


def fit_responses(equations: Equations, response: Responses, *, reml: bool) -> Estimates:
    """Fit features from their residual cross-products (also to refit by ML, or by REML)."""
    usable = ~(response.constant | response.explained)
    used = response.take(usable)
    if equations.nodes is not None and reml:
        fitted = _between_nodes(equations, equations.nodes, used)
    else:
        fitted = _evaluated(equations, used, *_optimise(equations, used, reml=reml), reml=reml)
    return _assemble(equations, response, usable, fitted)


def _between_nodes(equations: Equations, nodes: Nodes, response: Responses) -> Estimates:
    """REML estimates of two variances of which one has a kernel; the few optima that no nodes surround by Newton's method."""
    found = fit_two(nodes, response.zty, response.rss, equations.nu(reml=True))
    rest = ~found.found
    if rest.any():
        own = response.take(rest)
        gamma, iterations, converged = optimise_blocked(equations, own, reml=True)
        at = evaluate_block(equations.blocks, gamma, own, equations.nu(reml=True))
        found.gamma[rest], found.iterations[rest], found.found[rest] = gamma, iterations, converged
        for name in ("deviance", "R", "logdet_V", "logdet_X", "Phi", "delta"):
            getattr(found, name)[rest] = getattr(at, name)
    return _estimates(equations, response, found.gamma, found.iterations, found.found, found, reml=True)


def _optimise(equations: Equations, response: Responses, *, reml: bool) -> tuple[FloatArray, IntArray, BoolArray]:
    n, K = response.rss.size, equations.blocks.parameter.shape[0]
    if K == 0 or n == 0:
        return np.zeros((n, K)), np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    if equations.spectrum is not None:
        return fit_spectral(equations.spectrum, response.zty, response.rss, equations.nu(reml=reml), reml=reml)
    return optimise_blocked(equations, response, reml=reml)


def optimise_blocked(
    equations: Equations, response: Responses, *, reml: bool
) -> tuple[FloatArray, IntArray, BoolArray]:
    """Newton's method over all covariance parameters (it works for one ratio, too).

    Columns are scaled to an information of one and responses to a residual sum of squares of one, so that nothing
    depends on the units of weights, columns and responses, or on the number of rows.

    Returns
    -------
    (gamma (G, K), iterations (G,), converged (G,))
    """
    blocks, scale = equations.blocks.in_units(equations.information)
    unit = replace(response, zty=response.zty * scale / np.sqrt(response.rss)[:, None], rss=np.ones(response.rss.size))
    nu = equations.nu(reml=reml)
    if equations.rays is None:
        sizes = _sizes(blocks, unit, nu, reml=reml)[:, None]
    else:
        sizes = rough_optima(equations.rays, equations.information, response, nu, reml=reml)
    gamma, iterations, converged = _newton(equations, blocks, unit, sizes[:, 0], nu, reml=reml)
    for other in range(1, sizes.shape[1]):
        at = np.flatnonzero(np.isfinite(sizes[:, other, 0]))
        if at.size:
            found = (gamma, iterations, converged)
            _take_better(equations, blocks, unit.take(at), at, sizes[at, other], found, reml=reml)
    return gamma / equations.parameter_information, iterations, converged


def newton_from(
    equations: Equations, blocks: Blocks, response: Responses, start: FloatArray, nu: int, *, reml: bool
) -> tuple[FloatArray, BoolArray]:
    """Newton's method for blocks with further fixed effects than the equations', from variances `start` (G, K).

    Returns
    -------
    (gamma (G, K), converged (G,))
    """
    n, K = start.shape
    if K == 0:
        return np.zeros((n, K)), np.ones(n, dtype=np.bool_)
    blocks, scale = blocks.in_units(equations.information)
    unit = replace(response, zty=response.zty * scale / np.sqrt(response.rss)[:, None], rss=np.ones(n))
    diagonal = (blocks.parameter[:, 1] == blocks.parameter[:, 2]).astype(np.float64)
    sizes = np.maximum(start * equations.parameter_information * diagonal, _SMALLEST * diagonal)
    gamma, _, converged = _newton(equations, blocks, unit, sizes, nu, reml=reml)
    return gamma / equations.parameter_information, converged


def _newton(
    equations: Equations, blocks: Blocks, unit: Responses, size: FloatArray, nu: int, *, reml: bool
) -> tuple[FloatArray, IntArray, BoolArray]:
    """Newton's method from variances of a `size` (G, K), in units of what a level says."""
    parameter = blocks.parameter
    n, K = unit.rss.size, parameter.shape[0]
    gamma, iterations, converged = np.zeros((n, K)), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    widths = [t.factor.shape[0] for t in equations.terms]
    last = np.array([widths[t] - 1 for t in parameter[:, 0]])
    bounded = (parameter[:, 1] == last) & (parameter[:, 2] == last)
    starts = _starts(parameter, bounded)
    n_always = len(starts) if max(widths) > 1 else 1  # correlated terms have several optima
    fit_features(
        blocks.arrays(), starts, size, n_always, bounded, unit.zty, unit.rss, float(nu), reml, gamma,
        iterations, converged,
    )  # fmt: skip
    return gamma, iterations, converged


def _take_better(
    equations: Equations,
    blocks: Blocks,
    unit: Responses,
    at: IntArray,
    size: FloatArray,
    found: tuple[FloatArray, IntArray, BoolArray],
    *,
    reml: bool,
) -> None:
    """Newton's method for features `at` some positions from elsewhere; what is lower goes into `found`."""
    gamma, iterations, converged = found
    nu = equations.nu(reml=reml)
    own, more, ok = _newton(equations, blocks, unit, size, nu, reml=reml)
    before, after = (evaluate_block(blocks, g, unit, nu, reml=reml).deviance for g in (gamma[at], own))
    better = ok & (~converged[at] | (after < before))
    gamma[at[better]], converged[at[better]] = own[better], True
    iterations[at] += more


def _sizes(blocks: Blocks, response: Responses, nu: int, *, reml: bool) -> FloatArray:
    """The best variance of every feature, if all columns had the same and no correlation, (G, K)."""
    diagonal = (blocks.parameter[:, 1] == blocks.parameter[:, 2]).astype(np.float64)
    deviance = [
        evaluate_block(blocks, np.tile(size * diagonal, (response.rss.size, 1)), response, nu, reml=reml).deviance
        for size in _SIZES
    ]
    best = _SIZES[np.nanargmin([np.where(np.isfinite(d), d, np.inf) for d in deviance], axis=0)]
    return np.repeat(best[:, None], diagonal.size, axis=1)


def _starts(parameter: IntArray, bounded: BoolArray) -> FloatArray:
    """Starting points: terms about as large as the best variance that all share, and small ones.

    Correlated terms get more, since their likelihood can have several peaks: correlations of either
    sign, and one column much more variable than the others.
    """
    diagonal, first = parameter[:, 1] == parameter[:, 2], parameter[:, 1] == 0
    rows = []
    for leading, rest, correlation in _STARTS:
        scale = np.where(first, leading, rest)
        row = np.where(diagonal, 1.0, correlation) * np.sqrt(scale)
        rows.append(np.where(bounded, scale * (1 - correlation**2), row))
    return np.array(rows if not diagonal.all() else rows[:2])


def _evaluated(
    equations: Equations, response: Responses, gamma: FloatArray, n_iter: IntArray, converged: BoolArray, *, reml: bool
) -> Estimates:
    """Likelihood, fixed effects and status of usable features at `gamma`."""
    at = evaluate_block(equations.blocks, gamma, response, equations.nu(reml=reml), reml=reml)
    return _estimates(equations, response, gamma, n_iter, converged, at, reml=reml)


def _estimates(
    equations: Equations,
    response: Responses,
    gamma: FloatArray,
    n_iter: IntArray,
    converged: BoolArray,
    at: Evaluation | Optimum,
    *,
    reml: bool,
) -> Estimates:
    """Estimates and status of usable features, of which the likelihood and fixed effects are known."""
    nu = equations.nu(reml=reml)
    logdet = at.logdet_V + (at.logdet_X + 2 * equations.fixed.log_det if reml else 0.0)
    converged = converged & np.isfinite(at.deviance) & _with_rest(equations.blocks, gamma)
    lost = np.where(converged, 0.0, np.nan)  # no numbers where the optimum was not found
    with np.errstate(divide="ignore", invalid="ignore"):
        loglik = -0.5 * (nu * (np.log(2 * np.pi * at.R / nu) + 1) + logdet - equations.log_weight)
    beta = (response.ols + at.delta) @ equations.fixed.inverse.T
    smallest = smallest_variance(equations.blocks.parameter, gamma * equations.parameter_information)
    status = np.where(smallest < _SINGULAR, "boundary", "ok")
    status = np.where(converged, status, "not_converged").astype(STATUS_DTYPE)
    Phi, column = at.Phi + lost[:, None, None], lost[:, None]
    return Estimates(
        response, reml, beta + column, Phi, gamma + column, at.R / nu + lost, loglik + lost, status, n_iter
    )


def _with_rest(blocks: Blocks, gamma: FloatArray) -> BoolArray:
    """Whether variances (G, K) leave a residual variance: others are what rounding makes of an infinite ratio."""
    if not blocks.coupled:
        return np.ones(len(gamma), dtype=bool)
    largest = np.array([blocks.levels_of(k).max() for k in range(gamma.shape[1])])
    return np.asarray((gamma * largest).max(axis=1) < LARGEST)


def _assemble(equations: Equations, response: Responses, usable: BoolArray, fitted: Estimates) -> Estimates:
    """Every feature its row: fitted ones from `fitted`, the others NaN with a status."""

    def spread(values: FloatArray) -> FloatArray:
        out = np.full((usable.size, *values.shape[1:]), np.nan)
        out[usable] = values
        return out

    status = np.where(response.constant, "constant", "not_estimable").astype(STATUS_DTYPE)
    status[usable] = fitted.status
    n_iter = np.zeros(usable.size, dtype=np.int64)
    n_iter[usable] = fitted.n_iter
    floats = {name: spread(getattr(fitted, name)) for name in ("beta", "Phi", "gamma", "sigma2", "loglik")}
    return Estimates(responses=response, reml=fitted.reml, status=status, n_iter=n_iter, **floats)
