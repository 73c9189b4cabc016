"""Proportions of variance of all features in their order, and words that plots of proportions share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from donorwise._core.inference.proportions import SUM
from donorwise.get._tests import choose, present
from donorwise.pl._labels import place_labels
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    despine,
    outer_labels,
    panel_title,
    panels,
    say_empty,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import BoolArray, FloatArray, IntArray

SHARE = "share of the variance\nbeyond the fixed effects"
MANY = 2_000
"""Points and lines beyond which a vector graphic would be too large."""


def called(component: str, donor: str) -> str:
    """What a component is, in words."""
    return {SUM: "sum of the kernels", donor: f"{donor} (own)"}.get(component, component)


def draw_ranked(
    table: pd.DataFrame,
    component: str | Sequence[str] | None,
    named: list[str],
    *,
    alpha: float,
    donor: str,
    ax: Axes | None,
) -> tuple[Figure, list[Axes]]:
    """A row of panels for each group, a column for each component."""
    table = choose(table, "component", component)
    groups, components = present(table, "group"), present(table, "component")
    pairs = [(g, c) for g in groups for c in components]
    own = {(g, c): _ordered(table[(table["group"] == g) & (table["component"] == c)]) for g, c in pairs}
    figure, axes = panels(
        ax,
        len(pairs),
        size=(2.9, 2.9),
        alone=(4.6, 3.6),
        share=True,
        n_columns=len(components) if len(components) > 1 else None,
        choice="one group and one component",
    )
    for panel, (g, c) in zip(axes, pairs, strict=True):
        _ranked(panel, own[g, c], named, alpha)
        panel.set(xlim=(0, 1), ylim=(0, top_of(table[["proportion", "ci_high"]].to_numpy())))
        write_title(panel, panel_title(g, called(c, donor)), pad=18)
    outer_labels(axes, x="share of the features", y=SHARE)
    figure.draw_without_rendering()
    for panel, rows in zip(axes, own.values(), strict=True):
        bars = [along(rows[["place", "ci_low"]], rows[["place", "ci_high"]], rows["variable"].isin(named))]
        name_points(panel, rows["variable"], rows[["place", "proportion"]].to_numpy(), named, bars)
    return figure, axes


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Fitted features in the order of their proportions, those at zero by their intervals, with places from 0 to 1."""
    rows = rows[rows["proportion"].notna()].sort_values(["proportion", "ci_high"], kind="stable")
    return rows.assign(place=(np.arange(len(rows)) + 0.5) / max(len(rows), 1))


def top_of(values: FloatArray) -> float:
    """End of an axis of proportions."""
    return float(min(1.0, 1.05 * np.nanmax(values, initial=0.0)) or 1.0)


def _ranked(ax: Axes, rows: pd.DataFrame, named: list[str], alpha: float) -> None:
    place, value = rows["place"].to_numpy(), rows["proportion"].to_numpy()
    n, passed, asked = len(rows), rows["passed"].to_numpy(), rows["variable"].isin(named).to_numpy()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    despine(ax)
    if not n:
        return say_empty(ax, "nothing fitted")
    zero = float(np.mean(value <= 0))
    ax.axvspan(0, zero, color=LIGHT_GREY, alpha=0.45, lw=0, zorder=-1)
    width = float(np.interp(n, [30, 300], [1.6, 0.8]))
    ax.vlines(place, rows["ci_low"], rows["ci_high"], color=LIGHT_GREY, lw=width, zorder=0, rasterized=n > MANY)
    size = float(np.interp(np.log10(n), [1.5, 4.3], [18, 3]))
    for chosen, color in ((~passed, GREY), (passed, BLUE)):
        ax.scatter(place[chosen], value[chosen], c=color, s=size, lw=0, zorder=3, clip_on=False, rasterized=n > MANY)
    ax.vlines(place[asked], rows["ci_low"][asked], rows["ci_high"][asked], color=INK, lw=1.6, zorder=4)
    mark(ax, place[asked], value[asked], passed[asked])
    say(ax, f"{zero:.0%} at zero", f"{passed.sum():,} at FDR {alpha:.0%}")
    _say_confounded(ax, rows)
    return None


def mark(
    ax: Axes, x: FloatArray, y: FloatArray, passed: BoolArray | IntArray, colors: Sequence[str] = (GREY, BLUE)
) -> None:
    """Draw features that were named, with the colours of the others."""
    ax.scatter(x, y, c=[colors[int(k)] for k in passed], s=34, edgecolors=INK, linewidths=1.2, zorder=5, clip_on=False)


def say(ax: Axes, left: str, right: str = "") -> None:
    """Write to the left and the right above axes."""
    for x, side, text, color in ((0.0, "left", left, INK), (1.0, "right", right, BLUE)):
        ax.text(x, 1.02, text, transform=ax.transAxes, ha=side, va="bottom", color=color, fontsize="small")


def _say_confounded(ax: Axes, rows: pd.DataFrame) -> None:
    share = float(np.mean(rows["status"] == "confounded"))
    if share > 0:
        ax.text(
            0.02, 0.98, f"{share:.0%} not told apart\nfrom another component", transform=ax.transAxes, va="top",
            fontsize="x-small", color=INK,
        )  # fmt: skip


def along(low: pd.DataFrame, high: pd.DataFrame, chosen: pd.Series) -> FloatArray:
    """Points along the intervals of the chosen features, between places (G, 2), that names should not cover."""
    ends = np.linspace(low[chosen].to_numpy(), high[chosen].to_numpy(), 30).reshape(-1, 2)
    return np.asarray(ends[np.isfinite(ends).all(axis=1)])


def name_points(ax: Axes, names: pd.Series, xy: FloatArray, named: list[str], bars: list[FloatArray]) -> None:
    """Write the names of the features that were asked for beside their points, and off the bars."""
    chosen = np.flatnonzero(names.isin(named))
    if chosen.size:
        labels = shorten(list(names.iloc[chosen].astype(str)))
        place_labels(ax, labels, xy[chosen], points=np.concatenate([xy, *bars]), colors=[INK] * chosen.size)
