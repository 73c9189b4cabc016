"""Variants of a block that can be tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Usable:
    """Variants of a block that can be tested, their genotypes imputed.

    Attributes
    ----------
    at
        Shape (V,). Positions in the block.
    x
        Shape (V, donors). Copies of the allele, those that are missing the mean of the others.
    frequency, n
        Shape (V,). Frequency of the allele, and donors whose genotype is known.
    """

    at: IntArray
    x: FloatArray
    frequency: FloatArray
    n: IntArray


def usable_variants(genotypes: FloatArray, *, maf: float, missing: float) -> tuple[Usable, IntArray]:
    """Variants (donors, V) that vary, are not rare and not mostly missing; and how many are left out for each reason.

    The reasons are, in order: mostly missing, all alike, rare. Missing genotypes become the variant's mean.
    """
    known = np.isfinite(genotypes)
    n = known.sum(axis=0)
    total = np.where(known, genotypes, 0.0).sum(axis=0)
    mean = np.divide(total, n, out=np.zeros_like(total), where=n > 0)
    x = np.where(known, genotypes, mean).T
    lacking = n < (1 - missing) * len(genotypes)
    alike = ~lacking & (np.ptp(x, axis=1) == 0)
    rare = ~lacking & ~alike & (np.minimum(mean, 2 - mean) / 2 < maf)
    at = np.flatnonzero(~(lacking | alike | rare))
    counts = np.array([lacking.sum(), alike.sum(), rare.sum()])
    return Usable(at, np.ascontiguousarray(x[at]), mean[at] / 2, n[at]), counts
