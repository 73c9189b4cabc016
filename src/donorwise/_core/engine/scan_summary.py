"""What all tests of a scan say of each feature, whether they are kept or not; mergeable over blocks of variants."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.engine.scan_kernels import N_BINS
from donorwise._core.kinship.usable import REASONS

if TYPE_CHECKING:
    from donorwise._core.kinship.usable import Usable
    from donorwise._typing import FloatArray, IntArray

_ALIKE = 1e-9  # relative difference of statistics that is rounding
_LEAD = ("variant", "estimate", "statistic", "se", "frequency", "n")
_BY_FEATURE = {"n_variants", "cauchy", *_LEAD}


@dataclass(frozen=True, slots=True)
class Summary:
    """Of G features; arrays are changed in place while blocks are tested.

    Attributes
    ----------
    n_variants
        Shape (G,). Variants with a test.
    variant, estimate, statistic, se, frequency, n
        Shape (G,). The one with the largest |t|: its position in the genotypes (-1 for none), and its numbers.
    cauchy
        Shape (G,). Sum of the terms of the Cauchy combination.
    counts
        Shape (bins,). Histogram of |t|.
    left_out
        Shape (3,). Variants that were not tested among the donors that most features have, by the reasons of :mod:`donorwise._core.kinship.usable`.
    variants, imputed
        Shape (1,). Variants that were, and their genotypes that were missing.
    """

    n_variants: IntArray
    variant: IntArray
    estimate: FloatArray
    statistic: FloatArray
    se: FloatArray
    frequency: FloatArray
    n: IntArray
    cauchy: FloatArray
    counts: IntArray
    left_out: IntArray
    variants: IntArray
    imputed: IntArray

    @classmethod
    def empty(cls, n_features: int) -> Summary:
        """Of no tests."""
        estimate, statistic, se, frequency = (np.full(n_features, np.nan) for _ in range(4))
        zero, none = (np.full(n_features, start, dtype=np.int64) for start in (0, -1))
        return cls(
            zero, none, estimate, statistic, se, frequency, zero.copy(), np.zeros(n_features),
            np.zeros(N_BINS, dtype=np.int64), np.zeros(len(REASONS), dtype=np.int64), np.zeros(1, dtype=np.int64),
            np.zeros(1, dtype=np.int64),
        )  # fmt: skip

    def take_better(
        self,
        at: IntArray,
        variant: IntArray,
        estimate: FloatArray,
        statistic: FloatArray,
        se: FloatArray,
        frequency: FloatArray,
        n: IntArray,
    ) -> None:
        """Take leads for the features `at` where they are larger; the first of variants that say the same."""
        before = np.where(self.variant[at] >= 0, np.abs(self.statistic[at]), -1.0)
        now = np.abs(statistic)
        better = (now > before * (1 + _ALIKE)) | ((now >= before * (1 - _ALIKE)) & (variant < self.variant[at]))
        own = at[better]
        for name, values in zip(_LEAD, (variant, estimate, statistic, se, frequency, n), strict=True):
            getattr(self, name)[own] = values[better]

    def tell(self, usable: Usable) -> None:
        """Count variants in use and those that are not."""
        self.left_out[:] += usable.left_out
        self.variants[:] += len(usable.at)
        self.imputed[:] += usable.n_imputed

    def add(self, other: Summary) -> None:
        """Add the tests of other variants."""
        at = np.flatnonzero(other.variant >= 0)
        self.take_better(at, *(getattr(other, name)[at] for name in _LEAD))
        for name in ("n_variants", "cauchy", "counts", "left_out", "variants", "imputed"):
            getattr(self, name).__iadd__(getattr(other, name))

    def of(self, features: IntArray, n_features: int) -> Summary:
        """The same, of features that are those of these positions among `n_features`."""
        if len(features) == n_features:
            return self
        out = Summary.empty(n_features)
        for name, values in self.arrays().items():
            getattr(out, name)[features if name in _BY_FEATURE else slice(None)] = values
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def cauchy_terms(log_p: FloatArray) -> FloatArray:
    """tan((1/2 - p) pi) of p-values; 0 for those that are NaN (Liu et al. 2019, Am J Hum Genet 104:410)."""
    log_p = np.maximum(log_p, _SMALLEST)
    p = np.exp(log_p)
    small = log_p < _SMALL
    terms = np.where(small, 1 / (np.pi * p), np.tan((0.5 - np.minimum(p, _LARGEST)) * np.pi))
    return np.where(np.isnan(log_p), 0.0, terms)


_SMALL = -34.0  # log p below which 1 / (p pi) is the tangent, to the last digit
_SMALLEST = -690.0  # of log p: its inverse is still a number
_LARGEST = 1 - 1e-6  # p-values of one say nothing, and would undo all others
