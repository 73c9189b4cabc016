"""The donors behind a test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata import check_has_cells, check_is_anndata, keys, read_results, symbols_of
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose, present
from donorwise.pl._donors_arms import areas_for, draw_arms, draw_intervals, size_key
from donorwise.pl._donors_data import collect, find_condition
from donorwise.pl._effects import closed, response_unit
from donorwise.pl._style import (
    BLUE,
    LIGHT_GREY,
    VERMILION,
    despine,
    feature_names,
    finish,
    fold,
    format_p,
    level_colors,
    limit_height,
    panels,
    settle,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import Groups
    from donorwise.pl._donors_arms import Areas
    from donorwise.pl._donors_data import Effect, Panel

_WIDEST = {2: 11.0, 4: 7.5, np.inf: 5.2}
"""Inches of a panel by the number of panels up to which they may be so wide."""


@documented
def donors(
    adata: ad.AnnData,
    variables: str | Sequence[str],
    *,
    condition: str | None = None,
    contrast: str | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    ncols: int | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw every donor behind a test, so that it can be seen how many replicates the cells are.

    Parameters
    ----------
    {adata_refit}
    variables
        A feature, or several with a panel each.
    condition
        Column of obs to compare the donors along. By default the one of `contrast`, else the declared
        condition, else the first that the model tests.
    contrast
        Contrast whose estimate to draw; None for all those of `condition`.
    {group_panels}
    {key}
    {symbols}
    ncols
        Panels in a row, at least 1; None for as many as can be read.
    {ax}
    {show}

    Returns
    -------
    The Axes of the donors' means, an array of Axes for several panels, the Figure with ``return_fig``, or
    None with ``show``.

    Raises
    ------
    DataError, DesignError
        The result, the variable, the group or a column of obs is not there; `ncols` is below 1.
    DonorwiseError
        `ax` was given for several panels.

    Notes
    -----
    Above, the cells (at most 200 of each donor). Below, one point per donor and arm: its mean, with an
    area proportional to its number of cells (on one scale in all panels) and a bar for the 95% interval that those cells give (cut off
    where it leaves the plot); lines join the points of one donor. The line through an arm is the mean of
    its donors, weighted as the model weights them. On the right, on the same scale, the model's estimate of the difference
    with its 95% interval, and in grey what a t-test would claim that takes the cells for replicates.
    For a result of :func:`donorwise.tl.pseudobulk` the cells above have their counts, and the points below are the log
    rates of the units (donors, or samples of them), with bars for the error of sampling. For a result of
    :func:`donorwise.tl.glmm` they are rates per 10,000 counts (or at the median of the exposures), for models of yes and no,
    such as :func:`donorwise.tl.composition`, shares (of detection with an exposure, those at its median): at their places on the scale of the estimates, half a count, or half an
    answer on either side, being added to each.
    For proteins (``features=`` of :func:`donorwise.tl.lmm`) the lines above are the peptides, run by run, with gaps where they
    were not measured, and the points below the levels that the model gives the donors: fixed effects and those of donors and
    runs, which do not hang on what is missing. Their bars are the error that a donor's measurements leave.
    A numeric covariate is drawn as a scatter plot with the model's slope.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> ax = dw.pl.donors(adata, "gene_0001", group="T cell")
    >>> len(dw.pl.donors(adata, ["gene_0001", "gene_0002"], group="T cell", ncols=1))
    2
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    check_has_cells(adata)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = symbols.find(feature_names(variables))
    table = choose(choose(stored.results, "variable", names), "group", group)
    if ncols is not None and ncols < 1:
        raise DataError(f"ncols={ncols} must be 1 or more.")
    groups = present(table, "group")
    condition, contrasts = find_condition(adata, stored, condition=condition, contrast=contrast)
    content = [
        collect(adata, stored, key=key, variable=name, group=g, condition=condition, contrasts=contrasts)
        for name in names
        for g in groups
    ]
    content = [replace(panel, variable=symbols.label(panel.variable)) for panel in content]
    figure, axes = panels(ax, len(content), size=_size(content), n_columns=ncols)
    drawn = [panel.donors if panel.arms else donor_points(panel) for panel in content]
    areas, single = areas_for(drawn), len(content) == 1
    for panel_ax, panel in zip(axes, content, strict=True):
        unit = response_unit(stored.params, table[table["variable"].isin([panel.variable])])
        _draw(adata, panel_ax, panel, unit=unit, areas=areas, with_key=single)
    if not single:
        size_key(figure, areas, pd.concat(drawn)["n_cells"], title=content[0].observed)
    if ax is None:
        settle(figure, n_rounds=12 if stored.features else 3)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _size(content: list[Panel]) -> tuple[float, float]:
    if not content[0].arms:
        return 5.0, 4.0
    n_places = max(len(panel.donors) for panel in content)
    n_effects = max(len(panel.effects) for panel in content)
    widest = next(width for most, width in _WIDEST.items() if len(content) <= most)
    width = min(max(5.0, 3.0 + 0.15 * n_places + 0.4 * n_effects), widest)
    return width, 6.2 if "peptide" in content[0].cells else 5.2


def _draw(adata: ad.AnnData, ax: Axes, panel: Panel, *, unit: str, areas: Areas, with_key: bool) -> None:
    height = panel.scale.height.format(unit)
    if panel.arms:
        colors = level_colors(adata, panel.condition, panel.arms)
        draw_arms(ax, panel, colors=colors, height=height, title=_title(ax, panel), areas=areas, with_key=with_key)
    else:
        draw_numeric(ax, panel, height=height, areas=areas, with_key=with_key)
        ax.set_title(_title(ax, panel), fontsize="medium", loc="left", parse_math=False)


def _title(ax: Axes, panel: Panel) -> str:
    name = panel.variable if panel.group == keys.ALL else f"{panel.variable}, {panel.group}"
    lines = [fold(ax, name), f"{panel.told} = {panel.n_donors:,} donors{_split(panel)}"]
    if panel.formula:
        lines.append(fold(ax, f"model: {panel.formula}"))
    if len(panel.effects) == 1:
        effect = panel.effects[0]
        adjusted = "" if np.isnan(effect.adj_p) else f", {format_p(effect.adj_p, 'FDR')}"
        lines.append(f"{panel.model}: {format_p(effect.p)}{adjusted}")
    return "\n".join(lines)


def _split(panel: Panel) -> str:
    """Say how the donors divide over the arms."""
    if not panel.arms:
        return ""
    per_arm = panel.donors.groupby(panel.donors["condition"].astype(str))["donor"].nunique()
    all_arms = "both arms" if len(panel.arms) == 2 else "every arm"
    if all(per_arm[arm] == panel.n_donors for arm in panel.arms):
        return f", each in {all_arms}"
    if panel.paired:
        n_complete = (panel.donors["donor"].value_counts() == len(panel.arms)).sum()
        return f", {n_complete:,} of them in {all_arms}"
    return ": " + " against ".join(f"{per_arm[arm]:,}" for arm in panel.arms)


POINTS_PER_DONOR = 20
"""A covariate with more values per donor varies from cell to cell: then its mean per donor is drawn."""


def draw_numeric(ax: Axes, panel: Panel, *, height: str, areas: Areas, with_key: bool) -> None:
    """Draw one point per donor and value of the covariate, and the slope with its 95% band."""
    donors = donor_points(panel)
    for _, one in donors.groupby("donor", sort=False):
        ax.plot(one["x"], one["mean"], color=LIGHT_GREY, lw=0.9, zorder=1)
    draw_intervals(ax, donors)
    area = areas.of(donors["n_cells"])
    ax.scatter(donors["x"], donors["mean"], s=area, color=BLUE, edgecolors="white", linewidths=0.6, zorder=3)
    limit_height(ax, donors["mean"])
    panel.scale.name_ticks(ax)
    for effect in panel.effects[:1]:
        _draw_slope(ax, effect, donors)
    if with_key:
        size_key(ax, areas, donors["n_cells"], title=panel.observed, outside=True)
    slope = f"\nslope: {panel.effects[0].estimate:.2g} per unit of {panel.condition}" if panel.effects else ""
    ax.set_xlabel(f"{panel.condition}{slope}", parse_math=False)
    ax.set_ylabel(height)
    despine(ax)


def donor_points(panel: Panel) -> pd.DataFrame:
    """One row per donor and value of the covariate, or per donor where it varies from cell to cell."""
    donors = panel.donors.assign(x=panel.donors["condition"].astype(float), weight=panel.weights)
    if len(donors) <= POINTS_PER_DONOR * panel.n_donors:
        return donors.sort_values(["donor", "x"])
    cells = panel.cells.assign(x=panel.cells["condition"].astype(float)).groupby("donor")
    means = cells.agg(x=("x", "mean"), mean=("value", "mean"), sd=("value", "std"), n_cells=("value", "size"))
    return means.reset_index().assign(weight=1.0)


def _draw_slope(ax: Axes, effect: Effect, donors: pd.DataFrame) -> None:
    """Lay the slope through the middle of the donors, as the model weights them."""
    x = np.array([donors["x"].min(), np.average(donors["x"], weights=donors["weight"]), donors["x"].max()])
    run, height = x - x[1], np.average(donors["mean"], weights=donors["weight"])
    ax.plot(x, height + effect.estimate * run, color=VERMILION, lw=1.8, zorder=4)
    low, high = closed(effect.estimate, effect.low, effect.high)
    edges = np.sort([height + low * run, height + high * run], axis=0)
    ax.fill_between(x, edges[0], edges[1], color=VERMILION, alpha=0.15, linewidth=0, zorder=0)
