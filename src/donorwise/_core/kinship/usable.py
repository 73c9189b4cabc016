"""Which variants can be used: known in enough donors, not the same in all of them, and not rare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._typing import FloatArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._typing import BoolArray

REASONS = {"mostly_missing": "missing in too many donors", "all_alike": "the same in all donors", "rare": "rare"}
"""Reasons not to use a variant, in the order in which they are looked at, and in words."""
_VARIES = 1e-10
"""Least variance of a variant that differs between donors."""


class Variants(NamedTuple):
    """What is known of M variants, (M,): frequencies of the counted and of the rarer allele, variance, share that is missing.

    The variance is that of all donors, a missing genotype being the mean of the others.
    """

    frequency: FloatArray
    rarer: FloatArray
    variance: FloatArray
    missing: FloatArray

    @classmethod
    def of(cls, total: FloatArray, n_known: IntArray, variance: FloatArray, n_donors: int) -> Variants:
        """From the sums (M,) of the genotypes that are known, and their numbers."""
        # of whole numbers all is exact but the last division, so that a limit means the same for either allele
        alleles = 2 * np.maximum(n_known, 1)
        return cls(
            total / alleles, np.minimum(total, alleles - total) / alleles, variance, (n_donors - n_known) / n_donors
        )

    @property
    def expected_variance(self) -> FloatArray:
        """Variance of a genotype under Hardy-Weinberg proportions, 2p(1 - p)."""
        return 2 * self.frequency * (1 - self.frequency)

    def take(self, of: BoolArray) -> Variants:
        """Some of them."""
        return Variants(*(part[of] for part in self))

    def unusable(self, *, maf: float, missing: float) -> Iterator[tuple[str, BoolArray]]:
        """Every one of `REASONS`, and which variants it holds for, (M,)."""
        yield "mostly_missing", (self.missing > missing) | (self.missing == 1)
        yield "all_alike", self.variance < _VARIES
        yield "rare", self.rarer < maf


@dataclass(frozen=True, slots=True)
class Usable:
    """Variants of a block that can be tested in some donors, their genotypes complete.

    Attributes
    ----------
    at
        Shape (V,). Positions in the block.
    x
        Shape (V, donors), C-contiguous. Copies of the counted allele, those that are missing the mean of the others.
    frequency
        Shape (V,). Of the counted allele among the donors whose genotype is known.
    n
        Shape (V,). Donors whose genotype is known.
    n_imputed
        How many of x were missing.
    left_out
        Shape (3,). Numbers of variants that cannot be tested, each by the first of `REASONS` that holds.
    """

    at: IntArray
    x: FloatArray
    frequency: FloatArray
    n: IntArray
    n_imputed: int
    left_out: IntArray


def usable_variants(genotypes: FloatArray, *, maf: float, missing: float) -> Usable:
    """The variants of genotypes (donors, M), NaN where missing, that can be tested in these donors.

    As in GEMMA (Zhou and Stephens 2012, Nature Genetics 44:821) a missing genotype counts as its variant's mean, and what is
    said of a variant is said of the donors at hand, so that groups of cells with other donors may test other variants.

    Parameters
    ----------
    genotypes
        Shape (donors, M). Those of the donors in use, checked (`Genotypes.checked`).
    maf
        Least frequency of the rarer allele.
    missing
        Largest share of donors whose genotype is missing.
    """
    x = np.array(genotypes.T, dtype=np.float64, order="C")
    gaps = np.isnan(x)
    n = x.shape[1] - gaps.sum(axis=1)
    x[gaps] = 0.0
    total = x.sum(axis=1)
    mean = total / np.maximum(n, 1)
    np.copyto(x, mean[:, None], where=gaps)
    variants = Variants.of(total, n, np.asarray(x.var(axis=1)), x.shape[1])
    kept, left_out = np.ones(len(x), dtype=bool), np.zeros(len(REASONS), dtype=np.int64)
    for number, (_, bad) in enumerate(variants.unusable(maf=maf, missing=missing)):
        left_out[number] = np.count_nonzero(kept & bad)
        kept &= ~bad
    at = np.flatnonzero(kept)
    n_imputed = int(gaps[at].sum())
    return Usable(at, x if kept.all() else x[at], variants.frequency[at], n[at], n_imputed, left_out)
