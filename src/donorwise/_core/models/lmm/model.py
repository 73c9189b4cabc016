"""The fitted Gaussian mixed model of many features, as a frozen record."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from donorwise._core.design.between_within import contrast_df
from donorwise._core.models.law import STATUS_DTYPE, Law
from donorwise._core.models.lmm.evaluate import pieces
from donorwise._core.models.lmm.fit import fit_responses
from donorwise._core.models.lmm.law import on_grid, ratio_axes

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._core.models.lmm.fit import Equations, Estimates
    from donorwise._core.models.lmm.law import LMMGrid
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

FITTED = ("ok", "boundary")


@dataclass(frozen=True, slots=True)
class LMM:
    """Features that share their rows (see :class:`donorwise._core.models.law.Model`).

    Attributes
    ----------
    features
        Shape (G,). Their positions in the fit.
    equations
        What they share.
    estimates
        Arrays over the G features.
    """

    features: IntArray
    equations: Equations
    estimates: Estimates

    named: ClassVar[tuple[str, str]] = ("feature", "features")
    fallback: ClassVar[str] = "kenward-roger"
    most_learned_from: ClassVar[int] = sys.maxsize

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
        terms = self.equations.terms
        if not 1 <= len(terms) <= 2:
            return f"moderation covers one or two random terms and the model has {len(terms)}"
        if any(len(t.term.columns) > 1 for t in terms):
            return "moderation does not cover correlated random slopes"
        return ""

    def status(self, L: FloatArray) -> StrArray:
        """Status of every feature and contrast (n, p), (G, n): one whose replicates are used up says so."""
        few = contrast_df(self.design, self.n_obs, L) < 1
        status = np.repeat(self.estimates.status[:, None], len(L), axis=1)
        return np.where(few & np.isin(status, FITTED), "too_few_donors", status).astype(STATUS_DTYPE)

    def components(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Labels of the terms, and what takes each ratio to that of the column as the formula has it."""
        terms = self.equations.terms
        return tuple(t.term.label for t in terms), tuple(float(t.back[0, 0]) ** 2 for t in terms)

    def largest(self) -> FloatArray:
        """Largest estimate of every term's ratio, (terms,)."""
        return np.asarray(self.estimates.gamma[self.usable].max(axis=0, initial=0.0))

    def axes(self, largest: FloatArray) -> list[FloatArray]:
        """Grid of every term's variance ratio."""
        return ratio_axes(self.equations, largest)

    def on(self, points: FloatArray, L: FloatArray | None = None) -> LMMGrid:
        """The model at ratios (K, terms), for contrasts (n, p)."""
        return on_grid(self.equations, self.estimates.responses, points, L)

    def law(self, points: FloatArray, L: FloatArray) -> Law:
        """The law of the usable features at ratios (K, terms)."""
        return self.on(points, L).law(self.usable)

    def pieces(self) -> Pieces:
        """What the variances say about the fixed effects: what Kenward-Roger and Satterthwaite need."""
        return pieces(self.equations, self.estimates)

    def take(self, at: IntArray | BoolArray) -> LMM:
        """The model of some of its features."""
        return LMM(self.features[at], self.equations, self.estimates.take(at))

    def fitted_by(self, *, reml: bool) -> LMM:
        """The same features by REML, or by maximum likelihood."""
        if reml == self.estimates.reml:
            return self
        return replace(self, estimates=fit_responses(self.equations, self.estimates.responses, reml=reml))
