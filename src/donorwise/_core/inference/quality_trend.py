"""How the residual variance of measurements depends on a score of their quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from donorwise._typing import FloatArray, IntArray

_MOST_BINS, _DF_PER_BIN = 50, 50.0
_SPARE = 1e-6
"""Measurements whose residual has a smaller share of freedom are fitted exactly, and tell nothing."""
_PASSES, _STEPS, _CLOSE = 20, 500, 1e-3
_CAP = 6.0
"""Squared residuals count up to so many times their variance; of normal ones 14 in 1,000 are larger."""
_MOST_DF = 40_000.0
"""Of residuals; enough to know the variance in every interval within a few percent, from some of the proteins."""
_MOST_PAIRS = 600
"""Measurements of a protein of which every pair is looked at; of more, what one tells of the others is spread over all."""
_STEP_VARIANCES = np.concatenate([[0.0], np.logspace(-6, 1, 71)])
"""Of the logarithm of the variance, from one interval of the score to the next."""


class Trend(NamedTuple):
    """Logarithm of the variance, linear between some ranks of the score; `df` of the residuals it was learned from."""

    ranks: FloatArray
    log_variance: FloatArray
    df: float

    def at(self, ranks: FloatArray) -> FloatArray:
        """Variances at these ranks, relative to each other."""
        return np.exp(np.interp(ranks, self.ranks, self.log_variance))


class Protein(NamedTuple):
    """The measurements of a protein: value, rank of the score, and number of run and peptide from 0, all (n,)."""

    values: FloatArray
    ranks: FloatArray
    runs: IntArray
    peptides: IntArray


class TwoWay(NamedTuple):
    """Runs + peptides by weighted least squares.

    Residuals and 1 - leverage, (n,); and what the leverage is made of: the share of a measurement in the weight of its level
    of `eliminated`, and its directions (n, r) among the levels of the other factor.
    """

    residual: FloatArray
    spare: FloatArray
    share: FloatArray
    eliminated: IntArray
    directions: FloatArray

    def projection(self) -> FloatArray:
        """What maps values over their standard deviations to residuals over theirs, (n, n)."""
        root = np.sqrt(self.share)
        same = self.eliminated[:, None] == self.eliminated
        return np.asarray(
            np.eye(root.size) - np.where(same, np.outer(root, root), 0) - self.directions @ self.directions.T
        )


def variance_trend(values: FloatArray, ranks: FloatArray, columns: Sequence[IntArray]) -> Trend:
    """Estimate how variance changes with a score.

    Every protein is the sum of runs and peptides, by weighted least squares, with a variance of its own times f(score). At the
    optimum of the restricted likelihood the mean of r²/(sigma²_g f), over the residual's share of freedom 1 - h, is one
    in every interval of the score and in every protein; residuals are those under weights 1/f, and outliers count as
    far as in every other interval (squares are capped at 6 sigma² f), which leaves ratios of variances what they are. The logarithms of f are then
    smoothed as a random walk, whose steps have the variance that makes them most likely: none if the score says nothing, and
    then f is constant.

    Parameters
    ----------
    values
        Shape (N, M), NaN where nothing was measured.
    ranks
        Shape (N, M). Ranks of the score from 0 to 1, NaN where it is missing.
    columns
        The columns of every protein. Where there are many proteins every other, third, ... one is looked at.

    Returns
    -------
    The trend, with `df` 0 where no protein has two peptides in two runs.
    """
    proteins = [own for part in columns if (own := _protein(values, ranks, part)) is not None]
    fits = [two_way(own, np.ones(own.values.size)) for own in proteins]
    df = float(sum(fit.spare.sum() for fit in fits))
    if df < 1:
        return Trend(np.zeros(1), np.zeros(1), 0.0)
    proteins = proteins[:: int(np.ceil(df / _MOST_DF))]
    df = min(df, _MOST_DF)
    told = np.concatenate([own.ranks for own in proteins])
    edges = np.unique(np.quantile(told, np.linspace(0, 1, int(np.clip(df / _DF_PER_BIN, 1, _MOST_BINS)) + 1)[1:-1]))
    bins = np.unique(np.searchsorted(edges, told, side="right"), return_inverse=True)[1]
    trend = Trend(np.bincount(bins, weights=told) / np.bincount(bins), np.zeros(bins.max() + 1), df)
    number = np.repeat(np.arange(len(proteins)), [own.values.size for own in proteins])
    for _ in range(_PASSES):
        variance = np.exp(trend.log_variance)[bins]  # lines between them would be fitted to the noise
        weights = np.split(1 / variance, np.cumsum([own.values.size for own in proteins])[:-1])
        fits = [two_way(own, w) for own, w in zip(proteins, weights, strict=True)]
        spare = np.concatenate([fit.spare for fit in fits])
        squares = np.concatenate([fit.residual for fit in fits]) ** 2 / variance
        standard, sigma2 = _standardised(squares, spare, number)
        squares = np.minimum(standard, _CAP) * spare * sigma2
        step = _step(_table(squares, number, bins), _table(spare, number, bins))
        trend = trend._replace(log_variance=trend.log_variance + step - step.mean())
        if np.abs(step - step.mean()).max() < _CLOSE:
            break
    information = _information(fits, bins, trend.ranks.size) / _noise(standard, spare)
    return trend._replace(log_variance=smoothed(trend.log_variance, information))


def smoothed(estimates: FloatArray, information: FloatArray) -> FloatArray:
    """The most likely random walk behind estimates (K,), whose information (K, K) is of differences only.

    With steps z = U u of variance t, in the axes of their information (eigenvalues a, scores c), the marginal likelihood is the
    sum of c² t / (1 + a t) - log(1 + a t), over two, and u = c t / (1 + a t).
    """
    walk = np.tril(np.ones((estimates.size, estimates.size)))[:, 1:]
    a, axes = np.linalg.eigh(walk.T @ information @ walk)
    a, c = np.maximum(a, 0.0), axes.T @ (walk.T @ information @ estimates)
    t = _STEP_VARIANCES[:, None]
    best = t[np.argmax((c**2 * t / (1 + a * t) - np.log1p(a * t)).sum(axis=1)), 0]
    return np.asarray(walk @ (axes @ (c * best / (1 + a * best))))


def two_way(protein: Protein, weights: FloatArray) -> TwoWay:
    """Fit runs + peptides.

    The factor with more levels is eliminated: what is left is a Laplacian of the other one's levels, singular in as many
    directions as there are sets of them without a level of the first in common.
    """
    first, second = protein.runs, protein.peptides
    if second.max() > first.max():
        first, second = second, first
    n_first, n_second = int(first.max()) + 1, int(second.max()) + 1
    total = np.bincount(first, weights=weights)[first]
    centred = protein.values - np.bincount(first, weights=weights * protein.values)[first] / total
    shares = np.zeros((n_first, n_second))
    shares[first, second] = weights / total
    table = np.zeros((n_first, n_second))
    table[first, second] = weights
    eigenvalues, axes = np.linalg.eigh(np.diag(table.sum(axis=0)) - table.T @ shares)
    kept = eigenvalues > 1e-10 * max(eigenvalues[-1], 0.0)
    root = axes[:, kept] / np.sqrt(eigenvalues[kept])
    directions = root[second] - (shares @ root)[first]
    effects = root.T @ np.bincount(second, weights=weights * centred, minlength=n_second)
    share = weights / total
    spare = 1 - share - weights * (directions**2).sum(axis=1)
    return TwoWay(
        centred - directions @ effects, np.maximum(spare, 0), share, first, np.sqrt(weights)[:, None] * directions
    )


def _protein(values: FloatArray, ranks: FloatArray, columns: IntArray) -> Protein | None:
    """The measurements of runs and peptides that have two or more; None without any freedom."""
    runs, peptides = np.nonzero(np.isfinite(values[:, columns]) & np.isfinite(ranks[:, columns]))
    while runs.size:
        several = (np.bincount(runs)[runs] > 1) & (np.bincount(peptides)[peptides] > 1)
        if several.all():
            break
        runs, peptides = runs[several], peptides[several]
    if not runs.size:
        return None
    own, rank = values[runs, columns[peptides]], ranks[runs, columns[peptides]]
    return Protein(own, rank, np.unique(runs, return_inverse=True)[1], np.unique(peptides, return_inverse=True)[1])


def _table(sums: FloatArray, proteins: IntArray, bins: IntArray) -> FloatArray:
    """Sums by protein and interval of the score, (G, K)."""
    shape = int(proteins.max()) + 1, int(bins.max()) + 1
    table = np.bincount(proteins * shape[1] + bins, weights=sums, minlength=shape[0] * shape[1])
    return np.asarray(table.reshape(shape), dtype=np.float64)


def _step(squares: FloatArray, spare: FloatArray) -> FloatArray:
    """Logarithms of what the variances of intervals must be multiplied by, (K,), proteins having variances of their own."""
    factor = np.ones(squares.shape[1])
    own, total = np.maximum(spare.sum(axis=1), _SPARE), np.maximum(spare.sum(axis=0), _SPARE)
    for _ in range(_STEPS):
        sigma2 = np.maximum((squares / factor).sum(axis=1) / own, np.finfo(float).tiny)
        ratio = np.clip((squares / sigma2[:, None] / factor).sum(axis=0) / total, 1e-3, 1e3)
        factor = factor * ratio
        if np.abs(np.log(ratio)).max() < _CLOSE / 10:
            break
    return np.asarray(np.log(factor))


def _standardised(squares: FloatArray, spare: FloatArray, proteins: IntArray) -> tuple[FloatArray, FloatArray]:
    """Squared residuals over what they are expected to be, and the variance of each one's protein, (n,)."""
    own = np.bincount(proteins, weights=squares) / np.maximum(np.bincount(proteins, weights=spare), _SPARE)
    sigma2 = own[proteins]
    expected = spare * sigma2
    return np.where(expected > 0, squares / np.where(expected > 0, expected, 1), 0.0), sigma2


def _noise(standard: FloatArray, spare: FloatArray) -> float:
    """Variance of a capped square over the square of what it changes by with the logarithm of its variance.

    Without a cap and with normal errors it is 2, and it is never taken for less.
    """
    capped = np.minimum(standard, _CAP)
    mean, slope = (float(np.average(own, weights=spare)) for own in (capped, np.where(standard < _CAP, standard, 0)))
    return max(2.0, float(np.average((capped - mean) ** 2, weights=spare)) / slope**2) if slope > 0 else 2.0


def _information(fits: Sequence[TwoWay], bins: IntArray, n_bins: int) -> FloatArray:
    """Twice the information of the restricted likelihood on the logarithms of the intervals' variances, (K, K).

    Of each protein the sums of squares of its projection M, less what its own variance takes: sums of M² over pairs
    in intervals k and l, minus d_k d_l / d with d the freedom.
    """
    found, first = np.zeros((n_bins, n_bins)), 0
    for fit in fits:
        own = bins[first : first + fit.spare.size]
        first += fit.spare.size
        freedom = np.bincount(own, weights=fit.spare, minlength=n_bins)
        total = freedom.sum()
        if total < _SPARE:
            continue
        if fit.spare.size <= _MOST_PAIRS:
            member = (own[:, None] == np.arange(n_bins)).astype(np.float64)
            found += member.T @ fit.projection() ** 2 @ member
        else:
            itself = np.bincount(own, weights=fit.spare**2, minlength=n_bins)
            rest = freedom - itself
            found += np.diag(itself) + np.outer(rest, rest) / max(rest.sum(), _SPARE)
        found -= np.outer(freedom, freedom) / total
    return found
