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
    answered = [
        (t, t.design, own) for t, own in zip(tasks, contrasts, strict=True) if own is not None and t.design is not None
    ]
    names: dict[str, list[str]] = {"group": [], "contrast": [], "coefficient": []}
    for task, design, own in answered:
        row, column = np.nonzero(own.L)
        names["group"] += [task.name] * row.size
        names["contrast"] += [own.names[i] for i in row]
        names["coefficient"] += [design.fixed_names[j] for j in column]
    weight = np.concatenate([own.L[np.nonzero(own.L)] for _, _, own in answered])
    return pd.DataFrame(
        {key: pd.Categorical(own, dtype=dtype_of(tuple(dict.fromkeys(own)))) for key, own in names.items()}
        | {"weight": weight}
    )


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
