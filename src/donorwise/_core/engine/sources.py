"""What makes the statistics of tasks: a pass over the cells, or collapsed rows; by patterns of a design, or by units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.stored import Stored
from donorwise._core.engine.tasks import Statistics, collapse_tasks, regroup
from donorwise._core.engine.units import merge_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from donorwise._core.cells.collapsed_rows import CollapsedRows
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._core.engine.tasks import Task
    from donorwise._core.engine.units import Units
    from donorwise._core.models.lograte.units import Depths
    from donorwise._typing import FloatArray, IntArray

S = TypeVar("S")  # statistics of one task


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(ABC, Generic[S]):
    """What makes statistics.

    Attributes
    ----------
    from_cells
        Whether that takes a pass over cells, which tasks had better share.
    matrix
        What is read, cells (or collapsed rows) x M.
    features
        Shape (G,). Columns of `matrix` that are read; None for all.
    """

    from_cells: ClassVar[bool]

    matrix: Any
    features: IntArray | None = None

    @property
    def columns(self) -> IntArray:
        """Columns of `matrix` that are read."""
        return np.arange(self.matrix.shape[1]) if self.features is None else self.features

    @abstractmethod
    def statistics(self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None) -> list[S | None]:
        """The statistics of some tasks; None for a task without a design."""

    @abstractmethod
    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """Memory for them; for those of a file there are running sums while it is read."""

    def per_cell(self, n_cells: int) -> tuple[FloatArray, FloatArray]:
        """Exposure and trials of every cell, (N,) each; ones where a model has none."""
        return np.ones(n_cells), np.ones(n_cells)

    def usual_exposure(self, tasks: Sequence[Task]) -> float:
        """Median exposure of the cells of some tasks; one where a model has none."""
        return 1.0

    def trying(self, matrix: sparse.csr_array) -> Source[S]:
        """The same for made-up counts of all cells, (N, M), that are fitted to see how long it takes."""
        return replace(self, matrix=matrix, features=None)

    def read(
        self, matrix: Any, codes: IntArray, n_patterns: int, features: IntArray | None, n_jobs: int | None
    ) -> None:
        """Read the rows of a matrix that have a code, (N,), and some columns, to see how long it takes."""
        collapse(matrix, codes, n_patterns, features=features, n_jobs=n_jobs)

    def take_features(self, features: IntArray) -> Source[S]:
        """The same for some of the features."""
        return replace(self, features=features if self.features is None else self.features[features])


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSource(Source[Statistics]):
    """Statistics by pattern, from a pass over the cells.

    Attributes
    ----------
    weights
        Shape (N,), or None.
    log_base
        Base of values that are logarithms, of which the abundances are wanted; NaN for none.
    """

    from_cells = True

    weights: FloatArray | None = None
    log_base: float = float("nan")

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[Statistics | None]:
        """See :class:`Source`."""
        return collapse_tasks(
            self.matrix, variables, tasks, weights=self.weights, features=self.features, log_base=self.log_base,
            n_jobs=n_jobs,
        )  # fmt: skip

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        return _bytes_of_patterns(self, tasks, n_features, abundance=not np.isnan(self.log_base))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource(Source[Statistics]):
    """Statistics by pattern, from collapsed rows; `matrix` has their means.

    Attributes
    ----------
    rows
        The rows.
    abundance
        Whether the rows have abundances.
    """

    from_cells = False

    rows: CollapsedRows
    abundance: bool

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[Statistics | None]:
        """See :class:`Source`."""
        designs = (task.design for task in tasks)
        return [None if d is None else regroup(d, self.rows, self.features) for d in designs]

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        return _bytes_of_patterns(self, tasks, n_features, abundance=self.abundance)


def _bytes_of_patterns(source: Source[Any], tasks: Sequence[Task], n_features: int, *, abundance: bool) -> int:
    designs = [task.design for task in tasks if task.design is not None]
    m = max((d.covariates.shape[1] for d in designs), default=0)
    return _bytes(source.matrix, sum(d.n_patterns for d in designs), n_features, m, abundance=abundance)


def _bytes(matrix: Any, n_patterns: int, n_features: int, m: int, *, abundance: bool = False) -> int:
    """Memory for moments of features with m covariates and, where they are wanted, their abundances."""
    per_value = 5 + 2 * m + abundance if isinstance(matrix, Stored) else 2 + m + abundance
    return 8 * n_patterns * (n_features * per_value + 1 + m + m * m)


@dataclass(frozen=True, slots=True)
class UnitStatistics:
    """What the counts of the cells of one task say, unit by unit.

    Attributes
    ----------
    design
        Its rows are units, and each of them is a pattern.
    units
        Shape (S,). The rows of the design in use, ascending.
    collapsed, depths
        Of these S units.
    factors
        Shape (S,). What the depths of the cells were multiplied by to give `depths`.
    """

    design: Design
    units: IntArray
    collapsed: Collapsed
    depths: Depths
    factors: FloatArray

    @classmethod
    def of(cls, design: Design | None, units: IntArray, collapsed: Collapsed, depths: Depths) -> UnitStatistics | None:
        """Those that a design uses, of the statistics of some units (ascending); None for no design."""
        if design is None:
            return None
        own = np.flatnonzero(design.codes >= 0)
        at = np.searchsorted(units, own)
        return cls(design, own, collapsed.take(at), depths.take(at), np.ones(own.size))

    @property
    def counts(self) -> FloatArray:
        """Counts of the units, (S, G)."""
        return np.rint(self.collapsed.n_obs[:, None] * self.collapsed.mean)

    def scaled(self, factors: FloatArray) -> UnitStatistics:
        """The same with depths that are multiplied by factors (S,)."""
        return replace(self, depths=self.depths.scaled(factors), factors=self.factors * factors)

    def take_features(self, features: IntArray) -> UnitStatistics:
        """The statistics of some features, in the order given."""
        return replace(self, collapsed=self.collapsed.take_features(features))

    def take_patterns(self, patterns: IntArray) -> UnitStatistics:
        """The statistics of some of the units, each of which is a pattern of the design."""
        units, design = self.units[patterns], self.design.take(patterns)
        codes = np.full_like(design.codes, -1)
        codes[units] = np.arange(units.size)
        collapsed, depths = self.collapsed.take(patterns), self.depths.take(patterns)
        return UnitStatistics(replace(design, codes=codes), units, collapsed, depths, self.factors[patterns])

    def relabelled(self, design: Design) -> UnitStatistics:
        """The same units under another design."""
        return replace(self, design=design)

    def row_space(self) -> FloatArray:
        """A matrix with the row space of X over the units."""
        return self.design.X


def _units_of(tasks: Sequence[Task]) -> IntArray:
    """The units that some task uses, ascending."""
    used = [np.flatnonzero(task.design.codes >= 0) for task in tasks if task.design is not None]
    return np.unique(np.concatenate(used)) if used else np.empty(0, dtype=np.int64)


def _renumbered(codes: IntArray, units: IntArray, n: int) -> IntArray:
    """Codes of n units as positions in `units`; -1 for the others."""
    place = np.full(n + 1, -1)  # the last one is that of the code -1
    place[units] = np.arange(units.size)
    return place[codes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellUnitSource(Source[UnitStatistics]):
    """Statistics by unit, from a pass over counts; the covariate is the depth (N,) of a cell."""

    from_cells = True

    units: Units
    depth: FloatArray
    depths: Depths

    def per_cell(self, n_cells: int) -> tuple[FloatArray, FloatArray]:
        """See :class:`Source`: the depths are the exposures."""
        return self.depth, np.ones(n_cells)

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[UnitStatistics | None]:
        """See :class:`Source`."""
        units = _units_of(tasks)
        if not units.size:
            return [None] * len(tasks)
        values = collapse(
            self.matrix, _renumbered(self.units.codes, units, len(self.units.table)), units.size,
            covariates=self.depth[:, None], features=self.features, n_jobs=n_jobs, names=variables or None,
        )  # fmt: skip
        depths = self.depths.take(units)
        return [UnitStatistics.of(task.design, units, values, depths) for task in tasks]

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        return _bytes(self.matrix, _units_of(tasks).size, n_features, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowUnitSource(Source[UnitStatistics]):
    """Statistics by unit, from those of K collapsed rows.

    Attributes
    ----------
    units
        The units of the cells.
    values
        Of the rows; their covariate is the depth.
    cubes, starts
        Shape (K,). Sums of the depths' cubes, and the first cell of each row.
    """

    from_cells = False

    units: Units
    values: Collapsed
    cubes: FloatArray
    starts: IntArray

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[UnitStatistics | None]:
        """See :class:`Source`."""
        values = self.values if self.features is None else self.values.take_features(self.features)
        units = _units_of(tasks)
        if not units.size:
            return [None] * len(tasks)
        codes = _renumbered(self.units.codes[self.starts], units, len(self.units.table))
        merged, depths = merge_units(values, self.cubes, codes, units.size)
        return [UnitStatistics.of(task.design, units, merged, depths) for task in tasks]

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`."""
        return _bytes(self.matrix, _units_of(tasks).size, n_features, 1)
