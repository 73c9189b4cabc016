"""What the plot of trajectories shows: each donor's course, and the course that the fixed effects say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, withStroke

from donorwise._anndata import (
    Results,
    cell_values,
    check_is_anndata,
    column_values,
    is_collapsed,
    keys,
    obs_frame,
    read_cells,
    read_results,
    read_settings,
    response_of,
    symbols_of,
)
from donorwise._anndata.recover import cells_again, fit_group
from donorwise._core.design.terms import term_variables
from donorwise._core.engine.groups import group_columns, in_group
from donorwise._core.engine.means import Grid, means_of_fit
from donorwise._docs import documented
from donorwise.errors import DataError, DesignError
from donorwise.get._tests import choose, present
from donorwise.get._variances import warn_of_lost_cells
from donorwise.pl._effects import response_unit
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    area_key,
    areas,
    despine,
    finish,
    level_colors,
    limit_height,
    marker_key,
    outer_labels,
    panels,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._core.design.design import Design
    from donorwise._core.engine.fitted import LMMFit
    from donorwise._typing import Groups

VISITS_PER_DONOR = 20
"""A number with more values per donor is no visit: it differs from cell to cell."""
_STEPS = 50  # points along a line
_MOST_ARMS = 12
_LEVEL = 0.95


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
    adata: ad.AnnData, stored: Results, fit: LMMFit, *, variable: str, group: str, x: str, condition: str | None
) -> Course:
    """Gather one panel from the fit of its group.

    `condition` None takes the one that the model crosses with time, or has beside it.

    Raises
    ------
    DataError, DesignError
        A column is not there, x is not in the fixed effects or differs from cell to cell, or the condition
        is not one of levels.
    """
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
    donor, groupby = params["donor"], group_columns(params["groupby"])
    columns = list(dict.fromkeys(c for c in (donor, x, condition, *groupby) if c))
    table = _values(adata, variable, columns, params["response"])
    table = table[in_group(table, groupby, group)]
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
    visits = fit.design.frame[x].cat.categories if places else None
    conditions: list[dict[str, Hashable]] = [{x: at if visits is None else visits[int(at)]} for _, at in points]
    if condition is not None:
        numeric = condition in fit.design.numeric_means
        levels = {} if numeric else {str(level): level for level in fit.design.frame[condition].cat.categories}
        for own, (arm, _) in zip(conditions, points, strict=True):
            own[condition] = float(arm) if numeric else levels[arm]
    grid = Grid(tuple(conditions))
    found = means_of_fit(fit, grid, None, "kenward-roger" if fit.reml else "satterthwaite", _LEVEL)
    table = pd.DataFrame(points, columns=["arm", "x"])
    for name, number in (("estimate", "estimate"), ("low", "ci_low"), ("high", "ci_high")):
        table[name] = found.numbers[number][:, 0]
    return table


_LONGEST_VISIT = 14  # letters


@documented
def trajectories(
    adata: ad.AnnData,
    variable: str,
    *,
    x: str,
    condition: str | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw each donor's course over time, and the course of the population with its confidence band.

    Parameters
    ----------
    {adata_refit}
    variable
        A feature.
    x
        Column of obs with the time (or visit, dose, age) of each cell; a variable of the model's fixed effects.
        Of collapsed rows: one of the columns ``by`` which they were collapsed.
    condition
        Column of obs with the arms, drawn in their colours. By default the declared condition, else the
        labels that the model crosses with `x`, else the first labels in the model.
    {group_panels}
    {key}
    {symbols}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError, DesignError
        The result, the variable, the group or a column of obs is not there; `x` is not in the fixed effects,
        or differs from cell to cell.

    Notes
    -----
    A point is the mean of a donor's cells at one visit, its area their number; thin lines join the visits of
    a donor and end where it drops out. Donors that change arms have grey lines and points in the arm's colour.

    The thick line is b'x: the fixed effects b of the model, fitted again to this feature, at an arm and a time,
    numeric covariates at their means over the cells, and categorical ones averaged over their levels with
    equal weights. It runs over the times seen in the arm. The band is pointwise, 95%:
    b'x ± t sqrt(x'Vx), with V the covariance of b and the degrees of freedom of t after Kenward and Roger
    (1997, Biometrics 53, 983) where the fit is REML, after Satterthwaite otherwise. It is about the mean of
    the population, not about single donors, who lie around it as their random effects say. Where it is far wider
    than they are it leaves the axes.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort("longitudinal", n_donors=6, n_cells=400, n_genes=10)
    >>> dw.tl.lmm(adata, "~ time * arm + (1 + time | donor_id)", progress=False)
    >>> ax = dw.pl.trajectories(adata, "gene_0001", x="time")
    >>> ax.get_xlabel()
    'time'
    """
    check_is_anndata(adata)
    if not isinstance(variable, str):
        raise DataError(f"variable= names one feature, not {variable!r}.")
    stored = read_results(adata, key)
    if stored.features:
        raise DataError(
            f"{key!r} is a result of proteins, whose rows are peptides, and a mean over those hangs on which were measured: draw "
            f"the levels that the model gives the donors with dw.pl.donors(adata, {variable!r}, condition={x!r})."
        )
    if stored.params["observations"] != "cells":
        raise DataError(
            f"{key!r} is a result of dw.tl.{stored.params['method']}; trajectories are drawn with the fixed effects of a mixed model: "
            "name a result of dw.tl.lmm with key=."
        )
    symbols = symbols_of(adata, gene_symbols, stored.params)
    variable = symbols.find_one(variable)
    called = symbols.label(variable)
    table = choose(choose(stored.results, "variable", variable), "group", group)
    warn_of_lost_cells(adata, stored.params)
    groups = present(table, "group")
    made = cells_again(adata, stored, [variable], key)
    courses = [
        collect_course(adata, stored, fit_group(made, g), variable=variable, group=g, x=x, condition=condition)
        for g in groups
    ]
    figure, axes = panels(ax, len(courses), size=(4.2, 3.4), alone=(5.6, 4.0))
    for panel, course in zip(axes, courses, strict=True):
        _draw(panel, course, colors=_colors(adata, course))
        write_title(panel, called if course.group == keys.ALL else f"{called}, {course.group}")
    outer_labels(axes, x=x, y=f"donor mean ({response_unit(stored.params, table)})")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _colors(adata: ad.AnnData, course: Course) -> dict[str, str]:
    if course.condition is None:
        return {"": BLUE}
    return level_colors(adata, course.condition, course.arms)


def _draw(ax: Axes, course: Course, *, colors: Mapping[str, str]) -> None:
    n = course.donors["donor"].nunique()
    largest = float(np.interp(n, [8, 60], [90, 30]))
    most = float(course.donors["n_cells"].max())
    _draw_donors(ax, course, colors=colors, largest=largest, most=most)
    for arm, line in course.lines.groupby("arm", sort=False):
        color = colors.get(str(arm), INK)
        ax.fill_between(line["x"], line["low"], line["high"], color=color, alpha=0.2, lw=0, zorder=2)
        ax.plot(
            line["x"], line["estimate"], color=color, lw=2.4, zorder=4, label=f"population {arm}".strip(),
            path_effects=[withStroke(linewidth=4.2, foreground="white"), Normal()],
        )  # fmt: skip
    if course.places:
        ax.set_xticks(range(len(course.places)), shorten(course.places, _LONGEST_VISIT), parse_math=False)
    seen = np.concatenate([course.donors["mean"], course.lines["estimate"]])
    reach = seen.min() - np.ptp(seen) / 2, seen.max() + np.ptp(seen) / 2
    limit_height(ax, [*seen, *course.lines["low"].clip(*reach), *course.lines["high"].clip(*reach)])
    _key(ax, course, colors=colors, largest=largest, most=most)
    despine(ax)


def _draw_donors(ax: Axes, course: Course, *, colors: Mapping[str, str], largest: float, most: float) -> None:
    n = course.donors["donor"].nunique()
    by = ["donor", "arm"] if course.parallel or course.by_donor else ["donor"]
    for _, own in course.donors.groupby(by, sort=False):
        color = colors[own["arm"].iloc[0]] if "arm" in by else LIGHT_GREY
        ax.plot(own["x"], own["mean"], color=color, lw=float(np.interp(n, [8, 60], [1.1, 0.6])), alpha=0.45, zorder=1)
    sizes = areas(course.donors["n_cells"], most=most, largest=largest)
    hues = [colors[arm] for arm in course.donors["arm"]]
    ax.scatter(course.donors["x"], course.donors["mean"], s=sizes, color=hues, alpha=0.55, lw=0, zorder=3)


def _key(ax: Axes, course: Course, *, colors: Mapping[str, str], largest: float, most: float) -> None:
    """Explain colours, line, band and areas beside the axes."""
    shared = len(colors) > 1 and set(course.lines["arm"]) == {""}
    counts = course.donors.groupby("arm")["donor"].nunique()
    arms = [
        Line2D([], [], color=colors[arm], lw=2.4, label=f"{name or 'population'} ({counts[arm]:,} donors)")
        for arm, name in zip(course.arms, shorten(course.arms), strict=True)
    ]
    line = [Line2D([], [], color=INK, lw=2.4, label="population")] if shared else []
    band = Patch(color=GREY, alpha=0.3, lw=0, label="95% band")
    marker_key(ax, [*arms, *line, band, *area_key(most, largest)], loc="upper left", bbox_to_anchor=(1.0, 1.0))
