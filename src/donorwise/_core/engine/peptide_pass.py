"""One pass over the values of peptides: what the findings about them go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.cells.matrices import read_columns
from donorwise._core.cells.stored import Stored
from donorwise.errors import DataError

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray

LARGEST = 64.0
"""No logarithm to base 2 or more of an intensity comes near: 2^64 ions fit into no detector."""
_BLOCK, _STORED_BLOCK = (
    1 << 20,
    1 << 24,
)  # values looked at together; of a file, which may be read for each of the blocks
_ROWS, _COLUMNS = 64, 1_024  # of the sample


@dataclass(frozen=True, slots=True)
class Measurements:
    """Values of peptides, not read yet.

    Attributes
    ----------
    matrix
        Runs x peptides, NaN (or no number) where nothing was measured.
    weights
        Precision weights, like `matrix`; None for none.
    run_weights
        Weight of each row of the matrix, which multiplies these; None for none.
    rows
        Shape (N,). Runs in use, in the order of the matrix.
    columns
        Shape (K,). Peptides in use.
    """

    matrix: Any
    weights: Any
    run_weights: FloatArray | None
    rows: IntArray
    columns: IntArray

    def read(self, some: IntArray | slice) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """Of some of the columns: what is measured, the values in use (NaN for others), and weights, (N, k) each."""
        raw = self._read(self.matrix, some)
        if self.weights is None and self.run_weights is None:
            return raw, raw, None
        w = np.broadcast_to(1.0, raw.shape) if self.weights is None else self._read(self.weights, some)
        if self.run_weights is not None:
            own = self.run_weights[self.rows, None]
            w = np.broadcast_to(own, raw.shape) if self.weights is None else w * own
        return raw, np.where((w == 0) | np.isnan(w), np.nan, raw), w

    def _read(self, matrix: Any, some: IntArray | slice) -> FloatArray:
        values = read_columns(matrix, self.columns[some])
        return values if len(self.rows) == len(values) else values[self.rows]


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


def look_at(measured: Measurements, runs: Sequence[object], peptides: Sequence[object], text: str) -> Seen:
    """Look at all values once, in blocks of peptides.

    Parameters
    ----------
    measured
        The values.
    runs, peptides
        Names of the N runs and K peptides in use.
    text
        What messages call the values.

    Raises
    ------
    DataError
        Values are infinite, or weights negative or infinite.
    """
    n_runs, n_peptides = len(measured.rows), len(measured.columns)
    found = _Found(n_runs, runs, peptides)
    block = _STORED_BLOCK if isinstance(measured.matrix, Stored) else _BLOCK
    size = max(1, block // max(1, n_runs))
    for start in range(0, n_peptides, size):
        found.add(start, *measured.read(slice(start, start + size)))
    found.check(text)
    _, y, w = measured.read(np.arange(n_peptides)[:: max(1, n_peptides // _COLUMNS)])
    rows = slice(None, None, max(1, n_runs // _ROWS))
    return found.seen(y[rows], np.zeros(0) if w is None else w[~np.isnan(y)])


class _Found:
    """Counts of what blocks hold."""

    def __init__(self, n_runs: int, runs: Sequence[object], peptides: Sequence[object]) -> None:
        self.runs, self.peptides = runs, peptides
        self.n: list[IntArray] = []
        self.total: list[FloatArray] = []
        self.by_run = np.zeros((3, n_runs), dtype=np.int64)
        self.n_negative = self.n_unweighted = 0
        self.weights = (np.inf, 0.0, 0.0, 0.0)
        self.bad: dict[str, tuple[int, str]] = {}

    def add(self, start: int, raw: FloatArray, y: FloatArray, w: FloatArray | None) -> None:
        """Take in the peptides from one on; see :meth:`Measurements.read`."""
        used = ~np.isnan(y)
        if w is not None:
            self.n_unweighted += int(np.sum(~used & ~np.isnan(raw)))
            self._note("weights", used & ((w < 0) | np.isinf(w)), w, start)
            self._weigh(w[used])
        self._note("values", np.isinf(y), y, start)
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

    def _note(self, what: str, bad: BoolArray, values: FloatArray, start: int) -> None:
        """Keep how many values are bad, and where the first is."""
        if not bad.any():
            return
        run, column = (int(k[0]) for k in np.nonzero(bad))
        place = f"{values[run, column]:g} for peptide {self.peptides[start + column]!r} in run {self.runs[run]!r}"
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
