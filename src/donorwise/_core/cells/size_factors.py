"""What the depths of units have to be multiplied by, so that they are comparable whatever their counts are made of.

A strong response takes a larger share of a unit's counts, and what is left for every other gene is a smaller share of
the depth, although nothing happened to it. The trimmed mean of M-values (Robinson and Oshlack 2010, Genome Biology
11:R25; edgeR's calcNormFactors) compares each unit k with a reference unit r, gene by gene, with counts C and totals N:

    M = log2(C_k / N_k) - log2(C_r / N_r),   A = mean of the two logarithms,   v = 1/C_k - 1/N_k + 1/C_r - 1/N_r;

30% of the genes at either end of M and 5% at either end of A are left out, and the mean of the others' M, weighted by
1/v, is log2 of the factor of N_k. The reference is the unit whose upper quartile of C/N is closest to the mean of all.

The median of ratios (Anders and Huber 2010, Genome Biology 11:R106) is that over genes of C_k to the gene's geometric mean.

Both look at genes with counts in both units, which in a shallow unit are those that happened to be counted: over all genes
the factor of a unit with a tenth of the depth is 13% too large, with a fiftieth 44%, and all its rates would be too low. So
a gene is used for a unit only where its mean share of the counts makes some be expected there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._typing import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("tmm", "median_ratio", "depth")
FEWEST_GENES = 100
"""Genes that a unit needs for a factor of its own: among fewer, those that respond may well be the most."""
MIN_EXPECTED = 5.0
"""Counts that a gene is expected to have in the units for whose factors it is used."""
LOGRATIO_TRIM, SUM_TRIM = 0.3, 0.05

_SAME = 1e-6  # |M| up to which two units count as equal


@dataclass(frozen=True, slots=True)
class SizeFactors:
    """Factors (U,), which multiply to one, and why they are not what was asked for; empty where they are."""

    values: FloatArray
    note: str = ""


def size_factors(
    counts: FloatArray, depth: FloatArray, method: str, *, min_expected: float = MIN_EXPECTED
) -> SizeFactors:
    """Factors of the depths of U units that are compared with each other.

    Parameters
    ----------
    counts
        Shape (U, G). Counts of all genes, summed over the cells of every unit.
    depth
        Shape (U,). What the factors will multiply: the sums of the counts, or what stands for them.
    method
        One of `METHODS`; ``"depth"`` leaves the depths as they are.
    min_expected
        Counts that a gene is expected to have in a unit to be used for its factor; with 0, ``"tmm"`` is what edgeR gives.

    Returns
    -------
    SizeFactors
        A unit with too few genes for a factor of its own has 1; all have where that is true of most, or of the matrix.
    """
    none = np.ones(len(depth))
    if method not in _SIZES or len(depth) < 2:
        return SizeFactors(none)
    present = np.ascontiguousarray(counts[:, counts.any(axis=0)])
    if present.shape[1] < FEWEST_GENES:
        return SizeFactors(none, f"{present.shape[1]} genes with counts are too few to compare units in")
    total = present.sum(axis=1)
    sizes, n_genes = _SIZES[method](UnitCounts(present, total, min_expected))
    known = n_genes >= FEWEST_GENES
    n, unknown = known.size, int((~known).sum())
    few = f"in {unknown} of {n} units fewer than {FEWEST_GENES} genes have enough counts to be compared"
    if 2 * unknown > n or n - unknown < 2:
        return SizeFactors(none, f"{few}, so none is corrected")
    log_factor = np.zeros(n)
    log_factor[known] = np.log(sizes[known] / depth[known])
    log_factor[known] -= log_factor[known].mean()
    return SizeFactors(np.exp(log_factor), few if unknown else "")


class UnitCounts(NamedTuple):
    """Counts (U, G) of genes that have some, their totals (U,), and how many are to be expected where a gene is used."""

    values: FloatArray
    total: FloatArray
    min_expected: float

    def share(self) -> FloatArray:
        """Share of every gene in the counts, the mean over the units, (G,)."""
        return np.asarray((1 / self.total) @ self.values / self.total.size)


def tmm(counts: UnitCounts) -> tuple[FloatArray, IntArray]:
    """Effective totals (U,) by the trimmed mean of M-values, up to a factor, and the number of genes that each is from."""
    values, total, share = counts.values, counts.total, counts.share()
    r = _reference(counts, share)
    sizes, n_genes = total.copy(), np.empty(total.size, dtype=np.int64)
    for k in range(total.size):
        used = min(total[k], total[r]) * share >= counts.min_expected
        used &= (values[k] > 0) & (values[r] > 0)
        n_genes[k] = used.sum()
        if n_genes[k]:
            sizes[k] *= 2.0 ** _log_ratio(values[k, used], values[r, used], total[k], total[r])
    return sizes, n_genes


def _reference(counts: UnitCounts, share: FloatArray) -> int:
    """The unit that others are compared with, one of those in which most genes can be used."""
    n_usable = np.array([(n * share >= counts.min_expected).sum() for n in counts.total])
    able = np.flatnonzero(n_usable >= np.median(n_usable))
    quartile = np.array([np.quantile(counts.values[k], 0.75) for k in able]) / counts.total[able]
    if np.median(quartile) < 1e-20:
        return int(able[np.argmax([np.sqrt(counts.values[k]).sum() for k in able])])
    return int(able[np.argmin(np.abs(quartile - quartile.mean()))])


def _log_ratio(own: FloatArray, other: FloatArray, n_own: float, n_other: float) -> float:
    """Trimmed, weighted mean of M over genes that have counts in both units."""
    M = np.log2((own / n_own) / (other / n_other))
    if np.abs(M).max() < _SAME:
        return 0.0
    A = (np.log2(own / n_own) + np.log2(other / n_other)) / 2
    v = (n_own - own) / n_own / own + (n_other - other) / n_other / other
    kept = _inner(M, LOGRATIO_TRIM) & _inner(A, SUM_TRIM)
    return float(np.sum(M[kept] / v[kept]) / np.sum(1 / v[kept])) if kept.any() else 0.0


def _inner(values: FloatArray, trim: float) -> BoolArray:
    """Whether the rank of each value, the mean of its ranks where it occurs several times, is not in either tail."""
    low = int(values.size * trim) + 1
    return _reaches(values, low) & _reaches(-values, low)


def _reaches(values: FloatArray, rank: int) -> BoolArray:
    """Whether each value has at least this rank (1 is the smallest)."""
    cut = np.partition(values, rank - 1)[rank - 1]
    mean_rank = (np.sum(values < cut) + 1 + np.sum(values <= cut)) / 2
    return values >= cut if mean_rank >= rank else values > cut


def median_ratio(counts: UnitCounts) -> tuple[FloatArray, IntArray]:
    """Sizes (U,) by the median of ratios, up to a factor, and the number of genes that each is from.

    Geometric means are over genes that every unit has counts of. Where these are too few, ratios are to the mean share of
    a gene instead, over the genes that are expected in the unit: geometric means of the counts above zero would be too
    small where units differ in depth.
    """
    everywhere = (counts.values > 0).all(axis=0)
    if everywhere.sum() >= FEWEST_GENES:
        logs = np.log(counts.values[:, everywhere])
        sizes = np.exp(np.median(logs - logs.mean(axis=0), axis=1))
        return sizes, np.full(sizes.size, everywhere.sum())
    share = counts.share()
    sizes, n_genes = counts.total.copy(), np.empty(counts.total.size, dtype=np.int64)
    for k, n in enumerate(counts.total):
        used = n * share >= counts.min_expected
        n_genes[k] = used.sum()
        if n_genes[k]:
            sizes[k] = np.median(counts.values[k, used] / share[used])
    return sizes, n_genes


_SIZES: dict[str, Callable[[UnitCounts], tuple[FloatArray, IntArray]]] = {"tmm": tmm, "median_ratio": median_ratio}
