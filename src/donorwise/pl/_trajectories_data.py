"""What the plot of trajectories shows: each donor's course, and the course that the fixed effects say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import (
    Results,
    cell_values,
    column_values,
    is_collapsed,
    obs_frame,
    read_cells,
    read_settings,
    response_of,
)
from donorwise._core.design.contrasts import expected_rows
from donorwise._core.design.terms import term_variables
from donorwise.errors import DataError, DesignError
from donorwise.get._ranef import refit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._core.design.design import Design
    from donorwise._core.engine.fitted import LMMFit

VISITS_PER_DONOR = 20
"""A number with more values per donor is no visit: it differs from cell to cell."""
_STEPS = 50  # points along a line
_MOST_ARMS = 12


@dataclass(frozen=True, slots=True)
class Course:
    """One panel.

    Attributes
    ----------
    group, condition
        Which; the column of the arms, None for none.
    donors
        One row per donor, arm and visit: donor, arm, x, mean, n_cells; in the order of x.
    arms
        Levels of the condition that have cells; ``("",)`` without a condition.
    lines
        The population's course: arm (``""`` where the model has one course for all), x, estimate, low, high.
    places
        Names of the visits at x = 0, 1, ... where the model takes them for levels; empty for a number.
    """

    group: str
    condition: str | None
    donors: pd.DataFrame
    arms: tuple[str, ...]
    lines: pd.DataFrame
    places: tuple[str, ...]

    @property
    def by_donor(self) -> bool:
        """Whether every donor stays in one arm."""
        return bool((self.donors.groupby("donor")["arm"].nunique() == 1).all())

    @property
    def parallel(self) -> bool:
        """Whether some donor has cells in several arms at the same visit."""
        return bool(self.donors.duplicated(["donor", "x"]).any())


def collect_course(
    adata: ad.AnnData, stored: Results, *, variable: str, group: str, x: str, condition: str | None
) -> Course:
    """Gather one panel; `condition` None takes the one that the model crosses with time, or has beside it.

    Raises
    ------
    DataError, DesignError
        A column is not there, x is not in the fixed effects or differs from cell to cell, or the condition
        is not one of levels.
    """
    fit = refit(adata, [variable], stored.params, group=group)
    design = fit.design
    _check_x(design, x, stored.params["formula"])
    if condition is None:
        condition = _find_condition(adata, design, x)
    donors = _donors(adata, stored.params, variable=variable, group=group, x=x, condition=condition)
    places = _places(design, x)
    donors["x"] = donors["x"].astype(str).map(places.index) if places else donors["x"].astype(np.float64)
    donors = donors.sort_values(["donor", "x", "arm"], kind="stable").reset_index(drop=True)
    _check_visits(donors, x)
    arms = _arms(adata, donors, condition)
    of_arms = condition is not None and condition in _fixed(design)
    spans = {arm: donors["x"][donors["arm"] == arm] for arm in arms} if of_arms else {"": donors["x"]}
    grids = {arm: _grid(seen, discrete=bool(places)) for arm, seen in spans.items()}
    table = _lines(fit, grids, x=x, condition=condition if of_arms else None, places=places)
    return Course(group, condition, donors, arms, table, tuple(places))


def _fixed(design: Design) -> list[str]:
    """Variables of the fixed effects, in their order."""
    return list(dict.fromkeys(v for term in design.spec.terms for v in term_variables(term)))


def _check_x(design: Design, x: str, formula: str) -> None:
    if x not in _fixed(design):
        raise DesignError(
            f"x={x!r} is not in the fixed effects of {formula!r}, so the model has no course over it; fit one that has, such "
            f"as ~ {x} + (1 | donor), and name its result with key=."
        )


def _find_condition(adata: ad.AnnData, design: Design, x: str) -> str | None:
    """The declared condition, else the first labels that the model crosses with x, else the first it has."""
    labels = [v for v in _fixed(design) if v != x and isinstance(design.frame[v].dtype, pd.CategoricalDtype)]
    declared = read_settings(adata).get("condition")
    crossed = [v for term in design.spec.terms if x in term_variables(term) for v in term_variables(term)]
    wanted = [*([declared] if declared in labels else []), *(v for v in labels if v in crossed), *labels]
    return next(iter(wanted), None)


def _donors(
    adata: ad.AnnData, params: dict[str, Any], *, variable: str, group: str, x: str, condition: str | None
) -> pd.DataFrame:
    """Means of the cells per donor, arm and visit."""
    donor, groupby = params["donor"], params["groupby"]
    columns = list(dict.fromkeys(c for c in (donor, x, condition, groupby) if c))
    table = _values(adata, variable, columns, params["response"])
    if groupby:
        table = table[(table[groupby].astype(str) == group).to_numpy()]
    table = table[table[[c for c in (donor, x, condition, "value") if c]].notna().all(axis=1).to_numpy()]
    if table.empty:
        raise DataError(f"No cell of {group!r} is left to draw.")
    rows = pd.DataFrame(
        {
            "donor": table[donor].astype(str),
            "arm": table[condition].astype(str) if condition else "",
            "x": table[x],
            "total": table["value"] * table["n_cells"],
            "n_cells": table["n_cells"],
        }
    )
    sums = rows.groupby(["donor", "arm", "x"], observed=True, sort=True)[["total", "n_cells"]].sum().reset_index()
    return sums.assign(mean=sums["total"] / sums["n_cells"]).drop(columns="total")


def _values(adata: ad.AnnData, variable: str, columns: list[str], response: str) -> pd.DataFrame:
    """Columns of obs, the values of one feature, and the number of cells that each stands for."""
    if not is_collapsed(adata):
        return cell_values(adata, variable, columns=columns, response=response).assign(n_cells=1)
    table = obs_frame(adata, columns)
    table["value"] = column_values(response_of(adata, response, [variable]))[:, 0]
    return table.assign(n_cells=read_cells(adata).n_cells)


def _places(design: Design, x: str) -> list[str]:
    values = design.frame[x]
    return [str(v) for v in values.cat.categories] if isinstance(values.dtype, pd.CategoricalDtype) else []


def _check_visits(donors: pd.DataFrame, x: str) -> None:
    per_donor = donors.groupby("donor")["x"].nunique().median()
    if per_donor > VISITS_PER_DONOR:
        raise DataError(
            f"x={x!r} has {per_donor:.0f} different values in a donor: it differs from cell to cell and is no time of visits."
        )


def _arms(adata: ad.AnnData, donors: pd.DataFrame, condition: str | None) -> tuple[str, ...]:
    if condition is None:
        return ("",)
    values = obs_frame(adata, [condition])[condition]
    levels = (
        values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else sorted(values.dropna().unique())
    )
    present = set(donors["arm"])
    arms = tuple(str(level) for level in levels if str(level) in present)
    if len(arms) > _MOST_ARMS:
        raise DataError(f"condition={condition!r} has {len(arms)} values: name a column with a few levels.")
    return arms


def _grid(seen: pd.Series, *, discrete: bool) -> np.ndarray:
    """Where to compute a line: over what was seen of its arm."""
    return np.unique(seen) if discrete else np.linspace(seen.min(), seen.max(), _STEPS)


def _lines(
    fit: LMMFit, grids: dict[str, np.ndarray], *, x: str, condition: str | None, places: Sequence[str]
) -> pd.DataFrame:
    """Expected responses along x with pointwise 95% intervals."""
    points = [(arm, float(at)) for arm, grid in grids.items() for at in grid]
    numeric = condition is not None and condition in fit.design.numeric_means
    conditions: list[dict[str, Any]] = [{x: places[int(at)] if places else at} for _, at in points]
    if condition is not None:
        for own, (arm, _) in zip(conditions, points, strict=True):
            own[condition] = float(arm) if numeric else arm
    rows = expected_rows(fit.design, conditions)
    wanted = {f"point {i}": row for i, row in enumerate(rows)}
    tests = fit.test(wanted, ddf="kenward-roger" if fit.reml else "satterthwaite")
    table = pd.DataFrame(points, columns=["arm", "x"])
    for name, column in (("estimate", "estimate"), ("low", "ci_low"), ("high", "ci_high")):
        table[name] = tests[column].to_numpy()
    return table
