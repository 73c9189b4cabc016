"""Whether what was not measured depends on how much there was: loss that biases estimates towards no change.

Two questions, each with one product per protein, whose sum over its root of squares is standard normal where loss is random,
whatever the peptides of one protein have in common: whether peptides of low mean miss more values, and whether a peptide is
missed in the runs in which the other peptides of its protein are low (beyond what is common to a run).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from donorwise._core.design.peptide_pass import Seen, read_in_use

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

_CERTAIN = 3.2  # standard errors; simulated, .2% of data sets of random loss are said not to be
_MATTERS, _MATTERS_WITHIN = 0.05, 0.02  # difference of the shares missing in the lowest and the highest quarter
_MOST_VALUES = 4_000_000  # that the second question looks at
_CONSEQUENCE = (
    "Loss that depends on intensity biases estimates towards no change: where a protein is low its low values are those that are "
    "missing. Read effects of proteins with a large `n_missing` as lower bounds, leave out peptides that few runs have, and look "
    "at proteins that one arm lacks altogether (`not_estimable`) by themselves."
)


def depends_on_intensity(values: Any, weights: Any, columns: IntArray, seen: Seen, protein: IntArray) -> Iterator[str]:
    """Say that loss depends on intensity, with the shares that are missing.

    Parameters
    ----------
    values, weights, columns, seen
        See :func:`donorwise._core.design.peptide_pass.look_at`.
    protein
        Shape (K,). Code of the protein of each of the columns.
    """
    n_runs = int(np.sum(seen.n_of_run > 0))
    known = np.flatnonzero(seen.n > 0)
    missing = 1 - seen.n[known] / n_runs
    if missing.max() == 0:
        return
    total = f"{missing.mean():.0%} of the values are missing"
    z, low, high = _between(seen.mean[known], missing, protein[known])
    if abs(z) > _CERTAIN and abs(low - high) > _MATTERS:
        yield (
            f"{total}, and not at random: {low:.0%} of the quarter of the peptides with the lowest mean, {high:.0%} of that with the "
            f"highest. {_CONSEQUENCE}"
        )
        return
    z, low, high = _within(values, weights, columns, known, protein)
    if abs(z) > _CERTAIN and abs(low - high) > _MATTERS_WITHIN:
        yield (
            f"{total}, and not at random: where the other peptides of its protein are low in a run (lowest quarter) a peptide is missing "
            f"in {low:.0%}, where they are high in {high:.0%}. {_CONSEQUENCE}"
        )


def _between(mean: FloatArray, missing: FloatArray, protein: IntArray) -> tuple[float, float, float]:
    """Statistic of peptides' means (K,) with their missing shares (K,), and these in the lowest and highest quarter."""
    rank = rankdata(mean) / len(mean)
    products = (rank - rank.mean()) * (missing - missing.mean())
    return _ratio(products, protein), float(missing[rank <= 0.25].mean()), float(missing[rank > 0.75].mean())


def _within(
    values: Any, weights: Any, columns: IntArray, known: IntArray, protein: IntArray
) -> tuple[float, float, float]:
    """Statistic of missing values with the level of the protein's other peptides, and shares missing by quarter of these."""
    some = _with_others(known, protein, max(2, _MOST_VALUES // values.shape[0]))
    if not some.size:
        return 0.0, 0.0, 0.0
    y, _ = read_in_use(values, weights, columns[some])
    _, codes = np.unique(protein[some], return_inverse=True)
    level = others_level(y, codes.ravel())
    defined, gone = np.isfinite(level), np.isnan(y)
    n = defined.sum(axis=0)
    share = (gone & defined).sum(axis=0) / np.maximum(n, 1)
    products = np.where(defined, (gone - share) * np.where(defined, level, 0.0), 0.0).sum(axis=0)
    kept, lost = level[defined], gone[defined]
    if not kept.size:
        return 0.0, 0.0, 0.0
    low, high = np.quantile(kept, [0.25, 0.75])
    return (
        _ratio(products, codes.ravel()),
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


def _ratio(products: FloatArray, protein: IntArray) -> float:
    """Sum of products (K,) over its standard error under the hypothesis that those of each protein have mean zero."""
    own = np.asarray(np.bincount(protein, weights=products), dtype=np.float64)
    scale = float(np.sqrt(own @ own))
    return float(own.sum()) / scale if scale > 0 else 0.0
