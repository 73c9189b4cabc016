"""The mixed-model equations that the features of a design share, and what is estimated of each feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.blocks import build_blocks
from donorwise._core.models.lmm.coupling import build_coupling
from donorwise._core.models.lmm.crossproducts import Responses, column_covariance, fixed_basis, responses, term_basis
from donorwise._core.models.lmm.ratios import Nodes
from donorwise._core.models.lmm.rays import Rays
from donorwise._core.models.lmm.recent import once
from donorwise._core.models.lmm.spectral import spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.blocks import Blocks
    from donorwise._core.models.lmm.coupling import Coupling
    from donorwise._core.models.lmm.crossproducts import FixedBasis, TermBasis
    from donorwise._core.models.lmm.spectral import Spectrum
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_ARRAYS = ("beta", "Phi", "gamma", "sigma2", "loglik", "status", "n_iter")
# Beyond this many levels an eigendecomposition costs more than Newton steps on the levels.
_EIGEN_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Equations:
    """The mixed-model equations of a design: the cross-products that all its features share.

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
    information
        Shape (terms,). Mean information on a column of the term of the levels that have any: what a variance is
        multiplied by to be that of a level's effect relative to its sampling variance.
    spectrum
        Eigenvalues that make a single variance ratio fast; None for other models.
    coupling
        How the columns of `blocks` come from those of the terms, where a kernel ties levels together; else None.
    rays
        What such models with several variances share, along rays of their space; else None.
    nodes
        Rays between which the optima of those with two variances are found; else None.
    """

    design: Design
    fixed: FixedBasis
    terms: tuple[TermBasis, ...]
    blocks: Blocks
    n_obs: int
    log_weight: float
    spread: FloatArray
    information: FloatArray
    spectrum: Spectrum | None
    coupling: Coupling | None = None
    rays: Rays | None = None
    nodes: Nodes | None = None

    @property
    def p(self) -> int:
        """Number of fixed effects."""
        return self.fixed.R.shape[0]

    @property
    def parameter_information(self) -> FloatArray:
        """That of the term of every covariance parameter, (K,)."""
        return self.information[self.blocks.parameter[:, 0]]

    @property
    def shared(self) -> tuple[FloatArray, ...]:
        """Arrays that say all of the law of a response's direction: rows, fixed effects and covariances."""
        return (self.blocks.S, self.blocks.A, self.blocks.B, self.information, np.array([self.nu(reml=True)]))

    def turned(self, L: FloatArray) -> FloatArray:
        """Contrasts (n, p) of beta as contrasts of the coefficients of the orthonormal basis."""
        return L @ self.fixed.inverse

    def responses(self, collapsed: Collapsed) -> Responses:
        """Residual cross-products of every feature with the random columns, in the order of the blocks."""
        if self.coupling is None:
            return responses(self.fixed, self.terms, collapsed, self.blocks.order)
        return responses(self.fixed, self.coupling.carriers, collapsed, slice(None), self.coupling.turn)

    def nu(self, *, reml: bool) -> int:
        """Denominator of sigma2: n - p for REML, n for ML."""
        return self.n_obs - self.p if reml else self.n_obs


@dataclass(frozen=True, slots=True)
class Estimates:
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

    def take(self, features: IntArray | BoolArray) -> Estimates:
        """The estimates of some features."""
        arrays = {name: getattr(self, name)[features] for name in _ARRAYS}
        return Estimates(responses=self.responses.take(features), reml=self.reml, **arrays)

    @classmethod
    def concatenate(cls, several: Sequence[Estimates]) -> Estimates:
        """One block from several of the same equations."""
        arrays = {name: np.concatenate([getattr(b, name) for b in several]) for name in _ARRAYS}
        together = Responses.concatenate([b.responses for b in several])
        return cls(responses=together, reml=several[0].reml, **arrays)


def build_equations(design: Design, collapsed: Collapsed) -> Equations:
    """Everything that features of one design share."""
    fixed = fixed_basis(design, collapsed)
    terms = tuple(term_basis(t, collapsed) for t in design.random_terms)
    n_obs, log_weight = int(collapsed.n_obs.sum()), float(collapsed.log_weight.sum())
    coupled = build_coupling(fixed, terms, collapsed)
    blocks, coupling = coupled or (build_blocks(fixed, terms, collapsed), None)
    single = blocks.parameter.shape[0] == 1 and (coupling is not None or blocks.order.size <= _EIGEN_LIMIT)
    information = _information(blocks, len(terms))
    rays = Rays.of(blocks) if blocks.coupled else None
    two = rays is not None and [t.factor.shape[0] for t in terms] == [1, 1]
    return Equations(
        design, fixed, terms, blocks, n_obs, log_weight, column_covariance(fixed.columns, collapsed), information,
        spectrum(blocks) if single else None, coupling, rays, _nodes(rays, information) if rays and two else None,
    )  # fmt: skip


def _nodes(rays: Rays, information: FloatArray) -> Nodes:
    return once(Nodes, (rays.blocks.A, rays.blocks.B, information), lambda: Nodes(rays, information))


def _information(blocks: Blocks, n_terms: int) -> FloatArray:
    """See :class:`Equations`; a level without data on a term's columns, as that of another arm, is no level of it."""
    if blocks.coupled:
        return np.array([blocks.levels_of(k).mean() for k, (_, i, j) in enumerate(blocks.parameter) if i == j == 0])
    diagonal = blocks.diagonal
    informed = [diagonal[(blocks.term == t) & (diagonal > 0)] for t in range(n_terms)]
    return np.array([own.mean() for own in informed])
