"""Plots of what was asked about a result: calibration of its tests, power."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy import stats

from donorwise._anndata import check_is_anndata, keys, read_params, read_power, read_tables
from donorwise._core.engine.groups import group_text
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError, DonorwiseError
from donorwise.get._tests import choose
from donorwise.pl._style import (
    GREY,
    INK,
    LIGHT_GREY,
    OKABE_ITO,
    choose_contrast,
    despine,
    draw_reference,
    finish,
    format_p,
    inches,
    level_colors,
    outer_labels,
    panel_title,
    panels,
    shorten,
    thin_ticks,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import Groups

TABLES = ("levels", "permutations")
_TICKS = (0, 0.5, *(m * 10**e for e in range(6) for m in (1, 2, 5)))
_LONGEST_TICK = 18  # letters
_TEST = 0.55  # inches of a p-value
_SPREAD = 0.6  # of the step between two alphas, over which the groups stand side by side


@documented
def calibration(
    adata: ad.AnnData,
    *,
    table: str | None = None,
    group: Groups = None,
    key: str = keys.CALIBRATION,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw what permuted labels say of the tests: p-values below alpha, and hits.

    Parameters
    ----------
    adata
        AnnData that holds a calibration (:func:`donorwise.tl.calibrate`).
    table
        ``"levels"`` for the share of p-values below alpha over alpha, ``"permutations"`` for the hits;
        None for both, side by side.
    {group_drawn}
    {key_calibration}
    ax
        Axes to draw in, for one `table`.
    {show}

    Returns
    -------
    An array of two Axes, or the Axes of one `table`; the Figure with ``return_fig``, or None with ``show``.

    Raises
    ------
    DataError
        There is no such calibration or group.
    DonorwiseError
        There is no such table, or `ax` was given for two.

    Notes
    -----
    Left: tests that hold lie at 1 at every alpha, anti-conservative ones above. The bar is the 95% Monte-Carlo
    interval of the mean over permutations: mean ± 1.96 sd / sqrt(permutations), or, where that is wider, the exact
    Poisson interval (Garwood 1936) of as many independent tests, so that a few tests without any p-value below
    alpha do not look certain. Above 1 the axis is logarithmic.

    Right: hits (adjusted p < .05) of every permutation in grey and of the observed labels as a diamond. The p-value is the
    share of the labellings with at least as many hits, the observed one counted (Phipson and Smyth 2010): of the data
    set as a whole, as many permutations as there are allow no smaller one.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", "condition[T.disease]", progress=False)
    >>> ratios, hits = dw.pl.calibration(adata)
    >>> [label.get_text() for label in ratios.get_xticklabels()]
    ['0.05', '0.01', '0.001', '0.0001']
    """
    check_is_anndata(adata)
    if table is not None:
        check_option("table", table, TABLES)
    elif ax is not None:
        raise DonorwiseError(f"ax= holds one panel: choose table={TABLES[0]!r} or {TABLES[1]!r}.")
    tables = read_tables(adata, key, keys.CALIBRATION_TABLES, made_by="dw.tl.calibrate")
    chosen = {name: choose(tables[name], "group", group) for name in (*TABLES, "groups")}
    present = set(chosen["groups"]["group"])
    groups = [str(g) for g in tables["groups"]["group"].cat.categories if g in present]
    colors = level_colors(adata, group_text(adata.uns[key][keys.PARAMS]["groupby"]), groups)
    drawn = TABLES if table is None else (table,)
    figure, axes = panels(ax, len(drawn), size=(2.9 + 0.35 * len(groups), 3.6))
    for panel, name in zip(axes, drawn, strict=True):
        if name == "levels":
            _draw_levels(panel, _ratios(chosen["levels"], chosen["permutations"]), groups, colors)
        else:
            _draw_hits(panel, chosen["permutations"], groups, colors)
    write_title(axes[0], str(chosen["groups"]["contrast"].iloc[0]), loc="left")
    for panel, name in zip(axes, drawn, strict=True):
        thin_ticks(panel, 1.0 if name == "levels" else 0.0)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _ratios(levels: pd.DataFrame, permutations: pd.DataFrame) -> pd.DataFrame:
    """Ratios with their Monte-Carlo intervals."""
    rows = []
    for row in levels.itertuples():
        own = permutations[(permutations["group"] == row.group) & ~permutations["observed"]]
        share = own[f"below_{row.alpha:g}"]
        tests = float(own["n_tested"][share.notna()].sum())
        half = np.nan_to_num(1.96 * row.ratio_sd / np.sqrt(share.notna().sum()))
        low, high = _poisson(round(float((share * own["n_tested"]).sum())), tests * row.alpha)
        rows.append(
            (str(row.group), row.alpha, row.ratio, max(min(row.ratio - half, low), 0), max(row.ratio + half, high))
        )
    return pd.DataFrame(rows, columns=["group", "alpha", "ratio", "low", "high"])


def _poisson(count: int, expected: float) -> tuple[float, float]:
    """95% interval of a count over its expectation."""
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low) / expected, float(stats.chi2.ppf(0.975, 2 * count + 2)) / 2 / expected


def _draw_levels(ax: Axes, ratios: pd.DataFrame, groups: Sequence[str], colors: Mapping[str, str]) -> None:
    alphas = list(dict.fromkeys(ratios["alpha"]))
    draw_reference(ax, 1.0)
    for i, (name, short) in enumerate(zip(groups, shorten(groups), strict=True)):
        own = ratios[ratios["group"] == name]
        place = np.arange(len(alphas)) + _SPREAD * ((i + 0.5) / len(groups) - 0.5)
        ax.vlines(place, own["low"], own["high"], color=colors[name], lw=1.3)
        ax.scatter(place, own["ratio"], color=colors[name], s=24, lw=0, zorder=3, label=short)
    ax.set_xticks(range(len(alphas)), [f"{alpha:.10f}".rstrip("0") for alpha in alphas])
    ax.set_xlim(-0.5, len(alphas) - 0.5)
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.6)
    top = 1.15 * max(float(ratios["high"].max()), 1.6)
    ax.set_ylim(-0.05, top)
    _name_ticks(ax, [r for r in _TICKS if r <= top], "{:g}")
    ax.set_xlabel("alpha")
    ax.set_ylabel("p-values below alpha / expected\n(permuted labels)")
    if len(groups) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="x-small", labelspacing=0.4)
    despine(ax)


def _name_ticks(ax: Axes, ticks: Sequence[float], template: str) -> None:
    """Put these ticks, and no others, on the vertical axis."""
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: template.format(value)))


def _draw_hits(ax: Axes, permutations: pd.DataFrame, groups: Sequence[str], colors: Mapping[str, str]) -> None:
    rng = np.random.default_rng(0)
    upright = inches(ax)[0] < _TEST * (len(groups) + 0.2)
    for i, name in enumerate(groups):
        own = permutations[permutations["group"] == name]
        hits, observed = own["hits"][~own["observed"]].to_numpy(), int(own["hits"][own["observed"]].iloc[0])
        place = i + rng.uniform(-0.28, 0.28, len(hits))
        ax.scatter(place, hits, s=14, color=GREY, alpha=0.5, lw=0, label="permuted labels" if i == 0 else None)
        ax.hlines(hits.mean(), i - 0.33, i + 0.33, color=INK, lw=1.2, zorder=2)
        ax.plot(i, observed, "D", ms=7, color=colors[name], mec="white", mew=0.7, zorder=4)
        p = (1 + np.sum(hits >= observed)) / (1 + len(hits))
        ax.annotate(
            f"{observed:,}, {format_p(p)}" if upright else f"{observed:,}\n{format_p(p)}",
            (i, max(observed, hits.max())), (0, 6), textcoords="offset points", ha="center", va="bottom",
            fontsize="x-small", color=INK, rotation=90 if upright else 0,
        )  # fmt: skip
    top = float(permutations["hits"].max())
    ax.set_yscale("symlog", linthresh=10.0)
    ax.set_ylim(-0.5, 1.3 * top + 2 if top < 10 else (12 if upright else 3) * top)
    _name_ticks(ax, [n for n in _TICKS if n != 0.5], "{:,.0f}")
    names = ["" if name == keys.ALL else name for name in shorten(groups, _LONGEST_TICK)]
    slanted = sum(map(len, names)) > 12 + 3 * len(names)
    ax.set_xticks(
        range(len(names)), names, rotation=40 if slanted else 0, ha="right" if slanted else "center", parse_math=False
    )
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.set_ylabel("hits (adjusted p < .05)")
    ax.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    ax.set_xlabel("grey: permuted labels\ndiamond: observed", fontsize="small")
    despine(ax)


_LINES = {
    "n_cells": "{:,} cells per donor",
    "effect": "effect {:.3g}",
    "log_fc": "log2 FC {:.3g}",
    "alpha": "alpha {:g}",
}
_RUNS = "runs per donor: {:,}"  # what cells are for models of peptides
_BY = (*_LINES, "expression")
_MOST_BANDS = 2  # more of them cannot be told apart


@documented
def power(
    adata: ad.AnnData | pd.DataFrame,
    *,
    by: str = "n_cells",
    contrast: str | None = None,
    group: Groups = None,
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
    >>> dw.tl.power(adata, n_donors=(6, 12, 24), effect=0.3, progress=False)
    >>> ax = dw.pl.power(adata)
    """
    check_option("by", by, _BY)
    table, lines = _table(adata, key)
    if by == "log_fc" and table["log_fc"].isna().all():
        raise DataError("by='log_fc': this power is that of estimates that are no log fold changes; use by='effect'.")
    contrast = choose_contrast(None if isinstance(adata, pd.DataFrame) else adata, table, contrast)
    table = choose(table[table["contrast"] == contrast], "group", group)
    table, held = _held(
        table, by, lines, {"n_cells": n_cells, "effect": effect, "alpha": alpha, "expression": expression}
    )
    parts = {str(name): part for name, part in table.groupby("group", observed=True)}
    if not table["power"].notna().any():
        raise DataError("No planned study has enough donors for a test; plan more in dw.tl.power.")
    figure, axes = panels(ax, len(parts), size=(3.6, 3.2), alone=(5.2, 3.8), share=len(parts) > 1)
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        _draw(panel, part, by, lines, target)
        write_title(panel, panel_title(name, contrast))
    _legend(axes[-1], held)
    outer_labels(axes, x=_donors(contrast, set(table["kind"])), y="power")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _table(data: ad.AnnData | pd.DataFrame, key: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of power, and how its values are written."""
    if not isinstance(data, pd.DataFrame):
        check_is_anndata(data)
        own = {"n_cells": _RUNS} if read_params(data, key).get(keys.FEATURES) else {}
        return read_power(data, key), _LINES | own
    if missing := {"contrast", "group", "power", "kind", "unit", *_LINES} - set(data.columns):
        raise DataError(f"This table is not one of dw.tl.power: it has no column {min(missing)!r}.")
    return data, _LINES


def _donors(contrast: str, kinds: set[str]) -> str:
    """What the donors are that the studies have more of."""
    compares_arms = re.search(r"\]$| vs ", contrast) is not None
    if compares_arms and kinds == {"within-donor"}:
        return "donors, each in both arms"
    return "donors, all arms" if compares_arms and kinds <= {"between-donor", "between-donor (change)"} else "donors"


def _held(
    table: pd.DataFrame, by: str, lines: dict[str, str], asked: dict[str, float | str | None]
) -> tuple[pd.DataFrame, str]:
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
        texts.append(f"{wanted} expression" if column == "expression" else lines[shown].format(table[shown].iloc[0]))
    return table, ", ".join(t for t in texts if t != "all expression")


def _draw(ax: Axes, table: pd.DataFrame, by: str, lines: dict[str, str], target: float) -> None:
    values = [v for v in table[by].unique() if not (by == "expression" and v == "all")]
    for i, value in enumerate(values):
        line = table[table[by] == value].sort_values("n_donors")
        color = OKABE_ITO[i % len(OKABE_ITO)]
        label = f"{value} expression" if by == "expression" else lines[by].format(value)
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
