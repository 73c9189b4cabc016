"""Estimated marginal means: what fitted models expect at conditions, averaged over what these leave open.

Searle, Speed and Milliken (1980, The American Statistician 34:216-221), as emmeans has them in R: the rows of X on a
grid of all combinations of levels, numbers at their means, averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.design.conditions import expected_rows, variables_of
from donorwise._core.design.places import check_names, names_of, read_values, reference_grid, within_groups
from donorwise._core.design.terms import is_categorical
from donorwise._core.engine.asking import ask
from donorwise._core.engine.tables import dtype_of
from donorwise._core.engine.tasks import NUMBERS, ddf_used, test_features
from donorwise._core.models.law import STATUS_DTYPE
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.engine.analysis import Analysis
    from donorwise._core.engine.mean_scale import MeanScale
    from donorwise._core.engine.tasks import Fit
    from donorwise._typing import FloatArray, IntArray, StrArray

WEIGHTS = ("equal", "proportional")
MEAN_SCALES = ("response", "link")
_TOLD = ("mean", "se", "df", "ci_low", "ci_high")


@dataclass(frozen=True, slots=True)
class Grid:
    """Conditions of which means are wanted.

    Attributes
    ----------
    conditions
        Levels and values by variable, of which every condition has the same.
    proportional
        Whether the levels of the other variables count as often as donors have them; once each if not.
    """

    conditions: tuple[dict[str, Hashable], ...]
    proportional: bool = False


class Means(NamedTuple):
    """Of n conditions and G features, on the scale of the linear predictor: NUMBERS and status (n, G), donors (n,)."""

    numbers: dict[str, FloatArray]
    status: StrArray
    n_donors: IntArray


def make_grid(
    designs: Sequence[Design], of: Any, by: Any, at: Any, groupby: Sequence[str] = (), *, proportional: bool = False
) -> Grid:
    """The conditions that are asked for; columns that make the groups are no part of them.

    Raises
    ------
    DesignError
        A name is no variable of the fixed effects, or a level is in none of the designs.
    """
    names, values = [*names_of(of), *names_of(by)], read_values(at)
    check_names((*names, *values))
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DesignError(f"`{repeated}` is named twice among the variables whose levels are gone through.")
    own = within_groups(groupby, names, fixed=values)
    return Grid(tuple(reference_grid(designs, own, values)), proportional)


def grid_rows(design: Design, grid: Grid, donors: IntArray | None) -> tuple[IntArray, FloatArray]:
    """Positions of the conditions whose levels a design has, and the weights (n, p) of its coefficients in their means.

    `donors` (K,) are those of the patterns, None where nobody is known to be one.
    """
    at = np.array([i for i, own in enumerate(grid.conditions) if _has(design, own)], dtype=np.int64)
    conditions: list[Mapping[str, object]] = [grid.conditions[i] for i in at]
    if not conditions:
        return at, np.empty((0, len(design.fixed_names)))
    if not grid.proportional:
        return at, _without_noise(expected_rows(design, conditions))
    others, weights = _combinations(design, conditions[0], donors)
    rows = expected_rows(design, [{**other, **own} for own in conditions for other in others])
    averaged = np.einsum("ncp,c->np", rows.reshape(len(conditions), len(others), -1), weights)
    return at, _without_noise(averaged)


def _has(design: Design, condition: Mapping[str, Hashable]) -> bool:
    return all(
        not is_categorical(design.frame[name]) or value in design.frame[name].cat.categories
        for name, value in condition.items()
    )


def _without_noise(rows: FloatArray) -> FloatArray:
    """Rows whose rounding errors are zeros."""
    return np.where(np.abs(rows) < 1e-14 * np.abs(rows).max(axis=1, keepdims=True), 0.0, rows)


def _combinations(
    design: Design, condition: Mapping[str, object], donors: IntArray | None
) -> tuple[list[dict[str, object]], FloatArray]:
    """Combinations of levels that a condition leaves open, and the share of donors that have each.

    A donor counts for every combination that it has cells of.
    """
    if donors is None:
        raise DesignError(
            "weights='proportional' counts donors, and the model has no term that says who they are; use weights='equal'."
        )
    left = [v for v in variables_of([design]) if v not in condition and is_categorical(design.frame[v])]
    if not left:
        return [{}], np.ones(1)
    table = design.frame[left].assign(**{_DONOR: donors}).drop_duplicates()
    counts = table.groupby(left, observed=True, sort=False).size()
    levels = counts.index if len(left) > 1 else [(value,) for value in counts.index]
    return [dict(zip(left, own, strict=True)) for own in levels], counts.to_numpy() / counts.sum()


_DONOR = "\0donor"


def counted(design: Design, grid: Grid, donors: IntArray | None) -> IntArray:
    """Number of donors that have the levels of each condition; none where nobody is known to be one."""
    found: list[int] = []
    if donors is None:
        return np.zeros(len(grid.conditions), dtype=np.int64)
    for condition in grid.conditions:
        own = np.ones(design.n_patterns, dtype=bool)
        for name, value in condition.items():
            if is_categorical(design.frame[name]):
                own &= (design.frame[name] == value).to_numpy()
        found.append(np.unique(donors[own]).size)
    return np.array(found, dtype=np.int64)


def means_of_fit(
    fit: Fit[Any], grid: Grid, donors: IntArray | None, ddf: str, level: float, n_jobs: int = 1,
    features: IntArray | None = None,
) -> Means:  # fmt: skip
    """Means of the features of a fit; see :func:`donorwise._core.engine.tasks.test_features`."""
    at, L = grid_rows(fit.design, grid, donors)
    if not at.size:
        raise DesignError("No row has the levels of any of the conditions.")
    tested = test_features(fit, L, ddf, level, n_jobs, features, min_effect=None)
    return spread(grid, at, tested.numbers, tested.status, counted(fit.design, grid, donors))


def spread(grid: Grid, at: IntArray, numbers: Mapping[str, FloatArray], status: StrArray, n_donors: IntArray) -> Means:
    """Numbers (n answered, G) of some conditions among all of them."""
    shape = (len(grid.conditions), status.shape[1])
    whole = {key: np.full(shape, np.nan) for key in NUMBERS}
    for key in NUMBERS:
        whole[key][at] = numbers[key]
    told = np.full(shape, "not_estimable", dtype=STATUS_DTYPE)
    told[at] = status
    return Means(whole, told, n_donors)


def means_table(
    parts: Mapping[str, Means | None], variables: Sequence[str], grid: Grid, designs: Sequence[Design], scale: MeanScale
) -> pd.DataFrame:
    """A row per variable, group and condition, on a scale.

    Parameters
    ----------
    parts
        Means by group, None for one that has none.
    variables
        Names of the G features.
    grid
        The conditions.
    designs
        Those of the groups, which know the order of the levels.
    scale
        What is told.
    """
    tables = [_one(part, variables, grid, scale).assign(group=name) for name, part in parts.items()]
    out = pd.concat(tables, ignore_index=True)
    out["group"] = pd.Categorical(out["group"], categories=list(parts))
    for name in grid.conditions[0]:
        column = next(d.frame[name] for d in designs)
        if is_categorical(column):
            levels = dict.fromkeys(x for d in designs for x in d.levels[name])
            seen = [level for level in levels if level in set(out[name])]
            out[name] = pd.Categorical(out[name], categories=seen)
    order = ["variable", "group", *grid.conditions[0], *_TOLD, "status", "n_donors"]
    return out[order].sort_values(["variable", "group"], kind="stable", ignore_index=True)


def _one(part: Means | None, variables: Sequence[str], grid: Grid, scale: MeanScale) -> pd.DataFrame:
    """Rows of one group, features outermost."""
    n, G = len(grid.conditions), len(variables)
    code = np.repeat(np.arange(G), n)
    table = pd.DataFrame({"variable": pd.Categorical.from_codes(code, dtype=dtype_of(tuple(variables)))})
    for name in grid.conditions[0]:
        table[name] = pd.Series([own[name] for own in grid.conditions] * G)
    if part is None:
        return table.assign(**dict.fromkeys(_TOLD, np.nan), status="not_estimable", n_donors=0)
    eta = part.numbers["estimate"]
    told = {
        "mean": scale.value(eta), "se": part.numbers["se"] * np.abs(scale.slope(eta)), "df": part.numbers["df"],
        "ci_low": scale.value(part.numbers["ci_low"]), "ci_high": scale.value(part.numbers["ci_high"]),
    }  # fmt: skip
    n_donors = np.repeat(part.n_donors[:, None], G, axis=1)
    return table.assign(
        **{k: v.T.ravel() for k, v in told.items()}, status=part.status.T.ravel(), n_donors=n_donors.T.ravel()
    )


def ask_means(
    analysis: Analysis[Any, Any],
    grid: Grid,
    *,
    ddf: str,
    level: float,
    scale: MeanScale,
    features: IntArray | None = None,
    groups: Sequence[str] | None = None,
    same: Callable[[pd.Series], None] | None = None,
    max_memory: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Means of all groups of an analysis, whose models are fitted again.

    Parameters
    ----------
    analysis
        The models.
    grid
        The conditions.
    ddf, level
        How what is unknown of the variances is allowed for, and the coverage of intervals.
    scale
        What is told.
    features
        Which features; all if None. The prior is that of all.
    groups
        Which groups; all if None.
    same, max_memory, progress
        See :func:`ask`.
    """
    if groups is not None:
        analysis = analysis.take_tasks([i for i, task in enumerate(analysis.tasks) if task.name in groups])
    chosen = np.arange(len(analysis.variables)) if features is None else features

    def question(number: int, statistics: object, fit: Fit[Any]) -> Means:
        donors = _donors(analysis, number)
        used, _ = ddf_used(fit, ddf)
        found = means_of_fit(fit, grid, donors, used, level, analysis.n_jobs, features)
        own = {key: values[:, chosen] for key, values in found.numbers.items()}
        return Means(own, found.status[:, chosen], found.n_donors)

    answers = ask(analysis, question, same=same, max_memory=max_memory, progress=progress, desc="means")
    parts = {task.name: answer for task, answer in zip(analysis.tasks, answers, strict=True)}
    designs = [task.design for task in analysis.tasks if task.design is not None]
    return means_table(parts, [analysis.variables[i] for i in chosen], grid, designs, scale)


def _donors(analysis: Analysis[Any, Any], number: int) -> IntArray | None:
    """The donor of each pattern of a task; None where no term says who they are."""
    try:
        return analysis.donors(number).codes
    except DesignError:
        return None
