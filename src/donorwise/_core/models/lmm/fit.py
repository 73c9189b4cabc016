"""Fit one design to many features: pick the path, then evaluate at the optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.blocks import build_blocks
from donorwise._core.models.lmm.crossproducts import Responses, column_covariance, fixed_basis, responses, term_basis
from donorwise._core.models.lmm.evaluate import evaluate_block
from donorwise._core.models.lmm.newton import fit_features
from donorwise._core.models.lmm.relative import smallest_variance
from donorwise._core.models.lmm.spectral import fit_spectral, spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.crossproducts import FixedBasis, TermBasis
    from donorwise._core.models.lmm.spectral import Spectrum
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

# lme4 calls a fit singular where a relative standard deviation is below 1e-4.
_SINGULAR = 1e-8
STATUS_DTYPE = "<U16"
_ARRAYS = ("beta", "Phi", "gamma", "sigma2", "loglik", "status", "n_iter")
# Relative variance of the first column and of the others, and correlation.
_STARTS = (
    (0.3, 0.3, 0.0),
    (0.03, 0.03, 0.0),
    (16.0, 2.0, 0.95),
    (16.0, 2.0, -0.95),
    (30.0, 0.03, 0.0),
    (0.03, 30.0, 0.0),
)
# Beyond this many levels an eigendecomposition costs more than Newton steps on the levels.
_EIGEN_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Model:
    """A design with the cross-products that all its features share.

    Attributes
    ----------
    design
        The design, on the patterns.
    fixed, terms, blocks
        Orthonormal fixed part, random terms in their internal basis, and their blocks.
    n_obs
        Rows with a response, n.
    log_weight
        Sum of the logarithms of the weights.
    spread
        Shape (p, p). Covariance over the rows of the columns of X̃.
    spectrum
        Eigenvalues that make a single variance ratio fast; None for other models.
    """

    design: Design
    fixed: FixedBasis
    terms: tuple[TermBasis, ...]
    blocks: Blocks
    n_obs: int
    log_weight: float
    spread: FloatArray
    spectrum: Spectrum | None

    @property
    def p(self) -> int:
        """Number of fixed effects."""
        return self.fixed.R.shape[0]

    def nu(self, *, reml: bool) -> int:
        """Denominator of sigma2: n - p for REML, n for ML."""
        return self.n_obs - self.p if reml else self.n_obs


@dataclass(frozen=True, slots=True)
class Block:
    """Fitted features of one model (struct of arrays over G features).

    Attributes
    ----------
    responses
        Residual cross-products, ``zty`` in block order: what inference works on.
    reml
        Restricted or full maximum likelihood.
    beta
        Shape (G, p), in the basis of the formula.
    Phi
        Shape (G, p, p). (X̃'V⁻¹X̃)⁻¹ in the orthonormal basis, relative to sigma2.
    gamma
        Shape (G, K). Lower triangles of the terms' relative covariances, internal basis.
    sigma2, loglik
        Shape (G,). Residual variance; log-likelihood (REML or ML) with lme4's constants.
    status
        Shape (G,). ``ok``, ``boundary``, ``constant``, ``not_estimable`` or ``not_converged``.
    n_iter
        Shape (G,).
    """

    responses: Responses
    reml: bool
    beta: FloatArray
    Phi: FloatArray
    gamma: FloatArray
    sigma2: FloatArray
    loglik: FloatArray
    status: StrArray
    n_iter: IntArray

    def take(self, features: IntArray | BoolArray) -> Block:
        """The block of some features."""
        arrays = {name: getattr(self, name)[features] for name in _ARRAYS}
        return Block(responses=self.responses.take(features), reml=self.reml, **arrays)

    @classmethod
    def concatenate(cls, blocks: Sequence[Block]) -> Block:
        """One block from several of the same model."""
        arrays = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in _ARRAYS}
        together = Responses.concatenate([b.responses for b in blocks])
        return cls(responses=together, reml=blocks[0].reml, **arrays)


@dataclass(frozen=True, slots=True)
class Part:
    """Features that share their rows, hence a model; `block` is None where it cannot be fitted."""

    features: IntArray
    model: Model | None
    block: Block | None
    n_obs: int
    n_donors: int


def build_model(design: Design, collapsed: Collapsed) -> Model:
    """Everything that features of one design share."""
    fixed = fixed_basis(design, collapsed)
    terms = tuple(term_basis(t, collapsed) for t in design.random_terms)
    n_obs, log_weight = int(collapsed.n_obs.sum()), float(collapsed.log_weight.sum())
    blocks = build_blocks(fixed, terms, collapsed)
    single = blocks.parameter.shape[0] == 1 and blocks.order.size <= _EIGEN_LIMIT
    return Model(
        design, fixed, terms, blocks, n_obs, log_weight, column_covariance(fixed.columns, collapsed),
        spectrum(blocks) if single else None,
    )  # fmt: skip


def fit_collapsed(model: Model, collapsed: Collapsed, *, reml: bool) -> Block:
    """Fit all features of `collapsed`."""
    return fit_responses(model, responses(model.fixed, model.terms, collapsed, model.blocks.order), reml=reml)


def fit_responses(model: Model, response: Responses, *, reml: bool) -> Block:
    """Fit features from their residual cross-products (also to refit by ML, or by REML)."""
    usable = ~(response.constant | response.explained)
    used = response.take(usable)
    gamma, n_iter, converged = _optimise(model, used, reml=reml)
    return _assemble(model, response, usable, _evaluate(model, used, gamma, n_iter, converged, reml=reml))


def _optimise(model: Model, response: Responses, *, reml: bool) -> tuple[FloatArray, IntArray, BoolArray]:
    n, K = response.rss.size, model.blocks.parameter.shape[0]
    if K == 0 or n == 0:
        return np.zeros((n, K)), np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    if model.spectrum is not None:
        return fit_spectral(model.spectrum, response.zty, response.rss, model.nu(reml=reml), reml=reml)
    return optimise_blocked(model, response, reml=reml)


def optimise_blocked(model: Model, response: Responses, *, reml: bool) -> tuple[FloatArray, IntArray, BoolArray]:
    """Newton's method over all covariance parameters (it works for one ratio, too).

    Returns
    -------
    (gamma (G, K), iterations (G,), converged (G,))
    """
    parameter = model.blocks.parameter
    n, K = response.rss.size, parameter.shape[0]
    gamma, iterations, converged = np.zeros((n, K)), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    widths = [t.factor.shape[0] for t in model.terms]
    last = np.array([widths[t] - 1 for t in parameter[:, 0]])
    bounded = (parameter[:, 1] == last) & (parameter[:, 2] == last)
    starts = _starts(parameter, bounded)
    n_always = len(starts) if max(widths) > 1 else 1  # correlated terms have several optima
    nu = float(model.nu(reml=reml))
    fit_features(
        model.blocks.arrays(), starts, n_always, bounded, response.zty, response.rss, nu, reml,
        gamma, iterations, converged,
    )  # fmt: skip
    return gamma, iterations, converged


def _starts(parameter: IntArray, bounded: BoolArray) -> FloatArray:
    """Starting points: terms about as large as the residual, and small ones.

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


def _evaluate(
    model: Model, response: Responses, gamma: FloatArray, n_iter: IntArray, converged: BoolArray, *, reml: bool
) -> Block:
    """Likelihood, fixed effects and status of usable features at `gamma`."""
    nu = model.nu(reml=reml)
    at = evaluate_block(model.blocks, gamma, response, nu, reml=reml)
    logdet = at.logdet_V + (at.logdet_X + 2 * model.fixed.log_det if reml else 0.0)
    converged = converged & np.isfinite(at.deviance)
    lost = np.where(converged, 0.0, np.nan)  # no numbers where the optimum was not found
    with np.errstate(divide="ignore", invalid="ignore"):
        loglik = -0.5 * (nu * (np.log(2 * np.pi * at.R / nu) + 1) + logdet - model.log_weight)
    beta = (response.ols + at.delta) @ model.fixed.inverse.T
    status = np.where(smallest_variance(model.terms, model.blocks.parameter, gamma) < _SINGULAR, "boundary", "ok")
    status = np.where(converged, status, "not_converged").astype(STATUS_DTYPE)
    Phi, column = at.Phi + lost[:, None, None], lost[:, None]
    return Block(response, reml, beta + column, Phi, gamma + column, at.R / nu + lost, loglik + lost, status, n_iter)


def _assemble(model: Model, response: Responses, usable: BoolArray, fitted: Block) -> Block:
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
    return Block(responses=response, reml=fitted.reml, status=status, n_iter=n_iter, **floats)
