"""Contrasts as a long table, and back: so they are kept beside the tests of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.engine.results import Contrasts
from donorwise._core.engine.tables import dtype_of
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.engine.tasks import Task


def contrast_table(tasks: Sequence[Task], contrasts: Sequence[Contrasts | None]) -> pd.DataFrame:
    """Weights of the contrasts of every task that are not zero: group, contrast, coefficient, weight."""
    frames = []
    for task, own in zip(tasks, contrasts, strict=True):
        if own is not None and task.design is not None:
            row, column = np.nonzero(own.L)
            named = {"contrast": (own.names, row), "coefficient": (task.design.fixed_names, column)}
            texts = {key: np.array(names, dtype=object)[at] for key, (names, at) in named.items()}
            frames.append(pd.DataFrame({"group": task.name, **texts, "weight": own.L[row, column]}))
    table = pd.concat(frames, ignore_index=True)
    return table.astype({name: dtype_of(tuple(table[name].unique())) for name in ("group", "contrast", "coefficient")})


def contrasts_from(table: pd.DataFrame, tasks: Sequence[Task]) -> list[Contrasts | None]:
    """The contrasts of every task from a table that :func:`contrast_table` made, in the order of its rows.

    Raises
    ------
    DesignError
        A design has not the coefficients that it had.
    """
    by_group = dict(iter(table.groupby(table["group"].astype(str), sort=False)))
    return [
        None if task.design is None or task.name not in by_group else _of_task(by_group[task.name], task)
        for task in tasks
    ]


def _of_task(own: pd.DataFrame, task: Task) -> Contrasts:
    assert task.design is not None  # those of the caller have one
    names = tuple(dict.fromkeys(own["contrast"].astype(str)))
    column = pd.Index(task.design.fixed_names).get_indexer(pd.Index(own["coefficient"].astype(str)))
    if (column < 0).any():
        gone = str(own["coefficient"].iloc[int(np.argmin(column))])
        raise DesignError(f"the model has no coefficient {gone!r} any more")
    L = np.zeros((len(names), len(task.design.fixed_names)))
    L[pd.Index(names).get_indexer(pd.Index(own["contrast"].astype(str))), column] = own["weight"]
    return Contrasts(names, L)
