"""Violins of many features, points of a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise.pl._style import INK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from donorwise._typing import FloatArray

FEW = 20
"""Up to this many features are drawn one by one."""


def draw_violins(ax: Axes, columns: Sequence[FloatArray], *, colors: Sequence[str], horizontal: bool = False) -> None:
    """Draw one distribution at each of the places 0, 1, …, with its quartiles.

    Parameters
    ----------
    ax
        Axes to draw in.
    columns
        One array per place, without missing values; empty ones leave their place free.
    colors
        A colour for each.
    horizontal
        Let the values run to the right.
    """
    for place, (values, color) in enumerate(zip(columns, colors, strict=True)):
        if len(values) > FEW:
            _violin(ax, values, place=place, color=color, horizontal=horizontal)
            _quartiles(ax, values, place=place, horizontal=horizontal)
        elif len(values):
            _strip(ax, values, place=place, color=color, horizontal=horizontal)


def _violin(ax: Axes, values: FloatArray, *, place: int, color: str, horizontal: bool) -> None:
    drawn: dict[str, Any] = ax.violinplot(
        [values],
        [place],
        orientation="horizontal" if horizontal else "vertical",
        widths=0.85,
        showextrema=False,
        bw_method=0.15,
        points=200,
    )
    for body in drawn["bodies"]:
        body.set(facecolor=color, edgecolor=color, linewidth=0.6, alpha=0.55)


def _quartiles(ax: Axes, values: FloatArray, *, place: int, horizontal: bool) -> None:
    low, median, high = np.percentile(values, [25, 50, 75])
    line, xy = (ax.hlines, (median, place)) if horizontal else (ax.vlines, (place, median))
    line(place, low, high, color=INK, lw=3.2, zorder=3)
    ax.plot(*xy, "o", ms=4.5, color="white", mec=INK, mew=0.9, zorder=4)


def _strip(ax: Axes, values: FloatArray, *, place: int, color: str, horizontal: bool) -> None:
    across = place + np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.array([float(place)])
    x, y = (np.sort(values), across) if horizontal else (across, np.sort(values))
    ax.scatter(x, y, s=26, color=color, edgecolors="white", linewidths=0.6, zorder=3, clip_on=False)
