"""Estimates with their intervals in rows, one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise.pl._names import shorten
from donorwise.pl._style import LIGHT_GREY, despine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from donorwise._typing import BoolArray


def draw_rows(
    ax: Axes,
    effect: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    labels: Sequence[str],
    texts: Sequence[str],
    colors: np.ndarray,
    text_colors: np.ndarray | None = None,
    filled: BoolArray | None = None,
) -> None:
    """Draw R rows, the first on top.

    Parameters
    ----------
    ax
        Axes to draw in.
    effect, low, high
        Shape (R,). Estimates and ends of their intervals; NaN leaves a row empty.
    labels, texts
        On the left and on the right of the rows.
    colors
        Shape (R,). Of the estimates.
    text_colors
        Shape (R,). Of the texts; None for `colors`.
    filled
        Shape (R,). Which estimates are full points, the others being rings; None for all.
    """
    place = np.arange(float(len(labels)))
    full = np.ones(len(labels), dtype=bool) if filled is None else filled
    ax.hlines(place, low, high, color=colors, lw=1.2)
    ax.scatter(effect, place, c=np.where(full, colors, "white"), edgecolors=list(colors), s=20, lw=1, zorder=3)
    ax.axvline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    for y, text, color in zip(place, texts, colors if text_colors is None else text_colors, strict=True):
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="x-small", color=color)
    ax.set_yticks(place, shorten(labels), fontsize="x-small", parse_math=False)
    ax.locator_params(axis="x", nbins=5)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    despine(ax)
