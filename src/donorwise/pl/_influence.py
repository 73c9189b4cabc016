"""Which findings hang on one donor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from donorwise._anndata import check_is_anndata, keys, read_influence, read_params, symbols_of
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose, tidy
from donorwise.pl._effects import draw_rows, texts_of
from donorwise.pl._labels import place_labels
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    SMALLEST_P,
    VERMILION,
    choose_contrast,
    despine,
    draw_reference,
    finish,
    format_p,
    outer_labels,
    panel_title,
    panels,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._anndata import InfluenceTables
    from donorwise._typing import Groups

_NO_TEST = "no test can be made without any one of these donors"
_BELOW = " no hit above"
_HEADROOM = 0.08  # above the largest p, of the height in logarithms: for the words on the dashed line
_LONGEST_DONOR, _LONGEST_HIT = 12, 16  # letters of their names beside a point
_MOST_COVERED = 7.0  # points under a name; a hit that can only be named so stays without


@documented
def influence(
    adata: ad.AnnData,
    variable: str | None = None,
    *,
    contrast: str | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    n_donors: int = 40,
    n_labels: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw what the tests say without each donor.

    Parameters
    ----------
    adata
        AnnData for which :func:`donorwise.tl.influence` was run.
    variable
        A feature: its estimate and confidence interval without each donor, sorted, the one with all
        donors as a line. None: the largest p-value without any one donor against the p-value with all,
        for every hit.
    {contrast_drawn}
    group
        Groups of ``groupby`` to draw, one panel each; None for all that have the feature (or hits).
    {key}
    {symbols}
    n_donors
        How many donors to draw, those that change the estimate most.
    n_labels
        How many hits to name in each panel with the donor that is left out, those that hang on one donor first.
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        Nothing was computed yet, or not for this feature, contrast or group; or there were no hits.

    Notes
    -----
    In orange what is not a hit any more without the donor; in grey the hits that would be lost without
    any one of several donors. Names that would hide points or other names are left out. Results of
    :func:`donorwise.tl.pseudobulk` have no influence to draw.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=30, effect_size=2, seed=1)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> dw.tl.influence(adata, variables="gene_0001", progress=False)
    >>> ax = dw.pl.influence(adata, "gene_0001")
    """
    check_is_anndata(adata)
    tables, symbols = read_influence(adata, key), symbols_of(adata, gene_symbols, read_params(adata, key))
    tables = replace(tables, hits=symbols.rename(tables.hits), donors=symbols.rename(tables.donors))
    variable = None if variable is None else symbols.label(symbols.find_one(variable))
    hits = tables.hits
    if hits.empty:
        raise DataError(f"There were no hits at alpha={tables.params['alpha']:g}; name variables= in dw.tl.influence.")
    hits = tidy(choose(choose(hits, "variable", variable), "group", group))
    contrast = choose_contrast(adata, hits, contrast)
    hits = hits[hits["contrast"] == contrast]
    parts = {str(name): part for name, part in hits.groupby("group", observed=True)}
    if variable is None:
        return _finish_scatter(tables, parts, contrast, n_labels, ax, show=show, return_fig=return_fig)
    return _finish_forest(tables, parts, variable, contrast, n_donors, ax, show=show, return_fig=return_fig)


def _finish_forest(
    tables: InfluenceTables,
    parts: dict[str, pd.DataFrame],
    variable: str,
    contrast: str,
    n_donors: int,
    ax: Axes | None,
    *,
    show: bool | None,
    return_fig: bool,
) -> Axes | np.ndarray | Figure | None:
    own = tables.donors[(tables.donors["variable"] == variable) & (tables.donors["contrast"] == contrast)]
    rows = {name: own[own["group"] == name] for name in parts}
    tallest = max(min(len(table), n_donors) for table in rows.values())
    figure, axes = panels(ax, len(parts), size=(5.4, 1.3 + 0.21 * tallest))
    for panel, (name, hit) in zip(axes, parts.items(), strict=True):
        _forest(panel, rows[name], hit.iloc[0], n_donors)
        write_title(panel, panel_title(name, variable, contrast), pad=16)
    outer_labels(axes, x="estimate without the donor", y="")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _forest(ax: Axes, rows: pd.DataFrame, hit: pd.Series, n_donors: int) -> None:
    change = (rows["estimate"] - hit["estimate"]).abs().fillna(np.inf)
    shown = rows.loc[change.sort_values(ascending=False, kind="stable").index[:n_donors]]
    shown = shown.sort_values("estimate", na_position="last")
    lost = ~(shown["p_value"] <= hit["threshold"]).to_numpy()
    draw_rows(
        ax,
        shown["estimate"],
        shown["ci_low"],
        shown["ci_high"],
        labels=list(shown["donor"].astype(str)),
        texts=texts_of(shown["status"], shown["p_value"]),
        colors=np.where(lost, VERMILION, BLUE),
    )
    ax.axvline(hit["estimate"], color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    ax.text(
        hit["estimate"], 1.0, "all donors", transform=ax.get_xaxis_transform(), ha="center", va="bottom",
        fontsize="x-small", color=INK,
    )  # fmt: skip
    ax.text(1.02, 1.0, format_p(hit["p_value"]), transform=ax.transAxes, va="bottom", fontsize="x-small", color=INK)
    if len(shown) < len(rows):
        ax.set_ylabel(f"{len(shown)} of {len(rows)} donors", fontsize="small")


def _finish_scatter(
    tables: InfluenceTables,
    parts: dict[str, pd.DataFrame],
    contrast: str,
    n_labels: int,
    ax: Axes | None,
    *,
    show: bool | None,
    return_fig: bool,
) -> Axes | np.ndarray | Figure | None:
    figure, axes = panels(ax, len(parts), size=(3.8, 3.6), alone=(4.8, 4.4))
    own = tables.donors[(tables.donors["contrast"] == contrast) & tables.donors["p_value"].notna()]
    tested = {str(name) for name in own["group"].unique()}
    for panel, (name, hits) in zip(axes, parts.items(), strict=True):
        _scatter(panel, hits, tested=name in tested)
        write_title(panel, panel_title(name, contrast), pad=28)
    outer_labels(axes, x="p with all donors", y="largest p without one donor")
    donors = list(tables.donors["donor"].astype(str).unique())
    short = dict(zip(donors, shorten(donors, _LONGEST_DONOR), strict=True))
    figure.draw_without_rendering()
    for panel, hits in zip(axes, parts.values(), strict=True):
        _name(panel, hits, n_labels, short)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _points(hits: pd.DataFrame) -> np.ndarray:
    return hits[["p_value", keys.MAX_P_LOO]].clip(lower=SMALLEST_P).to_numpy()


def _colors(hits: pd.DataFrame) -> np.ndarray:
    return np.where(hits["n_lost"] == 1, VERMILION, np.where(hits["n_lost"] > 1, GREY, BLUE))


def _scatter(ax: Axes, hits: pd.DataFrame, *, tested: bool) -> None:
    """One panel; `tested` is whether any test can be made without one of the donors."""
    points, threshold = _points(hits), float(hits["threshold"].iloc[0])
    # features that were named need not be hits, and cannot be lost
    lost = hits["n_lost"].to_numpy() * (hits["p_value"] <= threshold).to_numpy()
    ax.scatter(points[:, 0], points[:, 1], c=_colors(hits), s=16, lw=0, alpha=0.85, zorder=3)
    low, high = min(points.min(), threshold), max(points.max(), threshold)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis, n_ticks in ((ax.xaxis, 5), (ax.yaxis, 7)):
        axis.set_major_locator(LogLocator(numticks=n_ticks))
        axis.set_minor_locator(NullLocator())
    ax.set_xlim(points[:, 0].min() / 2, points[:, 0].max() * 2)
    top = high * max(3.0, (high / low) ** _HEADROOM)
    ax.set_ylim(low / 2, top)
    if top > 1:
        ax.set_yticks([p for p in ax.get_yticks() if low / 2 <= p <= 1])
    ax.axline((low, low), (high, high), color=LIGHT_GREY, lw=0.8, zorder=0)
    draw_reference(ax, threshold)
    ax.text(
        0.0,
        threshold,
        _BELOW,
        transform=ax.get_yaxis_transform(),
        ha="left",
        va="bottom",
        fontsize="x-small",
        color=INK,
    )
    counts = [
        (14, VERMILION, f"{(lost == 1).sum():,} hang on one donor"),
        (2, GREY, f"{(lost > 1).sum():,} more lost without any one of several donors"),
    ]
    for offset, color, text in counts if tested else [(2, GREY, _NO_TEST)]:
        ax.annotate(
            text, (0, 1), (0, offset), xycoords="axes fraction", textcoords="offset points", va="bottom", color=color,
            fontsize="small",
        )  # fmt: skip
    despine(ax)


def _furniture(ax: Axes, threshold: float) -> np.ndarray:
    """Points along the dashed line and over the words on it, which names should not cover, in data coordinates."""
    line = np.column_stack([np.linspace(0, 1, 80), np.full(80, threshold)])
    points = ax.get_yaxis_transform().transform(line)
    words = [text.get_window_extent() for text in ax.texts if text.get_text() == _BELOW]
    grids = [np.stack(np.meshgrid(np.linspace(b.x0, b.x1, 20), np.linspace(b.y0, b.y1, 4)), axis=-1) for b in words]
    return ax.transData.inverted().transform(np.concatenate([points, *(g.reshape(-1, 2) for g in grids)]))


def _name(ax: Axes, hits: pd.DataFrame, n_labels: int, short: dict[str, str]) -> None:
    """Name the hits that hang on one donor, and then those that lose most evidence."""
    points = _points(hits)
    loss = np.log(points[:, 1] / points[:, 0])
    order = np.lexsort([-loss, hits["n_lost"].to_numpy() != 1])[:n_labels]
    named = hits.iloc[order]
    variables = shorten(list(named["variable"].astype(str)), _LONGEST_HIT)
    names = [f"{v}, {short[d]}" for v, d in zip(variables, named["donor"].astype(str), strict=True)]
    if names:
        others = np.concatenate([points, _furniture(ax, float(hits["threshold"].iloc[0]))])
        place_labels(ax, names, points[order], points=others, colors=list(_colors(named)), most=_MOST_COVERED)
