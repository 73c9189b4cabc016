"""Power against the number of donors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch

from donorwise._anndata import check_is_anndata, keys, read_power
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._select import choose
from donorwise.pl._names import choose_contrast, panel_title, write_title
from donorwise.pl._style import GREY, LIGHT_GREY, OKABE_ITO, despine, draw_reference, finish, outer_labels, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = {
    "n_cells": "{:,} cells per donor",
    "effect": "effect {:.3g}",
    "log_fc": "log2 FC {:.3g}",
    "alpha": "alpha {:g}",
}
_BY = (*_LINES, "expression")
_MOST_BANDS = 2  # more of them cannot be told apart


@documented
def power(
    adata: ad.AnnData | pd.DataFrame,
    *,
    by: str = "n_cells",
    contrast: str | None = None,
    group: str | Sequence[str] | None = None,
    n_cells: int | None = None,
    effect: float | None = None,
    alpha: float | None = None,
    expression: str = "all",
    key: str = keys.LMM,
    target: float = 0.8,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the power of planned studies against their number of donors.

    Parameters
    ----------
    adata
        AnnData for which :func:`donorwise.tl.power` was run, or the table that it returns for an LMMFit.
    by
        What the lines differ in: ``"n_cells"`` of each donor, ``"effect"``, ``"log_fc"``, ``"alpha"`` or
        ``"expression"`` (thirds of the features).
    {contrast_drawn}
    {group_panels}
    n_cells, effect, alpha
        Which of the planned values to draw; None for all that the lines differ in, and of the others the
        middle number of cells, the middle effect and the largest alpha (written above the legend, the effect
        in the unit that :func:`donorwise.tl.power` was given).
    {expression}
    {key}
    target
        Power at which to draw a line across.
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        Nothing was computed yet, or not for this contrast, group or number; or `adata` is neither an AnnData
        nor such a table.

    Notes
    -----
    Lines are the mean over features, bands reach from their 10 to their 90% quantile (drawn for one line
    or two: name the numbers of cells, effects or levels to see them). Studies with too few donors for a test
    have no point.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.power(adata, n_donors=(6, 12, 24), log_fc=0.5, progress=False)
    >>> ax = dw.pl.power(adata)
    """
    check_option("by", by, _BY)
    table = _table(adata, key)
    contrast = choose_contrast(None if isinstance(adata, pd.DataFrame) else adata, table, contrast)
    table = choose(table[table["contrast"] == contrast], "group", group)
    table, held = _held(table, by, {"n_cells": n_cells, "effect": effect, "alpha": alpha, "expression": expression})
    parts = {str(name): part for name, part in table.groupby("group", observed=True)}
    if not table["power"].notna().any():
        raise DataError("No planned study has enough donors for a test; plan more in dw.tl.power.")
    figure, axes = panels(ax, len(parts), size=(3.6, 3.2), alone=(5.2, 3.8), share=len(parts) > 1)
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        _draw(panel, part, by, target)
        write_title(panel, panel_title(name, contrast))
    _legend(axes[-1], held)
    outer_labels(axes, x=_donors(contrast, set(table["kind"])), y="power")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _table(data: ad.AnnData | pd.DataFrame, key: str) -> pd.DataFrame:
    if not isinstance(data, pd.DataFrame):
        check_is_anndata(data)
        return read_power(data, key)
    if missing := {"contrast", "group", "power", "kind", "unit", *_LINES} - set(data.columns):
        raise DataError(f"This table is not one of dw.tl.power: it has no column {min(missing)!r}.")
    return data


def _donors(contrast: str, kinds: set[str]) -> str:
    """What the donors are that the studies have more of."""
    compares_arms = re.search(r"\]$| vs ", contrast) is not None
    if compares_arms and kinds == {"within-donor"}:
        return "donors, each in both arms"
    return "donors, all arms" if compares_arms and kinds <= {"between-donor", "between-donor (change)"} else "donors"


def _held(table: pd.DataFrame, by: str, asked: dict[str, float | str | None]) -> tuple[pd.DataFrame, str]:
    """Keep one value of what the lines do not show, and say which."""
    texts = []
    for column, wanted in asked.items():
        if wanted is None and (column == by or (column == "effect" and by == "log_fc")):
            continue
        values = table[column].unique() if column == "expression" else np.sort(table[column].unique())
        if column == by == "expression":
            continue
        if wanted is None:
            wanted = values[-1] if column in ("alpha", "expression") else values[len(values) // 2]
        keep = table[column] == wanted if column in ("expression", "n_cells") else np.isclose(table[column], wanted)
        if not keep.any():
            raise DataError(f"{column}={wanted!r} was not planned; there are {', '.join(map(str, values))}.")
        table = table[keep]
        shown = str(table["unit"].iloc[0]) if column == "effect" else column
        texts.append(f"{wanted} expression" if column == "expression" else _LINES[shown].format(table[shown].iloc[0]))
    return table, ", ".join(t for t in texts if t != "all expression")


def _draw(ax: Axes, table: pd.DataFrame, by: str, target: float) -> None:
    values = [v for v in table[by].unique() if not (by == "expression" and v == "all")]
    for i, value in enumerate(values):
        line = table[table[by] == value].sort_values("n_donors")
        color = OKABE_ITO[i % len(OKABE_ITO)]
        label = f"{value} expression" if by == "expression" else _LINES[by].format(value)
        ax.plot(line["n_donors"], line["power"], color=color, lw=1.6, marker="o", ms=3.5, label=label, zorder=3)
        if len(values) <= _MOST_BANDS:
            # the edges tell bands apart where they overlap
            face, edge = to_rgba(color, 0.1), to_rgba(color, 0.5)
            ax.fill_between(line["n_donors"], line["q10"], line["q90"], facecolor=face, edgecolor=edge, lw=0.7)
    draw_reference(ax, target)
    ax.set_ylim(0, 1.02)
    ax.set_xlim(left=0)
    ax.grid(axis="y", color=LIGHT_GREY, lw=0.5)
    ax.set_axisbelow(True)
    despine(ax)


def _legend(ax: Axes, held: str) -> None:
    """Name the lines and the bands, where there are any."""
    handles = ax.get_legend_handles_labels()[0]
    if len(handles) <= _MOST_BANDS:
        handles.append(Patch(color=GREY, alpha=0.25, lw=0, label="10 to 90% of features"))
    ax.legend(handles=handles, frameon=False, fontsize="small", title=held, title_fontsize="x-small", loc="best")
