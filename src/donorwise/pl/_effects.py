"""Effects as several plots show them: tested features as points, or estimates and intervals in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import keys
from donorwise._core.models.glmm.families import RATIO_OF_LINK
from donorwise.errors import DataError
from donorwise.get._tests import passes, present
from donorwise.pl._labels import adjust_labels, place_labels
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    VERMILION,
    despine,
    draw_reference,
    format_p,
    say_empty,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from donorwise._typing import BoolArray, FloatArray


_LOGS = {2.0: "log2", 10.0: "log10", round(np.e, 6): "natural log"}


@dataclass(frozen=True, slots=True)
class Points:
    """The tested features of one panel; all arrays have shape (G,).

    Attributes
    ----------
    names
        Of the features.
    x, y
        Where they are drawn.
    effect, p_value
        As in the results table.
    significant
        Whether the adjusted p-value is small and the fold change large enough.
    """

    names: np.ndarray
    x: FloatArray
    y: FloatArray
    effect: FloatArray
    p_value: FloatArray
    significant: BoolArray


def with_effects(table: pd.DataFrame, params: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """Add the column effect to rows of the results table, and say what it is.

    Log2 fold changes where all estimates in the table have them, else the estimates, in units of the response.
    """
    known = table["log_fc"].notna() & table["estimate"].notna()
    if known.any() and known.equals(table["estimate"].notna()):
        return table.assign(effect=table["log_fc"]), "log2 fold change"
    if RATIO_OF_LINK.get(str(params["link"])) == "odds_ratio":
        return table.assign(effect=table["estimate"]), _NAMES["odds_ratio"]
    return table.assign(effect=table["estimate"]), f"estimate ({response_unit(params, table)})"


_NAMES = {"rate_ratio": "log2 fold change", "odds_ratio": "log odds ratio"}
_PLAIN = ("ok", "boundary")  # statuses that need no word beside a p-value
_INTERVAL = {"effect": "estimate", "low": "ci_low", "high": "ci_high"}


def with_intervals(table: pd.DataFrame, params: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """Add the columns effect, low and high to rows of the results table, and say what they are.

    An interval is that of the estimate. It is one of the log2 fold change where that is the estimate in other units, as
    it is of log rates, and not of mean logarithms.
    """
    ratio = RATIO_OF_LINK.get(str(params["link"]), "")
    scale = float(1 / np.log(2)) if ratio == "rate_ratio" else 1.0
    name = _NAMES.get(ratio, f"estimate ({response_unit(params, table)})")
    scaled = {to: table[column] * scale for to, column in _INTERVAL.items()}
    return table.assign(**scaled), name


def response_unit(params: dict[str, Any], table: pd.DataFrame) -> str:
    """What the response is measured in, as far as its names say: log expression, a layer, a score."""
    response = str(params["response"])
    if params.get(keys.FEATURES):
        return f"{_LOGS.get(round(params['log_base'], 6), 'log')} intensity"
    if response == keys.RESPONSE_X:
        return "log expression" if np.isfinite(params["log_base"]) else "units of X"
    if response.startswith(keys.LABELS_PREFIX):
        return "share"
    if response != keys.RESPONSE_OBS:
        return response.replace("/", " ").removeprefix("obsm ")
    names = present(table, "variable")
    return names[0] if len(names) == 1 else "units of the columns of obs"


def tested_parts(table: pd.DataFrame, contrast: str) -> dict[str, pd.DataFrame]:
    """Split the table into its groups, in their order, and keep the tested features.

    Raises
    ------
    DataError
        There is none.
    """
    if not table["p_value"].notna().any():
        raise DataError(f"No feature was tested for {contrast!r}: look at the status column of dw.get.tests.")
    groups = present(table, "group")
    return {name: table[(table["group"] == name) & table["p_value"].notna()] for name in groups}


def points_of(tested: pd.DataFrame, *, x: FloatArray, y: FloatArray, alpha: float, min_log_fc: float | None) -> Points:
    """Put the tested features of one panel, with their effects, at these places."""
    return Points(
        names=tested["variable"].astype(str).to_numpy(),
        x=x,
        y=y,
        effect=tested["effect"].to_numpy(),
        p_value=tested["p_value"].to_numpy(),
        significant=passes(tested, alpha, min_log_fc),
    )


def effect_colors(effect: FloatArray, significant: BoolArray) -> np.ndarray:
    """Colours by direction where significant, grey elsewhere."""
    return np.where(significant, np.where(effect > 0, VERMILION, BLUE), GREY)


def effect_range(effects: FloatArray) -> tuple[float, float]:
    """Ends of an axis of effects: zero well inside, with room for names."""
    low, high = max(-effects.min(), 0.0), max(effects.max(), 0.0)
    return -1.2 * max(low, 0.4 * high) or -1.0, 1.2 * max(high, 0.4 * low) or 1.0


def draw_points(ax: Axes, points: Points) -> None:
    """Draw the features, those that are significant on top, and count these above the axes."""
    n = len(points.x)
    if n == 0:
        say_empty(ax, "nothing tested")
    size = float(np.interp(np.log10(max(n, 1)), [2, 4.3], [22, 5]))
    colors = effect_colors(points.effect, points.significant)
    for chosen, opacity in ((~points.significant, 0.35), (points.significant, 0.85)):
        ax.scatter(
            points.x[chosen],
            points.y[chosen],
            c=colors[chosen],
            s=size,
            alpha=opacity,
            linewidths=0,
            rasterized=n > 5000,
        )
    up = points.effect > 0
    for side, word, color, x, chosen in (("left", "down", BLUE, 0.02, ~up), ("right", "up", VERMILION, 0.98, up)):
        count = f"{np.sum(points.significant & chosen):,} {word}"
        ax.text(x, 1.0, count, transform=ax.transAxes, ha=side, va="bottom", color=color, fontsize="small")
    despine(ax)


def draw_zero(ax: Axes, *, vertical: bool) -> None:
    """Draw the line of no effect."""
    (ax.axvline if vertical else ax.axhline)(0, color=LIGHT_GREY, lw=0.8, zorder=0)


_LOWEST_NAME = 0.08  # of the height of the axes: a line below this has no room for its name under it


def draw_threshold(ax: Axes, y: FloatArray, passed: BoolArray, *, text: str) -> None:
    """Draw the line above which features pass, halfway between the last to pass and the first not to."""
    if passed.any() and not passed.all():
        draw_line(ax, (y[passed].min() + y[~passed].max()) / 2, text)


def draw_line(ax: Axes, height: float, text: str) -> None:
    """Draw a dashed line across, with what it is at its right end."""
    draw_reference(ax, height)
    has_room_below = height > _LOWEST_NAME * ax.get_ylim()[1]
    ax.annotate(
        f"{text} ", (1.0, height), (0, -2 if has_room_below else 1), xycoords=ax.get_yaxis_transform(),
        textcoords="offset points", ha="right", va="top" if has_room_below else "bottom", fontsize="x-small",
    )  # fmt: skip


def name_panels(
    figure: Figure,
    axes: Sequence[Axes],
    parts: Sequence[Points],
    *,
    n_labels: int,
    labels: Sequence[str],
    adjust_text: bool,
) -> None:
    """Write the names asked for, and in each panel those of the significant features with the smallest p-values.

    Of a panel without significant features, those with the smallest p-values all the same.

    Parameters
    ----------
    figure, axes
        Finished but for the names: where these go depends on the layout.
    parts
        What is drawn in each of the axes.
    n_labels, labels
        How many to name, and which in any case.
    adjust_text
        Leave it to adjustText where the names go.
    """
    figure.draw_without_rendering()
    place = adjust_labels if adjust_text else place_labels
    for ax, points in zip(axes, parts, strict=True):
        order = np.argsort(points.p_value, kind="stable")
        asked = np.isin(points.names, list(labels))
        # without any hit, those that come closest
        called = (points.significant | ~points.significant.any()) & ~asked
        chosen = [i for i in order if asked[i]] + [i for i in order if called[i]][:n_labels]
        if chosen:
            xy = np.column_stack([points.x, points.y])
            colors = np.where(points.significant, effect_colors(points.effect, points.significant), INK)[chosen]
            place(ax, list(points.names[chosen]), xy[chosen], points=xy, colors=list(colors))


def closed(effect: ArrayLike, low: ArrayLike, high: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Ends of intervals to draw: a side without an end is as long as the other."""
    at, lows, highs = (np.asarray(values, dtype=np.float64) for values in (effect, low, high))
    return np.where(np.isneginf(lows), 2 * at - highs, lows), np.where(np.isposinf(highs), 2 * at - lows, highs)


def texts_of(status: Iterable[object], p_values: Iterable[float], kind: str = "p") -> list[str]:
    """What stands beside the estimates: the p-value, and the status where that says more than that there is one."""
    texts = []
    for name, p in zip(map(str, status), p_values, strict=True):
        words = [] if np.isnan(p) else [format_p(p, kind)]
        texts.append(", ".join(words if name in _PLAIN else [*words, name.replace("_", " ")]))
    return texts


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
        Shape (R,). Estimates and ends of their intervals; NaN leaves a row empty, and an arrow stands where there is no end.
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
    left, right = closed(effect, low, high)
    ax.hlines(place, left, right, color=colors, lw=1.2)
    for end, given, marker in ((left, low, "<"), (right, high, ">")):
        if (is_open := np.isinf(np.asarray(given, dtype=np.float64))).any():
            ax.scatter(end[is_open], place[is_open], c=colors[is_open], marker=marker, s=16, lw=0, zorder=3)
    ax.scatter(effect, place, c=np.where(full, colors, "white"), edgecolors=list(colors), s=20, lw=1, zorder=3)
    ax.axvline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    for y, text, color in zip(place, texts, colors if text_colors is None else text_colors, strict=True):
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="x-small", color=color)
    ax.set_yticks(place, shorten(labels), fontsize="x-small", parse_math=False)
    ax.locator_params(axis="x", nbins=5)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    despine(ax)
