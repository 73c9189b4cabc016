"""Names, colours, sizes and axes that plots share."""

from __future__ import annotations

import re
from os.path import commonprefix
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import rcParams
from matplotlib.font_manager import font_scalings
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from donorwise._anndata import keys, read_colors, read_settings
from donorwise._core.engine.groups import group_text
from donorwise.errors import DataError, DonorwiseError
from donorwise.get._tests import only_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._anndata import Results
    from donorwise._typing import FloatArray

# Okabe & Ito (2008): told apart with every kind of colour vision
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
BLUE, VERMILION = OKABE_ITO[0], OKABE_ITO[1]
SMALLEST_P = 1e-300
"""Below this a p-value is no more than a rounding of zero."""
WIDEST = 16.0
"""Inches across of a figure with many panels."""
GREY, LIGHT_GREY, INK = "#8C8C8C", "#D9D9D9", "#333333"


def level_colors(adata: ad.AnnData, column: str, levels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each level of a column of obs: the AnnData's own, else Okabe and Ito's."""
    own = read_colors(adata, column)
    return {level: own.get(level, OKABE_ITO[i % len(OKABE_ITO)]) for i, level in enumerate(levels)}


def group_colors(adata: ad.AnnData, stored: Results, groups: Sequence[str]) -> dict[str, str]:
    """Return the colours that the AnnData has for the groups of a result; none where it has not."""
    column = group_text(stored.groupby)
    return level_colors(adata, column, groups) if f"{column}{keys.COLORS_SUFFIX}" in adata.uns else {}


def panels(
    ax: Axes | None,
    n: int,
    *,
    size: tuple[float, float],
    alone: tuple[float, float] | None = None,
    share: bool = False,
    n_columns: int | None = None,
    choice: str = "one group and one variable",
) -> tuple[Figure, list[Axes]]:
    """Return n axes: the one that was given, or those of a new figure, few enough in a row to be read.

    `size` is that of a panel in inches, `alone` of one that has the figure for itself, where that is another.
    `n_columns` says how many in a row; None for as many as fit. `choice` is what makes one panel of several.

    Raises
    ------
    DonorwiseError
        One axes was given for several panels.
    """
    if ax is not None:
        if n != 1:
            raise DonorwiseError(f"ax= holds one panel and this plot has {n}; choose {choice}.")
        return root(ax), [ax]
    if n == 1 and alone is not None:
        size = alone
    n_rows = -(-n // (n_columns or max(1, int(WIDEST // size[0]))))
    n_columns = min(n, n_columns or -(-n // n_rows))
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(size[0] * n_columns, size[1] * n_rows),
        layout="constrained",
        squeeze=False,
        sharex=share,
        sharey=share,
    )
    for unused in axes.ravel()[n:]:
        unused.remove()
    return figure, list(axes.ravel()[:n])


def outer_labels(axes: Sequence[Axes], *, x: str, y: str) -> None:
    """Name the axes of panels that share them: on the outside only."""
    n_columns = len({round(panel.get_position().x0, 3) for panel in axes})
    for i, panel in enumerate(axes):
        if i % n_columns == 0:
            panel.set_ylabel(y)
        if i + n_columns >= len(axes):
            panel.set_xlabel(x)
            panel.tick_params(labelbottom=True)


def settle(figure: Figure, n_rounds: int = 3) -> None:
    """Let the layout engine find room for axes on top of axes, which takes it more rounds the taller these are."""
    engine = figure.get_layout_engine()
    if engine is not None:
        for _ in range(n_rounds):
            engine.execute(figure)


def limit_height(ax: Axes, heights: Sequence[float]) -> None:
    """Let the axes show these heights: what is longer may leave them."""
    seen = np.array([height for height in heights if np.isfinite(height)])
    margin = 0.15 * (np.ptp(seen) or 1.0)
    ax.set_ylim(seen.min() - margin, seen.max() + margin)


def draw_reference(ax: Axes, height: float) -> None:
    """Draw a dashed line across, with which the values are compared."""
    ax.axhline(height, color=INK, lw=0.7, ls=(0, (4, 3)), zorder=0)


def say_empty(ax: Axes, why: str) -> None:
    """Say why a panel is empty: its group is not left out."""
    ax.text(
        0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize="small",
        backgroundcolor="white",
    )  # fmt: skip


def despine(ax: Axes) -> None:
    """Take away the frame's upper and right side."""
    ax.spines[["top", "right"]].set_visible(False)


def finish(
    figure: Figure, axes: Sequence[Axes], *, show: bool | None, return_fig: bool
) -> Axes | np.ndarray | Figure | None:
    """Show the figure or hand back what the caller asked for."""
    if show:
        plt.show()
        return None
    if return_fig:
        return figure
    return axes[0] if len(axes) == 1 else np.array(axes, dtype=object)


def format_p(p: float, name: str = "p") -> str:
    """Write a p-value as people do: ``p = 0.013``, ``p = 3e-12``, ``p < 1e-300``."""
    if np.isnan(p):
        return "not tested"
    if p < SMALLEST_P:
        return f"{name} < {SMALLEST_P:.0e}"
    return f"{name} = {p:.2g}" if p >= 1e-4 else f"{name} = {p:.0e}".replace("e-0", "e-")


def root(ax: Axes) -> Figure:
    """Return the figure that holds `ax`."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise DonorwiseError("ax= belongs to no figure any more.")
    return figure


SMALLEST = 1.0
"""Area in points squared of a marker that stands for a few cells and must still be seen."""


def areas(n_cells: npt.ArrayLike, *, most: float, largest: float) -> FloatArray:
    """Areas in points squared, proportional to numbers of cells; `most` of them get the `largest`."""
    return np.maximum(largest * np.asarray(n_cells, dtype=np.float64) / most, SMALLEST)


def area_key(most: float, largest: float, *, n: int = 3) -> list[Line2D]:
    """Markers for a legend: the largest round number of cells, and smaller ones of a quarter each."""
    steps = dict.fromkeys(max(1, int(float(f"{most / 4**i:.0e}"))) for i in range(n))
    return [
        Line2D(
            [], [], ls="", marker="o", mec="none", color=GREY, label=f"{number:,} cell{'' if number == 1 else 's'}",
            ms=float(np.sqrt(areas(number, most=most, largest=largest))),
        )
        for number in steps
    ]  # fmt: skip


def marker_key(where: Axes | Figure, handles: Sequence[Artist], **options: Any) -> None:
    """Explain markers in a legend whose lines are as wide and as high as the largest of them."""
    sizes = [
        float(line.get_markersize()) for line in handles if isinstance(line, Line2D) and line.get_marker() != "None"
    ]
    font = font_scalings["x-small"] * float(rcParams["font.size"])
    largest = max(sizes, default=0.0) / font
    where.legend(
        handles=handles, frameon=False, fontsize="x-small", labelspacing=0.5, handlelength=max(2.0, largest),
        handleheight=max(0.7, 0.9 * largest), **options,
    )  # fmt: skip


def thin_ticks(ax: Axes, first: float, *, points: float = 11.0) -> None:
    """Leave out ticks of a vertical axis whose names would run into others; `first` and the higher ones stay.

    The axes have to be finished, for it is their height that decides.
    """
    low, high = ax.get_ylim()
    ticks = [first, *(float(tick) for tick in ax.get_yticks() if low <= tick <= high and tick != first)]
    root(ax).draw_without_rendering()
    heights = ax.transData.transform([(0.0, tick) for tick in ticks])[:, 1] * 72 / root(ax).dpi
    kept: list[int] = []
    for i in [0, *range(len(ticks) - 1, 0, -1)]:
        if all(abs(heights[i] - heights[j]) >= points for j in kept):
            kept.append(i)
    ax.yaxis.set_major_locator(FixedLocator([ticks[i] for i in sorted(kept)]))


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of axes."""
    box = ax.get_window_extent()
    return float(box.width / root(ax).dpi), float(box.height / root(ax).dpi)


LONGEST = 28
"""Letters of a name in a row of a plot, of which longer ones would take the width."""
_LETTER, _SMALL_LETTER = 0.08, 0.055
"""Inches of a letter of a title, and of a name in a row."""
_MOST_LINES = 3
_LAST_WORD = re.compile(r"[^\W_]*$")


def feature_names(variables: str | Sequence[str]) -> list[str]:
    """The features that are named, each once.

    Raises
    ------
    DataError
        There is none.
    """
    names = [variables] if isinstance(variables, str) else list(dict.fromkeys(variables))
    if not names:
        raise DataError("variables= names no feature.")
    return names


def choose_contrast(adata: ad.AnnData | None, table: pd.DataFrame, contrast: str | None) -> str:
    """The contrast that was asked for, else the first of the declared condition, else the first of the result.

    Raises
    ------
    DataError
        There is no such contrast.
    """
    if contrast is not None:
        if not isinstance(contrast, str):
            raise DataError(f"contrast= names one contrast, not {contrast!r}.")
        return only_one(table, "contrast", contrast)
    known = [str(name) for name in table["contrast"].cat.categories]
    declared = None if adata is None else read_settings(adata).get("condition")
    of_condition = [] if adata is None or declared is None else [n for n in known if column_of(n, adata) == declared]
    return [*of_condition, *known][0]


def column_of(contrast: str, adata: ad.AnnData) -> str | None:
    """Column of obs whose levels a contrast compares; None for an interaction or an unknown name."""
    for column in sorted(map(str, adata.obs.columns), key=len, reverse=True):
        if contrast == column or re.match(rf"(C\()?{re.escape(column)}\b([^:]*\[[^:]*\]|: .+ vs .+)$", contrast):
            return column
    return None


def shorten(names: Sequence[str], most: int = LONGEST) -> list[str]:
    """Names of about `most` letters at the most, without what is inside of longer ones or common to all.

    Names that could not be told apart any more are left as they are.

    Examples
    --------
    >>> shorten(["D1", "a name that is far too long"], 12)
    ['D1', 'a name…o long']
    >>> shorten([f"University hospital, patient {i}, 2021" for i in range(2)], 12)
    ['…0…', '…1…']
    """
    for names_or_core in (names, _cores(names)):
        short = [n if len(n) <= most else f"{n[: most // 2]}…{n[len(n) - most // 2 :]}" for n in names_or_core]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _cores(names: Sequence[str]) -> list[str]:
    """Names without the words that all of them begin or end with."""
    start = len(_LAST_WORD.sub("", commonprefix(list(names))))
    end = len(_LAST_WORD.sub("", commonprefix([name[start:][::-1] for name in names])))
    return [f"{'…' * (start > 0)}{name[start : len(name) - end]}{'…' * (end > 0)}" for name in names]


def panel_title(group: str, *rest: str) -> str:
    """What a panel shows, the group first where there are groups."""
    return ", ".join(rest if group == keys.ALL else (group, *rest))


def fold(ax: Axes, text: str, *, beside: Sequence[str] = ()) -> str:
    """Break a title into the few lines that fit above axes with these names beside them.

    What is too long loses its middle: panels differ at the beginning (the group) or at the end (the contrast, the term).
    """
    names = _SMALL_LETTER * max(map(len, beside), default=0)
    n_letters = max(16, int((_room(ax) - names) / _LETTER))
    lines = wrap(text, n_letters)
    if len(lines) > _MOST_LINES:
        lines = [*wrap(text, n_letters, max_lines=_MOST_LINES - 1, placeholder="…"), lines[-1]]
    return "\n".join(lines)


def write_title(ax: Axes, text: str, *, beside: Sequence[str] = (), **options: Any) -> None:
    """Write a title that stays within the room of its panel."""
    ax.set_title(fold(ax, text, beside=beside), **{"fontsize": "medium", "parse_math": False, **options})


def _room(ax: Axes) -> float:
    """Inches above axes: what a layout engine will give them, or what they have now."""
    spec = ax.get_subplotspec()
    if root(ax).get_layout_engine() is None or spec is None:
        return inches(ax)[0] + 0.4
    return float(root(ax).get_figwidth()) / spec.get_gridspec().ncols - 0.6
