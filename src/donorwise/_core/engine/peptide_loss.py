"""Whether what was not measured depends on how much there was: loss that biases estimates towards no change.

Two questions, each with one product per protein that has mean zero where loss is random, whatever the peptides of one protein have
in common: whether peptides of low mean miss more values, and whether a peptide is
missed in the runs in which the other peptides of its protein are low (beyond what is common to a run).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from donorwise._core.engine.peptide_pass import Measurements, Seen

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

_BY_CHANCE = 0.0015  # for each of the two questions; of simulated data sets of random loss .2% are said not to be
_FEWEST_PROTEINS = 8
_MATTERS, _MATTERS_WITHIN = 0.05, 0.02  # difference of the shares missing in the lowest and the highest quarter
_MOST_VALUES = 4_000_000  # that the second question looks at
_CONSEQUENCE = (
    "Loss that depends on intensity biases estimates towards no change: where a protein is low its low values are those that are "
    "missing. Read effects of proteins with a large `n_missing` as lower bounds, leave out peptides that few runs have, and look "
    "at proteins that one arm lacks altogether (`not_estimable`) by themselves."
)


def depends_on_intensity(measured: Measurements, seen: Seen, protein: IntArray) -> Iterator[str]:
    """Say that loss depends on intensity, with the shares that are missing.

    Parameters
    ----------
    measured, seen
        See :mod:`donorwise._core.engine.peptide_pass`.
    protein
        Shape (K,). Code of the protein of each peptide in use.
    """
    n_runs = int(np.sum(seen.n_of_run > 0))
    known = np.flatnonzero(seen.n > 0)
    missing = 1 - seen.n[known] / n_runs
    if missing.max() == 0:
        return
    total = f"{missing.mean():.0%} of the values are missing"
    p, low, high = _between(seen.mean[known], missing, protein[known])
    if p < _BY_CHANCE and abs(low - high) > _MATTERS:
        yield (
            f"{total}, and not at random: {low:.0%} of the quarter of the peptides with the lowest mean, {high:.0%} of that with the "
            f"highest. {_CONSEQUENCE}"
        )
        return
    p, low, high = _within(measured, known, protein)
    if p < _BY_CHANCE and abs(low - high) > _MATTERS_WITHIN:
        yield (
            f"{total}, and not at random: where the other peptides of its protein are low in a run (lowest quarter) a peptide is missing "
            f"in {low:.0%}, where they are high in {high:.0%}. {_CONSEQUENCE}"
        )


def _between(mean: FloatArray, missing: FloatArray, protein: IntArray) -> tuple[float, float, float]:
    """P-value of peptides' means (K,) with their missing shares (K,), and these in the lowest and highest quarter.

    NaN for a quarter in which none is, as of three peptides.
    """
    rank = stats.rankdata(mean) / len(mean)
    products = (rank - rank.mean()) * (missing - missing.mean())
    low, high = (float(missing[own].mean()) if own.any() else np.nan for own in (rank <= 0.25, rank > 0.75))
    return _p_value(products, protein), low, high


def _within(measured: Measurements, known: IntArray, protein: IntArray) -> tuple[float, float, float]:
    """P-value of missing values with the level of the protein's other peptides, and shares missing by quarter of these."""
    some = _with_others(known, protein, max(2, _MOST_VALUES // max(1, len(measured.rows))))
    if not some.size:
        return 1.0, 0.0, 0.0
    _, y, _ = measured.read(some)
    _, codes = np.unique(protein[some], return_inverse=True)
    level = others_level(y, codes.ravel())
    defined, gone = np.isfinite(level), np.isnan(y)
    n = defined.sum(axis=0)
    share = (gone & defined).sum(axis=0) / np.maximum(n, 1)
    products = np.where(defined, (gone - share) * np.where(defined, level, 0.0), 0.0).sum(axis=0)
    kept, lost = level[defined], gone[defined]
    if not kept.size:
        return 1.0, 0.0, 0.0
    low, high = np.quantile(kept, [0.25, 0.75])
    return (
        _p_value(products, codes.ravel()),
        float(lost[kept <= low].mean()),
        float(lost[kept >= high].mean()),
    )


def _with_others(known: IntArray, protein: IntArray, most: int) -> IntArray:
    """Peptides (of those in `known`) of proteins with several, protein by protein, about `most` of them."""
    size = np.bincount(protein[known])
    several = known[size[protein[known]] > 1]
    several = several[np.argsort(protein[several], kind="stable")]
    if len(several) <= most:
        return several
    proteins = np.unique(protein[several])
    chosen = proteins[:: -(-len(several) // most)]
    return several[np.isin(protein[several], chosen)]


def others_level(y: FloatArray, codes: IntArray) -> FloatArray:
    """Mean of the other peptides of the protein in each run, as deviations from their own means and from that of the run.

    Parameters
    ----------
    y
        Shape (N, K). Values, NaN where missing; peptides of a protein stand together, and each has a value.
    codes
        Shape (K,). Protein of each peptide, ascending from 0.

    Returns
    -------
    Shape (N, K), NaN where no other peptide was measured.
    """
    used = ~np.isnan(y)
    e = np.where(used, y - np.nanmean(y, axis=0), 0.0)
    e -= (e.sum(axis=1) / np.maximum(used.sum(axis=1), 1))[:, None]
    e[~used] = 0.0
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    total, n = (np.add.reduceat(x, starts, axis=1)[:, codes] for x in (e, used.astype(np.float64)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > used, (total - e) / (n - used), np.nan)


def _p_value(products: FloatArray, protein: IntArray) -> float:
    """Two-sided p-value of products (K,) being zero on average, those of each protein taken together: the t test of their sums."""
    sums = np.asarray(np.bincount(protein, weights=products), dtype=np.float64)
    sums = sums[sums != 0]
    if len(sums) < _FEWEST_PROTEINS:
        return 1.0
    statistic = float(sums.mean() / (sums.std(ddof=1) / np.sqrt(len(sums)))) if np.ptp(sums) > 0 else np.inf
    return float(2 * stats.t.sf(abs(statistic), len(sums) - 1))
