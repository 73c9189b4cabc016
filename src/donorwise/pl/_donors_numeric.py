"""The donor plot for a numeric covariate: donors' means against it, with the model's slope."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise.pl._donors_arms import draw_intervals, size_key
from donorwise.pl._style import BLUE, LIGHT_GREY, VERMILION, despine, limit_height

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from donorwise.pl._donors_arms import Areas
    from donorwise.pl._donors_data import Effect, Panel

POINTS_PER_DONOR = 20
"""A covariate with more values per donor varies from cell to cell: then its mean per donor is drawn."""


def draw_numeric(ax: Axes, panel: Panel, *, unit: str, areas: Areas, with_key: bool) -> None:
    """Draw one point per donor and value of the covariate, and the slope with its 95% band."""
    donors = donor_points(panel)
    for _, one in donors.groupby("donor", sort=False):
        ax.plot(one["x"], one["mean"], color=LIGHT_GREY, lw=0.9, zorder=1)
    draw_intervals(ax, donors)
    area = areas.of(donors["n_cells"])
    ax.scatter(donors["x"], donors["mean"], s=area, color=BLUE, edgecolors="white", linewidths=0.6, zorder=3)
    limit_height(ax, donors["mean"])
    for effect in panel.effects[:1]:
        _draw_slope(ax, effect, donors)
    if with_key:
        size_key(ax, areas, donors["n_cells"], outside=True)
    ax.set_xlabel(panel.condition)
    ax.set_ylabel(f"donor mean\n({unit})")
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
    edges = np.sort([height + effect.low * run, height + effect.high * run], axis=0)
    ax.fill_between(x, edges[0], edges[1], color=VERMILION, alpha=0.15, linewidth=0, zorder=0)
