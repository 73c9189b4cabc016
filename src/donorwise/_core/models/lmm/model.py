"""The fitted Gaussian mixed model of many features, as a frozen record."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from donorwise._core.design.replicates import between_within_df
from donorwise._core.models.fixed_part import own_variances
from donorwise._core.models.law import MOST_TOGETHER, STATUS_DTYPE
from donorwise._core.models.lmm import components
from donorwise._core.models.lmm.abundance import at_ratios
from donorwise._core.models.lmm.evaluate import pieces
from donorwise._core.models.lmm.fit import fit_responses
from donorwise._core.models.lmm.from_estimates import FromEstimates
from donorwise._core.models.lmm.law import on_grid, parameter_axes
from donorwise._core.models.lmm.reduced import loglik_without
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.law import Part
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations, Estimates
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._core.models.lmm.law import LMMGrid
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_MOST_PARAMETERS = 3  # of the random part that a grid carries
_ENOUGH = 4_000
_MOST_COUPLED = 600  # columns that kernels tie together of which a thousand rays are kept (3 GB)


@dataclass(frozen=True, slots=True)
class LMM(FromEstimates):
    """Features that share their rows (see :class:`donorwise._core.models.law.Model`).

    Attributes
    ----------
    features
        Shape (G,). Their positions in the fit.
    equations
        What they share.
    estimates
        Arrays over the G features.
    abundance
        Their log abundances as responses (see :mod:`donorwise._core.models.lmm.abundance`); None where these are not
        known.
    """

    features: IntArray
    equations: Equations
    estimates: Estimates
    abundance: Responses | None

    named: ClassVar[tuple[str, str]] = ("feature", "features")
    fallback: ClassVar[str] = "kenward-roger"
    most_together: ClassVar[int] = MOST_TOGETHER

    @property
    def design(self) -> Design:
        """The design, on the patterns that have rows."""
        return self.equations.design

    @property
    def n_obs(self) -> int:
        """Rows with a response."""
        return self.equations.n_obs

    @property
    def mean(self) -> FloatArray:
        """Mean responses, (G,)."""
        return self.estimates.responses.mean

    @property
    def usable(self) -> IntArray:
        """Positions, within the model, of the features that have estimates."""
        return np.flatnonzero(np.isin(self.estimates.status, FITTED))

    @property
    def unmoderated(self) -> str:
        """Why the variances cannot lie on a grid; empty where they can."""
        n = len(self.equations.blocks.parameter)
        m = len(self.equations.blocks.A)
        if n == _MOST_PARAMETERS and self.equations.rays is not None and m > _MOST_COUPLED:
            return f"the grid of three variances takes too much memory with kernels of {m:,} columns"
        if 1 <= n <= _MOST_PARAMETERS:
            return ""
        return f"moderation covers one to three variances and covariances of random effects and the model has {n}"

    @property
    def most_learned_from(self) -> int:
        """Features that are enough to learn a prior from: all, but for grids of three parameters."""
        return sys.maxsize if len(self.parameters) < _MOST_PARAMETERS else _ENOUGH

    def status(self, L: FloatArray) -> StrArray:
        """Status of every feature and contrast (n, p), (G, n): one whose replicates are used up says so."""
        few = self.between_within(L) < 1
        status = np.repeat(self.estimates.status[:, None], len(L), axis=1)
        return np.where(few & np.isin(status, FITTED), "too_few_donors", status).astype(STATUS_DTYPE)

    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Names of the parameters, and what takes each ratio to that of the column as the formula has it."""
        terms = self.equations.terms
        named = [(components.parameter_name(terms[t], i, j), terms[t].scale[i]) for t, i, j in self.parameters]
        return tuple(name for name, _ in named), tuple(float(scale) ** 2 for _, scale in named)

    @property
    def parameters(self) -> IntArray:
        """Term, row and column of every parameter of the random part, (K, 3)."""
        return self.equations.blocks.parameter

    def largest(self) -> FloatArray:
        """Largest estimate of every variance ratio, 0 for covariances, (parameters,)."""
        largest = self.estimates.gamma[self.usable].max(axis=0, initial=0.0)
        return np.where(self.parameters[:, 1] == self.parameters[:, 2], largest, 0.0)

    def axes(self, largest: FloatArray) -> list[FloatArray]:
        """Grid of every parameter: variance ratios, and correlations."""
        return parameter_axes(self.equations, largest)

    def on(self, points: FloatArray, L: FloatArray | None = None) -> LMMGrid:
        """The model at ratios and correlations (K, parameters), for contrasts (n, p)."""
        covariances = components.with_covariances(self.equations, points)
        grid = on_grid(self.equations, self.estimates.responses, covariances, L)
        return replace(grid, abundance=self.abundance, terms=components.mean_variances(self.equations, covariances))

    @property
    def of_terms(self) -> IntArray:
        """The random term whose variance each axis is, -1 for a correlation."""
        return components.of_terms(self.equations)

    @property
    def n_variances(self) -> int:
        """Parameters of the variance, that of the residuals among them."""
        return self.estimates.gamma.shape[1] + 1

    @property
    def residual_df(self) -> int:
        """Observations less fixed effects."""
        return self.equations.nu(reml=True)

    def between_within(self, L: FloatArray) -> FloatArray:
        """Degrees of freedom of contrasts (n, p) by the inner-outer rule, (n,)."""
        return between_within_df(self.design, self.n_obs, L)

    @property
    def coefficients(self) -> FloatArray:
        """Fixed effects in the orthonormal basis, (G, p)."""
        return self.estimates.beta @ self.equations.fixed.R.T

    def turned(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients."""
        return self.equations.turned(L)

    @property
    def vcov_beta(self) -> FloatArray:
        """Covariance of the fixed effects, (G, p, p), in the basis of the formula."""
        inverse = self.equations.fixed.inverse
        return self.estimates.sigma2[:, None, None] * (inverse @ self.estimates.Phi @ inverse.T)

    @property
    def theta(self) -> FloatArray:
        """Relative covariance factors of the columns as the formula has them, (G, K)."""
        return components.theta_of(self.equations, self.estimates.gamma)

    def log_fc(self, L: FloatArray) -> FloatArray:
        """Log2 fold changes of contrasts (n, p) at the estimates, (G, n); NaN where abundances are not known."""
        if self.abundance is None:
            return np.full((self.features.size, len(L)), np.nan)
        return at_ratios(self.equations, self.abundance, self.estimates.gamma, L)

    def covariances(self) -> list[FloatArray]:
        """Covariance of every term's columns as the formula has them, (G, r, r) each."""
        sigma2 = self.estimates.sigma2[:, None, None]
        return [T * sigma2 for T in components.covariances(self.equations, self.estimates.gamma)]

    def variances(self) -> FloatArray:
        """Variance over the rows of the fixed part, of every term, and of what is left, (G, 1 + terms + 1)."""
        fixed = components.fixed_variance(self.equations, self.estimates)
        return np.column_stack([fixed, components.term_variances(self.equations, self.estimates)])

    @property
    def column_spread(self) -> FloatArray:
        """Covariance over the rows of the columns of X, (p, p)."""
        R = self.equations.fixed.R
        return np.asarray(R.T @ self.equations.spread @ R)

    def fixed_variances(self) -> FloatArray:
        """Variance over the rows of every fixed term's own part, (G, terms)."""
        return own_variances(self.beta, self.column_spread, self.design.terms)

    def random_effects(self, t: int) -> tuple[FloatArray, FloatArray]:
        """Conditional modes of term `t` (G, levels, r) and their covariances (G, levels, r, r)."""
        return components.random_effects(self.equations, self.estimates, t)

    def pieces(self) -> Pieces:
        """What the variances say about the fixed effects: what Kenward-Roger and Satterthwaite need."""
        return pieces(self.equations, self.estimates)

    def take(self, at: IntArray | BoolArray) -> LMM:
        """The model of some of its features."""
        abundance = None if self.abundance is None else self.abundance.take(at)
        return LMM(self.features[at], self.equations, self.estimates.take(at), abundance)

    def fitted_by(self, *, reml: bool) -> LMM:
        """The same features by REML, or by maximum likelihood."""
        if reml == self.estimates.reml:
            return self
        return replace(self, estimates=fit_responses(self.equations, self.estimates.responses, reml=reml))

    def loglik_without(self, part: Part) -> FloatArray:
        """Restricted log-likelihoods without part of a random term, (G,)."""
        return loglik_without(self.equations, self.estimates.responses, part.of(self.parameters))

    @property
    def simulated(self) -> tuple[Equations, Responses] | None:
        """Equations of one variance, or of two that have a kernel, and the responses."""
        own = self.equations
        return None if own.spectrum is None and own.nodes is None else (own, self.estimates.responses)
