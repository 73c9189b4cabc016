"""Linear predictors of single responses, rows of a matrix x its columns, term by term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd

from donorwise._core.cells.chunks import slice_if_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.engine.peptide_rows import PeptideSource
    from donorwise._core.engine.scales import CellScale
    from donorwise._core.models.lmm.model import LMM
    from donorwise._core.models.lmm.ragged_effects import RaggedEffects
    from donorwise._typing import BoolArray, FloatArray, IntArray


class Terms(NamedTuple):
    """Some terms of a linear predictor: columns of X, less their means over the rows in use where these are given, and random terms."""

    fixed: IntArray
    random: tuple[int, ...]
    means: FloatArray | None = None


class Predictor(Protocol):
    """What the fitted models of a task say of single responses."""

    @property
    def design(self) -> Design:
        """The design, with all terms that predictions have."""

    @property
    def scale(self) -> CellScale:
        """How responses go with their linear predictors."""

    def uses(self, rows: IntArray) -> BoolArray:
        """Which rows of the matrix are in use, (n,)."""

    def features(self, columns: IntArray) -> IntArray:
        """Features that columns, counted among those that are read, are of."""

    def linear(self, rows: IntArray, columns: IntArray, terms: Terms) -> FloatArray:
        """What terms are of the linear predictors of rows in use, (n, c); NaN for features without a fit."""


def whole(design: Design) -> Terms:
    """All terms, the intercept too."""
    return Terms(np.arange(len(design.fixed_names)), tuple(range(len(design.random_terms))))


def overall_means(design: Design) -> FloatArray:
    """Means of the columns of X over the rows in use, (p,)."""
    used = design.codes >= 0
    out = np.bincount(design.codes[used], minlength=design.n_patterns) @ design.X / max(int(used.sum()), 1)
    for column, covariate in enumerate(design.varying):
        if covariate >= 0:
            out[column] = design.covariates[used, covariate].mean()
    return np.asarray(out, dtype=np.float64)


def effects_of(models: Sequence[LMM], design: Design, n_features: int) -> tuple[FloatArray, ...]:
    """Random effects of every term of Gaussian models, (levels, r, G); NaN for features without a fit."""
    out = []
    for t, term in enumerate(design.random_terms):
        own = np.full((len(term.levels), len(term.columns), n_features), np.nan)
        for model in models:
            at = pd.Index(term.levels).get_indexer(list(model.design.random_terms[t].levels))
            own[np.ix_(at, np.arange(own.shape[1]), model.features)] = model.random_effects(t)[0].transpose(1, 2, 0)
        out.append(own)
    return tuple(out)


@dataclass(frozen=True)
class CellPredictor:
    """Predictions of cells.

    Attributes
    ----------
    design
        A row for each cell.
    beta
        Shape (G, p). Fixed effects.
    effects
        Random effects of every term, (levels, r, G) each.
    scale
        See :class:`Predictor`.
    """

    design: Design
    beta: FloatArray
    effects: tuple[FloatArray, ...]
    scale: CellScale

    def uses(self, rows: IntArray) -> BoolArray:
        """See :class:`Predictor`."""
        return self.design.codes[rows] >= 0

    def features(self, columns: IntArray) -> IntArray:
        """See :class:`Predictor`: each column is one."""
        return columns

    def linear(self, rows: IntArray, columns: IntArray, terms: Terms) -> FloatArray:
        """See :class:`Predictor`."""
        pattern = self.design.codes[rows]
        X = self._columns(self.design.X, self.design.varying, rows)[:, terms.fixed]
        if terms.means is not None:
            X = X - terms.means[terms.fixed]
        out = np.asarray(X @ self.beta[np.ix_(columns, terms.fixed)].T)
        for t in terms.random:
            term, own = self.design.random_terms[t], self.effects[t][:, :, slice_if_run(columns)]  # a view of most
            Z, level = self._columns(term.Z, term.varying, rows), term.codes[pattern]
            for column in range(Z.shape[1]):
                out += Z[:, column, None] * own[level, column]
        return out

    def _columns(self, values: FloatArray, varying: Sequence[int], rows: IntArray) -> FloatArray:
        """Columns of X or Z of single rows."""
        out = values[self.design.codes[rows]]
        for column, covariate in enumerate(varying):
            if covariate >= 0:
                out[:, column] = self.design.covariates[rows, covariate]
        return out


@dataclass(frozen=True)
class PeptidePredictor:
    """Predictions of measurements, runs x peptides.

    Attributes
    ----------
    design
        A row for every run and kind of peptide.
    source
        Says which kind, protein and level each measurement has.
    beta
        Shape (G, p). Fixed effects of the proteins.
    effects
        Random effects of every term.
    scale
        See :class:`Predictor`.
    """

    design: Design
    source: PeptideSource
    beta: FloatArray
    effects: tuple[RaggedEffects, ...]
    scale: CellScale

    @cached_property
    def _pattern(self) -> IntArray:
        """Pattern by kind and run."""
        return self.design.codes.reshape(-1, self.source.matrix.shape[0])

    def uses(self, rows: IntArray) -> BoolArray:
        """See :class:`Predictor`."""
        return np.asarray((self._pattern[:, rows] >= 0).any(axis=0))

    def features(self, columns: IntArray) -> IntArray:
        """See :class:`Predictor`: the protein of each."""
        return self.source.protein[self.source.columns[columns]]

    def linear(self, rows: IntArray, columns: IntArray, terms: Terms) -> FloatArray:
        """See :class:`Predictor`; NaN too for levels of which a protein has no measurement."""
        peptide, feature = self.source.columns[columns], self.features(columns)
        pattern = self._pattern[self.source.kind[peptide]][:, rows].T
        X = self.design.X[:, terms.fixed]
        if terms.means is not None:
            X = X - terms.means[terms.fixed]
        out = np.einsum("ncp,cp->nc", X[pattern], self.beta[np.ix_(feature, terms.fixed)])
        for t in terms.random:
            out += self._random(self.design.random_terms[t], self.effects[t], rows, peptide, pattern)
        out[pattern < 0] = np.nan
        return out

    def _random(
        self, term: RandomTerm, effects: RaggedEffects, rows: IntArray, peptide: IntArray, pattern: IntArray
    ) -> FloatArray:
        """What a random term adds, (n, c): nothing where a protein cannot tell it."""
        code = self.source.groupings[term.bar.group].codes(rows[:, None], peptide[None])
        feature = np.broadcast_to(self.source.protein[peptide], code.shape)
        known = effects._replace(mode=np.nan_to_num(effects.mode))
        own = known.at(feature.ravel(), code.ravel()).reshape(*code.shape, -1)
        return np.einsum("ncr,ncr->nc", term.Z[pattern], own)
