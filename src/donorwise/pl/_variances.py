"""Violins of variance components: intraclass correlations, and the partition of the variance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from donorwise._anndata import check_is_anndata, keys, read_results, symbols_of
from donorwise._core.engine.partition import RESIDUAL
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose, meant, present
from donorwise.get._variances import variance_partition as shares_of
from donorwise.pl._share_bars import MOST_BARS, NAMES, bars_size, draw_bars, draw_intervals, term_colors, term_key
from donorwise.pl._style import (
    BLUE,
    INK,
    despine,
    feature_names,
    finish,
    group_colors,
    outer_labels,
    panels,
    say_empty,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import FixedShares, FloatArray, Groups

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


@documented
def icc(
    adata: ad.AnnData,
    *,
    term: str | None = None,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the intraclass correlations of the features, one row per group.

    Parameters
    ----------
    {adata_result}
    term
        Which random term; None for the first of the model, of proteins (``features=`` of :func:`donorwise.tl.lmm`) for
        that of the donors.
    {group_drawn}
    variables
        Features to include; None for all.
    {key}
    {symbols}
    ax
        Axes to draw in.
    {show}

    Returns
    -------
    {axes}

    Raises
    ------
    DataError
        There is no such result, term, group or variable, or no model could be fitted.

    Notes
    -----
    The share of the variance, beyond the fixed effects, that lies between the levels of the term: 0 means
    that cells of one donor are no more alike than cells of two. At the right of each row the median, and
    the share of the features with an estimate of zero. The rows stand in the order of the groups.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.icc(adata)
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    first = [*(stored.donor_terms if stored.features else ()), *stored.icc["term"].astype(str)]
    term = term if term is not None else next(iter(first), None)
    variables = meant(symbols_of(adata, gene_symbols, stored.params), variables)
    table = choose(choose(stored.icc, "term", term), "variable", variables)
    shown = choose(stored.results, "group", group)
    if not table["icc"][table["group"].isin(present(shown, "group"))].notna().any():
        raise DataError("No model could be fitted: look at the status column of dw.get.tests.")
    columns = _columns(table, shown)
    figure, axes = panels(ax, 1, size=(5.8, 1.4 + 0.5 * len(columns)))
    colors = group_colors(adata, stored, list(columns))
    draw_violins(axes[0], list(columns.values()), colors=[colors.get(name, BLUE) for name in columns], horizontal=True)
    _decorate(axes[0], columns, term=str(term))
    return finish(figure, axes, show=show, return_fig=return_fig)


def _columns(table: pd.DataFrame, results: pd.DataFrame) -> dict[str, FloatArray]:
    """Values by group, in the order of the results' groups; none where no model could be fitted."""
    return {name: table["icc"][table["group"] == name].dropna().to_numpy() for name in present(results, "group")}


def _decorate(ax: Axes, columns: dict[str, FloatArray], *, term: str) -> None:
    names = ["" if name == keys.ALL else name for name in columns]
    ax.set_yticks(range(len(columns)), shorten(names), parse_math=False)
    ax.set_ylim(len(columns) - 0.4, -0.6)
    ax.set_xlim(0, min(1.0, 1.05 * max(values.max(initial=0.0) for values in columns.values()) or 1.0))
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"intraclass correlation of {term}")
    for place, values in enumerate(columns.values()):
        text = f"{np.median(values):.3f}, {np.mean(values <= 0):.0%} zero" if values.size else "nothing fitted"
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=INK)
    ax.text(
        1.02, -0.7, "median, at zero", transform=ax.get_yaxis_transform(), va="bottom", fontsize="x-small", color=INK
    )
    despine(ax)


@documented
def variance_partition(
    adata: ad.AnnData,
    *,
    group: Groups = None,
    variables: str | Sequence[str] | None = None,
    fixed: FixedShares = "each",
    intervals: bool = False,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw how the variance of the features divides over the terms of the model.

    Parameters
    ----------
    {adata_result}
    {group_panels}
    variables
        Features to draw one by one, each a bar with its shares, from the top; None for the distribution over all features,
        which is drawn for more than 40 as well.
    fixed
        ``"each"`` draws every term of the fixed part, ``"together"`` the fixed part as one.
    intervals
        Of features that are drawn one by one: draw their shares one below the other, with the intervals of
        :func:`donorwise.tl.variance_partition`.
    {key}
    {symbols}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such result, group or variable, no model could be fitted, or there are no intervals.
    DonorwiseError
        `fixed` is not an option.

    Notes
    -----
    One violin per term over the features, quartiles inside; the number above is the median. The terms
    stand in the order of their medians, what remains last; where some features have no share of a term, as proteins that
    cannot tell it, the number of those that do stands there as well; the donor, the (first) fixed term and what remains have the
    same colours in every model. Bars have the terms in the order of the model.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.variance_partition(adata)
    >>> ax = dw.pl.variance_partition(adata, variables=["gene_0003", "gene_0001"])
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    groups = present(choose(stored.results, "group", group), "group")
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = None if variables is None else symbols.find(feature_names(variables))
    table = shares_of(adata, key=key, variables=names, fixed=fixed)
    table = table[table["group"].isin(groups)]
    if not table["fraction"].notna().any():
        raise DataError("No model could be fitted: look at the status column of dw.get.tests.")
    colors = term_colors(table, stored.params["donor"])
    if names is None or len(names) > MOST_BARS:
        if intervals:
            raise DataError(f"intervals=True draws features one by one: name up to {MOST_BARS} in variables=.")
        figure, axes = _violins(ax, table, groups, colors)
    else:
        if intervals and "ci_low" not in table:
            raise DataError(f"{key!r} has no intervals of shares yet: run dw.tl.variance_partition first.")
        figure, axes = _bars(
            ax, symbols.rename(table), [symbols.label(n) for n in names], groups, colors, intervals=intervals
        )
    return finish(figure, axes, show=show, return_fig=return_fig)


def _violins(
    ax: Axes | None, table: pd.DataFrame, groups: Sequence[str], colors: dict[str, str]
) -> tuple[Figure, list[Axes]]:
    """A panel for each group with the distribution of every share."""
    table = table[table["fraction"].notna()]
    terms = _ordered_terms(table)
    figure, axes = panels(ax, len(groups), size=(1.6 + 0.9 * len(terms), 3.6), share=True)
    for panel, name in zip(axes, groups, strict=True):
        _draw(panel, table[table["group"] == name], terms=terms, colors=[colors[term] for term in terms])
        write_title(panel, "" if name == keys.ALL else name, pad=30 if _some_lack(table) else 18)
    outer_labels(axes, x="", y="share of the variance")
    return figure, axes


def _bars(
    ax: Axes | None,
    table: pd.DataFrame,
    names: list[str],
    groups: Sequence[str],
    colors: dict[str, str],
    *,
    intervals: bool,
) -> tuple[Figure, list[Axes]]:
    """A panel for each group with bars for every feature."""
    terms = list(colors)
    size = bars_size(len(names), each=len(terms) if intervals else 1)
    figure, axes = panels(ax, len(groups), size=size, share=True)
    for panel, name in zip(axes, groups, strict=True):
        (draw_intervals if intervals else draw_bars)(panel, table[table["group"] == name], names, terms, colors)
        write_title(panel, "" if name == keys.ALL else name)
    outer_labels(axes, x="share of the variance", y="")
    term_key(figure, ax, terms, colors)
    return figure, axes


def _some_lack(table: pd.DataFrame) -> bool:
    """Whether some feature of a group has no share of some term that others have one of."""
    counts = table.groupby(["group", "term"], observed=True).size()
    return bool((counts.groupby("group", observed=True).nunique() > 1).any())


def _ordered_terms(table: pd.DataFrame) -> list[str]:
    medians = table.groupby("term", observed=True)["fraction"].median().sort_values(ascending=False, kind="stable")
    terms = [str(term) for term in medians.index]
    return sorted(terms, key=RESIDUAL.__eq__)


def _folded(terms: Sequence[str]) -> list[str]:
    """What terms are called below their places, in lines that fit there."""
    short = shorten([NAMES.get(term, term) for term in terms])
    return [name.replace(":", ":\n").replace(", cov=", ",\ncov=") for name in short]


def _draw(ax: Axes, table: pd.DataFrame, *, terms: list[str], colors: list[str]) -> None:
    if table.empty:
        say_empty(ax, "nothing fitted")
    columns = [table["fraction"][table["term"] == term].to_numpy() for term in terms]
    every = max((len(values) for values in columns), default=0)
    draw_violins(ax, columns, colors=colors)
    for place, values in enumerate(columns):
        if len(values):
            few = f"{len(values):,} of {every:,}\n" if len(values) < every else ""
            text = f"{few}{np.median(values):.1%}"
            ax.text(place, 1.02, text, transform=ax.get_xaxis_transform(), ha="center", fontsize="small")
    names = _folded(terms)
    wide = max(len(line) for name in names for line in name.split("\n")) > _FITS
    ax.set_xticks(range(len(terms)), names, parse_math=False, **(_SLANTED if wide else {}))
    ax.tick_params(axis="x", length=0, labelbottom=True)
    ax.set_xlim(-0.6, len(terms) - 0.4)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    despine(ax)


_FITS = 12  # letters of a line below a violin
_SLANTED: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
