"""Power of studies like a fitted one: more or fewer donors, more or fewer cells of each.

A study with n donors is thought of as n/D copies of the fitted one with its D donors, each with m
cells spread over its samples as they are. Information adds up over copies, so that

    Var(c'b) = (D/n) sigma2 c'(X'V(m)^-1 X)^-1 c,   t = c'b / se ~ t_df(effect / se),

and the degrees of freedom of the inner-outer rule are affine in the number of copies. For two
balanced arms of n/2 donors this is Var = (tau2 + sigma2/m) 4/n with n - 2 degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import polygamma

from donorwise._core.design.arms import describe
from donorwise._core.design.findings import uncovered
from donorwise._core.design.replicates import column_df
from donorwise._core.inference.moderation import mean_rank, moderatable, posterior, refusal
from donorwise._typing import FITTED
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Donors as DonorsOfRows
    from donorwise._core.engine.tasks import Fit
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.models.law import Model
    from donorwise._typing import FloatArray, IntArray

COLUMNS = (
    "contrast", "expression", "n_donors", "n_cells", "effect", "alpha", "power", "q10", "median", "q90",
    "df", "n_features", "status",
)  # fmt: skip
ENOUGH_DF = 2.0
"""Degrees of freedom below which a t test finds next to nothing: with one a p-value of .001 takes a t of 637."""

POWER_STATUSES = ("ok", "too_few_donors")
EXPRESSION = ("all", "low", "middle", "high")
# Features that represent a fit; more would not change their mean and quantiles.
_MOST_FEATURES = 2000
_NODES = 600
# Noncentrality, in units of 1 + the critical value, beyond which power is 1.
_FARTHEST = 12.0
# Noncentrality beyond which the statistic is not negative (probability below 1e-9).
_NO_LOWER_TAIL = 6.0
# Noncentrality beyond which the spread of the numerator changes the power by less than 1e-4.
_CONSTANT = 200.0


M = TypeVar("M", bound="Model")  # the models of a family


@dataclass(frozen=True, slots=True)
class Studies:
    """Sizes of studies, effects in units of the response, and levels of the two-sided test."""

    n_donors: tuple[int, ...]
    n_cells: tuple[int, ...]
    effect: tuple[float, ...]
    alpha: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Known(Generic[M]):
    """What a fit says about a contrast's variance in G features of one model, at points of the variances.

    Attributes
    ----------
    model
        The model of these features.
    points
        Variances at the points: (points, K) that all features share, or (G, K), one point each.
    variance
        Shape (G, points). Variance of the estimate in the fitted study.
    weight, prior
        Shape (G, points). Probability of the points, with and without the feature's own data.
    """

    model: M
    points: FloatArray
    variance: FloatArray
    weight: FloatArray
    prior: FloatArray


class Planned(NamedTuple):
    """Variance of a contrast in one copy of a planned study (G, points), and what of it the points alone decide.

    The latter is (points,) or (G, points): the variance relative to what is known apart from them. `df` are the degrees of
    freedom of its estimate in one copy, where the design does not tell them.
    """

    variance: FloatArray
    relative: FloatArray
    df: float = np.inf


class Planner(Protocol[M]):
    """What a family knows of studies with other numbers of cells."""

    def at(self, n_cells: int, known: Known[M], L: FloatArray) -> Planned:
        """A contrast L (1, p) in a study with `n_cells` cells of every donor."""

    def n_obs(self, n_donors: int, n_cells: int) -> float:
        """Rows of the model in such a study of `n_donors` donors."""

    def most_df(self, n_obs: float, p: int) -> float:
        """Degrees of freedom that moderation cannot exceed, with p fixed effects."""

    def from_estimates(self, model: M, L: FloatArray) -> Known[M]:
        """What is known of features that share no prior."""


def power_table(
    fit: Fit[M],
    names: Sequence[str],
    L: FloatArray,
    plan: Studies,
    planner: Planner[M],
    n_donors: int,
    *,
    moderated: bool = True,
    update: Callable[[int], object] = lambda n: None,
) -> pd.DataFrame:
    """Power of contrasts L (n, p) for every plan, over the features of a fit.

    Where the features share a prior on the variances the power of each is averaged over its
    posterior (and that of sigma2 given them); else its estimates are taken for the truth.

    Parameters
    ----------
    fit
        Fitted models.
    names, L
        The contrasts.
    plan
        The studies.
    planner
        What the fit's family knows of them.
    n_donors
        Donors of the fitted study.
    moderated
        Whether the tests will be moderated; they have more degrees of freedom, see :func:`prior_df`.
    update
        Told 1 after each contrast and number of cells.

    Returns
    -------
    One row per contrast x tertile of expression x n_donors x n_cells x effect x alpha: mean power and
    its 10, 50 and 90% quantiles over the features; NaN with the status ``too_few_donors`` where fewer than
    one degree of freedom is left.
    """
    used = _representative(fit)
    tertile = np.minimum((3 * np.nan_to_num(mean_rank(fit.models))).astype(int), 2) + 1
    rows: list[dict[str, object]] = []
    for name, row in zip(names, L, strict=True):
        known = _what_is_known(fit, row[None], used, planner)
        if not known:
            raise DataError(f"No feature can answer {name!r}: there are no variances to plan with.")
        for m in plan.n_cells:
            planned = [planner.at(m, own, row[None]) for own in known]
            features, variance, weight = _together(known, [own.variance for own in planned])
            extra = prior_df([own.prior for own in known], [own.relative for own in planned]) if moderated else 0.0
            for n in plan.n_donors:
                n_obs = planner.n_obs(n, m)
                known_df = min(own.df for own in planned) * n / n_donors
                df = min(planned_df(fit.design, row, n / n_donors, n_obs), known_df)
                df = min(df + extra, planner.most_df(n_obs, len(row))) if df >= 1 else np.nan
                status = POWER_STATUSES[not df >= 1]
                study = {"contrast": name, "n_donors": n, "n_cells": m, "df": df, "status": status}
                rows += _rows(study, variance * n_donors / n, weight, plan, df, tertile[features])
            update(1)
    return pd.DataFrame(rows)[list(COLUMNS)]


def replication(design: Design, donors: DonorsOfRows, L: FloatArray) -> tuple[list[str], list[str]]:
    """What each contrast (n, p) compares, donors or each donor with itself, and what the audit warns of there.

    The kinds are those of :class:`donorwise._core.design.arms.Arms`. The warnings are those about
    contrasts within donors that no random term lets differ between donors.
    """
    arms = {arm.contrast: arm for arm in describe(design, donors)}
    parts = [[arms[design.fixed_names[j]] for j in np.flatnonzero(row) if design.fixed_names[j] in arms] for row in L]
    kinds = [{arm.kind for arm in own} for own in parts]
    asked = {arm.contrast: arm for own in parts for arm in own}
    return [kind.pop() if len(kind) == 1 else "mixed" for kind in kinds], [*uncovered(design, asked.values(), donors)]


def _rows(
    study: dict[str, object], variance: FloatArray, weight: FloatArray, plan: Studies, df: float, tertile: IntArray
) -> list[dict[str, object]]:
    """Rows of one study: power in every feature, averaged over what is not known of its variance."""
    noncentrality = 1 / np.sqrt(variance)
    rows = []
    for effect in plan.effect:
        for alpha in plan.alpha:
            power = (weight * two_sided_power(abs(effect) * noncentrality, df, alpha)).sum(axis=1)
            rows += [study | {"effect": effect, "alpha": alpha} | part for part in _summaries(power, tertile)]
    return rows


def two_sided_power(noncentrality: FloatArray, df: float, alpha: float) -> FloatArray:
    """Power of a two-sided t test at noncentral values of its statistic; NaN below one degree of freedom."""
    if not df >= 1:
        return np.full(np.shape(noncentrality), np.nan)
    critical = float(stats.t.isf(alpha / 2, df))
    share = np.linspace(0, 1, _NODES)
    nodes = (1 + critical) * share / (1 + 1 / _FARTHEST - share)
    # far out the numerator of t is as good as constant, and the exact law slow to sum
    power = stats.chi2.cdf(df * (nodes / critical) ** 2, df)
    exact = nodes < _CONSTANT
    power[exact] = stats.nct.sf(critical, df, nodes[exact])
    near = nodes < _NO_LOWER_TAIL
    power[near] += stats.nct.sf(critical, df, -nodes[near])
    return np.interp(noncentrality, nodes, np.minimum(power, 1))


def planned_df(design: Design, row: FloatArray, copies: float, n_obs: float) -> float:
    """Degrees of freedom of one contrast (p,) in a number of copies of a design with `n_obs` rows in all.

    Those of a column are affine in the copies, by the inner-outer rule (see
    :mod:`donorwise._core.design.replicates`); a column with random slopes has their levels as its
    replicates; and a contrast has the fewest of its columns.
    """
    per_copy = round(n_obs / copies)
    once, twice = column_df(design, per_copy), column_df(_doubled(design), 2 * per_copy)
    columns = np.minimum(once + (copies - 1) * (twice - once), _slope_df(design, copies))
    return float(columns[np.flatnonzero(row)].min())


def own_df(design: Design, L: FloatArray, n_obs: float) -> FloatArray:
    """Degrees of freedom of contrasts (n, p) without those that a prior adds, (n,); see :func:`planned_df`."""
    columns = np.minimum(column_df(design, int(n_obs)), _slope_df(design, 1.0))
    return np.array([columns[np.flatnonzero(row)].min() if row.any() else np.nan for row in L])


def carried_by_prior(names: Sequence[str], df: FloatArray) -> str:
    """Which contrasts nothing but the prior carries: they have less than two degrees of freedom of their own."""
    return ", ".join(name for name, own in zip(names, df, strict=True) if 1 <= own < ENOUGH_DF)


def _slope_df(design: Design, copies: float) -> FloatArray:
    """Degrees of freedom of columns of X that are a random slope's column times numbers of its levels, (p,).

    Such as time and time:arm with ``(time | donor)``: every donor has one slope, and these columns
    explain it. Infinite for the others.
    """
    out = np.full(design.X.shape[1], np.inf)
    if all(t.columns == ("(Intercept)",) for t in design.random_terms):
        return out
    rows = np.flatnonzero(design.codes >= 0)
    X = _by_row(design, design.X, design.varying, rows)
    for term in design.random_terms:
        codes, Z = term.codes[design.codes[rows]], _by_row(design, term.Z, term.varying, rows)
        for z, name in zip(Z.T, term.columns, strict=True):
            if name == "(Intercept)":
                continue
            square = np.bincount(codes, weights=z**2)
            sums = np.stack([np.bincount(codes, weights=z * x) for x in X.T], axis=1)
            slopes = sums / np.where(square > 0, square, 1.0)[:, None]
            same = np.abs(X - z[:, None] * slopes[codes]).max(axis=0) <= 1e-9 * np.abs(X).max(axis=0)
            rank = int(np.linalg.matrix_rank(slopes[:, same])) if same.any() else 0
            out[same] = np.minimum(out[same], len(term.levels) * copies - rank)
    return out


def _by_row(design: Design, values: FloatArray, varying: Sequence[int], rows: IntArray) -> FloatArray:
    """Columns of X or Z, row by row."""
    out = values[design.codes[rows]]
    for column, covariate in enumerate(varying):
        if covariate >= 0:
            out[:, column] = design.covariates[rows, covariate]
    return out


def _doubled(design: Design) -> Design:
    """Two copies of a study: the same patterns, other donors."""
    terms = tuple(
        replace(t, codes=np.concatenate([t.codes, t.codes + len(t.levels)]), Z=np.vstack([t.Z, t.Z]))
        for t in design.random_terms
    )
    return replace(design, X=np.vstack([design.X, design.X]), random_terms=terms)


def _representative(fit: Fit[M]) -> IntArray:
    """Features that were fitted, or as many as are needed, evenly spread over mean expression."""
    ok = np.flatnonzero(np.isin(fit.status, FITTED))
    if ok.size == 0:
        raise DataError("No feature could be fitted: there are no variances to plan with.")
    most = _MOST_FEATURES if len(fit.design.random_terms) == 1 else _MOST_FEATURES // 4
    rank = mean_rank(moderatable(fit.models) or fit.models)  # those that share a prior, where there is one
    ok = ok[ok < rank.size]
    ok = ok[np.isfinite(rank[ok])]
    order = ok[np.argsort(rank[ok], kind="stable")]
    return np.sort(order[np.linspace(0, order.size - 1, min(order.size, most)).round().astype(int)])


def _what_is_known(fit: Fit[M], L: FloatArray, used: IntArray, planner: Planner[M]) -> list[Known[M]]:
    parts = [
        model.take(np.flatnonzero(np.isin(model.features, used) & (model.status(L)[:, 0] != "not_estimable")))
        for model in fit.models
    ]
    shared = not refusal(fit.models)
    return [
        _from_prior(fit.learned, part, L) if shared else planner.from_estimates(part, L)
        for part in parts
        if part.features.size
    ]


def _from_prior(learned: Learned, model: M, L: FloatArray) -> Known[M]:
    law, prior = model.law(learned.points, L), learned.prior.at(learned.rank[model.features])
    return Known(model, learned.points, law.scale[..., 0] ** 2, posterior(law.loglik, prior), prior)


def _together(known: Sequence[Known[M]], variance: Sequence[FloatArray]) -> tuple[IntArray, FloatArray, FloatArray]:
    """All features in their order, (G,), their variances and the points' weights, (G, points)."""
    features = np.concatenate([k.model.features for k in known])
    order = np.argsort(features, kind="stable")
    return features[order], np.concatenate(variance)[order], np.concatenate([k.weight for k in known])[order]


def prior_df(priors: Sequence[FloatArray], relative: Sequence[FloatArray]) -> float:
    """Degrees of freedom that moderation adds.

    The fewer, the more features differ in the variance of the contrast, relative to sigma2: if that
    varied as a scaled inverse chi-squared with d0 degrees of freedom, the variance of its logarithm
    were trigamma(d0 / 2), and a moderated t had d0 degrees of freedom more (Smyth 2004, Stat Appl
    Genet Mol Biol 3:3, sections 3 and 6.2).
    """
    if any(prior.shape[1] == 1 for prior in priors):
        return 0.0
    spread = []
    for prior, own in zip(priors, relative, strict=True):
        log_variance = np.broadcast_to(np.log(own), prior.shape)
        mean = np.einsum("gk,gk->g", prior, log_variance)
        spread.append((prior * (log_variance - mean[:, None]) ** 2).sum(axis=1))
    target = float(np.concatenate(spread).mean())
    half = np.geomspace(0.05, 1e7, 2000)
    return float(2 * np.exp(np.interp(-np.log(target), -np.log(polygamma(1, half)), np.log(half))))


def _summaries(power: FloatArray, tertile: IntArray) -> list[dict[str, object]]:
    """Mean and quantiles over all features, and over each third of them by expression."""
    out: list[dict[str, object]] = []
    for i, name in enumerate(EXPRESSION):
        own = power if i == 0 else power[tertile == i]
        if own.size:
            q10, median, q90 = np.quantile(own, [0.1, 0.5, 0.9])
            numbers = {"power": float(own.mean()), "q10": q10, "median": median, "q90": q90, "n_features": own.size}
            out.append({"expression": name, **numbers})
    return out
