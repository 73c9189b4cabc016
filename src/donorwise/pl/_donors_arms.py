"""The donor plot for a condition with levels: arms side by side, one place on the axis for each donor."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from donorwise.pl._effects import closed
from donorwise.pl._style import (
    GREY,
    INK,
    LIGHT_GREY,
    despine,
    format_p,
    inches,
    limit_height,
    marker_key,
    root,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

    from donorwise._typing import FloatArray
    from donorwise.pl._donors_data import Effect, Panel

CELLS_PER_DONOR = 200
_RUNS = 0.8  # of a donor's place, that its runs take
NAMED_DONORS = 32
"""With more donors than this their names would not be readable."""
_LONGEST_DONOR, _LONGEST_ARM = 16, 20  # letters
_LETTER, _BOLD = 0.05, 0.085  # inches, of the smallest type and of a heading
_WORDS_ABOVE = 1.25  # inches
_GAP, _FLAT, _TALL = 1.04, 0.45, 0.75  # of the height of the lower axes: where the upper begin, and theirs


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


@dataclass(frozen=True, slots=True)
class Areas:
    """Areas of points, in points squared: proportional to numbers of cells, `largest` for the `most` cells."""

    largest: float
    most: float

    def of(self, n_cells: pd.Series | Sequence[int]) -> FloatArray:
        """Areas for these numbers of cells, none too small to be seen."""
        return np.maximum(self.largest * np.asarray(n_cells, dtype=np.float64) / self.most, 5)


def areas_for(tables: Sequence[pd.DataFrame]) -> Areas:
    """Areas that several panels share, given the rows that each of them draws."""
    n_points = max(len(table) for table in tables)
    return Areas(largest=float(np.interp(n_points, [8, 60], [190, 90])), most=max(t["n_cells"].max() for t in tables))


def draw_arms(
    ax: Axes, panel: Panel, *, colors: Mapping[str, str], height: str, title: str, areas: Areas, with_key: bool
) -> None:
    """Draw cells above, donors and estimates below.

    Parameters
    ----------
    ax
        Axes of the donors' means; those of the cells come on top of it.
    panel
        What to draw.
    colors
        A colour for each arm.
    height
        What the vertical axis of the donors shows.
    title
        Goes above the cells.
    areas
        Of the donors' points.
    with_key
        Whether to explain the areas.
    """
    layout = _layout(panel)
    of_peptides = "peptide" in panel.cells
    cells_ax = _axes_above(ax, _TALL if of_peptides else _FLAT)
    (_draw_peptides if of_peptides else _draw_cells)(cells_ax, panel, layout, colors=colors)
    _draw_donors(ax, panel, layout, colors=colors, areas=areas)
    _draw_effects(ax, panel, layout, colors=colors)
    ax.set_xlim(-1, layout.right)
    ax.set_ylabel(height)
    cells_ax.set_ylabel(panel.above)
    limit_height(ax, [*layout.donors["mean"], *_effect_heights(panel, layout)])
    panel.scale.name_ticks(ax)
    _ticks(ax, panel, layout)
    if with_key:
        size_key(cells_ax, areas, panel.donors["n_cells"], title=panel.observed, outside=not layout.effects)
    for each in (ax, cells_ax):
        despine(each)
    cells_ax.tick_params(bottom=False, labelbottom=False)
    cells_ax.spines["bottom"].set_visible(False)
    _head(cells_ax, layout, colors=colors, observed=panel.observed)
    _write_above(cells_ax, title, x=0, coords=cells_ax.transAxes, offset=44, ha="left", fontsize="medium")


def _axes_above(ax: Axes, tall: float) -> Axes:
    """Add axes `tall` times as high on top of `ax`; where no layout engine makes room for them and what surrounds them, `ax` gives it up."""
    if root(ax).get_layout_engine() is None:
        place, (_, height) = ax.get_position(), inches(ax)
        # what is above the axes ends at this share of their height
        share = max(1 - _WORDS_ABOVE / height, 0.5) / (_GAP + tall)
        ax.set_position((place.x0, place.y0, 0.85 * place.width, share * place.height))
    return ax.inset_axes((0, _GAP, 1, tall), sharex=ax)


def _layout(panel: Panel) -> _Layout:
    donors = panel.donors.assign(arm=panel.donors["condition"].astype(str), weight=panel.weights)
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
    step = 1.7 + 0.07 * start
    effects = tuple(start + 0.2 * step + step * i for i in range(n_effects))
    right = effects[-1] + 0.7 * step if effects else start - gap
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
    strewn: dict[str, list[FloatArray]] = {arm: [] for arm in panel.arms}
    for (donor, arm), values in panel.cells["value"].groupby([panel.cells["donor"], arms], sort=False):
        some = values.to_numpy()
        if len(some) > CELLS_PER_DONOR:
            some = rng.choice(some, CELLS_PER_DONOR, replace=False)
        strewn[arm].append(np.column_stack([places[donor, arm] + rng.uniform(-0.36, 0.36, len(some)), some]))
    for arm, parts in strewn.items():
        if parts:
            x, y = np.concatenate(parts).T
            ax.scatter(x, y, s=size, color=colors[arm], alpha=0.3, linewidths=0, rasterized=True)


def _draw_peptides(ax: Axes, panel: Panel, layout: _Layout, *, colors: Mapping[str, str]) -> None:
    """Draw a line for each peptide, over the runs of each donor at its place; what is missing leaves a gap."""
    cells = panel.cells.assign(arm=panel.cells["condition"].astype(str))
    x = layout.donors.set_index(["donor", "arm"])["x"].reindex(cells[["donor", "arm"]]).to_numpy()
    run = cells.groupby(["donor", "arm"])["run"].rank("dense").to_numpy()
    n_runs = cells.groupby(["donor", "arm"])["run"].transform("nunique").to_numpy()
    cells["x"] = x + _RUNS * ((run - 0.5) / n_runs - 0.5)
    width, size = (float(np.interp(cells["peptide"].nunique(), [3, 30], ends)) for ends in ([1.1, 0.5], [10.0, 3.0]))
    for arm, own in cells.groupby("arm", sort=False):
        lines = own.pivot(index="x", columns="peptide", values="value")
        paths = [np.column_stack([lines.index, lines[peptide]]) for peptide in lines]
        ax.add_collection(LineCollection(paths, colors=colors[arm], linewidths=width, alpha=0.5))
        ax.scatter(own["x"], own["value"], s=size, color=colors[arm], alpha=0.7, linewidths=0)


def _draw_donors(ax: Axes, panel: Panel, layout: _Layout, *, colors: Mapping[str, str], areas: Areas) -> None:
    donors = layout.donors
    if panel.paired:
        pairs = [pair[["x", "mean"]].to_numpy() for _, pair in donors.groupby("donor", sort=False)]
        width = float(np.interp(len(donors), [20, 120], [0.9, 0.4]))
        ax.add_collection(LineCollection(pairs, colors=LIGHT_GREY, linewidths=width, zorder=1))
    draw_intervals(ax, donors)
    ax.scatter(
        donors["x"],
        donors["mean"],
        s=areas.of(donors["n_cells"]),
        color=[colors[arm] for arm in donors["arm"]],
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    for arm, (first, last) in layout.spans.items():
        ax.hlines(_arm_mean(donors, arm), first - 0.6, last + 0.6, color=colors[arm], lw=1.4, zorder=2)


def _arm_mean(donors: pd.DataFrame, arm: str) -> float:
    """Mean of an arm's donors, as the model weights them."""
    chosen = donors[donors["arm"] == arm]
    return float(np.average(chosen["mean"], weights=chosen["weight"]))


def draw_intervals(ax: Axes, donors: pd.DataFrame) -> None:
    """Draw the 95% interval that a donor's cells give for its mean, the paler the fewer they are."""
    half = 1.96 * (donors["sd"] / np.sqrt(donors["n_cells"])).fillna(0.0)
    opacity = 0.15 + 0.5 * np.sqrt(donors["n_cells"] / donors["n_cells"].max())
    ends = donors["mean"] - half, donors["mean"] + half
    ax.vlines(donors["x"], *ends, color=GREY, lw=0.9, alpha=opacity.to_numpy(), zorder=2)


def size_key(
    where: Axes | Figure, areas: Areas, n_cells: pd.Series, *, title: str = "cells", outside: bool = False
) -> None:
    """Explain the areas of the points: in the free corner of axes, beside them, or beside those of a figure."""
    sizes = sorted({_round(n_cells.max()), _round(n_cells.median()), _round(n_cells.min())})
    handles = [
        Line2D([], [], marker="o", ls="", ms=np.sqrt(area), color=GREY, mew=0, label=f"{n:,}")
        for n, area in zip(sizes, areas.of(sizes), strict=True)
    ]
    of_figure = not hasattr(where, "transAxes")
    marker_key(
        where,
        handles,
        title=title,
        loc="outside right upper" if of_figure else "upper left" if outside else "upper right",
        bbox_to_anchor=None if of_figure else (1.0, 1.0),
        title_fontsize="x-small",
    )


def _round(n: float) -> int:
    """Round to one significant digit."""
    return int(float(f"{n:.0e}"))


def _draw_effects(ax: Axes, panel: Panel, layout: _Layout, *, colors: Mapping[str, str]) -> None:
    """Draw the differences on the same scale, zero level with the mean of the reference arm."""
    if not layout.effects:
        return
    reference = _arm_mean(layout.donors, panel.arms[0])
    ax.hlines(
        reference, layout.spans[panel.arms[0]][0] - 0.6, layout.right, color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=0
    )
    for i, (x, effect) in enumerate(zip(layout.effects, panel.effects, strict=False)):
        color = colors.get(effect.label, INK)
        # neighbours' p-values would touch side by side
        _draw_effect(ax, x, effect, reference=reference, color=color, width=2.6, size=7, below=i % 2 == 1)
    if panel.naive is not None:
        _draw_effect(
            ax, layout.effects[-1], panel.naive, reference=reference, color=GREY, width=1.4, size=4, below=True
        )
    shift: tuple[Any, Any] = (lambda y: y - reference, lambda d: d + reference)
    secondary = ax.secondary_yaxis("right", functions=shift)
    name = panel.scale.difference.format(shorten(panel.arms, _LONGEST_ARM)[0])
    secondary.set_ylabel(name, parse_math=False)


def _effect_heights(panel: Panel, layout: _Layout) -> list[float]:
    """Ends of the intervals."""
    reference = _arm_mean(layout.donors, panel.arms[0])
    drawn = [closed(effect.estimate, effect.low, effect.high) for effect in panel.effects]
    return [reference + float(end) for ends in drawn for end in ends]


def _draw_effect(
    ax: Axes,
    x: float,
    effect: Effect,
    *,
    reference: float,
    color: str,
    width: float,
    size: float,
    below: bool = False,
) -> None:
    """Draw an interval with its p-value above or below it."""
    low, high = (reference + float(end) for end in closed(effect.estimate, effect.low, effect.high))
    ax.vlines(x, low, high, color=color, lw=width, zorder=3)
    for end, given, marker in ((low, effect.low, "v"), (high, effect.high, "^")):
        if np.isinf(given):  # there is no end
            ax.plot(x, end, marker, ms=2 * width, color=color, mew=0, zorder=3)
    ax.plot(x, reference + effect.estimate, "D", ms=size, color=color, mec="white", mew=0.6, zorder=4)
    ax.annotate(
        format_p(effect.p),
        xy=(x, low if below else high),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        ha="center",
        va="top" if below else "bottom",
        fontsize="x-small",
        color=color,
    )


def _ticks(ax: Axes, panel: Panel, layout: _Layout) -> None:
    """Name the donors, where there is room for that, and what the estimates are."""
    donors = layout.donors if len(layout.donors) <= NAMED_DONORS else layout.donors[:0]
    if donors.empty:
        ax.set_xlabel("donors", loc="left")
    every = list(layout.donors["donor"].unique())
    short = dict(zip(every, shorten(every, _LONGEST_DONOR), strict=True))
    names = [_effect_name(panel, i) for i in range(len(layout.effects))]
    labels = [*(short[donor] for donor in donors["donor"]), *names]
    ticks = ax.set_xticks([*donors["x"], *layout.effects], labels, fontsize="x-small", parse_math=False)
    step = np.diff(layout.effects).min(initial=np.inf) * inches(ax)[0] / (layout.right + 1)
    upright = any(_LETTER * len(word) > step or len(word) > 12 for name in names for word in name.split())
    for tick, is_donor in zip(ticks, [True] * len(donors) + [False] * len(names), strict=True):
        tick.label1.set_rotation(90 if is_donor or upright else 0)
    ax.tick_params(axis="x", length=0)


def _effect_name(panel: Panel, i: int) -> str:
    if i == len(panel.effects):
        return "cells as\nreplicates"
    return (
        panel.model.replace(" ", "\n")
        if len(panel.effects) == 1
        else fill(shorten([effect.label for effect in panel.effects], _LONGEST_ARM)[i], 10)
    )


def _head(ax: Axes, layout: _Layout, *, colors: Mapping[str, str], observed: str) -> None:
    """Write above each arm how many replicates its cells, or what else was `observed`, are."""
    n_cells = layout.donors.groupby("arm")["n_cells"].sum()
    n_donors = layout.donors.groupby("arm")["donor"].nunique()
    starts = [first for first, _ in layout.spans.values()]
    room = np.diff([*starts, layout.right]).min() * inches(ax)[0] / (layout.right + 1) / _BOLD
    names = dict(zip(layout.spans, shorten(list(layout.spans), int(np.clip(room, 6, 2 * _LONGEST_ARM))), strict=True))
    for arm, (first, last) in layout.spans.items():
        middle, coords = (first + last) / 2, ax.get_xaxis_transform()
        numbers = f"{n_donors[arm]:,} donors\n{n_cells[arm]:,} {observed}"
        _write_above(ax, numbers, x=middle, coords=coords, offset=3, fontsize="x-small", color=INK)
        _write_above(
            ax, names[arm], x=middle, coords=coords, offset=26, fontsize="small", weight="bold", color=colors[arm]
        )


def _write_above(
    ax: Axes, text: str, *, x: float, coords: Transform, offset: float, ha: str = "center", **font: Any
) -> None:
    """Write at a distance in points above the axes."""
    ax.annotate(
        text,
        xy=(x, 1),
        xycoords=coords,
        xytext=(0, offset),
        textcoords="offset points",
        ha=ha,
        va="bottom",
        parse_math=False,
        **font,
    )
