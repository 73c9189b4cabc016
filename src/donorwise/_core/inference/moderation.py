"""Moderated tests: the variances integrated over their posterior, for every family of models.

At a point k of the variances the statistic root_k of a contrast c'beta has the tail of t(nu) where c'beta
is zero. Averaged over the posterior of the points, with a prior that the features share, the one-sided tail is

    F = sum_k q_k T_nu(root_k),   q_k ∝ prior(theta_k) exp(loglik_k),   p = 2 min(F, 1 - F).

For Gaussian models root_k = c'beta_k / sqrt(sigma2_k c'Phi_k c) and nu = N - p, which is exact: a flat prior on
beta and 1/sigma is right-Haar for this location-scale family.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from donorwise._core.design.replicates import known_df
from donorwise._core.inference.mixture import Summary, beyond, summarise_level, summarise_mixture, two_sided
from donorwise._core.inference.prior import Prior, fit_prior
from donorwise._core.inference.wald import ContrastTests, excess, treat, without_too_few
from donorwise._core.jobs import in_threads
from donorwise._core.models.law import BUDGET, Model, chunks, tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.models.law import Law, OnGrid
    from donorwise._typing import FloatArray, IntArray

M = TypeVar("M", bound=Model)

MIN_FEATURES = 100
# Doubles of a prior's likelihoods that are kept for the tests (128 MB), which would evaluate them again.
_KEPT = 16_000_000


@dataclass(frozen=True, slots=True)
class Learned:
    """A prior, and what the features that it is shared by have to do with it.

    Attributes
    ----------
    prior
        The prior.
    rank
        By position in the fit: rank of the mean, as :func:`mean_rank`.
    place, loglik
        By position in the fit, the row of `loglik` (features, points) that is the feature's, -1 for none; no rows
        where they were too many to keep.
    """

    prior: Prior
    rank: FloatArray
    place: IntArray
    loglik: FloatArray

    @property
    def points(self) -> FloatArray:
        """The grid, (points, variances)."""
        return tensor(list(self.prior.axes))

    def known(self, features: IntArray) -> FloatArray | None:
        """Log-likelihoods of features, where they were kept."""
        at = self.place[features]
        return self.loglik[at] if self.loglik.size and (at >= 0).all() else None


@dataclass(frozen=True, slots=True)
class Tested:
    """Tests of the features of a model, the posterior means of its variances (G, variances), and fold changes (G, n)."""

    tests: ContrastTests
    variances: FloatArray
    log_fc: FloatArray


def refusal(models: Sequence[Model]) -> str:
    """Why moderation does not apply to the models of a fit; empty where it does."""
    if not models:
        return "no feature could be fitted"
    on_grids = moderatable(models)
    if not on_grids:
        return models[0].unmoderated
    n_features = sum(model.usable.size for model in on_grids)
    if n_features < MIN_FEATURES:
        one, several = on_grids[0].named
        count = f"1 {one} is" if n_features == 1 else f"{n_features} {several} are"
        return f"{count} too few to learn a prior from ({MIN_FEATURES} are needed)"
    return ""


def moderatable(models: Sequence[M]) -> list[M]:
    """The models whose variances lie on a grid; the others are tested as without moderation, and share no prior."""
    return [model for model in models if not model.unmoderated]


def learn(models: Sequence[Model], start: Prior | None = None, n_jobs: int = 1, *, chunk: int = BUDGET) -> Learned:
    """The prior shared by all features of a fit, whatever rows they have.

    `start` is the prior of a similar fit with the same random part, which saves most of the steps. Arrays have
    `chunk` doubles.
    """
    models = moderatable(models)
    rank = mean_rank(models)
    axes, weights = _axes(models, start)
    points = tensor(axes)
    loglik: list[FloatArray] = []
    features: list[IntArray] = []
    for model in models:
        chosen = _learned_from(model, rank)
        made = in_threads(model.on(points).loglik, chunks(chosen, len(points), chunk, model.most_together), n_jobs)
        loglik += made
        features.append(model.features[chosen])
    together: FloatArray = np.concatenate(loglik)
    at: IntArray = np.concatenate(features)
    prior = fit_prior(together, rank[at], axes, *models[0].components(), weights)
    place = np.full(rank.size, -1)
    place[at] = np.arange(at.size)
    return Learned(prior, rank, place, together if together.size <= _KEPT else together[:0])


def _axes(models: Sequence[Model], start: Prior | None) -> tuple[list[FloatArray], FloatArray | None]:
    """The grid of a fit, and weights to start from: those of a similar one where they reach far enough."""
    largest = np.max([model.largest() for model in models], axis=0)
    if start is not None and all(axis[-1] >= 2 * own for axis, own in zip(start.axes, largest, strict=True)):
        return list(start.axes), start.weights
    # of every variance the axis that reaches closest to zero, which is that of the most rows
    own_axes = zip(*(model.axes(largest) for model in models), strict=True)
    return [min(own, key=lambda axis: axis[1]) for own in own_axes], None


def _learned_from(model: Model, rank: FloatArray) -> IntArray:
    """The usable features of a model; of very many those that are evenly spaced in the mean."""
    usable = model.usable
    if usable.size <= model.most_learned_from:
        return usable
    even = np.linspace(0, usable.size - 1, model.most_learned_from).round().astype(np.int64)
    return usable[np.argsort(rank[model.features[usable]], kind="stable")[even]]


def mean_rank(models: Sequence[Model]) -> FloatArray:
    """Rank of every feature's mean among those that have a law, 0 to 1, by position in the fit; NaN for the others."""
    out = np.full(1 + max((int(model.features.max(initial=-1)) for model in models), default=-1), np.nan)
    for model in models:
        out[model.features[model.usable]] = model.mean[model.usable]
    known = np.isfinite(out)
    out[known] = (rankdata(out[known]) - 1) / max(int(known.sum()) - 1, 1)
    return out


def posterior(loglik: FloatArray, prior: FloatArray) -> FloatArray:
    """Posterior probabilities of the points, from log-likelihoods and prior probabilities, all (G, points)."""
    weight = np.exp(loglik - loglik.max(axis=1, keepdims=True))
    weight *= prior
    weight /= weight.sum(axis=1, keepdims=True)
    return weight


def best_point(loglik: FloatArray) -> FloatArray:
    """All probability on the point with the largest log-likelihood, (G, points): the estimate, where no prior is shared."""
    best = np.zeros_like(loglik)
    best[np.arange(len(best)), loglik.argmax(axis=1)] = 1.0
    return best


def moderated_tests(
    model: Model, L: FloatArray, learned: Learned, level: float, n_jobs: int = 1, *, min_effect: float | None = 0.0,
    chunk: int = BUDGET,
) -> Tested:  # fmt: skip
    """Test contrasts L (n, p), given in the basis of the formula, for the features of one model.

    The null hypothesis is that they are at most `min_effect` in size; see :func:`donorwise._core.inference.mixture.beyond`.
    It is None for levels, which have no such hypothesis; see :func:`donorwise._core.inference.mixture.summarise_level`.
    """
    points, grid = learned.points, model.on(learned.points, L)

    size = chunk // max(len(L), 1)

    def test(at: IntArray) -> _Made:
        law, weight = _weighted(model, grid, at, learned)
        df = [law.nu] * len(L)
        summaries = _summaries(law, weight, df, level, levels=min_effect is None)
        if min_effect:
            summaries = _beyond(summaries, grid, at, law, weight, df, min_effect)
        return _Made(summaries, weight @ points, grid.log_fc(at, law, weight))

    return _tested(
        model, L, list(in_threads(test, chunks(model.usable, len(points), size, model.most_together), n_jobs))
    )


def tests_by_law(
    model: Model, L: FloatArray, ddf: str, level: float, n_jobs: int = 1, *, min_effect: float | None = 0.0
) -> Tested:
    """Test contrasts without a prior, at the REML estimates of the variances.

    For models that are known by their law alone: the estimate is the best point of a fine grid. ``"wald"`` takes centre /
    scale there for a normal deviate, as other programs do; else the root has the degrees of freedom of the design. The
    null hypothesis is as for :func:`moderated_tests`.
    """
    points = tensor(model.fine_axes())
    grid, df = model.on(points, L), known_df(model.design, int(model.n_obs), L)

    def test(at: IntArray) -> _Made:
        law = grid.law(at)
        best = best_point(law.loglik)
        if ddf == "wald":
            summaries = _deviates(law, best, level, min_effect or 0.0)
        else:
            summaries = _summaries(law, best, df.tolist(), level, levels=min_effect is None)
            if min_effect:
                summaries = _beyond(summaries, grid, at, law, best, df.tolist(), min_effect)
        return _Made(summaries, best @ points, grid.log_fc(at, law, best))

    own = chunks(model.usable, len(points), BUDGET // max(len(L), 1), model.most_together)
    return _tested(model, L, list(in_threads(test, own, n_jobs)))


class _Made(NamedTuple):
    """Of a chunk of features: summaries of each contrast, variances (G, variances), and fold changes (G, n)."""

    summaries: list[Summary]
    variances: FloatArray
    log_fc: FloatArray


def _summaries(
    law: Law, weight: FloatArray, df: Sequence[float | FloatArray], level: float, *, levels: bool
) -> list[Summary]:
    """Of each contrast, with its degrees of freedom, or those of the features (G,)."""
    if levels:
        return [summarise_level(weight, law.centre[..., i], law.scale[..., i], nu, level) for i, nu in enumerate(df)]
    return [
        summarise_mixture(weight, law.centre[..., i], law.scale[..., i], nu, level, law.root[..., i])
        for i, nu in enumerate(df)
    ]


def _beyond(
    summaries: list[Summary], grid: OnGrid, at: IntArray, law: Law, weight: FloatArray,
    df: Sequence[float | FloatArray], min_effect: float,
) -> list[Summary]:  # fmt: skip
    """Summaries whose statistic and p-value are those of effects larger than `min_effect`."""
    roots = np.stack([grid.root_at(at, law, null) for null in (min_effect, -min_effect)])
    return [
        replace(
            own, statistic=excess(own.estimate, own.se, min_effect), p_value=beyond(weight, roots[..., i], nu)
        )
        for i, (own, nu) in enumerate(zip(summaries, df, strict=True))
    ]  # fmt: skip


def _deviates(law: Law, best: FloatArray, level: float, min_effect: float) -> list[Summary]:
    """Of each contrast the normal deviate centre / scale at the best point of each feature."""
    at = np.arange(len(best)), best.argmax(axis=1)
    estimate, se = law.centre[at].T, law.scale[at].T
    z, half = estimate / se, ndtri(0.5 + level / 2) * se
    z, p = treat(estimate, se, np.inf, min_effect) if min_effect else (z, 2 * ndtr(-np.abs(z)))
    columns = estimate, se, np.full_like(z, np.inf), z, p, estimate - half, estimate + half
    return [Summary(*own) for own in zip(*columns, strict=True)]


def _tested(model: Model, L: FloatArray, made: Sequence[_Made]) -> Tested:
    """Every feature its row, in the order of the chunks, which is that of the usable features."""
    shape = (model.features.size, len(L))
    numbers = {f.name: np.full(shape, np.nan) for f in fields(Summary)}
    variances, log_fc = np.full((shape[0], len(model.components()[0])), np.nan), np.full(shape, np.nan)
    if made:
        variances[model.usable] = np.concatenate([own.variances for own in made])
        log_fc[model.usable] = np.concatenate([own.log_fc for own in made])
        for name, values in numbers.items():
            for i in range(len(L)):
                values[model.usable, i] = np.concatenate([getattr(own.summaries[i], name) for own in made])
    return Tested(without_too_few(ContrastTests(**numbers, status=model.status(L))), variances, log_fc)


def p_values(model: Model, L: FloatArray, learned: Learned) -> tuple[FloatArray, FloatArray]:
    """Estimates and p-values (G,) of one contrast L (1, p), without the quantiles that cost most of a test."""
    grid, few = model.on(learned.points, L), model.status(L)[:, 0] == "too_few_donors"
    estimate, p_value = (np.full(model.features.size, np.nan) for _ in range(2))
    for at in chunks(model.usable, len(learned.points), most=model.most_together):
        law, weight = _weighted(model, grid, at, learned)
        estimate[at] = (weight * law.centre[..., 0]).sum(axis=1)
        root = law.root[..., 0]
        p_value[at] = two_sided(weight, root, np.ones_like(root), law.nu)
    return estimate, np.where(few, np.nan, p_value)


def _weighted(model: Model, grid: OnGrid, at: IntArray, learned: Learned) -> tuple[Law, FloatArray]:
    """The law of some features, and their posterior probabilities of the points."""
    features = model.features[at]
    law = grid.law(at, learned.known(features))
    return law, posterior(law.loglik, learned.prior.at(learned.rank[features]))
