"""Proportions of variance of one component against those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from donorwise._core.inference.proportions import SUM
from donorwise.errors import DonorwiseError
from donorwise.get._tests import choose, present
from donorwise.pl._heritability_ranked import MANY, SHARE, along, called, mark, name_points, say, top_of
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    OKABE_ITO,
    VERMILION,
    despine,
    feature_names,
    marker_key,
    outer_labels,
    panel_title,
    panels,
    say_empty,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import BoolArray, FloatArray, IntArray

_FEW = 60  # features of which every interval is drawn
_GUTTER = 0.09  # of the axis, in which proportions of zero stand
_LONGEST = 14  # letters of a component in the legend
_PASSING = (GREY, BLUE, VERMILION, OKABE_ITO[2])
"""Colours of features of which neither component passes a test, the one across, the one up, or both."""


def draw_pairs(
    table: pd.DataFrame,
    component: str | Sequence[str] | None,
    named: list[str],
    *,
    alpha: float,
    donor: str,
    ax: Axes | None,
) -> tuple[Figure, list[Axes]]:
    """A panel for each group."""
    across, up = _two(table, component)
    groups = present(table, "group")
    own = [_side_by_side(table[table["group"] == name], across, up) for name in groups]
    figure, axes = panels(ax, len(own), size=(3.5, 3.6), alone=(5.4, 4.2), share=True, choice="one group")
    top = max(_reach(wide, named) for wide in own)
    places = [_places(wide, top) for wide in own]
    for panel, name, wide, xy in zip(axes, groups, own, places, strict=True):
        _plane(panel, wide, xy, named, top)
        say(panel, _at_zero(wide))
        write_title(panel, panel_title(name), pad=18)
    outer_labels(axes, x=f"{called(across, donor)}: {SHARE}", y=f"{called(up, donor)}\n{SHARE}")
    _explain(axes[-1], pd.concat(own), shorten([across, up], _LONGEST), alpha)
    figure.draw_without_rendering()
    for panel, wide, xy in zip(axes, own, places, strict=True):
        name_points(panel, wide["variable"], xy, named, _bars(wide, xy, named))
    return figure, axes


def _two(table: pd.DataFrame, component: str | Sequence[str] | None) -> tuple[str, str]:
    """The components across and up.

    Raises
    ------
    DonorwiseError
        There are not two of them.
    """
    known = [name for name in present(table, "component") if name != SUM]
    chosen = known[:2] if component is None else feature_names(component)
    choose(table, "component", chosen)
    if len(chosen) != 2:
        why = f"the formula has one alone, {chosen[0]!r}" if component is None else f"component= names {len(chosen)}"
        raise DonorwiseError(
            f"kind='pair' draws two components against each other, and {why}: there are {', '.join(known)}. "
            "kind='ranked' draws any number."
        )
    return chosen[0], chosen[1]


def _side_by_side(rows: pd.DataFrame, across: str, up: str) -> pd.DataFrame:
    """A row for each feature, with a column x, x_low, x_high, x_passed and the same of y."""
    names = {"proportion": "", "ci_low": "_low", "ci_high": "_high", "passed": "_passed"}
    wide = {
        f"{end}{suffix}": rows[rows["component"] == name].set_index("variable")[column]
        for end, name in (("x", across), ("y", up))
        for column, suffix in names.items()
    }
    return pd.DataFrame(wide).dropna(subset=["x", "y"]).reset_index(names="variable")


def _reach(wide: pd.DataFrame, named: list[str]) -> float:
    """End of both axes: all estimates are seen, and the intervals that are drawn."""
    drawn = wide[_with_bars(wide, named)]
    return max(
        top_of(wide[["x", "y"]].to_numpy()), top_of(drawn[["x_high", "y_high"]].to_numpy()) if len(drawn) else 0.0
    )


def _with_bars(wide: pd.DataFrame, named: list[str]) -> BoolArray:
    """Which features have their intervals drawn: all of a few, or those that are named."""
    return np.asarray(wide["variable"].isin(named) | (len(wide) <= _FEW))


def _places(wide: pd.DataFrame, top: float) -> FloatArray:
    """Where the features stand, (G, 2): those at zero are scattered over the gutter."""
    scatter = np.random.default_rng(0).uniform(0.2, 0.85, (len(wide), 2))
    xy = wide[["x", "y"]].to_numpy()
    return np.where(xy > 0, xy, -_GUTTER * top * scatter)


def _plane(ax: Axes, wide: pd.DataFrame, xy: FloatArray, named: list[str], top: float) -> None:
    edge = -_GUTTER * top
    for band in (ax.axvspan, ax.axhspan):
        band(edge, 0, color=LIGHT_GREY, alpha=0.45, lw=0, zorder=-2)
    ax.plot([0, 1], [1, 0], color=INK, lw=0.7, ls=(0, (4, 3)), zorder=-1)
    ax.set(xlim=(edge, top), ylim=(edge, top))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    despine(ax)
    if wide.empty:
        say_empty(ax, "nothing fitted")
        return
    asked = wide["variable"].isin(named).to_numpy()
    for chosen, color, lw, z in ((_with_bars(wide, named) & ~asked, LIGHT_GREY, 1.0, 0), (asked, INK, 1.4, 4)):
        ax.hlines(xy[chosen, 1], wide["x_low"][chosen], wide["x_high"][chosen], color=color, lw=lw, zorder=z)
        ax.vlines(xy[chosen, 0], wide["y_low"][chosen], wide["y_high"][chosen], color=color, lw=lw, zorder=z)
    kind, n = _passing(wide), len(wide)
    size = float(np.interp(np.log10(n), [1.5, 4.3], [24, 4]))
    for k, color in enumerate(_PASSING):
        ax.scatter(
            xy[kind == k, 0],
            xy[kind == k, 1],
            c=color,
            s=size,
            lw=0,
            alpha=0.45 if k == 0 else 0.9,
            zorder=1 + 0.1 * k,
            rasterized=n > MANY,
        )
    mark(ax, xy[asked, 0], xy[asked, 1], kind[asked], _PASSING)


def _passing(wide: pd.DataFrame) -> IntArray:
    """Which of the components pass: 0 neither, 1 the one across, 2 the one up, 3 both."""
    return np.asarray(wide["x_passed"].astype(int) + 2 * wide["y_passed"].astype(int))


def _at_zero(wide: pd.DataFrame) -> str:
    """How many features are in the gutters."""
    if wide.empty:
        return ""
    x, y = (wide[["x", "y"]].to_numpy() <= 0).T
    return f"at zero: {np.mean(x):.0%} across, {np.mean(y):.0%} up, {np.mean(x & y):.0%} both"


def _bars(wide: pd.DataFrame, xy: FloatArray, named: list[str]) -> list[FloatArray]:
    """Points along the intervals of the features that are named."""
    seen, asked = wide.assign(across=xy[:, 0], up=xy[:, 1]), wide["variable"].isin(named)
    return [
        along(seen[["x_low", "up"]], seen[["x_high", "up"]], asked),
        along(seen[["across", "y_low"]], seen[["across", "y_high"]], asked),
    ]


def _explain(ax: Axes, wide: pd.DataFrame, names: Sequence[str], alpha: float) -> None:
    """Say what colours mean, and how many features have them."""
    counts = np.bincount(_passing(wide), minlength=len(_PASSING))
    words = ("neither", f"{names[0]} alone", f"{names[1]} alone", "both")
    handles = [
        Line2D([], [], ls="", marker="o", mec="none", color=color, ms=5, label=f"{word}: {count:,}")
        for word, color, count in zip(words, _PASSING, counts, strict=True)
    ]
    marker_key(
        ax, handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=f"FDR {alpha:.0%}", title_fontsize="x-small",
        alignment="left",
    )  # fmt: skip
