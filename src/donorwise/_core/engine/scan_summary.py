"""What all tests of a scan say of each feature, whether they are kept or not; mergeable over blocks of variants."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.engine.scan_kernels import ALIKE, N_BINS
from donorwise._core.inference.cauchy import Cauchy
from donorwise._core.kinship.usable import REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from donorwise._core.kinship.usable import Usable
    from donorwise._typing import FloatArray, IntArray

CAUCHY = ("total", "log_tiny", "n_ones", "n_tests")
_LEAD = ("variant", "estimate", "statistic", "se", "frequency", "n")
_SUMS = ("n_variants", "counts", "left_out", "variants", "imputed")
_BY_FEATURE = ("n_variants", *_LEAD)


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
        Sums of the Cauchy combination.
    resampled
        The largest squared correlation of a feature (position) with a variant, then those with permuted responses, (1 + n,);
        none unless they are asked for.
    counts
        Shape (bins,). Histogram of |t|.
    left_out
        Shape (3,). Variants that were not tested among the donors that most features have, by the reasons of
        :mod:`donorwise._core.kinship.usable`.
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
    cauchy: Cauchy
    resampled: dict[int, FloatArray]
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
            zero, none, estimate, statistic, se, frequency, zero.copy(), Cauchy.empty(n_features), {},
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
        better = (now > before * (1 + ALIKE)) | ((now >= before * (1 - ALIKE)) & (variant < self.variant[at]))
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
        for name in _SUMS:
            getattr(self, name).__iadd__(getattr(other, name))
        together = self.cauchy.merge(other.cauchy)
        for name in CAUCHY:
            getattr(self.cauchy, name)[:] = getattr(together, name)
        for feature, largest in other.resampled.items():
            self.larger(feature, largest)

    def larger(self, feature: int, largest: FloatArray) -> None:
        """Take squared correlations (1 + n,) of a feature where they are larger."""
        before = self.resampled.get(feature)
        self.resampled[feature] = largest if before is None else np.maximum(before, largest)

    def of(self, features: IntArray, n_features: int) -> Summary:
        """The same, of features that are those of these positions among `n_features`."""
        if len(features) == n_features:
            return self
        out = Summary.empty(n_features)
        for name in _BY_FEATURE:
            getattr(out, name)[features] = getattr(self, name)
        for name in CAUCHY:
            getattr(out.cauchy, name)[features] = getattr(self.cauchy, name)
        for name in _SUMS[1:]:
            getattr(out, name)[:] = getattr(self, name)
        out.resampled.update({int(features[at]): largest for at, largest in self.resampled.items()})
        return out

    def arrays(self) -> dict[str, Any]:
        """All of it as arrays by name."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("cauchy", "resampled")}
        sums = {f"cauchy_{name}": getattr(self.cauchy, name) for name in CAUCHY}
        at = np.array(list(self.resampled), dtype=np.int64)
        return plain | sums | {"resampled_at": at, "resampled": np.array(list(self.resampled.values()))}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any]) -> Summary:
        """What gave these :meth:`arrays`."""
        plain = {f.name: arrays[f.name] for f in fields(cls) if f.name not in ("cauchy", "resampled")}
        sums = Cauchy(**{name: arrays[f"cauchy_{name}"] for name in CAUCHY})
        resampled = dict(zip(arrays["resampled_at"].tolist(), arrays["resampled"], strict=True))
        return cls(**plain, cauchy=sums, resampled=resampled)
