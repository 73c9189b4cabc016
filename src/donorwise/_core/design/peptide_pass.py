"""One pass over the values of peptides: what the findings about them go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise.errors import DataError

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray

LARGEST = 64.0
"""No logarithm to base 2 or more of an intensity comes near: 2^64 ions fit into no detector."""
_BLOCK = 1 << 20  # values looked at together
_ROWS, _COLUMNS = 64, 1_024  # of the sample


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured: N runs, K peptides that have a protein.

    Attributes
    ----------
    n, total
        Shape (K,). Values in use of each peptide, and their sum.
    n_of_run, zeros_of_run, large_of_run
        Shape (N,). Values in use of each run, those that are exactly zero, and those too large for a logarithm.
    n_negative
        Values below zero.
    n_unweighted
        Measurements that are left out since they have no weight, or one of zero.
    weights
        Smallest and largest weight in use, their sum and that of their squares; zeros without weights.
    sample
        Some rows and columns of the values in use, NaN for others.
    weights_sample
        Shape (m,). Some weights in use.
    """

    n: IntArray
    total: FloatArray
    n_of_run: IntArray
    zeros_of_run: IntArray
    large_of_run: IntArray
    n_negative: int
    n_unweighted: int
    weights: tuple[float, float, float, float]
    sample: FloatArray
    weights_sample: FloatArray

    @property
    def n_values(self) -> int:
        """Values in use."""
        return int(self.n.sum())

    @property
    def mean(self) -> FloatArray:
        """Mean of each peptide, NaN where nothing was measured, (K,)."""
        return np.where(self.n > 0, self.total / np.maximum(self.n, 1), np.nan)


def read_in_use(values: Any, weights: Any, columns: IntArray) -> tuple[FloatArray, FloatArray | None]:
    """Values of some peptides, NaN where they are not in use, and their weights, (N, k) each."""
    y = np.array(values[:, columns], dtype=np.float64)
    if weights is None:
        return y, None
    w = np.asarray(weights[:, None] if weights.ndim == 1 else weights[:, columns], dtype=np.float64)
    w = np.broadcast_to(w, y.shape)
    y[(w == 0) | np.isnan(w)] = np.nan
    return y, w


def look_at(
    values: Any, weights: Any, columns: IntArray, *, runs: Sequence[str], peptides: Sequence[str], text: str
) -> Seen:
    """Look at all values once, in blocks of peptides.

    Parameters
    ----------
    values
        Shape (N, P).
    weights
        Shape (N, P) or (N,), or None.
    columns
        Shape (K,). The peptides that have a protein.
    runs, peptides
        Names of the N runs and P peptides.
    text
        What messages call the values.

    Raises
    ------
    DataError
        Values are infinite, or weights negative or infinite.
    """
    found = _Found(values.shape[0], runs, peptides)
    size = max(1, _BLOCK // max(1, values.shape[0]))
    for start in range(0, len(columns), size):
        found.add(values, weights, columns[start : start + size])
    found.check(text)
    some = columns[:: max(1, len(columns) // _COLUMNS)]
    rows = np.arange(values.shape[0])[:: max(1, values.shape[0] // _ROWS)]
    y, w = read_in_use(values[rows], None if weights is None else weights[rows], some)
    return found.seen(y, np.zeros(0) if w is None else w[~np.isnan(y)])


class _Found:
    """Counts of what blocks hold."""

    def __init__(self, n_runs: int, runs: Sequence[str], peptides: Sequence[str]) -> None:
        self.runs, self.peptides = runs, peptides
        self.n: list[IntArray] = []
        self.total: list[FloatArray] = []
        self.by_run = np.zeros((3, n_runs), dtype=np.int64)
        self.n_negative = self.n_unweighted = 0
        self.weights = (np.inf, 0.0, 0.0, 0.0)
        self.bad: dict[str, tuple[int, str]] = {}

    def add(self, values: Any, weights: Any, columns: IntArray) -> None:
        """Take in the peptides of some columns."""
        y, w = read_in_use(values, weights, columns)
        used = ~np.isnan(y)
        if w is not None:
            self.n_unweighted += int(np.sum(~used & ~np.isnan(values[:, columns])))
            self._note("weights", used & ((w < 0) | np.isinf(w)), w, columns)
            self._weigh(w[used])
        self._note("values", np.isinf(y), y, columns)
        self.n.append(used.sum(axis=0))
        self.total.append(np.where(used & np.isfinite(y), y, 0.0).sum(axis=0))
        self.by_run += [used.sum(axis=1), (y == 0).sum(axis=1), (y > LARGEST).sum(axis=1)]
        self.n_negative += int((y < 0).sum())

    def _weigh(self, w: FloatArray) -> None:
        if w.size:
            low, high, total, squares = self.weights
            self.weights = (
                min(low, float(w.min())), max(high, float(w.max())), total + float(w.sum()), squares + float(w @ w)
            )  # fmt: skip

    def _note(self, what: str, bad: BoolArray, values: FloatArray, columns: IntArray) -> None:
        """Keep how many values are bad, and where the first is."""
        if not bad.any():
            return
        run, column = (int(k[0]) for k in np.nonzero(bad))
        place = f"{values[run, column]:g} for peptide {self.peptides[columns[column]]!r} in run {self.runs[run]!r}"
        n, first = self.bad.get(what, (0, place))
        self.bad[what] = (n + int(bad.sum()), first)

    def check(self, text: str) -> None:
        """Raise where values or weights are no numbers to go on with."""
        if "values" in self.bad:
            n, first = self.bad["values"]
            raise DataError(
                f"{text} has {n:,} infinite value{'s' if n > 1 else ''} (the first is {first}), such as the logarithm of an "
                "intensity of zero is. What was not measured is missing: set it to NaN, `X[~np.isfinite(X)] = np.nan`."
            )
        if "weights" in self.bad:
            n, first = self.bad["weights"]
            raise DataError(
                f"Weights of measurements must be positive and finite; {n:,} {'are' if n > 1 else 'is'} not (the first is "
                f"{first}). Set a weight to NaN or 0 to leave its measurement out."
            )

    def seen(self, sample: FloatArray, weights_sample: FloatArray) -> Seen:
        """All that was counted."""
        weights = self.weights if self.weights[1] > 0 else (0.0, 0.0, 0.0, 0.0)
        n = np.concatenate(self.n) if self.n else np.zeros(0, dtype=np.int64)
        total = np.concatenate(self.total) if self.total else np.zeros(0)
        return Seen(
            n=n, total=total, n_of_run=self.by_run[0], zeros_of_run=self.by_run[1], large_of_run=self.by_run[2],
            n_negative=self.n_negative, n_unweighted=self.n_unweighted, weights=weights, sample=sample,
            weights_sample=weights_sample,
        )  # fmt: skip
