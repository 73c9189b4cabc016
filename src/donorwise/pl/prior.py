"""What the features together say about a variance ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from donorwise._anndata import keys, read_results
from donorwise.errors import DataError
from donorwise.get._select import choose
from donorwise.pl._style import INK, LIGHT_GREY, despine, finish, outer_labels, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import FloatArray

_CMAP = "viridis"
_GAP = 5  # between a ratio of zero and the smallest of the others, in steps of the grid
_BRIGHTEST = 0.85  # of the colour map: its yellow end is pale on white


def prior(
    adata: ad.AnnData,
    *,
    term: str | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the prior on a variance ratio, and where the features' own estimates lie.

    Parameters
    ----------
    adata
        AnnData that holds a moderated result of :func:`donorwise.tl.lmm`, or one of :func:`donorwise.tl.pseudobulk`.
    term
        Which random term, ``"(1 | donor_id)"``; None for the first of the model.
    group
        Groups of ``groupby`` to draw, a panel each; None for all.
    key
        Entry of ``uns`` that holds the result.
    ax
        Axes to draw in (one group).
    show
        Show the figure and return nothing.
    return_fig
        Return the figure.

    Returns
    -------
    The Axes (an array of them for several groups), the Figure with ``return_fig``, or None with ``show``.

    Raises
    ------
    DataError
        There is no such result, term or group, or its tests are not moderated.

    Notes
    -----
    Lines: the share of features that the prior gives each ratio of the term's to the residual variance, from
    features with a low to those with a high mean response. Bars: the same for the features' own estimates,
    which spread more than the truth, since each is estimated from few donors. The leftmost place is a
    variance of zero. For pseudobulk the axis is the variance of log rates between units itself, and features have
    no estimates of their own.
    """
    stored = read_results(adata, key)
    if stored.prior is None:
        raise DataError(f"The tests of {key!r} are not moderated (params['ddf_used']), so there is no prior to draw.")
    term = term if term is not None else str(stored.prior["term"].iloc[0])
    table = choose(choose(_categorical(stored.prior), "term", term), "group", group)
    groups = [str(g) for g in table["group"].cat.categories if (table["group"] == g).any()]
    figure, axes = panels(ax, len(groups), size=(4.6, 3.4), share=True)
    on_rates = stored.params.get("method") == keys.PSEUDOBULK
    own = _own_ratios(stored.varcomp, "" if on_rates else term)
    for panel, name in zip(axes, groups, strict=True):
        _draw(panel, table[table["group"] == name], own[own["group"].astype(str) == name]["ratio"].to_numpy())
        _name_ratios(panel, np.unique(table[table["group"] == name]["ratio"].to_numpy()))
        panel.set_title("" if name == keys.ALL else name, fontsize="medium")
    x = f"variance of log rates between {term}s" if on_rates else f"variance of {term} / residual variance"
    outer_labels(axes, x=x, y="share of features")
    _legend(axes[0], own=not on_rates)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _categorical(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{name: table[name].astype("category") for name in ("term", "group")})


def _own_ratios(varcomp: pd.DataFrame, term: str) -> pd.DataFrame:
    """Every feature's estimate of the ratio: variable, group, ratio."""
    column, _, factor = term.strip("()").partition(" | ")
    name = {"1": "(Intercept)"}.get(column, column.removeprefix("0 + "))
    index = ["variable", "group"]
    residual = varcomp[varcomp["term"] == "Residual"].set_index(index)["variance"]
    chosen = (varcomp["term"] == factor) & (varcomp["column1"] == name) & (varcomp["column2"] == "")
    ratio = varcomp[chosen].set_index(index)["variance"] / residual
    return ratio.rename("ratio").dropna().reset_index()


def _draw(ax: Axes, table: pd.DataFrame, own: FloatArray) -> None:
    """Bars of the features' own ratios and a line per knot, over the places of the grid."""
    ratios = np.unique(table["ratio"].to_numpy())
    places = _places(ratios.size)
    if own.size:
        share = np.bincount(_nearest(own, ratios), minlength=ratios.size) / own.size
        ax.bar(places, share, width=1.0, color=LIGHT_GREY, zorder=1)
    for knot in np.unique(table["knot"].to_numpy()):
        weight = table[table["knot"] == knot].sort_values("ratio")["weight"].to_numpy()
        color = colormaps[_CMAP](_BRIGHTEST * knot)
        ax.plot(places[1:], weight[1:], color=color, lw=1.6, zorder=3)
        ax.plot(places[0], weight[0], "o", color=color, ms=4, zorder=4)
    despine(ax)


def _places(n: int) -> np.ndarray:
    """Places of the grid's points: ratio zero stands apart."""
    return np.concatenate([[-_GAP], np.arange(n - 1)])


def _name_ratios(ax: Axes, ratios: FloatArray) -> None:
    places = _places(ratios.size)
    decades = [e for e in range(-6, 3) if ratios[1] <= 10.0**e <= ratios[-1]]
    at = np.interp(decades, np.log10(ratios[1:]), places[1:])
    ax.set_xticks([places[0], *at], ["0", *(f"{10.0**e:g}" for e in decades)])
    ax.set_xlim(places[0] - 1.5, places[-1] + 0.5)


def _nearest(values: FloatArray, ratios: FloatArray) -> np.ndarray:
    """Place on the grid of every value; exact zeros alone are at place 0."""
    steps = np.sqrt(ratios[1:-1] * ratios[2:])
    return np.where(values > 0, 1 + np.searchsorted(steps, values), 0)


def _legend(ax: Axes, *, own: bool) -> None:
    handles: list[Artist] = [Patch(color=LIGHT_GREY, label="features' own estimates")] if own else []
    for knot, text in ((0.0, "prior, lowest mean"), (1.0, "prior, highest mean")):
        handles.append(Line2D([], [], color=colormaps[_CMAP](_BRIGHTEST * knot), lw=1.6, label=text))
    ax.legend(handles=handles, frameon=False, fontsize="small", labelcolor=INK, loc="upper right")
