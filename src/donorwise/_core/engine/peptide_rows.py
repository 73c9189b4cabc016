"""From a matrix of runs x peptides to the rows of every protein."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from donorwise._core.cells.matrices import read_cells, read_columns
from donorwise._core.cells.stored import Stored
from donorwise._core.engine.sources import Source
from donorwise._core.models.lmm.ragged import RaggedRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scipy import sparse

    from donorwise._core.design.design import Design
    from donorwise._core.engine.tasks import Task
    from donorwise._typing import FloatArray, IntArray

_DOUBLES = 8_000_000  # of the values of some peptides that are read at a time


class Grouping(NamedTuple):
    """The levels of a random term: those of each run (N,), of each peptide (P,), or of the two together.

    Codes are -1 where a label is missing. A term of runs alone has one level of peptides, and the other way round.
    """

    of_run: IntArray
    run_levels: tuple[str, ...]
    of_peptide: IntArray
    peptide_levels: tuple[str, ...]

    def codes(self, run: IntArray, peptide: IntArray) -> IntArray:
        """Level of measurements; -1 where one of the labels is missing."""
        first, second = self.of_run[run], self.of_peptide[peptide]
        joint = first * len(self.peptide_levels) + second
        return np.where((first < 0) | (second < 0), -1, joint)

    @property
    def peptides_alone(self) -> bool:
        """Whether runs have no part in it."""
        return self.run_levels == ("",)

    def level(self, code: int) -> str:
        """Name of a level."""
        first, second = divmod(code, len(self.peptide_levels))
        return ":".join(filter(None, (self.run_levels[first], self.peptide_levels[second])))


@dataclass(frozen=True, slots=True)
class PeptideStatistics:
    """The measurements of one task (see :class:`donorwise._core.engine.tasks.TaskStatistics`).

    Attributes
    ----------
    design
        A row for every run and kind of peptide.
    rows
        The measurements of every protein.
    n_peptides, n_missing
        Shape (G,). Peptides with a measurement, and measurements that are missing of those that a protein could have.
    """

    design: Design
    rows: RaggedRows
    n_peptides: IntArray
    n_missing: IntArray

    def take_features(self, features: IntArray) -> PeptideStatistics:
        """The statistics of some proteins."""
        return replace(
            self, rows=self.rows.take_features(features), n_peptides=self.n_peptides[features],
            n_missing=self.n_missing[features],
        )  # fmt: skip

    def take_patterns(self, patterns: IntArray) -> PeptideStatistics:
        """Without the runs of the other patterns."""
        place = np.full(self.design.n_patterns, -1)
        place[patterns] = np.arange(len(patterns))
        rows = self.rows.take_rows(place[self.rows.pattern] >= 0)
        return replace(self, design=self.design.take(patterns), rows=replace(rows, pattern=place[rows.pattern]))

    def relabelled(self, design: Design) -> PeptideStatistics:
        """The same measurements under another design with the same patterns."""
        return replace(self, design=design)

    def row_space(self) -> FloatArray:
        """A matrix with the row space of X."""
        return self.design.X


@dataclass(frozen=True, slots=True, kw_only=True)
class PeptideSource(Source[PeptideStatistics]):
    """Measurements by protein.

    Attributes
    ----------
    protein
        Shape (P,). Protein of every column of the matrix, -1 for none.
    kind
        Shape (P,). Which rows of the design are those of a peptide: `kind` times N and following.
    groupings
        Of every grouping factor.
    run_weights
        Shape (N,), or None.
    weights
        Matrix of weights, like `matrix`; None for none.
    """

    from_cells = True

    protein: IntArray
    kind: IntArray
    groupings: Mapping[tuple[str, ...], Grouping]
    run_weights: FloatArray | None = None
    weights: Any = None

    @property
    def columns(self) -> IntArray:
        """See :class:`Source`: those that have a protein."""
        return np.flatnonzero(self.protein >= 0)

    def take_features(self, features: IntArray) -> PeptideSource:
        """The same for some of the proteins."""
        place = np.full(int(self.protein.max(initial=-1)) + 2, -1)
        place[features] = np.arange(len(features))
        return replace(self, protein=place[self.protein])

    def trying(self, matrix: sparse.csr_array) -> PeptideSource:
        """See :class:`Source`: a protein for every column of `matrix`, each with the peptides of one that there is."""
        n_runs, n_features = matrix.shape
        columns = [np.flatnonzero(self.protein == p) for p in range(int(self.protein.max(initial=0)) + 1)]
        own = [columns[i % len(columns)] for i in range(n_features)]
        taken = np.concatenate(own)
        values = np.random.default_rng(0).standard_normal((n_runs, taken.size))
        groupings = {name: g._replace(of_peptide=g.of_peptide[taken]) for name, g in self.groupings.items()}
        protein = np.repeat(np.arange(n_features), [c.size for c in own])
        made: dict[str, Any] = {"matrix": values, "protein": protein, "kind": self.kind[taken], "groupings": groupings}
        return replace(self, **made, weights=None, run_weights=None)

    def read(
        self, matrix: Any, codes: IntArray, n_patterns: int, features: IntArray | None, n_jobs: int | None
    ) -> None:
        """See :class:`Source`."""
        read_cells(Stored(matrix, None, None), np.flatnonzero(codes >= 0), features)

    def bytes_of(self, tasks: Sequence[Task], n_features: int) -> int:
        """See :class:`Source`: if nothing were missing."""
        share = sum(float((task.design.codes >= 0).mean()) for task in tasks if task.design is not None)
        return int(self.matrix.shape[0] * (self.protein >= 0).sum() * share * 8 * (4 + len(self.groupings)))

    def statistics(
        self, tasks: Sequence[Task], variables: tuple[str, ...], n_jobs: int | None
    ) -> list[PeptideStatistics | None]:
        """See :class:`Source`."""
        designs = [task.design for task in tasks]
        parts: list[list[_Part]] = [[] for _ in tasks]
        for columns in self._blocks():
            values = read_columns(self.matrix, columns)
            weights = None if self.weights is None else read_columns(self.weights, columns)
            for own, design in zip(parts, designs, strict=True):
                if design is not None:
                    own.append(self._part(values, weights, columns, design))
        return [
            None if design is None else _joined(own, design, len(variables))
            for own, design in zip(parts, designs, strict=True)
        ]

    def measured(self, design: Design) -> tuple[IntArray, IntArray]:
        """Peptide and pattern of the measurements of a task, (M,) each, in the order of its statistics."""
        parts = [
            self._part(
                read_columns(self.matrix, own),
                None if self.weights is None else read_columns(self.weights, own),
                own,
                design,
            )
            for own in self._blocks()
        ]
        none = [np.empty(0, dtype=np.int64)]
        return np.concatenate([p.peptide for p in parts] or none), np.concatenate([p.pattern for p in parts] or none)

    def _blocks(self) -> list[IntArray]:
        """Columns protein by protein, some at a time."""
        used = np.flatnonzero(self.protein >= 0)
        columns = used[np.argsort(self.protein[used], kind="stable")]
        if not columns.size:
            return []
        size = max(1, _DOUBLES // max(self.matrix.shape[0], 1))
        block = np.arange(columns.size) // size
        return [columns[block == b] for b in range(int(block[-1]) + 1)]

    def _part(self, values: FloatArray, weights: FloatArray | None, columns: IntArray, design: Design) -> _Part:
        """The measurements of some columns, protein by protein, peptide by peptide, run by run."""
        n_runs = values.shape[0]
        pattern = design.codes.reshape(-1, n_runs)[self.kind[columns]]  # (columns, N)
        possible = pattern >= 0
        used = possible & np.isfinite(values.T)
        w = np.ones(values.shape) if weights is None else weights
        if self.run_weights is not None:
            w = w * self.run_weights[:, None]
        if weights is not None:
            used &= np.isfinite(w.T) & (w.T > 0)
        at, run = np.nonzero(used)
        levels = [self.groupings[term.bar.group].codes(run, columns[at]) for term in design.random_terms]
        codes = np.stack(levels, axis=1) if levels else np.empty((at.size, 0), dtype=np.int64)
        known = (codes >= 0).all(axis=1)
        at, run, codes = at[known], run[known], codes[known]
        return _Part(
            self.protein[columns[at]], pattern[at, run].astype(np.int64), values[run, at], w[run, at], codes, columns[at],
            self.protein[columns], possible.sum(axis=1), columns,
        )  # fmt: skip


class _Part(NamedTuple):
    """Measurements (M,), then of the columns (P,): protein, runs that they could have been measured in, and number."""

    protein: IntArray
    pattern: IntArray
    y: FloatArray
    w: FloatArray
    codes: IntArray
    peptide: IntArray
    of_column: IntArray
    possible: IntArray
    column: IntArray


def _joined(parts: Sequence[_Part], design: Design, n_features: int) -> PeptideStatistics:
    """The statistics of a task: of peptides that were measured at all, in its runs."""
    n_terms = len(design.random_terms)

    def joined(name: str, dtype: type = np.int64) -> np.ndarray:
        empty: np.ndarray = np.empty((0, n_terms) if name == "codes" else 0, dtype=dtype)
        return np.concatenate([getattr(part, name) for part in parts] or [empty])

    protein = joined("protein")
    rows = RaggedRows(
        np.concatenate([[0], np.cumsum(np.bincount(protein, minlength=n_features))]), joined("pattern"),
        joined("y", float), joined("w", float), joined("codes"),
    )  # fmt: skip
    column, of_column = joined("column"), joined("of_column")
    measured = np.isin(column, joined("peptide"))
    n_peptides = np.bincount(of_column[measured], minlength=n_features)
    possible = np.bincount(of_column, weights=joined("possible"), minlength=n_features).astype(np.int64)
    return PeptideStatistics(design, rows, n_peptides, possible - rows.n)
