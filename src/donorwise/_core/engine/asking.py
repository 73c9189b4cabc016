"""Fitting an analysis again, group by group, to ask its models something else than its contrasts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.results import told_reasons
from donorwise._core.engine.tasks import ddf_used, test_features
from donorwise._core.jobs import Progress
from donorwise._core.models.lmm.recent import REMEMBERING
from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from donorwise._core.engine.analysis import Analysis, F, S

logger = logging.getLogger("donorwise")
T = TypeVar("T")
_FEW = 3  # features whose estimates are compared with those of a result


def ask(
    analysis: Analysis[S, F],
    question: Callable[[int, S, F], T],
    *,
    same: Callable[[pd.Series], None] | None = None,
    max_memory: float | None = None,
    progress: bool = False,
    desc: str = "fits",
) -> list[T | None]:
    """Fit every task and ask what `question` says of its number, statistics and fit; a fit is gone before the next one.

    Parameters
    ----------
    analysis
        What to fit.
    question
        Asked once for each task; a DonorwiseError that it raises is that task's reason.
    same
        Told of estimates of a few features, by variable, group and contrast; raises unless they are those of a result, so that no
        question is answered for other cells. None for answers that are compared in their own way.
    max_memory
        GB for the statistics of tasks that share a pass; None for one pass.
    progress, desc
        Whether to show a progress bar, and what it says.

    Returns
    -------
    An answer for each task, None for one that has none; the log says why.

    Raises
    ------
    DataError
        No task has an answer.
    """
    answers: list[T | None] = [None] * len(analysis.tasks)
    estimates: list[pd.Series] = []
    reasons = {task.name: task.reason for task in analysis.tasks if task.design is None}
    n_fitted = len(analysis.tasks) - len(reasons)
    bar = Progress(total=n_fitted * len(analysis.variables), unit="fit", desc=desc, disable=not progress)
    with bar, one_blas_thread(), REMEMBERING:
        for numbers in analysis.passes(max_memory):
            statistics = analysis.statistics(numbers)
            for at, number in enumerate(numbers):
                own, statistics[at] = statistics[at], None
                if own is None:
                    continue
                try:
                    fit = analysis.fit(number, own, bar.update)
                    if same is not None:
                        estimates.append(_some_estimates(analysis, number, fit))
                    answers[number] = question(number, own, fit)
                except (DonorwiseError, np.linalg.LinAlgError) as error:
                    reasons[analysis.tasks[number].name] = str(error)
    if same is not None and estimates:
        same(pd.concat(estimates))
    _tell(answers, reasons)
    return answers


def _some_estimates(analysis: Analysis[S, F], number: int, fit: F) -> pd.Series:
    """Estimates of a contrast of a few features, by variable, group and contrast: what tells whether cells have changed."""
    own, at = analysis.contrasts[number], np.concatenate([m.features[m.usable] for m in fit.models])
    few = np.sort(at)[np.unique(np.linspace(0, at.size - 1, _FEW).round().astype(np.int64))] if at.size else at
    names = () if own is None else own.names[:1]
    values = [np.empty(0)]
    if own is not None:
        ddf, _ = ddf_used(fit, analysis.options.ddf)
        values = [test_features(fit, own.L[:1], ddf, 0.95, features=few).numbers["estimate"][0, few]]
    index = pd.MultiIndex.from_product([[analysis.variables[i] for i in few], [analysis.tasks[number].name], names])
    return pd.Series(np.concatenate(values), index, dtype=np.float64)


def _tell(answers: Sequence[object], reasons: dict[str, str]) -> None:
    """Log why tasks have no answer; raise where none has."""
    told = told_reasons(reasons)
    if all(answer is None for answer in answers):
        texts = told if len(reasons) > 1 else list(reasons.values())
        raise DataError("\n  ".join(["No group can be answered for:", *texts]) if len(texts) > 1 else texts[0])
    for text in told:
        logger.warning(text)
