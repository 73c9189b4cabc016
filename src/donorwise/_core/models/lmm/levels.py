"""Features that are the same in all rows of every level of a term: the limit without residual variance.

Where y is constant within the levels of `(1 | donor)` the ratio of that term is infinite, and the likelihood has no
optimum. Its limit does: divided by the variance of the term, V = Z_d Z_d' + o(1), so that one row per level
remains, with the effect of the level as its residual. What varies within levels has no variance left to vary
with: fixed effects are those combinations X N of the columns that are constant within levels (other contrasts are
exactly zero), terms whose levels differ within a level, or whose columns do, have no variance, and the others are
terms of the rows that remain. Where the levels have a kernel, K = LL', and nothing else, the rows that remain are
those of L⁻¹X and L⁻¹y.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.cells.measures import Collapsed
from donorwise._core.design.replicates import between_within_df
from donorwise._core.models.law import STATUS_DTYPE, Part
from donorwise._core.models.lmm import components
from donorwise._core.models.lmm.abundance import at_ratios
from donorwise._core.models.lmm.crossproducts import column_means, is_rounding
from donorwise._core.models.lmm.equations import Estimates, build_equations
from donorwise._core.models.lmm.fit import fit_collapsed
from donorwise._core.models.lmm.model import LMM
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from typing import Self

    from donorwise._core.design.design import Design, RandomTerm
    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.equations import Equations
    from donorwise._core.models.lmm.evaluate import Pieces
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_NULL = 1e-10  # share of a column, squared, that may vary within levels
_SINGULAR = 1e-9  # share of the largest variance below which what a level has of its own is rounding
_LARGE = 1e7  # a ratio, relative to what a level says of it, that is as good as infinite, and costs few digits


def term_without_rest(design: Design, collapsed: Collapsed) -> IntArray:
    """The term of an intercept within whose levels a feature does not vary, that of fewest levels, (G,); -1 for none.

    Of several with the same levels it is the one without a kernel.
    """
    out = np.full(collapsed.mean.shape[1], -1)
    terms = {t: term for t, term in enumerate(design.random_terms) if term.columns[0] == "(Intercept)"}
    for t in sorted(terms, key=lambda t: (-len(terms[t].levels), terms[t].kernel is None)):
        codes, n_levels = design.random_terms[t].codes, len(design.random_terms[t].levels)
        if collapsed.n_obs.sum() > n_levels:
            mean = _level_means(collapsed, codes, n_levels)[codes]
            between = collapsed.weight[:, None] * (collapsed.mean - mean) ** 2
            out[is_rounding(between.sum(axis=0) + collapsed.within_ss.sum(axis=0), collapsed)] = t
    return out


def _level_means(collapsed: Collapsed, codes: IntArray, n_levels: int) -> FloatArray:
    """Means of the features, (levels, G)."""
    total = np.zeros((n_levels, collapsed.mean.shape[1]))
    np.add.at(total, codes, collapsed.weight[:, None] * collapsed.mean)
    return np.asarray(total / np.bincount(codes, collapsed.weight, n_levels)[:, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelLMM(LMM):
    """Features that vary between the levels of a term only.

    Attributes
    ----------
    inner
        The model of one row per level.
    basis
        Shape (p, p'). N: coefficients of the formula from those of the inner model.
    term
        The term, whose effects are the inner residuals.
    kept
        Of each inner term, the term of the formula and its columns.
    values
        Shape (G, levels). The responses.
    root
        Shape (levels, levels). L where the levels of the term have a kernel, whose rows the inner model has divided by it.
    """

    inner: LMM
    basis: FloatArray
    term: int
    kept: tuple[tuple[int, IntArray], ...]
    values: FloatArray
    root: FloatArray | None = None

    @property
    def unmoderated(self) -> str:
        """See :class:`LMM`."""
        return f"the values are the same in all cells of every {self.level}"

    @property
    def level(self) -> str:
        """The grouping factor that has one row per level."""
        return self.design.random_terms[self.term].group

    def informed(self, L: FloatArray) -> BoolArray:
        """See :class:`LMM`: contrasts of what varies within levels are zero, without any variance."""
        return np.asarray(
            np.abs(L @ self.basis).max(axis=1, initial=0.0) > _NULL**0.5 * np.abs(L).max(axis=1, initial=0.0)
        )

    def status(self, L: FloatArray) -> StrArray:
        """See :class:`LMM`."""
        status = np.repeat(self.estimates.status[:, None], len(L), axis=1)
        fitted = np.isin(status, FITTED)
        few = between_within_df(self.design, self.n_obs, L) < 1
        status = np.where(fitted & few, "too_few_donors", status)
        return np.where(fitted & ~self.informed(L), "constant", status).astype(STATUS_DTYPE)

    def log_fc(self, L: FloatArray) -> FloatArray:
        """See :class:`LMM`."""
        own = at_ratios(self.equations, self.abundance, self.estimates.gamma, L) if self.abundance else np.nan
        return np.where(self.informed(L), own, np.nan) + np.zeros((self.features.size, 1))

    @property
    def n_variances(self) -> int:
        """See :class:`LMM`."""
        return self.inner.n_variances

    @property
    def residual_df(self) -> int:
        """See :class:`LMM`."""
        return self.inner.residual_df

    @property
    def coefficients(self) -> FloatArray:
        """See :class:`LMM`."""
        return self.inner.coefficients

    @property
    def vcov(self) -> FloatArray:
        """See :class:`LMM`."""
        return self.inner.vcov

    def turned(self, L: FloatArray) -> FloatArray:
        """See :class:`LMM`."""
        return self.inner.turned(L @ self.basis)

    @property
    def vcov_beta(self) -> FloatArray:
        """See :class:`LMM`."""
        return np.asarray(self.basis @ self.inner.vcov_beta @ self.basis.T)

    def pieces(self) -> Pieces:
        """See :class:`LMM`."""
        return self.inner.pieces()

    @property
    def theta(self) -> FloatArray:
        """See :class:`LMM`: what varies does so infinitely more than the residuals."""
        factors = components.theta_of(self.equations, self.estimates.gamma)
        return np.where(factors > 0, np.inf, np.where(factors < 0, -np.inf, factors))

    def covariances(self) -> list[FloatArray]:
        """See :class:`LMM`."""
        widths = [len(t.columns) for t in self.design.random_terms]
        out = [np.zeros((self.features.size, r, r)) for r in widths]
        out[self.term][:, 0, 0] = self.inner.estimates.sigma2
        for (t, columns), own in zip(self.kept, self.inner.covariances(), strict=True):
            out[t][:, columns[:, None], columns] = own
        return out

    def variances(self) -> FloatArray:
        """See :class:`LMM`."""
        terms = [
            np.einsum("ai,gab,bi->g", basis.factor, T, basis.factor)
            for basis, T in zip(self.equations.terms, self.covariances(), strict=True)
        ]
        fixed = components.fixed_variance(self.equations, self.estimates)
        return np.column_stack([fixed, *terms, self.estimates.sigma2])

    def random_effects(self, t: int) -> tuple[FloatArray, FloatArray]:
        """See :class:`LMM`."""
        term = self.design.random_terms[t]
        G, levels, r = self.features.size, len(term.levels), len(term.columns)
        modes, covariance = np.zeros((G, levels, r)), np.zeros((G, levels, r, r))
        if t == self.term:
            modes[:, :, 0], covariance[:, :, 0, 0] = self._rest()
        for i, (own, columns) in enumerate(self.kept):
            if own == t:
                inner = self.inner.random_effects(i)
                modes[:, :, columns], covariance[:, :, columns[:, None], columns] = inner
        return modes, covariance

    def _rest(self) -> tuple[FloatArray, FloatArray]:
        """Effects of the levels, the inner residuals, and their variances given beta: sigma2 (1 - diag V⁻¹)."""
        design, sigma2 = self.inner.design, self.inner.estimates.sigma2
        V = np.repeat(np.eye(len(design.X))[None], sigma2.size, axis=0)
        for term, T in zip(design.random_terms, self.inner.covariances(), strict=True):
            same = (
                term.codes[:, None] == term.codes
                if term.kernel is None
                else term.kernel[np.ix_(term.codes, term.codes)]
            )
            V += same * np.einsum("ka,gab,lb->gkl", term.Z, T, term.Z) / sigma2[:, None, None]
        inverse = np.linalg.inv(np.where(np.isfinite(V), V, np.eye(len(design.X))))
        X = design.X if self.root is None else self.root @ design.X
        residual = self.values - self.inner.beta @ X.T
        lost = np.where(np.isfinite(sigma2), 0.0, np.nan)[:, None]
        variance = sigma2[:, None] * (1 - np.einsum("gkk->gk", inverse))
        return np.einsum("gkl,gl->gk", inverse, residual) + lost, variance + lost

    def take(self, at: IntArray | BoolArray) -> Self:
        """See :class:`LMM`."""
        abundance = None if self.abundance is None else self.abundance.take(at)
        outer = {"features": self.features[at], "estimates": self.estimates.take(at), "abundance": abundance}
        return replace(self, inner=self.inner.take(at), values=self.values[at], **outer)  # type: ignore[arg-type]

    def fitted_by(self, *, reml: bool) -> Self:
        """See :class:`LMM`."""
        inner = self.inner.fitted_by(reml=reml)
        return replace(
            self,
            inner=inner,
            estimates=_outer(
                self.equations, self.estimates.responses, inner, self.basis, self.term, self.kept, self.root
            ),
        )

    def tells(self, part: Part) -> BoolArray:
        """See :class:`LMM`: nothing of the term that all variance is of."""
        return np.full(self.features.size, part.term != self.term)

    def loglik_without(self, part: Part) -> FloatArray:
        """See :class:`LMM`; terms that vary within levels have no variance to begin with."""
        reml = self.fitted_by(reml=True)
        for place, (t, columns) in enumerate(self.kept):
            if t == part.term and columns[-1] >= part.first:
                inner = Part(place, int((columns < part.first).sum()))
                return reml.loglik + reml.inner.loglik_without(inner) - reml.inner.loglik
        return reml.loglik

    @property
    def simulated(self) -> tuple[Equations, Responses] | None:
        """See :class:`LMM`: the equations are those of cells."""
        return None


def level_model(
    equations: Equations,
    collapsed: Collapsed,
    features: IntArray,
    abundance: Responses | None,
    term: int,
    *,
    reml: bool,
) -> LevelLMM | None:
    """The model of features that do not vary within the levels of a term; None where its levels do not suffice.

    `collapsed` are the statistics of these features, `features` their positions in the fit, `abundance` as in :class:`LMM`.
    """
    design = equations.design
    codes, n_levels = design.random_terms[term].codes, len(design.random_terms[term].levels)
    basis = _constant_within(design, codes, n_levels, collapsed)
    if not 0 < basis.shape[1] < n_levels:
        return None
    kept = tuple((t, own) for t in range(len(design.random_terms)) if (own := _kept(design, term, t)).size)
    kernel = design.random_terms[term].kernel
    root = None if kernel is None else _root(kernel)
    if kernel is not None and (root is None or kept):
        return None
    values = _level_means(collapsed, codes, n_levels)
    inner = _one_row_each(design, codes, basis, kept, values, features, root, reml=reml)
    response = equations.responses(collapsed)
    outer = _outer(equations, response, inner, basis, term, kept, root)
    return LevelLMM(
        features, equations, outer, abundance, inner=inner, basis=basis, term=term, kept=kept, values=values.T, root=root
    )  # fmt: skip


def _root(kernel: FloatArray) -> FloatArray | None:
    """L of K = LL'; None where K is singular."""
    try:
        L = np.asarray(np.linalg.cholesky(kernel), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    return L if np.diag(L).min() ** 2 > _SINGULAR * np.diag(kernel).max() else None


def _constant_within(design: Design, codes: IntArray, n_levels: int, collapsed: Collapsed) -> FloatArray:
    """N (p, p'): combinations of the columns of X that do not vary within levels, those columns themselves if they do."""
    columns = column_means(design.X, design.varying, collapsed)
    total = np.sqrt(np.einsum("k,kp->p", collapsed.weight, columns.mean**2))
    centred = columns.mean - _level_means(replace(collapsed, mean=columns.mean), codes, n_levels)[codes]
    inside = np.einsum("ip,kij,jq->pq", columns.deviation, collapsed.covariate_ss, columns.deviation)
    varying = (np.einsum("k,kp,kq->pq", collapsed.weight, centred, centred) + inside) / np.outer(total, total)
    fixed = np.diag(varying) <= _NULL
    values, vectors = np.linalg.eigh(varying[~fixed][:, ~fixed])
    out = np.zeros((fixed.size, int(fixed.sum() + (values <= _NULL).sum())))
    out[fixed, : fixed.sum()] = np.eye(fixed.sum())
    out[~fixed, fixed.sum() :] = vectors[:, values <= _NULL] / total[~fixed, None]
    return out


def _kept(design: Design, term: int, t: int) -> IntArray:
    """Columns of term `t` that still have a variance where nothing varies within the levels of `term`."""
    rest, own = design.random_terms[term], design.random_terms[t]
    first = np.unique(rest.codes, return_index=True)[1][rest.codes]
    if t == term or (own.codes != own.codes[first]).any():
        return np.empty(0, dtype=np.int64)
    same = len(own.levels) == len(rest.levels) and own.kernel is None  # an intercept of theirs is the rest itself
    stays = (own.Z == own.Z[first]).all(axis=0) & (np.array(own.varying) < 0)
    return np.flatnonzero(stays & ~(same & (np.array(own.columns) == "(Intercept)")))


def _one_row_each(
    design: Design,
    codes: IntArray,
    basis: FloatArray,
    kept: tuple[tuple[int, IntArray], ...],
    values: FloatArray,
    features: IntArray,
    root: FloatArray | None,
    *,
    reml: bool,
) -> LMM:
    """The model of one row per level, with responses `values` (levels, G), or of such rows divided by `root`."""
    first = np.unique(codes, return_index=True)[1]
    terms = tuple(_some_columns(design.random_terms[t], own).take(first) for t, own in kept)
    X = design.X[first] @ basis
    if root is not None:
        inverse = np.asarray(np.linalg.inv(root), dtype=np.float64)
        X, values = inverse @ X, inverse @ values
    names = tuple(f"column {i + 1}" for i in range(X.shape[1]))
    rows = replace(design.take(first), X=X, fixed_names=names, varying=(-1,) * X.shape[1], random_terms=terms)
    one, nothing = np.ones(len(first)), np.zeros((len(first), 0))
    collapsed = Collapsed(
        n_obs=one.astype(np.int64), weight=one, log_weight=0 * one, mean=values, within_ss=0 * values,
        covariate_mean=nothing, covariate_ss=nothing[:, :, None], covariate_y=np.zeros((len(first), 0, features.size)),
        abundance=nothing,
    )  # fmt: skip
    equations = build_equations(rows, collapsed)
    return LMM(features, equations, fit_collapsed(equations, collapsed, reml=reml), None)


def _some_columns(term: RandomTerm, columns: IntArray) -> RandomTerm:
    names, varying = ([values[i] for i in columns] for values in (term.columns, term.varying))
    return replace(term, Z=term.Z[:, columns], columns=tuple(names), varying=tuple(varying))


def _outer(
    equations: Equations,
    response: Responses,
    inner: LMM,
    basis: FloatArray,
    term: int,
    kept: tuple[tuple[int, IntArray], ...],
    root: FloatArray | None,
) -> Estimates:
    """The estimates in the basis of the formula; without residuals every ratio is a large one, or zero."""
    own, parameter = inner.estimates, equations.blocks.parameter
    widths = [len(t.columns) for t in equations.design.random_terms]
    T = [np.zeros((inner.features.size, r, r)) for r in widths]
    T[term][:, 0, 0] = 1.0
    for (t, columns), relative in zip(kept, components.covariances(inner.equations, own.gamma), strict=True):
        T[t][:, columns[:, None], columns] = relative
    large = _LARGE / equations.information[term]
    factors = [basis.factor for basis in equations.terms]
    internal = [large * factor.T @ t @ factor for t, factor in zip(T, factors, strict=True)]
    gamma = np.stack([internal[t][:, i, j] for t, i, j in parameter], axis=1)
    gone = len(kept) < len(widths) - 1 or sum(widths) > 1 + sum(columns.size for _, columns in kept)
    status = np.where((own.status == "ok") & gone, "boundary", own.status).astype(STATUS_DTYPE)
    p = len(basis)
    lost = np.where(np.isfinite(own.sigma2), 0.0, np.nan)
    loglik = own.loglik - (0.0 if root is None else np.log(np.diag(root)).sum())
    return Estimates(
        response, own.reml, own.beta @ basis.T, np.zeros((lost.size, p, p)) + lost[:, None, None],
        gamma + lost[:, None], lost, loglik, status, own.n_iter,
    )  # fmt: skip
