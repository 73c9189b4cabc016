"""How the p-values of a scan are distributed: all of them in bins of their statistic, and the smallest themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.engine.calibration import BINS, ranks
from donorwise._core.engine.wanted import Wanted
from donorwise._core.inference.genomic_control import genomic_lambda

if TYPE_CHECKING:
    from donorwise._anndata import StoredScan
    from donorwise._typing import FloatArray, IntArray

_TAIL = 1_000
"""About how many of the smallest p-values are read themselves; of others the bins tell enough."""


@dataclass(frozen=True, slots=True)
class ScanShape:
    """The p-values of all tests of one group.

    Attributes
    ----------
    n
        How many there are.
    rank, neg_log10_p
        Shape (R,). Points of their distribution, the smallest p-value first.
    inflation
        Genomic lambda.
    histogram
        Number in each of the bins of a histogram, not whole where a bin of the statistic lies in two.
    """

    n: int
    rank: IntArray
    neg_log10_p: FloatArray
    inflation: float
    histogram: FloatArray


def scan_shape(scan: StoredScan, group: str) -> ScanShape | None:
    """Put the p-values of a group together; None where nothing was tested."""
    counts = scan.counts[scan.counts["group"] == group].sort_values("p_value")
    p, above = counts["p_value"].to_numpy(), counts["count"].to_numpy(dtype=np.int64).cumsum()
    n = int(above[-1]) if above.size else 0
    if n == 0:
        return None
    tail = _tail(scan, group, p, above)
    # a p-value at an edge of the bins has as many at or below it as are in the bins beyond
    body = np.flatnonzero((above > tail.size) & (p < 1) & (np.diff(above, prepend=0) > 0))
    some = np.isin(np.arange(1, tail.size + 1), ranks(tail.size))
    return ScanShape(
        n=n,
        rank=np.concatenate([np.flatnonzero(some) + 1, above[body]]),
        neg_log10_p=np.concatenate([tail[some], -np.log10(np.maximum(p[body], np.finfo(float).tiny))]),
        inflation=_inflation(scan, group),
        histogram=np.diff(np.interp(BINS, np.append(0.0, p), np.append(0, above))),
    )


def _inflation(scan: StoredScan, group: str) -> float:
    """Genomic lambda of all tests, with the degrees of freedom that most genes have."""
    counts = scan.counts[scan.counts["group"] == group].sort_values("statistic")
    df = scan.results["df"][scan.results["group"] == group].mode()
    edges, numbers = (counts[name].to_numpy(dtype=np.float64) for name in ("statistic", "count"))
    return genomic_lambda(edges, numbers, float(df.iloc[0]) if len(df) else np.inf)


def _tail(scan: StoredScan, group: str, p: FloatArray, above: IntArray) -> FloatArray:
    """The smallest p-values, -log10, falling: all those at or below an edge of the bins, as far as they were kept."""
    edge = float(p[np.searchsorted(above, min(_TAIL, above[-1]))])
    if scan.kept is None:
        return np.empty(0)
    found = scan.table(Wanted(group=(group,), p_max=edge), ["neg_log10_p"])["neg_log10_p"].to_numpy(dtype=np.float64)
    return -np.sort(-found[np.isfinite(found)])
