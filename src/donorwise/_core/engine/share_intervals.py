"""Intervals of the shares of variance, from draws of what is not known of a feature's variances and coefficients.

A draw takes a point of the variances from their posterior on the grid, with the prior that the features share (moved
within its cell, so that shares are no grid's); where the residual variance is estimated, a residual variance from its own
law there; and what the fixed terms contribute from their confidence distribution given these. All of it is asked of
:class:`donorwise._core.models.law.Model`, so that it holds for every family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import gammaincinv

from donorwise._core.engine.arrays import check_count
from donorwise._core.engine.asking import ask
from donorwise._core.engine.partition import fixed_labels, long_shares, named_shares
from donorwise._core.engine.results import with_group
from donorwise._core.inference.moderation import posterior, refusal
from donorwise._core.inference.quadratic import drawn_coefficients, draws, forms
from donorwise._core.jobs import in_threads
from donorwise._core.models.law import chunks, covariances, tensor, with_sums
from donorwise._typing import check_level
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.tasks import Fit
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.models.law import Law, Model
    from donorwise._typing import FloatArray, IntArray


FEWEST = 100
"""Draws without which the ends of an interval are anybody's guess."""


@dataclass(frozen=True, slots=True)
class Chance:
    """What the draws of all features share, so that they hang on no order and no number of workers.

    Attributes
    ----------
    place
        Shape (D,), in order: where in its distribution the point of a draw lies.
    within
        Shape (D, T): where within the cell of a point the variance of every random term lies, -1/2 to 1/2.
    residual
        Shape (D,): where in its distribution the residual variance lies.
    normal
        Shape (D, m).
    """

    place: FloatArray
    within: FloatArray
    residual: FloatArray
    normal: FloatArray

    @classmethod
    def of(cls, n_draws: int, n_random: int, n_columns: int, seed: int) -> Chance:
        """Evenly spread in all but the normal deviates."""
        rng = np.random.default_rng(seed)
        even = (np.arange(n_draws) + 0.5) / n_draws
        within = np.stack([rng.permutation(even) for _ in range(n_random)], axis=1).reshape(n_draws, n_random) - 0.5
        residual, normal = rng.permutation(even), rng.normal(size=(n_draws, n_columns))
        return cls(even, within, residual, normal)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every model of a fit.

    Attributes
    ----------
    columns, terms
        Columns of X that terms of the fixed part have (m), and which of these (0 to m - 1) are each term's.
    learned
        The prior; None where features are too few to share one, and all points are as likely.
    level, chance
        Coverage, and the draws.
    """

    columns: IntArray
    terms: tuple[tuple[int, ...], ...]
    learned: Learned | None
    level: float
    chance: Chance


def check_draws(level: object, n_draws: object, random_state: object) -> None:
    """Raise unless these are a coverage, a number of draws, and the number of a stream of them.

    Raises
    ------
    DonorwiseError
        Says what each has to be.
    """
    check_level(level)
    check_count("n_draws", n_draws, FEWEST)
    check_count("random_state", random_state, 0)


def ask_intervals(
    analysis: Analysis[Any, Any],
    variables: Sequence[str],
    *,
    level: float,
    n_draws: int,
    seed: int,
    same: Callable[[pd.Series], None] | None = None,
    max_memory: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Intervals of some features in every group: variable, group, term, kind, ci_low, ci_high.

    `same`, `max_memory` and `progress` are those of :func:`ask`.

    Raises
    ------
    DataError
        No group has any; groups without are logged, with the reason.
    """
    place = {name: i for i, name in enumerate(analysis.variables)}
    features = np.array([place[name] for name in variables], dtype=np.int64)

    def question(number: int, statistics: Any, fit: Fit[Model]) -> pd.DataFrame:
        found = share_intervals(fit, level=level, n_draws=n_draws, seed=seed, features=features, n_jobs=analysis.n_jobs)
        return with_group(found, analysis.tasks[number].name)

    answers = ask(analysis, question, same=same, max_memory=max_memory, progress=progress)
    return pd.concat([own for own in answers if own is not None], ignore_index=True)


def share_intervals(
    fit: Fit[Model],
    *,
    level: float,
    n_draws: int,
    seed: int,
    features: IntArray | None = None,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Intervals of all shares of the features of a fit.

    Parameters
    ----------
    fit
        The models.
    level
        Coverage.
    n_draws, seed
        Draws of every feature.
    features
        Which features; their prior is that of all. None for all.
    n_jobs
        Threads.

    Returns
    -------
    DataFrame
        ``variable, term, kind, ci_low, ci_high``, as in :meth:`Partition.long`; NaN where there is no model.

    Raises
    ------
    DesignError
        No model has its variances on a grid.
    """
    able = [model for model in fit.models if not model.unmoderated]
    if not able:
        why = fit.models[0].unmoderated if fit.models else "no feature could be fitted"
        raise DesignError(f"There are no intervals of shares, which need the variances on a grid: {why}.")
    columns = np.array(sorted(set().union(*fit.design.terms.values())), dtype=np.int64)
    terms = tuple(tuple(np.searchsorted(columns, own).tolist()) for own in fit.design.terms.values())
    random = fit.random_labels
    chance = Chance.of(n_draws, len(random), columns.size, seed)
    question = Question(columns, terms, None if refusal(fit.models) else fit.learned, level, chance)
    ends = np.full((2, len(fit.variables), 2 + len(terms) + len(random)), np.nan)
    for model in able:
        at = model.usable if features is None else model.usable[np.isin(model.features[model.usable], features)]
        if at.size:
            ends[:, model.features[at]] = _intervals(model, at, question, n_jobs)
    return _table(fit, random, ends, features)


def _table(fit: Fit[Model], random: Sequence[str], ends: FloatArray, features: IntArray | None) -> pd.DataFrame:
    at = np.arange(len(fit.variables)) if features is None else features
    variables, fixed = [fit.variables[i] for i in at], fixed_labels(fit.design)
    low, high = (long_shares(variables, named_shares(fixed, random), own[at], "ci") for own in ends)
    return low.rename(columns={"ci": "ci_low"}).assign(ci_high=high["ci"])


def _intervals(model: Model, at: IntArray, question: Question, n_jobs: int) -> FloatArray:
    """Ends (2, G, shares) of the intervals of some of a model's features."""
    learned, spread = question.learned, model.column_spread[..., question.columns, :][..., question.columns]
    axes = model.axes(model.largest()) if learned is None else list(learned.prior.axes)
    points = tensor(axes)
    diagonal = np.einsum("...aa->...a", spread)
    unit = np.sqrt(diagonal if diagonal.ndim == 1 else diagonal.mean(axis=0))
    unit = np.where(unit > 0, unit, 1.0)  # a column that is constant
    spread = spread / np.outer(unit, unit)
    L = np.zeros((unit.size, model.column_spread.shape[-1]))  # coefficients per standard deviation of their columns
    L[np.arange(unit.size), question.columns] = unit
    L = with_sums(L)
    grid = model.on(points, L)
    steps = _steps(axes, model.of_terms, question.chance.within.shape[1])

    def ends(own: IntArray) -> FloatArray:
        law = grid.law(own, None if learned is None else learned.known(model.features[own]))
        prior = np.ones((1, len(points))) if learned is None else learned.prior.at(learned.rank[model.features[own]])
        known = _Known(
            law, posterior(law.loglik, prior), grid.parts(own, law.loglik), spread if spread.ndim == 2 else spread[own]
        )
        drawn = _draw(known, steps, question)
        tails = [(1 - question.level) / 2, (1 + question.level) / 2]
        return np.asarray(np.quantile(drawn, tails, axis=1))

    size = len(points) * (1 + len(L)) + question.chance.place.size * (len(steps) + 8 + 2 * question.columns.size)
    made = in_threads(ends, chunks(at, size, most=model.most_together), n_jobs)
    return np.concatenate(list(made), axis=1)


def _steps(axes: Sequence[FloatArray], of_terms: IntArray, n_random: int) -> FloatArray:
    """Logarithm of the ratio of neighbouring points of every term's variance, (T,): the first, where it has several."""
    out = np.zeros(n_random)
    for axis, t in reversed(list(zip(axes, of_terms, strict=True))):
        if t >= 0:
            out[t] = np.log(axis[-1] / axis[1]) / max(axis.size - 2, 1)
    return out


class _Known(NamedTuple):
    """Of G features: law of the contrasts, posterior (G, K), variances (G, K, T + 1), S (m, m) or (G, m, m)."""

    law: Law
    weight: FloatArray
    parts: FloatArray
    spread: FloatArray


def _draw(known: _Known, steps: FloatArray, question: Question) -> FloatArray:
    """Draws (G, D, shares) of the shares, in the order of the stored table."""
    chance, (G, K) = question.chance, known.weight.shape
    points = _points(known.weight, chance.place)
    used, place = np.unique(points + K * np.arange(G)[:, None], return_inverse=True)
    place, (g, k) = place.reshape(points.shape), np.divmod(used, K)
    factor = _residual_factor(known.law.nu, chance.residual, G)
    parts = known.parts[g, k][place] * factor[:, :, None]
    parts[..., :-1] *= np.exp(chance.within * steps)
    rest = parts.sum(axis=2, keepdims=True)
    if not question.columns.size:
        return np.concatenate([np.zeros_like(rest), parts], axis=2) / rest
    beta, C = _coefficients(known.law, g, k, question.columns.size)
    S = known.spread if known.spread.ndim == 2 else known.spread[g]
    own = forms(beta, C, S, [range(question.columns.size), *question.terms])
    values = draws(own, place, chance.normal, factor)
    whole, values = values[..., :1], values[..., 1:]
    values *= _scaled_by(drawn_coefficients(own, place, chance.normal, factor), known.spread, question.terms)
    each = values / (np.maximum(whole, values) + rest)
    return np.concatenate([whole / (whole + rest), each, parts / (whole + rest)], axis=2)


def _scaled_by(beta: FloatArray, spread: FloatArray, terms: Sequence[tuple[int, ...]]) -> FloatArray:
    """Var(X beta) relative to the sum of the terms' own variances, (G, D, 1), at coefficients (G, D, m).

    That of draws about the estimates: both are too large by what the estimates vary, of terms that are not correlated by
    the same, while the forms' own draws would not add up.
    """
    same = np.zeros(spread.shape[-2:])
    for columns in terms:
        same[np.ix_(columns, columns)] = 1.0
    whole, own = (((beta @ S) * beta).sum(axis=2, keepdims=True) for S in (spread, spread * same))
    return np.asarray(whole / np.where(own > 0, own, 1.0))


def _points(weight: FloatArray, place: FloatArray) -> IntArray:
    """The point (G, D) at a place (D,) in the distribution of each feature (G, K)."""
    cumulated = np.cumsum(weight, axis=1)
    found = [np.searchsorted(own, place * own[-1]) for own in cumulated]
    return np.minimum(np.array(found, dtype=np.int64), weight.shape[1] - 1)


def _coefficients(law: Law, g: IntArray, k: IntArray, m: int) -> tuple[FloatArray, FloatArray]:
    """Estimates (U, m) and covariances (U, m, m) of coefficients at points, from their law and that of sums of two."""
    C = covariances(law.scale[g, k].T ** 2)
    return law.centre[g, k, :m], np.ascontiguousarray(C.transpose(2, 0, 1))


def _residual_factor(nu: float | FloatArray, place: FloatArray, G: int) -> FloatArray:
    """A residual variance relative to its estimate, nu / chi-squared(nu), (G, D); one where it is known."""
    values, group = np.unique(np.broadcast_to(nu, G), return_inverse=True)
    own = [np.ones(place.size) if np.isinf(n) else 0.5 * n / gammaincinv(0.5 * n, place) for n in values.tolist()]
    return np.stack(own)[group.ravel()]
