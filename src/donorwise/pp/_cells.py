"""The passes over matrices of the same cells that make collapsed rows, here or on the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata.collapsed import Counts, MeanDepths
from donorwise._anndata.collapsed_counts import NB
from donorwise._core.cells.cluster import accumulate_on, active_client, check_client
from donorwise._core.cells.collapse import MOMENTS, accumulate, check_moments, collapse, measure_cells
from donorwise._core.cells.collapsed_rows import CollapsedRows, RowCells
from donorwise._core.cells.counted_rows import CountedRows
from donorwise._core.cells.counts import Counting, check_total
from donorwise._core.cells.matrices import missing_patterns, row_sums
from donorwise._core.cells.measures import ByPattern
from donorwise._core.cells.moments import DETECTED, Moments
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.remote import can_travel
from donorwise._core.cells.segments import check_cells, check_features
from donorwise._core.cells.stored import Stored
from donorwise._core.cells.tails import choose_tails
from donorwise._core.engine.pseudobulk import check_counts
from donorwise._typing import FloatArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from donorwise._anndata import Response
    from donorwise._core.cells.counts import CellSums, Records
    from donorwise._core.cells.measures import Collapsed, Measure
    from donorwise._core.cells.readers import Reader
    from donorwise._core.cells.segments import CodedCells
    from donorwise._typing import BoolArray, IntArray


class CellPasses:
    """The row of every cell, and passes over matrices of these cells."""

    def __init__(
        self,
        codes: NDArray[np.int32],
        n_rows: int,
        response: Response,
        *,
        chunk_size: int | None,
        progress: bool,
        n_jobs: int | None,
        client: Any,
    ) -> None:
        self._codes, self._n_rows, self._n_jobs = codes, n_rows, n_jobs
        self._features, self._names, self._log_base = response.features, response.variables, response.log_base
        self._chunks: dict[str, Any] = {"chunk_size": chunk_size, "progress": progress}
        self._client = active_client() if client is None else check_client(client)

    def rows(
        self, matrix: Any, names: Sequence[str], covariates: FloatArray | None, weights: FloatArray | None
    ) -> tuple[CollapsedRows, FloatArray]:
        """Statistics with weights, the unweighted moments of the covariates, and the number of cells above zero."""
        values, detected = self._pass(matrix, (Moments(self._log_base), DETECTED), covariates, weights)
        own = values
        if weights is not None and names:
            own = collapse(np.zeros((len(self._codes), 1)), self._codes, self._n_rows, covariates=covariates)
        cells = RowCells(own.n_obs, tuple(names), own.covariate_mean, own.covariate_ss)
        return CollapsedRows.of(cells, values), detected.total[:, 0]

    def counts(self, response: Response, depth: FloatArray | None, glmm: Sequence[str]) -> CountsFound:
        """Statistics of counts, and of the depths; these are the sums of the counts if None. `glmm` names families."""
        matrix, text = response.matrix, response.text
        reader = self._reader(matrix)
        if reader is not None:
            return self._counts_on_cluster(reader, matrix, text, depth, glmm)
        largest = check_counts(matrix, text)
        depth = row_sums(matrix) if depth is None else depth
        counting = counting_of(reach_of(depth, self._codes, self._n_rows, largest), glmm)
        values, *records = self._pass(matrix, (MOMENTS, *counting.values()), depth[:, None], None)
        sums = depth_sums(depth, self._codes, self._n_rows)
        cells = [own.cells(self._codes, self._n_rows, depth, np.ones(depth.size)) for own in counting.values()]
        return self._found(values, sums, counting, records, cells)

    def depths(self, depth: FloatArray) -> MeanDepths:
        """Mean depth over the cells that have one."""
        return _depths(depth_sums(depth, self._codes, self._n_rows))

    def _pass(
        self,
        matrix: Any,
        measures: tuple[Measure[Any], ...],
        covariates: FloatArray | None,
        weights: FloatArray | None,
    ) -> tuple[Any, ...]:
        _check_complete(matrix, self._features, self._names)
        return accumulate(
            matrix, self._codes, self._n_rows, measures, weights=weights, covariates=covariates,
            features=self._features, names=self._names, n_jobs=self._n_jobs, client=self._client, **self._chunks,
        )  # fmt: skip

    def _reader(self, matrix: Any) -> Reader | None:
        """The reader that workers of the cluster can use; None if there is no cluster, or the matrix is read here."""
        if self._client is None or not isinstance(matrix, Stored):
            return None
        reader = open_reader(matrix.matrix)
        return reader if can_travel(reader) else None

    def _counts_on_cluster(
        self, reader: Reader, stored: Stored, text: str, depth: FloatArray | None, glmm: Sequence[str]
    ) -> CountsFound:
        codes, _, given = stored.spread(self._codes, None, None if depth is None else depth[:, None])
        columns = check_features(stored.column_numbers(self._features), reader.shape[1])
        cells = check_cells(codes, self._n_rows, None, given, reader.shape[0])

        def measured(counting: Sequence[Counting] | None) -> tuple[Any, ...]:
            task = partial(_measure_counts, text=text, kept=stored.columns, counting=counting)
            return accumulate_on(self._client, reader, cells, task, columns=columns, **self._chunks)

        counting = counting_of(measured(None)[0], glmm) if glmm else {}
        found = measured(list(counting.values()))
        check_moments(found, columns, self._names)
        values, sums, *others = found
        return self._found(values, sums, counting, others[::2], others[1::2])

    def _found(
        self,
        values: Collapsed,
        sums: DepthSums,
        counting: Mapping[str, Counting],
        records: Sequence[Records],
        cells: Sequence[CellSums],
    ) -> CountsFound:
        counted = {}
        for (kind, own), found, known in zip(counting.items(), records, cells, strict=True):
            counted[kind] = CountedRows(own.counted(found, known), own.nodes, own.tails)
            check_total(counted[kind].counted.total, own, self._features, self._names)
        return CountsFound(Counts(values, sums.cubes), _depths(sums), counted)


@dataclass(frozen=True, slots=True)
class DepthSums(ByPattern):
    """By row: number and total of the depths that can be used, and the sum of all cubes."""

    n: FloatArray
    depth: FloatArray
    cubes: FloatArray


def depth_sums(depth: FloatArray, codes: NDArray[Any], n_rows: int) -> DepthSums:
    """Sums of the depths (N,) of cells."""
    used = codes >= 0
    usable = np.isfinite(depth) & (depth > 0) & used
    return DepthSums(
        n=_total(np.ones(len(codes)), codes, usable, n_rows),
        depth=_total(depth, codes, usable, n_rows),
        cubes=_total(depth**3, codes, used, n_rows),
    )


def _total(values: FloatArray, codes: NDArray[Any], kept: BoolArray, n_rows: int) -> FloatArray:
    return np.asarray(np.bincount(codes[kept], weights=values[kept], minlength=n_rows), dtype=np.float64)


def _depths(sums: DepthSums) -> MeanDepths:
    return MeanDepths(sums.depth / np.maximum(sums.n, 1), sums.n.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Reach(ByPattern):
    """By row: the smallest and largest depth of cells that have one, and the largest count, (K,)."""

    low: FloatArray
    high: FloatArray
    largest: FloatArray

    def merge(self, other: Reach) -> Reach:
        """The reach of both."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Reach(low, high, np.maximum(self.largest, other.largest))


def reach_of(depth: FloatArray, codes: NDArray[Any], n_rows: int, largest: float) -> Reach:
    """The reach of cells of depths (N,), whose counts go up to `largest`."""
    low, high, used = np.full(n_rows, np.inf), np.full(n_rows, -np.inf), (codes >= 0) & (depth > 0)
    np.minimum.at(low, codes[used], depth[used])
    np.maximum.at(high, codes[used], depth[used])
    return Reach(low, high, np.full(n_rows, largest))


def counting_of(reach: Reach, glmm: Sequence[str]) -> dict[str, Counting]:
    """What is to be counted for each family."""
    low, high = reach.low.min(), reach.high.max()
    first, last = (float(np.log(depth)) for depth in (low, high)) if low <= high else (0.0, 0.0)  # no cell has counts
    made = {}
    for kind in glmm:
        nodes = choose_nodes(first, last, kind)
        is_nb = kind == NB
        made[kind] = Counting(nodes, choose_tails(float(reach.largest.max())) if is_nb else None, detected=not is_nb)
    return made


@dataclass(frozen=True, slots=True)
class CountsFound:
    """What passes over counts found: their statistics, the depths, and what generalised models need, by family."""

    counts: Counts
    depths: MeanDepths
    counted: dict[str, CountedRows]


def _measure_counts(
    matrix: Any,
    cells: CodedCells,
    columns: IntArray,
    *,
    text: str,
    kept: IntArray | None,
    counting: Sequence[Counting] | None,
) -> tuple[ByPattern, ...]:
    """What a worker computes of the counts of some cells; their depths are the sums over the `kept` columns.

    Statistics of counts and depths, and for each in `counting` two results; their reach alone if that is None.
    """
    largest = check_counts(matrix, text)
    if cells.covariates is None:
        weight = np.zeros(matrix.shape[1])
        weight[slice(None) if kept is None else kept] = 1.0
        depth = np.ravel(np.asarray(matrix @ weight))
    else:
        depth = cells.covariates[:, 0]
    if counting is None:
        return (reach_of(depth, cells.codes, cells.n_patterns, largest),)
    measures: tuple[Measure[Any], ...] = (MOMENTS, *counting)
    values, *records = measure_cells(matrix, cells._replace(covariates=depth[:, None]), columns, measures=measures)
    sums = [own.cells(cells.codes, cells.n_patterns, depth, np.ones(depth.size)) for own in counting]
    others = [part for pair in zip(records, sums, strict=True) for part in pair]
    return (values, depth_sums(depth, cells.codes, cells.n_patterns), *others)


def _check_complete(matrix: Any, features: IntArray | None, names: Sequence[str]) -> None:
    """Raise where a dense matrix misses values: one number of cells per row would not do for all features."""
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind != "f":
        return
    columns = np.arange(matrix.shape[1]) if features is None else features
    missing = np.concatenate(
        [np.zeros(0, dtype=np.int64), *(at for at, seen in missing_patterns(matrix, columns) if seen is not None)]
    )
    if missing.size:
        name = names[int(np.flatnonzero(columns == missing.min())[0])]
        raise DataError(
            f"{missing.size} features miss values (NaN) in some cells (the first is {name!r}), which collapsed rows "
            "cannot keep: leave these features out with mask_var=, or fit the cells."
        )
