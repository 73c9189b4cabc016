"""The passes over matrices of the same cells that make collapsed rows, here or on the workers of a cluster."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata.collapsed import Counts, Depths
from donorwise._core.cells.accumulate import collapse, missing_patterns, summarise
from donorwise._core.cells.checks import check_features, check_finite
from donorwise._core.cells.cluster import active_client, check_client, collapse_on
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.remote import can_travel
from donorwise._core.cells.stored import Stored
from donorwise._core.engine.collapsed import CollapsedRows, RowCells
from donorwise._core.engine.detected import detected_cells
from donorwise._core.engine.pseudobulk import check_counts
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from donorwise._anndata import Response
    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.cells.readers import Reader
    from donorwise._core.cells.remote import Cells, Measure, Sums
    from donorwise._typing import BoolArray, FloatArray, IntArray


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
        n_jobs: int,
        client: Any,
    ) -> None:
        self._codes, self._n_rows, self._n_jobs = codes, n_rows, n_jobs
        self._features, self._names = response.features, response.variables
        self._chunks: dict[str, Any] = {"chunk_size": chunk_size, "progress": progress}
        self._client = active_client() if client is None else check_client(client)

    def rows(
        self, matrix: Any, names: Sequence[str], covariates: FloatArray | None, weights: FloatArray | None
    ) -> tuple[CollapsedRows, FloatArray]:
        """Statistics with weights, the unweighted moments of the covariates, and the number of cells above zero."""
        values, detected = self._values(matrix, covariates, weights)
        own = values
        if weights is not None and names:
            own = collapse(np.zeros((len(self._codes), 1)), self._codes, self._n_rows, covariates=covariates)
        return CollapsedRows.of(
            RowCells(own.n_obs, tuple(names), own.covariate_mean, own.covariate_ss), values
        ), detected

    def counts(self, response: Response, depth: FloatArray | None) -> tuple[Counts, Depths]:
        """Statistics of counts, and of the depths; these are the sums of the counts if None."""
        matrix, text = response.matrix, response.text
        reader = self._reader(matrix)
        if reader is not None:
            given = None if depth is None else depth[:, None]
            measure = partial(_measure_counts, text=text, kept=matrix.columns)
            values, sums = self._on_cluster(reader, matrix, measure, given, None)
        else:
            check_counts(matrix, text)
            if depth is None:
                depth = np.ravel(np.asarray(matrix.sum(axis=1, dtype=np.float64)))
            values = self._read(matrix, depth[:, None], None)
            sums = depth_sums(depth, self._codes, self._n_rows)
        return Counts(values, sums["cubes"]), _depths(sums)

    def depths(self, depth: FloatArray) -> Depths:
        """Mean depth over the cells that have one."""
        return _depths(depth_sums(depth, self._codes, self._n_rows))

    def _values(
        self, matrix: Any, covariates: FloatArray | None, weights: FloatArray | None
    ) -> tuple[Collapsed, FloatArray]:
        reader = self._reader(matrix)
        if reader is not None:
            values, sums = self._on_cluster(reader, matrix, _measure_values, covariates, weights)
            return values, sums["detected"]
        detected = detected_cells(
            matrix, self._codes, self._n_rows, features=self._features, n_jobs=self._n_jobs, **self._options(matrix)
        )
        return self._read(matrix, covariates, weights), detected

    def _read(self, matrix: Any, covariates: FloatArray | None, weights: FloatArray | None) -> Collapsed:
        _check_complete(matrix, self._features, self._names)
        return collapse(
            matrix, self._codes, self._n_rows, weights=weights, covariates=covariates, features=self._features,
            names=self._names, n_jobs=self._n_jobs, **self._options(matrix),
        )  # fmt: skip

    def _options(self, matrix: Any) -> dict[str, Any]:
        return self._chunks if isinstance(matrix, Stored) else {}

    def _reader(self, matrix: Any) -> Reader | None:
        """The reader that workers of the cluster can use; None if there is no cluster, or the matrix is read here."""
        if self._client is None or not isinstance(matrix, Stored):
            return None
        reader = open_reader(matrix.matrix)
        return reader if can_travel(reader) else None

    def _on_cluster(
        self,
        reader: Reader,
        stored: Stored,
        measure: Measure,
        covariates: FloatArray | None,
        weights: FloatArray | None,
    ) -> tuple[Collapsed, Sums]:
        codes, w, c = stored.spread(self._codes, weights, covariates)
        columns = check_features(stored.column_numbers(self._features), reader.shape[1])
        values, sums = collapse_on(
            self._client, reader, codes, self._n_rows, measure, weights=w, covariates=c, columns=columns, n_sums=1,
            **self._chunks,
        )  # fmt: skip
        check_finite(values.within_ss, columns, self._names)
        return values, sums


def depth_sums(depth: FloatArray, codes: NDArray[Any], n_rows: int) -> Sums:
    """By row: number and total of the depths that can be used, and the sum of all cubes."""
    used = codes >= 0
    usable = np.isfinite(depth) & (depth > 0) & used
    return {
        "n": _total(np.ones(len(codes)), codes, usable, n_rows),
        "depth": _total(depth, codes, usable, n_rows),
        "cubes": _total(depth**3, codes, used, n_rows),
    }


def _total(values: FloatArray, codes: NDArray[Any], kept: BoolArray, n_rows: int) -> FloatArray:
    return np.asarray(np.bincount(codes[kept], weights=values[kept], minlength=n_rows), dtype=np.float64)


def _depths(sums: Sums) -> Depths:
    return Depths(sums["depth"] / np.maximum(sums["n"], 1), sums["n"].astype(np.int64))


def _measure_values(matrix: Any, cells: Cells) -> tuple[Collapsed, Sums]:
    """What a worker computes of the values of some cells."""
    detected = detected_cells(matrix, cells.codes.astype(np.int32), cells.n_patterns, features=cells.columns)
    return summarise(matrix, *cells), {"detected": detected}


def _measure_counts(matrix: Any, cells: Cells, *, text: str, kept: IntArray | None) -> tuple[Collapsed, Sums]:
    """What a worker computes of the counts of some cells; their depths are the sums over the `kept` columns."""
    check_counts(matrix, text)
    if cells.covariates is None:
        weight = np.zeros(matrix.shape[1])
        weight[slice(None) if kept is None else kept] = 1.0
        depth = np.ravel(np.asarray(matrix @ weight))
    else:
        depth = cells.covariates[:, 0]
    values = summarise(matrix, *cells._replace(covariates=depth[:, None]))
    return values, depth_sums(depth, cells.codes, cells.n_patterns)


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
