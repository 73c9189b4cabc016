"""What a run is going to do, what it needs, and for how long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.design.contrasts import split_interaction
from donorwise._core.engine.analysis import GB
from donorwise._core.engine.run import fit_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.engine.analysis import Analysis

_TRIED = 128  # features that are fitted to see how long it takes
_ROW_BYTES = 130  # of the results table: eleven numbers and four codes


def parse_contrast(text: str, columns: Sequence[str]) -> Any:
    """A coefficient's name, or the levels of a variable that are compared: ``"disease:MS:control"``.

    Examples
    --------
    >>> parse_contrast("disease:MS:control", ["disease", "sex"])
    ('disease', 'MS', 'control')
    >>> parse_contrast("disease[T.MS]:sex[T.male]", ["disease", "sex"])
    'disease[T.MS]:sex[T.male]'
    """
    parts = [part.strip() for part in split_interaction(text)]
    of_levels = len(parts) == 3 and parts[0] in columns and not {parts[1], parts[2]} & set(columns)
    return tuple(parts) if of_levels and "[" not in text else text


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
        f"contrasts: {', '.join(analysis.names)}; passes over the cells: {len(shared)}",
        "",
        _groups(analysis).to_string(index=False),
        "",
        f"Memory: {_memory(analysis, shared)}",
        f"Time: {_time(analysis, fitted)}",
    ]
    return "\n".join(lines)


def _groups(analysis: Analysis[Any, Any]) -> pd.DataFrame:
    rows = []
    for number, (task, own) in enumerate(zip(analysis.tasks, analysis.contrasts, strict=True)):
        patterns = 0 if task.design is None else task.design.n_patterns
        answered = 0 if own is None else len(own.names)
        rows.append((task.name, analysis.cells_of(number), patterns, answered, task.reason.split("\n")[0]))
    table = pd.DataFrame(rows, columns=["group", "cells", "patterns", "contrasts", "remark"])
    return table if table["remark"].any() else table.drop(columns="remark")


def _memory(analysis: Analysis[Any, Any], shared: Sequence[Sequence[int]]) -> str:
    stored = _bytes(analysis.source.matrix)
    statistics = max(analysis.bytes_of(numbers) for numbers in shared)
    n_rows = len(analysis.tasks) * len(analysis.names) * len(analysis.variables)
    table = 3 * _ROW_BYTES * n_rows  # the parts, the whole, and the copy that is written
    parts = {"the matrix": stored, "statistics": statistics, "results": table}
    named = ", ".join(f"{value / GB:.2f} GB {name}" for name, value in parts.items())
    return f"about {(sum(parts.values()) + 0.5 * GB) / GB:.1f} GB (0.5 GB the libraries, {named})"


def _bytes(matrix: Any) -> int:
    if sparse.issparse(matrix) and hasattr(matrix, "indptr"):
        return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
    return int(getattr(matrix, "nbytes", 0))


def _time(analysis: Analysis[Any, Any], fitted: Sequence[int]) -> str:
    """Seconds of the whole from those of the smallest and of the largest group, on a few features."""
    order = sorted(fitted, key=analysis.cells_of)
    seconds = [_try(analysis, number) for number in dict.fromkeys([order[0], order[-1]])]
    n_features = len(analysis.variables)
    total = float(np.mean(seconds)) * len(fitted) * max(1.0, n_features / min(n_features, _TRIED))
    return (
        f"about {max(1.0, total):,.0f} s with {analysis.n_jobs} thread(s), from trials of {min(n_features, _TRIED)} features in "
        f"{len(seconds)} of the groups; a guess within a factor of three, without reading and writing the files"
    )


def _try(analysis: Analysis[Any, Any], number: int) -> float:
    """Seconds for a few features of one group, the second time (the first compiles)."""
    small = analysis.few(_TRIED)
    for _ in range(2):
        start = time.perf_counter()
        (statistics,) = small.statistics([number])
        fit_task(small, number, statistics)
    return time.perf_counter() - start
