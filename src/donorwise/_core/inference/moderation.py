"""Moderated tests: the variance ratio integrated over its posterior.

Given the ratios, a flat prior on beta and 1/sigma makes the posterior of c'beta a t with
N - p degrees of freedom, whose tails are exact (a location-scale family under its right-Haar
prior). Averaged over the posterior of the ratios, with the prior that the features share, the
one-sided tail is

    F = sum_k q_k T_nu(t_k),   t_k = c'beta_k / sqrt(sigma2_k c'Phi_k c),   p = 2 min(F, 1 - F).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from donorwise._core.inference.grid import evaluate_grid, ratio_axes, tensor
from donorwise._core.inference.mixture import Summary, summarise_mixture, two_sided
from donorwise._core.inference.prior import Prior, fit_prior
from donorwise._core.inference.wald import ContrastTests, contrast_status, fitted, orthonormal_rows, without_too_few

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from donorwise._core.models.lmm.crossproducts import Responses
    from donorwise._core.models.lmm.fit import Block, Model, Part
    from donorwise._typing import FloatArray, IntArray

MIN_FEATURES = 100
# Doubles of one array (features x grid points) of a block of features (16 MB).
_CHUNK = 2_000_000


@dataclass(frozen=True, slots=True)
class Posterior:
    """The grid as G features see it.

    Attributes
    ----------
    weight
        Shape (G, points). Posterior probabilities.
    centre, scale
        Shape (n, G, points). Estimate and standard error of n contrasts given the ratios.
    """

    weight: FloatArray
    centre: FloatArray
    scale: FloatArray


def refusal(parts: Sequence[Part]) -> str:
    """Why moderation does not apply to a fit; empty where it does."""
    models = [p.model for p in parts if p.model is not None]
    if not models:
        return "no feature could be fitted"
    terms = models[0].terms
    if not 1 <= len(terms) <= 2:
        return f"moderation covers one or two random terms and the model has {len(terms)}"
    if any(len(t.term.columns) > 1 for t in terms):
        return "moderation does not cover correlated random slopes"
    n_features = sum(fitted(p.block).size for p in parts if p.block is not None)
    if n_features < MIN_FEATURES:
        count = "1 feature is" if n_features == 1 else f"{n_features} features are"
        return f"{count} too few to learn a prior from ({MIN_FEATURES} are needed)"
    return ""


def learn_prior(parts: Sequence[Part], start: Prior | None = None, *, chunk: int = _CHUNK) -> Prior:
    """The prior shared by all features of a fit, whatever rows they have.

    `start` is the prior of a similar fit with the same random part, which saves most of the steps.
    """
    used = [(p, p.model, p.block) for p in parts if p.model is not None and p.block is not None]
    largest = np.max([_largest_ratios(block) for _, _, block in used], axis=0)
    if start is None or any(axis[-1] < 2 * ratio for axis, ratio in zip(start.axes, largest, strict=True)):
        axes, weights = _widest([ratio_axes(model, largest) for _, model, _ in used]), None
    else:
        axes, weights = list(start.axes), start.weights
    loglik, at = [], []
    for part, model, block in used:
        usable = fitted(block)
        for features in _chunks(usable, axes, chunk):
            loglik.append(grid_loglik(model, block.responses.take(features), axes))
        at.append(part.features[usable])
    rank = mean_rank(parts)[np.concatenate(at)]
    terms = used[0][1].terms
    names, scale = tuple(t.term.label for t in terms), tuple(float(t.back[0, 0]) ** 2 for t in terms)
    return fit_prior(np.concatenate(loglik), rank, axes, names, scale, weights)


def mean_rank(parts: Sequence[Part]) -> FloatArray:
    """Rank of every feature's mean response among those that have estimates, 0 to 1; NaN for the others."""
    out = np.full(sum(p.features.size for p in parts), np.nan)
    for part in parts:
        if part.block is not None:
            usable = fitted(part.block)
            out[part.features[usable]] = part.block.responses.mean[usable]
    known = np.isfinite(out)
    out[known] = (rankdata(out[known]) - 1) / max(int(known.sum()) - 1, 1)
    return out


def grid_loglik(model: Model, response: Responses, axes: list[FloatArray]) -> FloatArray:
    """REML log-likelihood of G features on the grid, (G, points)."""
    return np.stack([point.loglik for point in evaluate_grid(model, response, tensor(axes))], axis=1)


def moderated_tests(
    model: Model, block: Block, L: FloatArray, prior: Prior, rank: FloatArray, level: float, *, chunk: int = _CHUNK
) -> ContrastTests:
    """Test the rows of L (n, p), given in the basis of the formula, for features of one model.

    `rank` (G,) is the rank of each feature's mean response, as in :func:`mean_rank`.
    """
    rows, nu = orthonormal_rows(model, L), float(model.nu(reml=True))
    numbers = {f.name: np.full((block.status.size, len(L)), np.nan) for f in fields(Summary)}
    for features in _chunks(fitted(block), list(prior.axes), chunk):
        at = posterior(model, block.responses.take(features), prior, rank[features], rows)
        for i in range(len(L)):
            summary = summarise_mixture(at.weight, at.centre[i], at.scale[i], nu, level)
            for name, values in numbers.items():
                values[features, i] = getattr(summary, name)
    with np.errstate(invalid="ignore"):
        statistic = numbers["estimate"] / numbers["se"]
    tests = ContrastTests(**numbers, statistic=statistic, status=contrast_status(model, block, L))
    return without_too_few(tests)


def moderated_p_values(parts: Sequence[Part], weights: FloatArray, prior: Prior) -> tuple[FloatArray, FloatArray]:
    """Estimates and p-values (G,) of one contrast `weights` (p,), without the quantiles that cost most of a test."""
    rank = mean_rank(parts)
    estimate, p_value = (np.full(rank.size, np.nan) for _ in range(2))
    for part in parts:
        if part.model is None or part.block is None:
            continue
        rows, nu = orthonormal_rows(part.model, weights[None]), float(part.model.nu(reml=True))
        few = contrast_status(part.model, part.block, weights[None])[:, 0] == "too_few_donors"
        for features in _chunks(fitted(part.block), list(prior.axes)):
            at = part.features[features]
            grid = posterior(part.model, part.block.responses.take(features), prior, rank[at], rows)
            estimate[at] = (grid.weight * grid.centre[0]).sum(axis=1)
            tested = two_sided(grid.weight, grid.centre[0], grid.scale[0], nu)
            p_value[at] = np.where(few[features], np.nan, tested)
    return estimate, p_value


def posterior(model: Model, response: Responses, prior: Prior, rank: FloatArray, rows: FloatArray) -> Posterior:
    """Weights of the grid's points for G features, and contrasts `rows` (n, p, orthonormal basis) at each."""
    nu = float(model.nu(reml=True))
    centre, scale, loglik = [], [], []
    for point in evaluate_grid(model, response, tensor(list(prior.axes))):
        variance = np.einsum("np,pr,nr->n", rows, point.Phi, rows)
        centre.append(rows @ (response.ols + point.delta).T)
        scale.append(np.sqrt(np.outer(variance, point.R / nu)))
        loglik.append(point.loglik)
    log_posterior = np.stack(loglik, axis=1) + np.log(prior.at(rank))
    weight = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return Posterior(weight, np.stack(centre, axis=-1), np.stack(scale, axis=-1))


def _largest_ratios(block: Block) -> FloatArray:
    """Largest estimate of every term's ratio among the features, (terms,)."""
    return np.asarray(block.gamma[fitted(block)].max(axis=0, initial=0.0))


def _chunks(features: IntArray, axes: Sequence[FloatArray], chunk: int = _CHUNK) -> Iterator[IntArray]:
    size = max(1, chunk // int(np.prod([a.size for a in axes])))
    for start in range(0, features.size, size):
        yield features[start : start + size]


def _widest(axes: list[list[FloatArray]]) -> list[FloatArray]:
    """Of every term, the axis that reaches closest to zero, which is that of the most rows."""
    return [min(own, key=lambda axis: axis[1]) for own in zip(*axes, strict=True)]
