"""Many groups of rows: their designs, the contrasts that each can answer, and the table of one of them."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.build import build_design
from donorwise._core.design.comparisons import SlopeOf, spread
from donorwise._core.design.cond import Cond
from donorwise._core.design.contrasts import check_distinct, resolve_contrasts
from donorwise._core.design.formula import ParsedFormula, parse
from donorwise._core.design.lost import Levels, levels_in_use
from donorwise._core.design.terms import check_obs
from donorwise._core.engine.groups import group_labels, stored_columns
from donorwise._core.engine.tables import dtype_of, tests_table
from donorwise._core.engine.tasks import NUMBERS, FeatureTests, Task
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._typing import ALL
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

_TINY = 1e-8  # of a level in a contrast of differences, for rounding


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Contrasts of one design: their names, and L (n, p) in the basis of the formula."""

    names: tuple[str, ...]
    L: FloatArray


def contrasts_of_covariates(design: Design, contrasts: Contrasts) -> list[str]:
    """Contrasts of nothing but main effects of covariates that differ from cell to cell."""
    main = {j for term, columns in design.terms.items() if ":" not in term for j in columns}
    plain = np.array([j in main and k >= 0 for j, k in enumerate(design.varying)])
    return [name for name, row in zip(contrasts.names, contrasts.L, strict=True) if not row[~plain].any()]


def tasks_by_group(
    formula: str | ParsedFormula,
    obs: pd.DataFrame,
    groupby: Sequence[str],
    levels: Levels | None = None,
    rows: BoolArray | None = None,
    *,
    rows_each: int = 0,
    residual: bool = True,
) -> list[Task]:
    """One task per group of `obs`, in the order of the levels of the columns `groupby`; one for all rows without any.

    `levels` are those of the variables, where `obs` may not have all of them; `rows` (N,) those to use, all if None.
    `rows_each` and `residual` are as for :func:`build_design`.

    Raises
    ------
    DesignError
        If `groupby` names no columns, or no group can be fitted.
    """
    if not groupby:
        design = build_design(formula, obs, rows=rows, levels=levels, rows_each=rows_each, residual=residual)
        return [Task(ALL, design, design.lost.reason)]
    groups = group_labels(obs, groupby)
    parsed = parse(formula)
    check_obs(obs, parsed.columns, parsed.source)
    levels = levels_in_use(parsed, obs) if levels is None else levels
    tasks = []
    for code, name in enumerate(groups.categories):
        try:
            own = groups.codes == code
            used = own if rows is None else own & rows
            design = build_design(parsed, obs, rows=used, levels=levels, rows_each=rows_each, residual=residual)
        except DesignError as error:
            tasks.append(Task(name, None, str(error)))
            continue
        tasks.append(Task(name, design, design.lost.reason))
    if not any(t.design for t in tasks):
        reasons = "\n".join(f"  {text}" for text in told_reasons({t.name: t.reason for t in tasks})[:5])
        raise DesignError(f"None of the {len(tasks)} groups of {stored_columns(groupby)!r} can be fitted:\n{reasons}")
    return tasks


def told_reasons(reasons: Mapping[str, str]) -> list[str]:
    """Why groups cannot be answered for, once per reason with the groups that share it; empty reasons are left out."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            groups.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in groups.items()]


def resolve_by_group(
    tasks: Sequence[Task], contrasts: Any, groupby: Sequence[str] = ()
) -> tuple[list[str], list[Contrasts | None]]:
    """Contrasts of every task, and the names of all of them; `groupby` are the columns that make the tasks.

    A contrast that only some groups can answer (a level is missing elsewhere) is kept; one
    that none can answer is an error.
    """
    items = _items(spread(contrasts, [t.design for t in tasks if t.design is not None], groupby))
    found: list[dict[int, Contrasts]] = []
    errors: dict[int, DesignError] = {}
    for task in tasks:
        own: dict[int, Contrasts] = {}
        for i, item in enumerate(items):
            if task.design is None:
                continue
            try:
                resolved = _answerable(task, item, Contrasts(*resolve_contrasts(task.design, item)))
            except DesignError as error:
                errors[i] = error
                continue
            if resolved.names:
                own[i] = resolved
        found.append(own)
    unanswered = [i for i in errors if not any(i in own for own in found)]
    if unanswered:
        reasons = " ".join(t.reason for t in tasks if t.reason)
        raise DesignError(f"{errors[unanswered[0]]} {reasons}") if reasons else errors[unanswered[0]]
    if not any(found):
        raise DesignError("None of the contrasts can be answered: " + " ".join(t.reason for t in tasks if t.reason))
    names = [
        name for i, item in enumerate(items) for name in _names(tasks, item, [own[i] for own in found if i in own])
    ]
    return list(dict.fromkeys(names)), [_stack(own) if own else None for own in found]


def _names(tasks: Sequence[Task], item: Any, found: Sequence[Contrasts]) -> list[str]:
    """Names of a contrast in the tasks; of each coefficient, those as well that no task has without a level that is lost."""
    lost = [t.design.lost.expected for t in tasks if t.design is not None and item is None]
    expected = [name for own in lost for name in own if name != "Intercept"]
    return [*expected, *(name for own in found for name in own.names)]


def _answerable(task: Task, item: Any, contrasts: Contrasts) -> Contrasts:
    """Leave out contrasts of coefficients that mean something else here; contrasts of levels name their own."""
    inner = item[0] if isinstance(item, list) and len(item) == 1 else item
    inner = next(iter(inner.values())) if isinstance(inner, dict) and len(inner) == 1 else inner
    if task.design is None or not task.design.lost.changed or isinstance(inner, (tuple, Cond, SlopeOf)):
        return contrasts
    at = [i for i, name in enumerate(task.design.fixed_names) if name in task.design.lost.changed]
    kept = ~(contrasts.L[:, at] != 0).any(axis=1)
    return Contrasts(tuple(n for n, keep in zip(contrasts.names, kept, strict=True) if keep), contrasts.L[kept])


def _items(contrasts: Any) -> list[Any]:
    """Contrasts one by one, each in a form that :func:`resolve_contrasts` names as it would in the list."""
    if isinstance(contrasts, dict) and not any(isinstance(c, numbers.Number) for c in contrasts.values()) and contrasts:
        return [{name: contrast} for name, contrast in contrasts.items()]
    if isinstance(contrasts, list) and not all(
        isinstance(c, numbers.Number) for c in contrasts
    ):  # an empty one is refused
        return [[contrast] for contrast in contrasts]
    return [contrasts]


def _stack(found: dict[int, Contrasts]) -> Contrasts:
    names = tuple(name for own in found.values() for name in own.names)
    check_distinct(names)
    return Contrasts(names, np.concatenate([own.L for own in found.values()]))


def results_table(
    task: Task,
    contrasts: Contrasts | None,
    tested: pd.DataFrame | None,
    *,
    names: tuple[str, ...],
    variables: tuple[str, ...],
    groups: tuple[str, ...],
    n_donors: IntArray | int = 0,
    n_obs: IntArray | int = 0,
) -> pd.DataFrame:
    """The results of one task: a row per variable and contrast, whatever happened.

    Parameters
    ----------
    task, contrasts
        The task, and the contrasts that it can answer.
    tested
        Their tests, as :func:`tests_table` makes them, with `log_fc`; None where nothing was fitted.
    names, variables, groups
        All contrasts, features and tasks.
    n_donors, n_obs
        Shape (G,) or numbers, for the contrasts that cannot be answered.
    """
    answered = () if tested is None or contrasts is None else contrasts.names
    missing = tuple(n for n in names if n not in answered)
    parts = [] if tested is None else [tested]
    parts += [_not_estimable(variables, missing, n_donors, n_obs)] if missing else []
    parts = [with_levels(part, {"contrast": dtype_of(names)}) for part in parts]
    out = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    code = np.full(len(out), groups.index(task.name))
    out.insert(1, "group", pd.Categorical.from_codes(code, dtype=dtype_of(groups)))
    log_fc = out.pop("log_fc").where(~_are_levels(out, task, contrasts))
    out.insert(out.columns.get_loc("adj_p_value") + 1, "log_fc", log_fc)
    return out


def _are_levels(table: pd.DataFrame, task: Task, contrasts: Contrasts | None) -> BoolArray:
    """Which rows of a table are of a contrast that is a level of the response, such as the intercept."""
    names = table["contrast"].cat.categories
    is_level = np.zeros(len(names), dtype=bool)
    if task.design is not None and contrasts is not None:
        is_level[names.get_indexer(list(contrasts.names))] = np.abs(contrasts.L @ constant_beta(task.design)) > _TINY
    return np.asarray(is_level[table["contrast"].cat.codes])


def constant_beta(design: Design) -> FloatArray:
    """Coefficients (p,) with which every row predicts one; zeros where there are none.

    A contrast of differences has none of them: adding a constant to the response does not change it.
    """
    fixed = np.flatnonzero(np.array(design.varying) < 0)
    out, ones = np.zeros(len(design.fixed_names)), np.ones(design.n_patterns)
    if "Intercept" in design.fixed_names:
        out[design.fixed_names.index("Intercept")] = 1.0
    elif fixed.size:
        weights = np.linalg.lstsq(design.X[:, fixed], ones, rcond=None)[0]
        out[fixed] = weights if np.allclose(design.X[:, fixed] @ weights, ones) else 0.0
    return out


def _not_estimable(
    variables: tuple[str, ...], names: tuple[str, ...], n_donors: IntArray | int, n_obs: IntArray | int
) -> pd.DataFrame:
    """Rows of contrasts that a task cannot answer."""
    G, n = len(variables), len(names)
    numbers = {key: np.full((n, G), np.nan) for key in (*NUMBERS, "log_fc")}
    counts = [np.broadcast_to(np.asarray(count, dtype=np.int64), (G,)) for count in (n_donors, n_obs)]
    return tests_table(variables, names, numbers, np.full((n, G), "not_estimable"), *counts)


def with_unanswered(
    tested: FeatureTests, names: Sequence[str], answered: Sequence[str]
) -> tuple[dict[str, FloatArray], StrArray]:
    """Numbers and status, (n, G) each, of all `names`: those that were not `answered` are not estimable."""
    at = [list(names).index(name) for name in answered]
    shape = (len(names), tested.status.shape[1])
    numbers = {key: np.full(shape, np.nan) for key in tested.numbers}
    status = np.full(shape, "not_estimable", dtype=STATUS_DTYPE)
    for key, values in tested.numbers.items():
        numbers[key][at] = values
    status[at] = tested.status
    return numbers, status


def with_levels(table: pd.DataFrame, levels: Mapping[str, pd.CategoricalDtype]) -> pd.DataFrame:
    """The table with these categories; those that it has already cost nothing."""
    changed = {name: dtype for name, dtype in levels.items() if table[name].dtype != dtype}
    return table.astype(changed) if changed else table


def with_group(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table of one task, such as its variance components, with the task's name as second column."""
    table.insert(1, "group", name)
    return table
