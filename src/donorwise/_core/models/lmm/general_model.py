"""The fitted models of features with rows of their own and any random terms, as a frozen record (see ``general``)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.models.lmm.components import cholesky_psd
from donorwise._core.models.lmm.evaluate import Pieces
from donorwise._core.models.lmm.general import Used, estimates_of, fit_one, used_terms
from donorwise._core.models.lmm.ragged_effects import RaggedEffects, levels_of
from donorwise._core.models.lmm.ragged_model import RaggedLMM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.models.law import Part
    from donorwise._core.models.lmm.general import Own
    from donorwise._core.models.lmm.ragged import RaggedEquations
    from donorwise._typing import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class GeneralLMM(RaggedLMM):
    """G features with rows of their own, each with the ordinary model of its rows (see :class:`RaggedLMM`).

    Attributes
    ----------
    owns
        The model of every feature; None where there is none.
    reduced
        Shape (G,). Features that lose a term, or columns of one.
    """

    owns: tuple[Own | None, ...] = ()
    reduced: BoolArray = field(default_factory=lambda: np.empty(0, dtype=np.bool_))

    @classmethod
    def fitted(
        cls,
        design: Design,
        equations: RaggedEquations,
        names: Sequence[Callable[[int], str]],
        nuisance: tuple[bool, ...],
        fold: float,
        *,
        reml: bool,
        update: Callable[[int], object],
    ) -> GeneralLMM:
        """Fit every feature; `names` give the levels of every term by code, `update` is told of each that is done."""
        # a term that the fixed effects explain still has its levels
        equations = replace(equations, kept=equations.grouped)
        used, usable = used_terms(design, equations), ~(equations.constant | equations.explained)
        owns: list[Own | None] = []
        for g, terms in enumerate(used):
            owns.append(fit_one(design, equations, g, terms, names, reml=reml) if usable[g] else None)
            update(1)
        n_columns = np.array([len(term.columns) for term in design.random_terms])
        has = np.zeros(equations.kept.shape, dtype=np.int64)
        for g, terms in enumerate(used):
            for own in terms:
                has[g, own.term] = len(own.columns)
        equations = replace(equations, kept=has > 0)
        reduced: BoolArray = np.any(has < n_columns, axis=1)
        estimates = estimates_of(equations, owns, reduced, reml=reml)
        features = np.arange(len(owns))
        return cls(design, features, equations, estimates, nuisance, fold, owns=tuple(owns), reduced=reduced)

    @property
    def intercepts(self) -> BoolArray:
        """Terms of several columns of which an intercept is left, (G, T)."""
        out = np.zeros(self.equations.kept.shape, dtype=np.bool_)
        for g, own in enumerate(self.owns):
            for u in () if own is None else own.used:
                out[g, u.term] = len(u.columns) < len(self.design.random_terms[u.term].columns)
        return out

    @property
    def unmoderated(self) -> str:
        """See :class:`RaggedLMM`."""
        return "moderation of proteins covers random terms of one column each, without a kernel"

    @cached_property
    def parameters(self) -> IntArray:
        """Term, row and column of every covariance parameter, (K, 3), in lme4's order."""
        widths = [len(term.columns) for term in self.design.random_terms]
        own = [(t, i, j) for t, r in enumerate(widths) for j in range(r) for i in range(j, r)]
        return np.array(own, dtype=np.int64).reshape(-1, 3)

    def _fitted(self) -> Iterator[tuple[int, Own]]:
        """The usable features with their models."""
        for g in self.usable:
            own = self.owns[g]
            assert own is not None  # it has estimates
            yield int(g), own

    @property
    def n_variances(self) -> int:
        """See :class:`RaggedLMM`."""
        return len(self.parameters) + 1

    @property
    def n_parameters(self) -> IntArray:
        """See :class:`RaggedLMM`."""
        out = np.zeros((self.features.size, 3), dtype=np.int64)
        out[:, 0] = self.equations.rank
        for g, own in self._fitted():
            widths = np.array([len(u.columns) for u in own.used], dtype=np.int64)
            out[g, 1:] = widths.sum(), (widths * (widths - 1) // 2).sum()
        return out

    def covariances(self) -> list[FloatArray]:
        """Covariance of every term's columns, (G, r, r) each; NaN for what is left out."""
        widths = [len(term.columns) for term in self.design.random_terms]
        out = [np.full((self.features.size, r, r), np.nan) for r in widths]
        for g, own in self._fitted():
            for u, covariance in zip(own.used, own.model.covariances(), strict=True):
                if min(u.columns) >= 0:
                    out[u.term][np.ix_([g], list(u.columns), list(u.columns))] = covariance
        return out

    @property
    def theta(self) -> FloatArray:
        """Relative covariance factors, (G, K); NaN for what is left out."""
        factors = [cholesky_psd(T / self.estimates.sigma2[:, None, None]) for T in self.covariances()]
        columns = [factors[t][:, i, j] for t, i, j in self.parameters]
        return np.stack(columns, axis=1) if columns else np.empty((self.features.size, 0))

    def term_variances(self) -> FloatArray:
        """See :class:`RaggedLMM`."""
        out = np.full(self.equations.n_levels.shape, np.nan)
        for g, own in self._fitted():
            for u, term, T in zip(own.used, own.model.design.random_terms, own.model.covariances(), strict=True):
                out[g, u.term] = np.einsum("nr,rs,ns->n", term.Z, T[0], term.Z).mean()
        return out

    def effects(self, t: int) -> RaggedEffects:
        """See :class:`RaggedLMM`."""
        r = len(self.design.random_terms[t].columns)
        start, feature, code = levels_of(self.equations, t)
        mode, sd = np.full((feature.size, r), np.nan), np.full((feature.size, r), np.nan)
        for g, own in self._fitted():
            for place, u in enumerate(own.used):
                if u.term == t and min(u.columns) >= 0:
                    modes, covariance = own.model.random_effects(place)
                    at = np.ix_(np.arange(start[g], start[g + 1]), np.array(u.columns))
                    mode[at], sd[at] = modes[0], np.sqrt(np.clip(np.einsum("lii->li", covariance[0]), 0, None))
        return RaggedEffects(feature, code, mode, sd)

    def pieces(self) -> Pieces:
        """See :class:`RaggedLMM`; zeros for what is left out."""
        G, C, p = self.features.size, self.n_variances, self.equations.p
        out = Pieces(
            self.estimates.Phi, np.zeros((G, C, p, p)), np.zeros((G, C, C, p, p)), np.zeros((G, C)), np.zeros((G, C, C)),
            np.zeros((G, C)), np.zeros((G, C, C)), np.zeros((G, C - 1)), self.estimates.sigma2, self.parameters,
        )  # fmt: skip
        place = {tuple(own): k for k, own in enumerate(self.parameters.tolist())}
        for g, own in self._fitted():
            found, A = own.model.pieces(), own.to_own
            parameters = [(own.used[t].term, int(i), int(j)) for t, i, j in found.parameter]
            at = np.array([*(place[key] for key in parameters), C - 1])
            two = np.ix_(at, at)
            out.P[g, at], out.Q[g][two] = A.T @ found.P[0] @ A, A.T @ found.Q[0] @ A
            out.tr_PE[g, at], out.quad1[g, at] = found.tr_PE[0], found.quad1[0]
            out.tr_PEPE[g][two], out.quad2[g][two] = found.tr_PEPE[0], found.quad2[0]
            out.gamma[g, at[:-1]] = found.gamma[0]
        return out

    def take(self, at: IntArray | BoolArray) -> GeneralLMM:
        """See :class:`RaggedLMM`."""
        index = np.arange(self.features.size)[at]
        return replace(
            self, features=self.features[index], equations=self.equations.take(index),
            estimates=self.estimates.take(index), owns=tuple(self.owns[g] for g in index), reduced=self.reduced[index],
        )  # fmt: skip

    def fitted_by(self, *, reml: bool) -> GeneralLMM:
        """See :class:`RaggedLMM`."""
        if reml == self.estimates.reml:
            return self
        owns = tuple(own and replace(own, model=own.model.fitted_by(reml=reml)) for own in self.owns)
        return replace(self, owns=owns, estimates=estimates_of(self.equations, owns, self.reduced, reml=reml))

    def tells(self, part: Part) -> BoolArray:
        """See :class:`RaggedLMM`: those that have all columns of the term."""
        out = np.zeros(self.features.size, dtype=np.bool_)
        for g, own in self._fitted():
            out[g] = self._whole(part.term) in own.used
        return out

    def _whole(self, term: int) -> Used:
        """A term as features have it that can tell of all of it."""
        return Used(term, tuple(range(len(self.design.random_terms[term].columns))))

    def loglik_without(self, part: Part) -> FloatArray:
        """See :class:`RaggedLMM`."""
        out, whole = np.full(self.features.size, np.nan), self._whole(part.term)
        for g, own in self._fitted():
            if whole in own.used:
                out[g] = own.model.loglik_without(part._replace(term=own.used.index(whole)))[0]
        return out - 0.5 * self.equations.log_det_basis
