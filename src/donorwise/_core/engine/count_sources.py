"""What makes the statistics of count models: a pass over the cells, collapsed rows, or single cells with their covariates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from donorwise._core.cells.counts import Counted, bytes_of_counts, count_cells
from donorwise._core.cells.matrices import read_cells
from donorwise._core.engine.sources import Source
from donorwise._core.models.glmm.counts import CellCounts, PatternCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.counted_rows import RowCounts
    from donorwise._core.cells.nodes import Nodes
    from donorwise._core.cells.tails import Tails
    from donorwise._core.design.design import Design
    from donorwise._core.engine.tasks import Task
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._typing import BoolArray, FloatArray, IntArray


class Parts(NamedTuple):
    """Rows that are parts of patterns: the pattern (rows,) of each, and the covariates (rows, m) that tell them apart."""

    pattern: IntArray
    covariates: FloatArray

    def take(self, rows: IntArray) -> Parts:
        """Some rows, the patterns that these are of renumbered without gaps."""
        return Parts(np.unique(self.pattern[rows], return_inverse=True)[1].ravel(), self.covariates[rows])


@dataclass(frozen=True, slots=True)
class CountStatistics:
    """What the cells of one task say about counts, row by row: patterns of its design, or parts of these (single cells).

    Attributes
    ----------
    design
        The design of the patterns.
    counts
        The data of the rows.
    parts
        What differs between the rows of a pattern; None where the rows are patterns.
    """

    design: Design
    counts: PatternCounts | CellCounts
    parts: Parts | None = None

    @property
    def pattern(self) -> IntArray:
        """Pattern of the design of each row."""
        return np.arange(self.design.n_patterns) if self.parts is None else self.parts.pattern

    @property
    def of_rows(self) -> Design:
        """The design, whose patterns are the rows."""
        return self.design if self.parts is None else self.design.on_rows(*self.parts)

    def take_features(self, features: IntArray) -> CountStatistics:
        """The statistics of some features, renumbered in the order given."""
        return replace(self, counts=self.counts.take_features(features))

    def take_patterns(self, patterns: IntArray) -> CountStatistics:
        """Without the cells of the other patterns."""
        rows = np.flatnonzero(np.isin(self.pattern, patterns))
        parts = None if self.parts is None else self.parts.take(rows)
        return CountStatistics(self.design.take(np.sort(patterns)), self.counts.take(rows), parts)

    def relabelled(self, design: Design) -> CountStatistics:
        """The same cells under another design with the same patterns."""
        return replace(self, design=design)

    def row_space(self) -> FloatArray:
        """A matrix with the row space of X over the rows."""
        return self.of_rows.X


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCountSource(Source[CountStatistics]):
    """Statistics from a pass over counts.

    Attributes
    ----------
    distribution
        The family.
    exposure, trials
        Shape (N,). Exposures (ones where the family has none), and trials of each cell; None for one.
    nodes, tails
        What is kept of exposures and counts, None where the family does not need it.
    detected
        Whether a value above zero counts as one.
    """

    from_cells = True

    distribution: Distribution
    exposure: FloatArray
    trials: FloatArray | None
    nodes: Nodes | None
    tails: Tails | None
    detected: bool

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[CountStatistics | None]:
        """See :class:`Source`; tasks with covariates of single cells keep these, the others share a pass."""
        designs = [task.design for task in tasks]
        collapsed = [d for d in designs if d is not None and not d.covariates.shape[1]]
        made = iter(self._collapsed(collapsed, variables, n_jobs) if collapsed else ())
        return [
            None if d is None else self._of_cells(d) if d.covariates.shape[1] else CountStatistics(d, next(made))
            for d in designs
        ]

    def _collapsed(
        self, designs: Sequence[Design], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[PatternCounts]:
        codes, start = np.full(designs[0].codes.size, -1, dtype=np.int32), 0
        for design in designs:
            used = design.codes >= 0
            codes[used] = design.codes[used] + start
            start += design.n_patterns
        counted = count_cells(
            self.matrix, codes, start, exposure=self.exposure, trials=self.trials, nodes=self.nodes, tails=self.tails,
            detected=self.detected, features=self.features, names=variables or None, n_jobs=n_jobs,
        )  # fmt: skip
        ends = np.cumsum([d.n_patterns for d in designs])
        parts = [counted.take(slice(end - d.n_patterns, end)) for d, end in zip(designs, ends, strict=True)]
        return [_patterns(self.distribution, part, self.nodes, self.tails) for part in parts]

    def _of_cells(self, design: Design) -> CountStatistics:
        """Every cell its row."""
        used = np.flatnonzero(design.codes >= 0)
        matrix = read_cells(self.matrix, used, self.features)
        if self.detected:
            matrix = (matrix > 0).astype(np.float64)
        pattern, trials = design.codes[used].astype(np.int64), np.ones(used.size)
        trials = trials if self.trials is None else self.trials[used]
        counts = CellCounts(self.distribution, matrix, self.exposure[used], trials, pattern)
        return CountStatistics(design, counts, Parts(pattern, design.covariates[used]))

    def per_cell(self, n_cells: int) -> tuple[FloatArray, FloatArray]:
        """See :class:`Source`."""
        return self.exposure, np.ones(n_cells) if self.trials is None else self.trials

    def usual_exposure(self, tasks: Sequence[Task]) -> float:
        """See :class:`Source`."""
        return float(np.median(self.exposure[cells_in_use(tasks)]))

    def trying(self, matrix: sparse.csr_array) -> Source[CountStatistics]:
        """See :class:`Source`; no more successes than trials, and no larger counts than there are."""
        most = np.full(matrix.shape[0], np.inf if self.tails is None else self.tails.largest)
        if not (self.distribution.counts or self.detected):
            most = np.ones(matrix.shape[0]) if self.trials is None else self.trials
        fewer = np.minimum(matrix.data, np.repeat(most, np.diff(matrix.indptr)))
        own = sparse.csr_array((fewer, matrix.indices, matrix.indptr), matrix.shape)
        return replace(self, matrix=own, features=None)

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        n = sum(task.design.n_patterns for task in tasks if task.design is not None)
        return _bytes(n, n_features, self.nodes, self.tails)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCountSource(Source[CountStatistics]):
    """Statistics from collapsed rows; `matrix` has the sums of their counts, or of cells with one.

    Attributes
    ----------
    distribution
        The family.
    rows
        What is kept of the counts of the cells.
    starts
        Shape (K,). First cell of each row.
    """

    from_cells = False

    distribution: Distribution
    rows: RowCounts
    starts: IntArray

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[CountStatistics | None]:
        """See :class:`Source`."""
        return [None if task.design is None else self._of(task.design) for task in tasks]

    def _of(self, design: Design) -> CountStatistics:
        """Sums by pattern; or by row, where a number differs between those of a pattern, as it does between cells."""
        nodes, tails, codes = self.rows.nodes, self.rows.tails, design.codes[self.starts]
        if not design.covariates.shape[1]:
            counted = self.rows.patterns(codes, design.n_patterns, self.features)
            return CountStatistics(design, _patterns(self.distribution, counted, nodes, tails))
        used, each = np.flatnonzero(codes >= 0), np.full(codes.size, -1)
        each[used] = np.arange(used.size)
        counts = _patterns(self.distribution, self.rows.patterns(each, used.size, self.features), nodes, tails)
        return CountStatistics(
            design, counts, Parts(codes[used].astype(np.int64), design.covariates[self.starts[used]])
        )

    def usual_exposure(self, tasks: Sequence[Task]) -> float:
        """See :class:`Source`: every cell of a row has the mean of them all, as more is not known."""
        used = cells_in_use(tasks)[self.starts]
        mean, n = self.rows.exposure[used] / self.rows.n_obs[used], self.rows.n_obs[used]
        order = np.argsort(mean)
        return float(mean[order][np.searchsorted(np.cumsum(n[order]), 0.5 * n.sum())])

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        designs = (task.design for task in tasks if task.design is not None)
        n = sum(int((d.codes[self.starts] >= 0).sum()) if d.covariates.shape[1] else d.n_patterns for d in designs)
        return _bytes(n, n_features, self.rows.nodes, self.rows.tails)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSource(Source[CountStatistics]):
    """Cells with each label (successes) out of those of a pattern (trials).

    Attributes
    ----------
    matrix
        Shape (N,). Label of each cell, the features being positions in `n_labels` of them.
    distribution
        The family.
    n_labels
        Number of labels.
    """

    from_cells = False

    distribution: Distribution
    n_labels: int

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[CountStatistics | None]:
        """See :class:`Source`."""
        return [None if task.design is None else self._of(task.design) for task in tasks]

    def _of(self, design: Design) -> CountStatistics:
        used = np.flatnonzero(design.codes >= 0)
        places = design.codes[used].astype(np.int64) * self.n_labels + self.matrix[used]
        shape = design.n_patterns, self.n_labels
        table = np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)
        total = (table if self.features is None else table[:, self.features]).astype(np.float64)
        n_obs, none = table.sum(axis=1), np.zeros((shape[0], 0, total.shape[1]))
        counted = Counted(n_obs, n_obs.astype(np.float64), np.zeros((shape[0], 0)), total, none, none)
        return CountStatistics(design, PatternCounts(self.distribution, counted, np.empty(0), np.empty(0)))

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        return 8 * self.n_labels * sum(task.design.n_patterns for task in tasks if task.design is not None)


def _patterns(distribution: Distribution, counted: Counted, nodes: Nodes | None, tails: Tails | None) -> PatternCounts:
    exposures = np.empty(0) if nodes is None else nodes.exposures
    return PatternCounts(distribution, counted, exposures, np.empty(0) if tails is None else tails.values)


def cells_in_use(tasks: Sequence[Task]) -> BoolArray:
    """Whether each cell belongs to a group, and misses nothing of the formula, (N,)."""
    codes = [task.design.codes for task in tasks if task.design is not None]
    return np.asarray(np.logical_or.reduce([own >= 0 for own in codes]))


def _bytes(n_rows: int, n_features: int, nodes: Nodes | None, tails: Tails | None) -> int:
    sizes = (0 if nodes is None else nodes.at.size, 0 if tails is None else tails.values.size)
    return bytes_of_counts(n_rows, n_features, *sizes)
