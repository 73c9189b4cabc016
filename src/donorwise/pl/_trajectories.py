"""The donors' courses over time, and the population's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, withStroke

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._ranef import warn_of_lost_cells
from donorwise.get._select import choose, present
from donorwise.pl._names import shorten, write_title
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
    outer_labels,
    panels,
)
from donorwise.pl._trajectories_data import collect_course

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise.pl._trajectories_data import Course

_LONGEST_VISIT = 14  # letters


@documented
def trajectories(
    adata: ad.AnnData,
    variable: str,
    *,
    x: str,
    condition: str | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.LMM,
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
    if stored.of_counts:
        raise DataError(
            f"{key!r} is a result of dw.tl.pseudobulk; trajectories are drawn with the fixed effects of a mixed model: "
            "name a result of dw.tl.lmm with key=."
        )
    table = choose(choose(stored.results, "variable", variable), "group", group)
    warn_of_lost_cells(adata, stored.params)
    groups = present(table, "group")
    courses = [collect_course(adata, stored, variable=variable, group=g, x=x, condition=condition) for g in groups]
    figure, axes = panels(ax, len(courses), size=(4.2, 3.4), alone=(5.6, 4.0))
    for panel, course in zip(axes, courses, strict=True):
        _draw(panel, course, colors=_colors(adata, course))
        write_title(panel, variable if course.group == keys.ALL else f"{variable}, {course.group}")
    unit = "log expression" if stored.params["response"] == keys.RESPONSE_X else stored.params["response"]
    outer_labels(axes, x=x, y=f"donor mean ({unit})")
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
    ax.scatter(
        course.donors["x"],
        course.donors["mean"],
        s=areas(course.donors["n_cells"], most=most, largest=largest),
        color=[colors[arm] for arm in course.donors["arm"]],
        alpha=0.55,
        lw=0,
        zorder=3,
    )


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
    ax.legend(
        handles=[*arms, *line, band, *area_key(most, largest)], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False,
        fontsize="x-small", labelspacing=0.7,
    )  # fmt: skip
