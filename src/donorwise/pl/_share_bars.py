"""Bars of how the variance of single features divides over the terms, and the colours and names of terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from donorwise._core.engine.partition import FIXED, FIXED_PART, FIXED_TERM, RESIDUAL, REST, kinds_of
from donorwise.pl._style import BLUE, GREY, INK, OKABE_ITO, VERMILION, despine, say_empty, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 40
"""Features beyond which their distribution is drawn, named or not."""
NAMES = {FIXED: "fixed\neffects", RESIDUAL: "residual"}
_OTHERS = OKABE_ITO[2:7]
_PALER = (0.0, 0.5, 0.75)  # share of white in the colours of more terms than there are colours


def term_colors(table: pd.DataFrame, donor: str) -> dict[str, str]:
    """A colour for each term that is the same in every model: the donor's, the (first) fixed term's, what remains.

    Other terms take further colours in the order of the model, then paler ones.
    """
    kinds = kinds_of(table)
    first = next((term for term, kind in kinds.items() if kind in (FIXED_PART, FIXED_TERM)), None)
    known = {donor: BLUE, first: VERMILION} | {term: GREY for term, kind in kinds.items() if kind == REST}
    own = (_paler(color, white) for white in _PALER for color in (*_OTHERS, *((BLUE, VERMILION) if white else ())))
    return {term: known.get(term) or next(own, GREY) for term in kinds}


def _paler(color: str, white: float) -> str:
    r, g, b = (part * (1 - white) + white for part in to_rgb(color))
    return to_hex((r, g, b))


def bars_size(n_features: int, *, each: int) -> tuple[float, float]:
    """Inches of a panel with bars of so many features, of each so many beside one another."""
    return 3.7, 1.3 + n_features * (0.26 if each == 1 else 0.12 + 0.11 * each)


def draw_bars(
    ax: Axes, table: pd.DataFrame, variables: Sequence[str], terms: Sequence[str], colors: dict[str, str]
) -> None:
    """Draw a bar for each feature, from the top, whose parts are its shares in the order of `terms`."""
    wide = _wide(table, variables, terms)
    if not wide.notna().any(axis=None):
        say_empty(ax, "nothing fitted")
    left = np.zeros(len(wide))
    for term in terms:
        width = wide[term].fillna(0).to_numpy()
        ax.barh(np.arange(len(wide)), width, 0.74, left=left, color=colors[term], edgecolor="white", linewidth=0.5)
        left += width
    for place in np.flatnonzero(wide.isna().all(axis=1)).tolist():
        ax.text(0.01, place, "not fitted", va="center", fontsize="x-small", color=GREY)
    _frame(ax, variables)


def draw_intervals(
    ax: Axes, table: pd.DataFrame, variables: Sequence[str], terms: Sequence[str], colors: dict[str, str]
) -> None:
    """Draw a bar for each share of each feature, one below the other, with its interval."""
    wide, low, high = (_wide(table, variables, terms, value) for value in ("fraction", "ci_low", "ci_high"))
    if not wide.notna().any(axis=None):
        say_empty(ax, "nothing fitted")
    height = 0.8 / len(terms)
    for i, term in enumerate(terms):
        place = np.arange(len(wide)) - 0.4 + (i + 0.5) * height
        ax.barh(place, wide[term], 0.9 * height, color=colors[term])
        ax.hlines(place, low[term], high[term], color=INK, lw=1.0)
    _frame(ax, variables)


def _wide(table: pd.DataFrame, variables: Sequence[str], terms: Sequence[str], value: str = "fraction") -> pd.DataFrame:
    named = table.astype({"variable": str, "term": str})
    return named.pivot(index="variable", columns="term", values=value).reindex(
        index=list(variables), columns=list(terms)
    )


def _frame(ax: Axes, variables: Sequence[str]) -> None:
    ax.set_yticks(range(len(variables)), shorten(list(variables)), parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(variables) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    despine(ax)


def term_key(figure: Figure, ax: Axes | None, terms: Sequence[str], colors: dict[str, str]) -> None:
    """Name the colours at the right of the figure, or of axes that were given."""
    names = shorten([NAMES.get(term, term).replace("\n", " ") for term in terms])
    handles = [Patch(facecolor=colors[term], label=name) for term, name in zip(terms, names, strict=True)]
    look: dict[str, Any] = {
        "handles": handles,
        "frameon": False,
        "fontsize": "small",
        "handlelength": 1.1,
        "handleheight": 1.1,
    }
    if ax is None:
        key = figure.legend(loc="outside right upper", **look)
    else:
        key = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, **look)
    for text in key.get_texts():
        text.set_parse_math(False)
