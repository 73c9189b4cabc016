"""A run from its plan to its files, which can be stopped and resumed after every group."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from donorwise._anndata import keys
from donorwise._batch.outputs import write_anndata, write_table
from donorwise._batch.partial import Partial
from donorwise._batch.tables import GroupResult, group_from_anndata, group_to_anndata, results_anndata, stack
from donorwise._core.inference.multiplicity import UNIVERSE
from donorwise._core.progress import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from donorwise._anndata import Response
    from donorwise._core.engine.results import Rows
    from donorwise._core.engine.tasks import Task

logger = logging.getLogger("donorwise")


class Analysis(Protocol):
    """A model that is fitted group by group."""

    @property
    def response(self) -> Response: ...
    @property
    def tasks(self) -> list[Task]: ...
    @property
    def contrasts(self) -> list[str]: ...
    @property
    def rows(self) -> list[Rows | None]: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def n_cells(self) -> int: ...
    @property
    def n_jobs(self) -> int: ...

    def params(self, parts: Sequence[GroupResult]) -> dict[str, Any]:
        """What the params of the result say about this kind of model."""
        ...

    def few(self, n_features: int) -> Analysis:
        """The same with some features only, spread over all, to see how long it takes."""
        ...

    def passes(self, max_memory: float) -> list[list[int]]:
        """Groups that share a pass over the cells, within `max_memory` GB for their statistics.

        They depend on the input and the options alone, so that a resumed run adds the same numbers in the
        same order.
        """
        ...

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Memory for the statistics of some groups."""
        ...

    def fit(
        self, numbers: Sequence[int], finished: set[int], update: Callable[[int], object]
    ) -> Iterator[tuple[int, GroupResult]]:
        """Fit some groups from one pass over the cells, without those that are finished."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run says when it is finished."""

    n_rows: int
    failed: dict[str, str]
    status_counts: dict[str, int]
    seconds: float


def run(
    analysis: Analysis,
    out: Path,
    manifest: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    resume: bool,
    max_memory: float,
    progress: bool,
) -> Outcome:
    """Fit every group that is not finished yet, then write the table of all.

    Parameters
    ----------
    analysis
        What to fit.
    out
        ``.parquet`` and ``.csv`` hold the results table, ``.h5ad`` all tables as ``dw.tl.lmm`` stores them.
    manifest
        What must be the same for a stopped run to be resumed.
    params
        Formula and options, for the params of the result.
    resume, progress
        Whether to go on with a stopped run, and to show a progress bar.
    max_memory
        GB for the statistics of groups that share a pass.

    Raises
    ------
    DataError
        The input cannot be used, or is not that of the stopped run.
    OutputError
        Something cannot be written; groups that are finished are kept.
    """
    start = time.monotonic()
    partial = Partial.of(out)
    with partial.kept(manifest, resume=resume) as finished:
        if finished:
            logger.info("Resumed: %d of %d groups are finished.", len(finished), len(analysis.tasks))
        _fit_all(analysis, partial, finished, max_memory=max_memory, progress=progress)
    parts = [group_from_anndata(partial.load(number)) for number in range(len(analysis.tasks))]
    return _write(analysis, parts, out, params, start)


def _fit_all(analysis: Analysis, partial: Partial, finished: set[int], *, max_memory: float, progress: bool) -> None:
    variables, n_groups = analysis.response.variables, len(analysis.tasks)
    total = (n_groups - len(finished)) * len(variables)
    with tqdm(total=total, unit="fit", desc="fits", disable=not progress) as bar:
        for numbers in analysis.passes(max_memory):
            if finished.issuperset(numbers):
                continue
            logger.info("Reading the cells of %s.", _names([analysis.tasks[i].name for i in numbers]))
            start = time.monotonic()
            for number, result in analysis.fit(numbers, finished, bar.update):
                partial.save(number, group_to_anndata(result, variables))
                _log_group(analysis, number, result, time.monotonic() - start)
                start = time.monotonic()


def _names(groups: Sequence[str]) -> str:
    return groups[0] if len(groups) == 1 else f"{len(groups)} groups"


def _log_group(analysis: Analysis, number: int, result: GroupResult, seconds: float) -> None:
    name, n_groups, n_features = analysis.tasks[number].name, len(analysis.tasks), len(analysis.response.variables)
    data = {"event": "group", "group": name, "number": number + 1, "groups": n_groups, "seconds": round(seconds, 3)}
    if result.failed:
        logger.warning("%s: not fitted. %s", name, result.failed, extra={"data": data | {"failed": True}})
        return
    if reason := analysis.tasks[number].reason:
        logger.warning("%s: %s", name, reason)
    if result.note:
        logger.warning("%s: the tests use %s: %s.", name, result.method, result.note)
    logger.info(
        "Group %d of %d, %s: %s features, %s cells, %.1f s.", number + 1, n_groups, name, f"{n_features:,}",
        f"{result.n_cells:,}", seconds, extra={"data": data | {"failed": False}},
    )  # fmt: skip


def _write(
    analysis: Analysis, parts: Sequence[GroupResult], out: Path, params: Mapping[str, Any], start: float
) -> Outcome:
    groups = [task.name for task in analysis.tasks]
    tables = stack(parts, groups, analysis.contrasts, analysis.response.variables)
    results = tables[keys.RESULTS]
    counts = dict(Counter(results["status"].astype(str)))
    if out.suffix == ".h5ad":
        full = _params(analysis, parts, params, counts)
        write_anndata(results_anndata(tables, full, analysis.response.variables), out)
    else:
        write_table(results[list(keys.RESULT_COLUMNS)], out)
    failed = {name: part.failed for name, part in zip(groups, parts, strict=True) if part.failed}
    return Outcome(len(results), failed, counts, time.monotonic() - start)


def _params(
    analysis: Analysis, parts: Sequence[GroupResult], params: Mapping[str, Any], counts: dict[str, int]
) -> dict[str, Any]:
    """The params that the tool in memory stores with its result."""
    named = list(zip(analysis.tasks, parts, strict=True))
    n_cells = sum(part.n_cells for part in parts)
    return {
        **params,
        "donor": next((part.donor for part in parts if part.donor), ""),
        "response": analysis.response.text,
        "contrasts": list(analysis.contrasts),
        "ddf_used": {task.name: part.method for task, part in named if part.method},
        "ddf_reasons": {task.name: part.note for task, part in named if part.note},
        "reasons": {task.name: part.failed or task.reason for task, part in named if part.failed or task.reason},
        "n_cells": n_cells,
        "n_dropped": analysis.n_cells - n_cells,
        "version": version("donorwise"),
        "universe": UNIVERSE,
        "status_counts": counts,
        "log_base": analysis.response.log_base,
    } | analysis.params(parts)
