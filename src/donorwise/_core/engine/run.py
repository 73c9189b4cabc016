"""The one loop that runs an analysis, where its tables go, and what its result says of itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from donorwise._core.engine.after_fit import of_fits, shifted
from donorwise._core.engine.analysis import TABLES, Family, Tables
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.groups import stored_columns
from donorwise._core.engine.power import carried_by_prior, own_df
from donorwise._core.engine.results import contrasts_of_covariates, told_reasons, with_levels
from donorwise._core.engine.tables import UNIVERSE, dtype_of
from donorwise._core.jobs import Progress
from donorwise._core.models.lmm.recent import REMEMBERING
from donorwise._typing import STATUSES
from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from donorwise._core.engine.analysis import Analysis, F, S

logger = logging.getLogger("donorwise")

_USED = {
    "kenward-roger": "Kenward-Roger degrees of freedom are used",
    "between-within": "Between-within degrees of freedom are used",
}


class Sink(Protocol):
    """Where the tables of a run go, task by task."""

    def finished(self) -> set[int]:
        """Numbers of the tasks that need not be fitted."""

    def reads(self, names: Sequence[str]) -> None:
        """A pass over the cells of these groups begins."""

    def save(self, number: int, tables: Tables) -> None:
        """Keep the tables of a task."""

    def load(self, number: int) -> Tables:
        """The tables of a task that is finished."""


class Memory(dict[int, Tables]):
    """The sink that keeps everything in memory."""

    def finished(self) -> set[int]:
        """Numbers of the tasks that are there."""
        return set(self)

    def reads(self, names: Sequence[str]) -> None:
        """Nothing is said."""

    def save(self, number: int, tables: Tables) -> None:
        """Keep the tables of a task."""
        self[number] = tables

    def load(self, number: int) -> Tables:
        """The tables of a task."""
        return self[number]


@dataclass(frozen=True, slots=True)
class Result:
    """Tables by name (those that there are), params, and why groups were not fitted."""

    tables: dict[str, pd.DataFrame]
    params: dict[str, Any]
    failed: dict[str, str]


class NothingFittedError(DataError):
    """No group could be fitted."""


def run(
    analysis: Analysis[S, F],
    sink: Sink,
    *,
    max_memory: float | None = None,
    progress: bool = False,
    known: Collection[str] = (),
) -> Result:
    """Fit every task that is not finished yet, keeping no more than its tables.

    Parameters
    ----------
    analysis
        What to fit.
    sink
        Where tables go.
    max_memory
        GB for the statistics of tasks that share a pass; None for one pass.
    progress
        Show a progress bar.
    known
        Cautions that the log has told before; they are kept with the result, and not told again.

    Raises
    ------
    NothingFittedError
        No group could be fitted. One bad group does not end the run.
    """
    for text in told_reasons({task.name: task.reason for task in analysis.tasks}):
        logger.warning(text)
    finished = sink.finished()
    todo = [t for i, t in enumerate(analysis.tasks) if i not in finished and t.design is not None]
    bar = Progress(total=len(todo) * len(analysis.variables), unit="fit", desc="fits", disable=not progress)
    with bar, one_blas_thread(), REMEMBERING:
        for numbers in analysis.passes(max_memory):
            if not finished.issuperset(numbers):
                _fit_pass(analysis, numbers, finished, sink, bar.update)
    result = _result(analysis, [sink.load(number) for number in range(len(analysis.tasks))])
    for text in result.params.get("cautions", {}).values():
        if text not in known:
            logger.warning(text)
    return result


def _fit_pass(
    analysis: Analysis[S, F], numbers: Sequence[int], finished: set[int], sink: Sink, update: Callable[[int], object]
) -> None:
    sink.reads([analysis.tasks[i].name for i in numbers])
    statistics = analysis.statistics(numbers)
    for at, number in enumerate(numbers):
        own, statistics[at] = statistics[at], None
        if number not in finished:
            sink.save(number, fit_task(analysis, number, own, update))


def fit_task(
    analysis: Analysis[S, F], number: int, statistics: S | None, update: Callable[[int], object] = lambda n: None
) -> Tables:
    """The tables of one task, which say why where it could not be fitted."""
    task = analysis.tasks[number]
    if statistics is None:
        return replace(analysis.tables(number, None), failed=task.reason)
    try:
        return analysis.tables(number, analysis.fit(number, statistics, update))
    except (DonorwiseError, np.linalg.LinAlgError) as error:
        if len(analysis.tasks) > 1 and str(error) != task.reason:
            logger.warning("%s: not fitted. %s", task.name, error)
        return replace(analysis.tables(number, None), failed=str(error))


def _result(analysis: Analysis[S, F], parts: Sequence[Tables]) -> Result:
    named = {task.name: part for task, part in zip(analysis.tasks, parts, strict=True)}
    failed = {name: part.failed for name, part in named.items() if part.failed}
    if len(failed) == len(parts):
        told = told_reasons(failed)
        raise NothingFittedError(
            "\n  ".join(["No group could be fitted:", *told]) if len(told) > 1 else parts[0].failed
        )
    tables = _stack(analysis, parts) | analysis.shared_tables()
    _log_replaced(named, analysis.options.ddf)
    params = _params(analysis, named, tables["results"])
    cautions = shifted(tables["results"], of_covariates(analysis), analysis.when_shifted)
    cautions |= of_fits({name: part.cautions for name, part in named.items()})
    said = {"cautions": cautions} if cautions else {}
    return Result(tables, params | said, failed)


def of_covariates(analysis: Analysis[S, F]) -> set[str]:
    """Contrasts of covariates of cells, such as the depth, on which most genes may well depend."""
    tasks = zip(analysis.tasks, analysis.contrasts, strict=True)
    made = [(t.design, own) for t, own in tasks if t.design is not None and own is not None]
    return {name for design, own in made for name in contrasts_of_covariates(design, own)}


def _stack(analysis: Analysis[S, F], parts: Sequence[Tables]) -> dict[str, pd.DataFrame]:
    """One table of each kind, group under group, with the levels of the whole analysis."""
    levels = {
        "variable": dtype_of(analysis.variables),
        "group": dtype_of(tuple(task.name for task in analysis.tasks)),
        "contrast": dtype_of(analysis.names),
        "status": dtype_of(STATUSES),
    }
    found = {name: [own for part in parts if (own := getattr(part, name)) is not None] for name in TABLES}
    found["results"] = [with_levels(table, levels) for table in found["results"]]
    return {name: _concat(own) for name, own in found.items() if own}


def _concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables under each other; text where they have different levels."""
    if len(tables) == 1:
        return tables[0]
    kinds = [{name: own.dtype for name, own in table.items()} for table in tables]
    differ = {name for kind in kinds for name in kind if any(other.get(name) != kind[name] for other in kinds)}
    texts = {n: object for n in differ if any(isinstance(k.get(n), pd.CategoricalDtype) for k in kinds)}
    return pd.concat([table.astype(texts) for table in tables], ignore_index=True)


def _params(analysis: Analysis[S, F], parts: dict[str, Tables], results: pd.DataFrame) -> dict[str, Any]:
    """All that a result says of itself."""
    n_cells = sum(analysis.cells_of(number) for number in range(len(analysis.tasks)))
    reasons = {task.name: parts[task.name].failed or task.reason for task in analysis.tasks}
    return {
        **{f.name: getattr(analysis.family, f.name) for f in fields(Family)},
        "formula": analysis.formula.source,
        "groupby": stored_columns(analysis.groupby),
        "donor": next(part.donor for part in parts.values() if part.ddf),
        "response": analysis.response,
        "weights": analysis.weights,
        "contrasts": list(analysis.names),
        "ddf": analysis.options.ddf,
        "ddf_used": {name: part.ddf for name, part in parts.items() if part.ddf},
        "ddf_reasons": {name: part.note for name, part in parts.items() if part.note},
        "reml": analysis.options.reml,
        **({"min_effect": analysis.options.min_effect} if analysis.options.min_effect else {}),
        **_carried_by_prior(analysis, parts),
        "reasons": {name: reason for name, reason in reasons.items() if reason},
        "n_cells": n_cells,
        "n_dropped": analysis.n_cells - n_cells,
        "status_counts": _status_counts(results),
        "log_base": analysis.log_base,
        "universe": UNIVERSE,
        "version": _version(),
        **analysis.own_params(),
    }


def _carried_by_prior(analysis: Analysis[S, F], parts: dict[str, Tables]) -> dict[str, dict[str, str]]:
    """Contrasts by group that nothing but the prior carries; no entry where there are none."""
    found = {}
    for task, own in zip(analysis.tasks, analysis.contrasts, strict=True):
        if own is not None and task.design is not None and parts[task.name].ddf == "moderated":
            n_obs = int(np.sum(task.design.codes >= 0))
            found[task.name] = carried_by_prior(own.names, own_df(task.design, own.L, n_obs))
    found = {name: names for name, names in found.items() if names}
    return {"carried_by_prior": found} if found else {}


def _status_counts(results: pd.DataFrame) -> dict[str, int]:
    """How often each status occurs, first seen first."""
    codes = results["status"].cat.codes.to_numpy()
    counts = np.bincount(codes, minlength=len(STATUSES))
    return {STATUSES[code]: int(counts[code]) for code in pd.unique(codes)}


@cache
def _version() -> str:
    return version("donorwise")


def _log_replaced(parts: dict[str, Tables], asked: str) -> None:
    """Log why tests, or some of them, are not those asked for, once per reason."""
    fitted = {name: part for name, part in parts.items() if part.ddf}
    for ddf, note in dict.fromkeys((part.ddf, part.note) for part in fitted.values() if part.note):
        names = [name for name, part in fitted.items() if (part.ddf, part.note) == (ddf, note)]
        where = "" if len(names) == len(fitted) else f" in {', '.join(names)}"
        what = f"{_USED[ddf]}{where}" if ddf != asked else f"Some tests{where} are others"
        logger.warning("%s: %s.", what, note)
