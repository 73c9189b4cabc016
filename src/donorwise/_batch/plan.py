"""What a run is going to do, what it needs, and for how long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._anndata.prepare import GB
from donorwise._core.design.contrasts import split_interaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._batch.run import Analysis
    from donorwise._core.engine.tasks import Task

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


def describe(analysis: Analysis, *, max_memory: float) -> str:
    """The plan and the estimates as text.

    Parameters
    ----------
    analysis
        What would be fitted.
    max_memory
        GB for the statistics of groups that share a pass.
    """
    shared = analysis.passes(max_memory)
    n_features = len(analysis.response.variables)
    fitted = [task for task in analysis.tasks if task.design is not None]
    lines = [
        f"Plan: {len(fitted)} of {len(analysis.tasks)} groups x {n_features:,} features of {analysis.response.text}, "
        f"contrasts: {', '.join(analysis.contrasts)}; passes over the cells: {len(shared)}",
        "",
        _groups(analysis).to_string(index=False),
        "",
        f"Memory: {_memory(analysis, shared)}",
        f"Time: {_time(analysis, shared, fitted)}",
    ]
    return "\n".join(lines)


def _groups(analysis: Analysis) -> pd.DataFrame:
    rows = []
    for task, own in zip(analysis.tasks, analysis.rows, strict=True):
        used = 0 if task.design is None else int((task.design.codes >= 0).sum())
        patterns = 0 if task.design is None else task.design.n_patterns
        answered = 0 if own is None else len(own.names)
        rows.append((task.name, used, patterns, answered, task.reason.split("\n")[0]))
    table = pd.DataFrame(rows, columns=["group", "rows", "patterns", "contrasts", "remark"])
    return table if table["remark"].any() else table.drop(columns="remark")


def _memory(analysis: Analysis, shared: Sequence[Sequence[int]]) -> str:
    matrix = analysis.response.matrix
    stored = _bytes(matrix)
    statistics = max(analysis.bytes_of(numbers) for numbers in shared)
    n_rows = len(analysis.tasks) * len(analysis.contrasts) * len(analysis.response.variables)
    table = 3 * _ROW_BYTES * n_rows  # the parts, the whole, and the copy that is written
    parts = {"the matrix": stored, "statistics": statistics, "results": table}
    named = ", ".join(f"{value / GB:.2f} GB {name}" for name, value in parts.items())
    return f"about {(sum(parts.values()) + 0.5 * GB) / GB:.1f} GB (0.5 GB the libraries, {named})"


def _bytes(matrix: Any) -> int:
    if sparse.issparse(matrix) and hasattr(matrix, "indptr"):
        return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
    return int(getattr(matrix, "nbytes", 0))


def _time(analysis: Analysis, shared: Sequence[Sequence[int]], fitted: Sequence[Task]) -> str:
    """Seconds of the whole from those of the smallest and of the largest group, on a few features."""
    sizes = {t.name: int((t.design.codes >= 0).sum()) for t in fitted if t.design is not None}
    order = sorted(sizes, key=lambda name: sizes[name])
    seconds = {name: _try(analysis, name) for name in dict.fromkeys([order[0], order[-1]])}
    per_group = float(np.mean(list(seconds.values())))
    n_features = len(analysis.response.variables)
    total = per_group * len(fitted) * max(1.0, n_features / min(n_features, _TRIED))
    return (
        f"about {max(1.0, total):,.0f} s with {analysis.n_jobs} thread(s), from trials of {min(n_features, _TRIED)} features in "
        f"{len(seconds)} of the groups; a guess within a factor of three, without reading and writing the files"
    )


def _try(analysis: Analysis, name: str) -> float:
    """Seconds for a few features of one group, the second time (the first compiles)."""
    number = next(i for i, task in enumerate(analysis.tasks) if task.name == name)
    small = analysis.few(_TRIED)
    for _ in range(2):
        start = time.perf_counter()
        for _found in small.fit([number], set(), lambda n: None):
            pass
    return time.perf_counter() - start
