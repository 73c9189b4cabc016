"""Many groups of rows, one table: designs per group, and the long tables of all of them."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from donorwise._core.design.build import build_design
from donorwise._core.design.columns import check_obs
from donorwise._core.design.contrasts import Cond, resolve_contrasts, split_interaction
from donorwise._core.design.formula import ParsedFormula, parse
from donorwise._core.engine.tables import NUMBERS, contrast_table, ddf_used, tidy
from donorwise._core.engine.tasks import Task
from donorwise._core.wording import suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._typing import FloatArray

ALL = "all"
_TINY = 1e-8  # of a level in a contrast of differences, for rounding
Fit = TypeVar("Fit")


@dataclass(frozen=True, slots=True)
class Rows:
    """Contrasts of one design: their names and their weights (n, p)."""

    names: tuple[str, ...]
    L: FloatArray


def tasks_by_group(formula: str | ParsedFormula, obs: pd.DataFrame, groupby: str | None) -> list[Task]:
    """One task per group of `obs`, in the order of the categories.

    Raises
    ------
    DesignError
        If `groupby` is not a column, or no group can be fitted.
    """
    if groupby is None:
        return [Task(ALL, build_design(formula, obs), "")]
    if not isinstance(groupby, str):
        raise DesignError(f"groupby must be the name of one column of obs, not {groupby!r}.")
    if groupby not in obs.columns:
        raise DesignError(
            f"groupby={groupby!r} is not a column of obs; {suggestion(groupby, map(str, obs.columns), 'it has')}"
        )
    parsed = parse(formula)
    check_obs(obs, parsed.columns, parsed.source)
    groups = obs[groupby].astype("category").cat.remove_unused_categories()
    codes = groups.cat.codes.to_numpy()
    if len(set(map(str, groups.cat.categories))) < len(groups.cat.categories):
        raise DesignError(f"Levels of groupby={groupby!r} have the same name as text, such as 1 and '1'; rename them.")
    if len(groups.cat.categories) == 0:
        raise DesignError(f"Every value of groupby={groupby!r} is missing.")
    tasks = []
    for code, name in enumerate(map(str, groups.cat.categories)):
        try:
            design = build_design(parsed, obs, rows=codes == code)
        except DesignError as error:
            tasks.append(Task(name, None, str(error)))
            continue
        changed, reason = _lost_reference(design, obs)
        tasks.append(Task(name, design, reason, changed))
    if not any(t.design for t in tasks):
        reasons = "\n".join(f"  {text}" for text in told_reasons({t.name: t.reason for t in tasks})[:5])
        raise DesignError(f"None of the {len(tasks)} groups of {groupby!r} can be fitted:\n{reasons}")
    return tasks


def told_reasons(reasons: Mapping[str, str]) -> list[str]:
    """Why groups cannot be answered for, once per reason with the groups that share it; empty reasons are left out."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            groups.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in groups.items()]


def _lost_reference(design: Design, obs: pd.DataFrame) -> tuple[tuple[str, ...], str]:
    """Coefficients of a group that do not mean what they mean elsewhere, and why.

    In a group without cells of the reference level, ``disease[T.MS]`` would silently compare
    with another level.
    """
    changed: dict[str, None] = {}
    reasons = []
    for column in design.frame.columns:
        own = [name for name in design.fixed_names if any(_codes(part, column) for part in split_interaction(name))]
        if not own:
            continue
        reference = obs[column].astype("category").cat.remove_unused_categories().cat.categories[0]
        if str(design.frame[column].cat.categories[0]) != str(reference):
            changed |= dict.fromkeys(own)
            reasons.append(f"no cell here has the reference level {reference!r} of `{column}`")
    if not changed:
        return (), ""
    text = f"{'; '.join(reasons)}: its coefficients would compare with another level than elsewhere"
    return tuple(changed), text[0].upper() + text[1:] + "."


def _codes(part: str, column: str) -> bool:
    """Whether a factor of a coefficient's name is a level of `column`, coded against its first level."""
    expression = part.split("[", 1)[0]
    plain = expression in (column, f"C({column})")
    contrast_coded = expression.startswith((f"C({column},", f"C({column} ,")) and "reatment(" not in expression
    return "[" in part and (plain or contrast_coded)


def resolve_by_group(tasks: Sequence[Task], contrasts: Any) -> tuple[list[str], list[Rows | None]]:
    """Contrasts of every task, and the names of all of them.

    A contrast that only some groups can answer (a level is missing elsewhere) is kept; one
    that none can answer is an error.
    """
    items = _items(contrasts)
    found: list[dict[int, Rows]] = []
    errors: dict[int, DesignError] = {}
    for task in tasks:
        rows: dict[int, Rows] = {}
        for i, item in enumerate(items):
            if task.design is None:
                continue
            try:
                found_rows = _answerable(task, item, Rows(*resolve_contrasts(task.design, item)))
            except DesignError as error:
                errors[i] = error
                continue
            if found_rows.names:
                rows[i] = found_rows
        found.append(rows)
    unanswered = [i for i in errors if not any(i in rows for rows in found)]
    if unanswered:
        raise errors[unanswered[0]]
    if not any(found):
        raise DesignError("None of the contrasts can be answered: " + " ".join(t.reason for t in tasks if t.reason))
    names = list(
        dict.fromkeys(name for i in range(len(items)) for rows in found if i in rows for name in rows[i].names)
    )
    return names, [_stack(rows) if rows else None for rows in found]


def _answerable(task: Task, item: Any, rows: Rows) -> Rows:
    """Leave out rows on coefficients that mean something else here; contrasts of levels name their own."""
    inner = item[0] if isinstance(item, list) and len(item) == 1 else item
    inner = next(iter(inner.values())) if isinstance(inner, dict) and len(inner) == 1 else inner
    if not task.changed or task.design is None or isinstance(inner, (tuple, Cond)):
        return rows
    at = [i for i, name in enumerate(task.design.fixed_names) if name in task.changed]
    kept = ~(rows.L[:, at] != 0).any(axis=1)
    return Rows(tuple(n for n, keep in zip(rows.names, kept, strict=True) if keep), rows.L[kept])


def _items(contrasts: Any) -> list[Any]:
    """Contrasts one by one, each in a form that :func:`resolve_contrasts` names as it would in the list."""
    if isinstance(contrasts, dict) and not all(isinstance(c, numbers.Number) for c in contrasts.values()):
        return [{name: contrast} for name, contrast in contrasts.items()]
    if isinstance(contrasts, list) and not all(isinstance(c, numbers.Number) for c in contrasts):
        return [[contrast] for contrast in contrasts]
    return [contrasts]


def _stack(rows: dict[int, Rows]) -> Rows:
    names = tuple(name for r in rows.values() for name in r.names)
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated is not None:
        raise DesignError(f"Two contrasts are called `{repeated}`; name them with a dict, {{'name': contrast}}.")
    return Rows(names, np.concatenate([r.L for r in rows.values()]))


def results_table(
    tasks: Sequence[Task],
    fits: Sequence[LMMFit | None],
    rows: Sequence[Rows | None],
    names: Sequence[str],
    variables: tuple[str, ...],
    *,
    ddf: str,
    log2_scale: float,
) -> pd.DataFrame:
    """The long table of all groups: one row per variable x group x contrast, whatever happened.

    `log2_scale` takes an estimate to log2 units (NaN where the response is no logarithm).
    """
    tables = []
    for code, (fit, own) in enumerate(zip(fits, rows, strict=True)):
        parts = (
            [] if own is None or fit is None else [contrast_table(fit, own.names, own.L, ddf_used(fit, ddf)[0], 0.95)]
        )
        missing = [n for n in names if own is None or n not in own.names]
        parts += [_not_estimable(variables, missing, fit)] if missing else []
        for table in parts:
            group = np.full(len(table), code)
            table.insert(1, "group", pd.Categorical.from_codes(group, categories=[t.name for t in tasks]))
            table["contrast"] = table["contrast"].cat.set_categories(list(names))
            tables.append(table)
    out = pd.concat(tables, ignore_index=True)
    out.insert(out.columns.get_loc("adj_p_value") + 1, "log_fc", log_fold_change(out, tasks, rows, log2_scale))
    return out


def log_fold_change(
    table: pd.DataFrame, tasks: Sequence[Task], rows: Sequence[Rows | None], log2_scale: float
) -> FloatArray:
    """Estimates in log2 units; NaN for a contrast that is a level of the response, such as the intercept."""
    names = table["contrast"].cat.categories
    is_level = np.zeros((len(tasks), len(names)), dtype=bool)
    for code, (task, own) in enumerate(zip(tasks, rows, strict=True)):
        if task.design is not None and own is not None:
            is_level[code, names.get_indexer(list(own.names))] = np.abs(own.L @ _constant(task.design)) > _TINY
    at = is_level[table["group"].cat.codes, table["contrast"].cat.codes]
    return np.where(at, np.nan, table["estimate"].to_numpy() * log2_scale)


def _constant(design: Design) -> FloatArray:
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


def _not_estimable(variables: tuple[str, ...], names: Sequence[str], fit: LMMFit | None) -> pd.DataFrame:
    """Rows of contrasts that a group cannot answer."""
    G, n = len(variables), len(names)
    counts = np.zeros(G, dtype=np.int64)
    return tidy(
        variables,
        tuple(names),
        {key: np.full((n, G), np.nan) for key in NUMBERS},
        np.full((n, G), "not_estimable"),
        counts if fit is None else fit.n_donors,
        counts if fit is None else fit.n_obs,
    )


def side_table(tasks: Sequence[Task], fits: Sequence[Fit | None], make: Callable[[Fit], pd.DataFrame]) -> pd.DataFrame:
    """A table of every group's fit, such as its variance components, one under another."""
    tables = []
    for task, fit in zip(tasks, fits, strict=True):
        if fit is not None:
            table = make(fit)
            table.insert(1, "group", task.name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def partition_rows(fit: LMMFit) -> pd.DataFrame:
    """The variance partition as a long table: variable, term, fraction."""
    wide = fit.variance_partition().reset_index()
    return wide.melt(id_vars="variable", var_name="term", value_name="fraction")
