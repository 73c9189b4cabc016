"""What a design expects at conditions: rows of X that are averaged over what the conditions leave open."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.evaluate import evaluate_rows
from donorwise._core.design.terms import is_categorical
from donorwise._core.wording import listing, suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray


_STEP = 1e-3  # of the range of a number, between the points of a difference quotient


def expected_rows(design: Design, conditions: Sequence[Mapping[str, object]]) -> FloatArray:
    """Return rows (n, p) of X at conditions: equal weights over what is not named, numbers at their mean.

    The average of a column over a full grid only involves the variables of its term, so each term gets
    the grid of its own variables, and all grids are evaluated at once.
    """
    variables = design.reads
    every = tuple(dict.fromkeys(v for names in variables.values() for v in names))
    checked = [_check_condition(design, condition, every) for condition in conditions]
    blocks = [_grid(design, condition, every, own) for condition in checked for own in variables.values()]
    stacked = {v: _column(design, v, [value for block in blocks for value in block[v]]) for v in every}
    sizes = [len(next(iter(block.values()))) if every else 1 for block in blocks]
    values = evaluate_rows(design, pd.DataFrame(stacked, index=range(sum(sizes))))
    averages = [part.mean(axis=0) for part in np.split(values, np.cumsum(sizes)[:-1])]
    rows = np.zeros((len(conditions), len(design.fixed_names)))
    for k, average in enumerate(averages):
        i, term = divmod(k, len(variables))
        own = design.spec.term_indices[design.spec.terms[term]]
        rows[i, own] = average[own]
    return rows


def _check_condition(design: Design, condition: Mapping[str, object], every: Iterable[str]) -> dict[str, object]:
    """Return a condition with each level as the data has it."""
    every = list(every)
    for name in condition:
        check_variable(name, every)
    return {name: _level(design, name, value) for name, value in condition.items()}


def check_variable(name: str, every: Iterable[str]) -> None:
    """Raise unless a name is among the variables of the fixed effects, which are `every`."""
    every = list(every)
    if name not in every:
        raise DesignError(f"`{name}` is not a variable of the fixed effects; {suggestion(name, every, 'these are')}")


def variables_of(designs: Iterable[Design]) -> list[str]:
    """Variables of the fixed effects."""
    return list(dict.fromkeys(name for design in designs for own in design.reads.values() for name in own))


def levels_in_use(designs: Sequence[Design], name: str) -> list[Hashable] | None:
    """Levels of a variable that a design has at least, in their order; None for a number."""
    columns = [design.frame[name] for design in designs]
    if not all(is_categorical(column) for column in columns):
        return None
    present = {level for column in columns for level in column.cat.categories}
    return [level for level in dict.fromkeys(x for d in designs for x in d.levels[name]) if level in present]


def match_level(levels: Iterable[Hashable], value: object) -> Hashable | None:
    """The level that a value is, or that reads as it does; None if there is none."""
    levels = list(levels)
    match = next((x for x in levels if x == value), None)
    return match if match is not None else next((x for x in levels if str(x) == str(value)), None)


def _level(design: Design, name: str, value: object) -> object:
    column = design.frame[name]
    if not is_categorical(column):
        if is_number(value) and np.isfinite(value):  # type: ignore[call-overload]
            return float(value)  # type: ignore[arg-type]
        raise DesignError(f"`{name}` is numeric: give a number, not {value!r}.")
    levels = list(column.cat.categories)
    match = match_level(levels, value)
    if match is None:
        raise DesignError(f"{value!r} is not a level of `{name}` in these rows; its levels are {listing(levels)}.")
    return match


def slope_row(design: Design, name: str, value: object, condition: Mapping[str, object]) -> FloatArray:
    """Derivative (p,) of what is expected at a condition with respect to a number, at a value of it (None for its mean).

    By Lagrange's polynomial through five points, which stay inside the data, where a spline or a logarithm may end.
    """
    x = design.numeric_means[name] if value is None else float(_level(design, name, value))  # type: ignore[arg-type]
    data = design.frame[name]
    low, high = float(data.min()), float(data.max())
    h = _STEP * ((high - low) or abs(x) or 1.0)
    centre = min(max(x, low + 2 * h), high - 2 * h) if low < high and low <= x <= high else x
    nodes = centre + h * np.arange(-2, 3)
    weights = np.linalg.solve(np.vander((nodes - x) / h, increasing=True).T, np.eye(5)[1]) / h
    rows = expected_rows(design, [{**condition, name: node} for node in nodes])
    noise = 16 * np.finfo(float).eps * np.abs(weights).sum() * np.abs(rows).max(axis=0)
    slope = weights @ rows
    return np.where(np.abs(slope) > noise, slope, 0.0)


def _grid(
    design: Design, condition: Mapping[str, object], every: Sequence[str], own: Sequence[str]
) -> dict[str, list[object]]:
    """All combinations of the levels of `own` variables that the condition leaves open; any one level of the rest."""
    choices = []
    for name in every:
        levels = [condition[name]] if name in condition else _levels(design, name)
        choices.append(levels if name in own else levels[:1])
    if not every:
        return {}
    combinations = list(product(*choices))
    return {name: [values[k] for values in combinations] for k, name in enumerate(every)}


def _levels(design: Design, name: str) -> list[object]:
    column = design.frame[name]
    return list(column.cat.categories) if is_categorical(column) else [design.numeric_means[name]]


def _column(design: Design, name: str, values: list[object]) -> object:
    column = design.frame[name]
    if is_categorical(column):
        return pd.Categorical(values, categories=column.cat.categories)
    return np.array(values, dtype=np.float64)


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real)
