"""What a run would do and take, without doing it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.stored import Stored
from donorwise._core.engine.analysis import GB
from donorwise._core.engine.run import fit_task
from donorwise._core.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.engine.analysis import Analysis
    from donorwise._typing import IntArray

_ROW_BYTES = 130  # of the results table: eleven numbers and four codes
_ROW_SECONDS = 1e-5  # to stack and write a row of it
_TRIED = (128, 384)  # features that are fitted to see how long it takes
_PROBE_BYTES = 2**26  # decompressed, that are read to see how long it takes
_PROBE_VALUES = 4_000_000  # of the matrix that is fitted


def describe(analysis: Analysis[Any, Any], *, max_memory: float) -> str:
    """The plan and the estimates as text.

    Parameters
    ----------
    analysis
        What would be fitted.
    max_memory
        GB for the statistics of groups that share a pass.
    """
    shared = analysis.passes(max_memory)
    n_features = len(analysis.variables)
    fitted = [number for number, task in enumerate(analysis.tasks) if task.design is not None]
    lines = [
        f"Plan: {len(fitted)} of {len(analysis.tasks)} groups x {n_features:,} features of {analysis.response}, "
        f"contrasts: {', '.join(map(one_line, analysis.names))}; passes over the cells: {len(shared)}",
        *kernels_told(analysis),
        "",
        _groups(analysis).to_string(index=False),
        "",
        f"Memory: {_memory(analysis, shared)}",
        f"Time: {_time(analysis, fitted, len(shared))}",
    ]
    return "\n".join(lines)


def kernels_told(analysis: Analysis[Any, Any]) -> list[str]:
    """The kernels of the formula, with their levels and those that the groups have, as a line; no line for none."""
    kernels = {bar.cov: bar.kernel for bar in analysis.formula.bars if bar.kernel is not None}
    terms = [term for task in analysis.tasks if task.design is not None for term in task.design.random_terms]
    used = {name: {level for term in terms if term.bar.cov == name for level in term.levels} for name in kernels}
    told = [f"{one_line(name)} ({len(used[name]):,} of {len(own.levels):,} levels)" for name, own in kernels.items()]
    return [f"Kernels: {', '.join(told)}"] if told else []


def _groups(analysis: Analysis[Any, Any]) -> pd.DataFrame:
    rows = []
    for number, (task, own) in enumerate(zip(analysis.tasks, analysis.contrasts, strict=True)):
        patterns = 0 if task.design is None else task.design.n_patterns
        answered = 0 if own is None else len(own.names)
        rows.append((one_line(task.name), analysis.cells_of(number), patterns, answered, one_line(task.reason)))
    table = pd.DataFrame(rows, columns=["group", "cells", "patterns", "contrasts", "remark"])
    return table if table["remark"].any() else table.drop(columns="remark")


def _memory(analysis: Analysis[Any, Any], shared: Sequence[Sequence[int]]) -> str:
    stored = matrix_bytes(analysis.source.matrix)
    statistics = max(analysis.bytes_of(numbers) for numbers in shared)
    n_rows = len(analysis.tasks) * len(analysis.names) * len(analysis.variables)
    table = 3 * _ROW_BYTES * n_rows  # the parts, the whole, and the copy that is written
    parts = {"the matrix": stored, "statistics": statistics, "results": table}
    named = ", ".join(f"{value / GB:.2f} GB {name}" for name, value in parts.items())
    return f"about {(sum(parts.values()) + 0.5 * GB) / GB:.1f} GB (0.5 GB the libraries, {named})"


def matrix_bytes(matrix: Any) -> int:
    if sparse.issparse(matrix) and hasattr(matrix, "indptr"):
        return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
    return int(getattr(matrix, "nbytes", 0))


def _time(analysis: Analysis[Any, Any], fitted: Sequence[int], n_passes: int) -> str:
    """Seconds of a run: those that went by until here, reading, fits, and writing.

    Each is tried on a part that does not grow with the input, after a first time that compiles (which a run needs once).
    """
    start, wall = time.process_time(), time.perf_counter()
    reading, n_bytes = reading_seconds(analysis, fitted)
    fits, first = _fit_seconds(analysis, fitted)
    waiting = max(1.0, (time.perf_counter() - wall) / (time.process_time() - start))  # for others on this machine
    n_rows = len(analysis.tasks) * len(analysis.names) * len(analysis.variables)
    parts = {
        "before": start * waiting + first,
        "reading": n_passes * reading,
        "fits": fits,
        "writing": _ROW_SECONDS * n_rows,
    }
    named = ", ".join(f"{name} {value:,.0f} s" for name, value in parts.items() if value >= 0.5)
    read = f"{n_bytes / 1e6:,.0f} MB of the matrix that were read and from " if n_bytes else ""
    return (
        f"about {max(1.0, sum(parts.values())):,.0f} s with {analysis.n_jobs} thread(s) ({named}), from {read}"
        f"trials of {_TRIED[0]} and {_TRIED[1]} features"
    )


def reading_seconds(analysis: Analysis[Any, Any], fitted: Sequence[int]) -> tuple[float, int]:
    """Seconds of a pass over a matrix in a file, from a part of it, and the bytes of that."""
    stored = analysis.source.matrix
    if not analysis.source.from_cells or not isinstance(stored, Stored):
        return 0.0, 0
    reader = open_reader(stored.matrix)
    reached = np.concatenate([[0], np.cumsum(reader.cost(0, reader.shape[reader.by_columns]))])
    n_patterns = max(1, sum(n_patterns_of(analysis, number) for number in fitted))
    seconds, read = 0.0, 0
    for share in (0.2, 0.6):  # the first time compiles; what was read then is in the system's memory
        low = int(np.searchsorted(reached, share * reached[-1]))
        high = max(low + 1, int(np.searchsorted(reached, reached[low] + _PROBE_BYTES, side="right")) - 1)
        part = np.arange(low, min(high, len(reached) - 1))
        seconds = _read(analysis, stored.matrix, part, n_patterns, by_columns=reader.by_columns)
        read = int(reached[part[-1] + 1] - reached[low])
    return seconds * float(reached[-1]) / max(1, read), read


def n_patterns_of(analysis: Analysis[Any, Any], number: int) -> int:
    design = analysis.tasks[number].design
    return 0 if design is None else design.n_patterns


def _read(analysis: Analysis[Any, Any], matrix: Any, part: IntArray, n_patterns: int, *, by_columns: bool) -> float:
    """Seconds for the statistics of some rows of the whole matrix, or of some columns of one that is stored by columns."""
    used = np.arange(matrix.shape[0]) if by_columns else part
    codes = np.full(matrix.shape[0], -1)
    codes[used] = np.arange(len(used)) * n_patterns // len(used)
    start = time.perf_counter()
    analysis.source.read(matrix, codes, n_patterns, part if by_columns else None, analysis.pass_jobs)
    return time.perf_counter() - start


def _fit_seconds(analysis: Analysis[Any, Any], fitted: Sequence[int]) -> tuple[float, float]:
    """Seconds of all fits, from those of the smallest and of the largest group; and those of a first one, which compiles."""
    order = sorted(fitted, key=lambda number: n_patterns_of(analysis, number))
    n_features, tried = len(analysis.variables), list(dict.fromkeys([order[0], order[-1]]))
    start = time.perf_counter()
    _try(analysis, tried[0], _TRIED[0])
    first, total = time.perf_counter() - start, 0.0
    for number in tried:
        few, more = (_try(analysis, number, n) for n in _TRIED)
        each = max(0.0, more - few) / (_TRIED[1] - _TRIED[0])
        total += max(few + each * (n_features - _TRIED[0]), each * n_features)
    return total * len(fitted) / len(tried), first


def _try(analysis: Analysis[Any, Any], number: int, n_features: int) -> float:
    """Seconds to fit some features of one group: of collapsed rows these, of cells made-up ones in their place."""
    small = analysis.few(n_features)
    if analysis.source.from_cells:
        names = tuple(f"feature_{j}" for j in range(n_features))
        other = analysis.source.trying(made_up(analysis.source.matrix.shape[0], n_features))
        small = replace(analysis, variables=names, source=other)
    (statistics,) = small.statistics([number])
    start = time.perf_counter()
    fit_task(small, number, statistics)
    return time.perf_counter() - start


def made_up(n_cells: int, n_features: int) -> sparse.csr_array:
    """Counts of every cell, no more than it takes not to be slow."""
    rng = np.random.default_rng(0)
    n = max(1, min(n_features // 4, _PROBE_VALUES // max(1, n_cells)))
    columns = (rng.integers(0, n_features, n_cells)[:, None] + np.arange(n) * (n_features // n)) % n_features
    values = 1.0 + rng.poisson(1.0, columns.size)
    starts = np.arange(n_cells + 1) * n
    return sparse.csr_array((values, np.sort(columns, axis=1).ravel(), starts), shape=(n_cells, n_features))
