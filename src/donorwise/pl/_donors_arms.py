"""The donor plot for a condition with levels: arms side by side, one place on the axis for each donor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from mpl_toolkits.axes_grid1 import make_axes_locatable

from donorwise.pl._style import GREY, INK, LIGHT_GREY, despine, format_p

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.axes import Axes

    from donorwise.pl._donors_data import Effect, Panel

CELLS_PER_DONOR = 200
NAMED_DONORS = 32
"""With more donors than this their names would not be readable."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand on the horizontal axis, in steps of one donor.

    Attributes
    ----------
    donors
        One row per donor and arm with its place in column x.
    spans
        First and last place of each arm.
    effects
        Place of each estimate.
    right
        End of the axis.
    """

    donors: pd.DataFrame
    spans: dict[str, tuple[float, float]]
    effects: tuple[float, ...]
    right: float


def draw_arms(ax: Axes, panel: Panel, *, colors: Mapping[str, str], unit: str, title: str) -> None:
    """Draw cells above, donors and estimates below.

    Parameters
    ----------
    ax
        Its upper third is cut off for the cells.
    panel
        What to draw.
    colors
        A colour for each arm.
    unit
        Name of the response on the vertical axis.
    title
        Goes above the cells.
    """
    layout = _layout(panel)
    cells_ax = make_axes_locatable(ax).append_axes("top", size="42%", pad=0.08, sharex=ax)
    _draw_cells(cells_ax, panel, layout, colors=colors)
    _draw_donors(ax, panel, layout, colors=colors)
    _draw_effects(ax, panel, layout, colors=colors)
    ax.set_xlim(-1, layout.right)
    ax.set_ylabel(f"donor mean\n({unit})")
    cells_ax.set_ylabel("cells")
    _ticks(ax, panel, layout)
    size_key(cells_ax, panel.donors["n_cells"], _largest(len(layout.donors)))
    for each in (ax, cells_ax):
        despine(each)
    cells_ax.tick_params(bottom=False, labelbottom=False)
    cells_ax.spines["bottom"].set_visible(False)
    _head(cells_ax, layout, colors=colors)
    cells_ax.set_title(title, fontsize="medium", loc="left", pad=44)


def _layout(panel: Panel) -> _Layout:
    donors = panel.donors.assign(arm=panel.donors["condition"].astype(str))
    rank = donors.groupby("donor")["mean"].first() if panel.paired else None
    parts, spans, start = [], {}, 0.0
    gap = 1.0 + 0.04 * len(donors)
    for arm in panel.arms:
        part = donors[donors["arm"] == arm]
        # the same order in every arm, so that the lines between a donor's points run side by side
        order = part["mean"] if rank is None else part["donor"].map(rank)
        part = part.iloc[np.argsort(order.to_numpy(), kind="stable")]
        parts.append(part.assign(x=start + np.arange(len(part))))
        spans[arm] = (start, start + len(part) - 1)
        start += len(part) + gap
    n_effects = len(panel.effects) + (panel.naive is not None and len(panel.effects) > 0)
    step = max(1.2, 0.09 * start)
    effects = tuple(start + 0.3 * step + step * i for i in range(n_effects))
    right = effects[-1] + 0.8 * step if effects else start - gap
    return _Layout(donors=_concat(parts), spans=spans, effects=effects, right=right)


def _concat(parts: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(parts, ignore_index=True)


def _draw_cells(ax: Axes, panel: Panel, layout: _Layout, *, colors: Mapping[str, str]) -> None:
    """Strew each donor's cells (a sample of them) over its place."""
    rng = np.random.default_rng(0)
    places = layout.donors.set_index(["donor", "arm"])["x"]
    arms = panel.cells["condition"].astype(str)
    size = float(np.interp(len(places), [8, 60], [4.0, 1.5]))
    for (donor, arm), values in panel.cells["value"].groupby([panel.cells["donor"], arms], sort=False):
        some = values.to_numpy()
        if len(some) > CELLS_PER_DONOR:
            some = rng.choice(some, CELLS_PER_DONOR, replace=False)
        x = places[donor, arm] + rng.uniform(-0.36, 0.36, len(some))
        ax.scatter(x, some, s=size, color=colors[arm], alpha=0.3, linewidths=0, rasterized=True)


def _draw_donors(ax: Axes, panel: Panel, layout: _Layout, *, colors: Mapping[str, str]) -> None:
    donors = layout.donors
    if panel.paired:
        for _, pair in donors.groupby("donor", sort=False):
            ax.plot(pair["x"], pair["mean"], color=LIGHT_GREY, lw=0.9, zorder=1)
    half = 1.96 * (donors["sd"] / np.sqrt(donors["n_cells"])).fillna(0.0)
    ax.vlines(donors["x"], donors["mean"] - half, donors["mean"] + half, color=GREY, lw=0.8, alpha=0.6, zorder=2)
    largest = _largest(len(donors))
    ax.scatter(
        donors["x"],
        donors["mean"],
        s=np.maximum(largest * donors["n_cells"] / donors["n_cells"].max(), 4),
        color=[colors[arm] for arm in donors["arm"]],
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    for arm, (first, last) in layout.spans.items():
        mean = donors.loc[donors["arm"] == arm, "mean"].mean()
        ax.hlines(mean, first - 0.6, last + 0.6, color=colors[arm], lw=1.4, zorder=2)


def _largest(n_donors: int) -> float:
    """Area of the largest point, in points squared."""
    return float(np.interp(n_donors, [8, 60], [190, 60]))


def size_key(ax: Axes, n_cells: pd.Series, largest: float, *, outside: bool = False) -> None:
    """Explain the areas of the points, in the free corner or beside the axes."""
    sizes = sorted({_round(n_cells.max()), _round(n_cells.median()), _round(n_cells.min())})
    handles = [ax.scatter([], [], s=max(largest * n / n_cells.max(), 4), color=GREY, label=f"{n:,}") for n in sizes]
    ax.legend(
        handles=handles,
        title="cells",
        loc="upper left" if outside else "upper right",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize="x-small",
        title_fontsize="x-small",
        labelspacing=0.9,
    )


def _round(n: float) -> int:
    """Round to one significant digit."""
    return int(float(f"{n:.0e}"))


def _draw_effects(ax: Axes, panel: Panel, layout: _Layout, *, colors: Mapping[str, str]) -> None:
    """Draw the differences on the same scale, zero level with the mean of the reference arm."""
    if not layout.effects:
        return
    donors = layout.donors
    reference = float(donors.loc[donors["arm"] == panel.arms[0], "mean"].mean())
    ax.hlines(
        reference, layout.spans[panel.arms[0]][0] - 0.6, layout.right, color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=0
    )
    for x, effect in zip(layout.effects, panel.effects, strict=False):
        _draw_effect(ax, x, effect, reference=reference, color=colors.get(effect.label, INK), width=2.6, size=7)
    if panel.naive is not None:
        _draw_effect(ax, layout.effects[-1], panel.naive, reference=reference, color=GREY, width=1.4, size=4)
    secondary = ax.secondary_yaxis("right", functions=(lambda y: y - reference, lambda d: d + reference))
    secondary.set_ylabel(f"difference from {panel.arms[0]}")


def _draw_effect(
    ax: Axes, x: float, effect: Effect, *, reference: float, color: str, width: float, size: float
) -> None:
    ax.vlines(x, reference + effect.low, reference + effect.high, color=color, lw=width, zorder=3)
    ax.plot(x, reference + effect.estimate, "D", ms=size, color=color, mec="white", mew=0.6, zorder=4)
    ax.annotate(
        f"p = {format_p(effect.p)}",
        xy=(x, reference + effect.high),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize="x-small",
        color=color,
    )


def _ticks(ax: Axes, panel: Panel, layout: _Layout) -> None:
    """Name the donors, where there is room for that, and what the estimates are."""
    donors = layout.donors
    places, names = list(layout.effects), [_effect_name(panel, i) for i in range(len(layout.effects))]
    if len(donors) <= NAMED_DONORS:
        places, names = [*donors["x"], *places], [*donors["donor"], *names]
    else:
        ax.set_xlabel("donors")
    ax.set_xticks(places, names, rotation=90, fontsize="x-small")
    ax.tick_params(axis="x", length=0)


def _effect_name(panel: Panel, i: int) -> str:
    if i == len(panel.effects):
        return "cells taken\nfor replicates"
    return "mixed model" if len(panel.effects) == 1 else panel.effects[i].label


def _head(ax: Axes, layout: _Layout, *, colors: Mapping[str, str]) -> None:
    """Write above each arm how many replicates its cells are."""
    n_cells = layout.donors.groupby("arm")["n_cells"].sum()
    n_donors = layout.donors.groupby("arm")["donor"].nunique()
    for arm, (first, last) in layout.spans.items():
        ax.annotate(
            f"{n_donors[arm]:,} donors\n{n_cells[arm]:,} cells",
            xy=((first + last) / 2, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="x-small",
            color=INK,
        )
        ax.annotate(
            arm,
            xy=((first + last) / 2, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, 26),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
            fontweight="bold",
            color=colors[arm],
        )
