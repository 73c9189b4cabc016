"""Effects of many features across groups or contrasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from donorwise._anndata import check_is_anndata, keys, read_results, symbols_of
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._tests import choose, passes, present, tidy
from donorwise.pl._contrasts import per_unit
from donorwise.pl._effects import with_effects
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    LONGEST,
    VERMILION,
    WIDEST,
    choose_contrast,
    feature_names,
    finish,
    panels,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import BoolArray, FloatArray, Groups

Value = Literal["effect", "statistic"]
Order = Literal["cluster", "effect", "given"]

_DOWN_UP = LinearSegmentedColormap.from_list("down_up", [BLUE, "white", VERMILION])
_NARROWEST_NAMED = 0.1
"""Inches of a column below which its name could not be read."""
_EXTREME = 99.0
"""Percentile of the absolute values at which the colours end, where some are `_FAR_OUT`."""
_FAR_OUT = 1.5
"""How many times as large values are that would bleach the rest."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """What is drawn, R rows and C features.

    Attributes
    ----------
    rows, columns
        Names.
    values
        Shape (R, C). NaN where there is no test.
    significant
        Shape (R, C).
    """

    rows: list[str]
    columns: list[str]
    values: FloatArray
    significant: BoolArray

    def take(self, columns: np.ndarray) -> _Grid:
        """The same with columns in another order."""
        return _Grid(
            self.rows, [self.columns[i] for i in columns], self.values[:, columns], self.significant[:, columns]
        )


@documented
def heatmap(
    adata: ad.AnnData,
    variables: str | Sequence[str] | None = None,
    *,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    value: Value = "effect",
    order: Order = "cluster",
    key: str = keys.LMM,
    alpha: float = 0.05,
    min_log_fc: float | None = None,
    gene_symbols: str | None = None,
    n_variables: int = 30,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw effects as colours: groups or contrasts in rows, features in columns, significant ones dotted.

    Parameters
    ----------
    {adata_result}
    variables
        Features to draw. None: those with the smallest p-values, in turn from every row.
    contrast
        The contrasts to draw. None for all of a single group; of several groups for the first one of the declared
        condition, else the first one. With several contrasts and several groups there is a row for each pair.
    {group_drawn}
    value
        ``"effect"``: log2 fold changes, or estimates in units of the response. ``"statistic"``: these divided
        by their standard errors, which are comparable between contrasts of different units.
    order
        Of the features. ``"cluster"``: similar ones together (average linkage of Euclidean distances,
        leaves in optimal order, Bar-Joseph et al. 2001). ``"effect"``: by their mean over the rows, highest first.
        ``"given"``: as in `variables`, or by p-value.
    {key}
    {alpha}
    {min_log_fc}
    {symbols}
    {n_variables}
    ax
        Axes to draw in; the colour bar takes some of their room.
    {show}

    Returns
    -------
    {axes}

    Raises
    ------
    DataError
        There is no such result, feature, contrast or group, or nothing was tested.

    Notes
    -----
    White is zero. The colours end at the largest value or, where that is far out, at the 99th percentile of the
    absolute values, which arrows on the colour bar tell. What was not tested is grey and
    hatched. Rows stand in the order of the categories.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> ax = dw.pl.heatmap(adata, n_variables=10)
    >>> len(ax.get_yticklabels()), len(ax.get_xticklabels())
    (3, 10)
    """
    check_is_anndata(adata)
    check_option("value", value, get_args(Value))
    check_option("order", order, get_args(Order))
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = None if variables is None else symbols.find(feature_names(variables))
    table = tidy(symbols.rename(choose(choose(stored.results, "group", group), "variable", names)))
    if isinstance(contrast, str) or (contrast is None and len(table["group"].cat.categories) > 1):
        contrast = choose_contrast(adata, table, contrast)
    table = tidy(choose(table, "contrast", contrast))
    table, unit = with_effects(table, stored.params)
    per = {per_unit(name, stored.params["formula"]) for name in present(table, "contrast")}
    unit += per.pop() if len(per) == 1 else ""
    table = table.assign(significant=passes(table, alpha, min_log_fc))
    columns = _top(table, n_variables) if names is None else [symbols.label(name) for name in names]
    grid, title = _grid(table, columns, value)
    grid = grid.take(_arrange(grid.values, order))
    figure, axes = panels(ax, 1, size=_size(grid))
    _draw(figure, axes[0], grid, unit=unit if value == "effect" else "statistic", alpha=alpha)
    write_title(axes[0], title, loc="left", pad=18)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _top(table: pd.DataFrame, n: int) -> list[str]:
    """The n features with the smallest p-values, in turn from every row, so that no row brings in all of them."""
    tested = table[table["p_value"].notna()].sort_values("p_value", kind="stable")
    place = tested.groupby(["group", "contrast"], observed=True).cumcount()
    in_turn = tested["variable"].astype(str).to_numpy()[np.argsort(place.to_numpy(), kind="stable")]
    return list(dict.fromkeys(in_turn))[:n]


def _grid(table: pd.DataFrame, columns: list[str], value: Value) -> tuple[_Grid, str]:
    """Rows by what tells them apart, and what they have in common as a title."""
    if not columns or not table["p_value"].notna().any():
        raise DataError("Nothing of this was tested: look at the status column of dw.get.tests.")
    table = table.assign(variable=table["variable"].astype(str))
    shown = table[table["variable"].isin(columns)].set_index(["contrast", "group", "variable"])
    wide = shown[value].unstack("variable").reindex(columns=columns)
    dots = shown["significant"].unstack("variable").reindex(columns=columns)
    contrasts, groups = (wide.index.get_level_values(level) for level in ("contrast", "group"))
    if contrasts.nunique() == 1:
        rows, title = [name if name != keys.ALL else "" for name in groups], str(contrasts[0])
    elif groups.nunique() == 1:
        rows, title = list(contrasts), "" if groups[0] == keys.ALL else str(groups[0])
    else:
        rows, title = [f"{group}, {contrast}" for contrast, group in wide.index], ""
    return _Grid(rows, columns, wide.to_numpy(dtype=np.float64), dots.to_numpy(dtype=bool)), title


def _arrange(values: FloatArray, order: Order) -> np.ndarray:
    """Positions of the features in their order."""
    known = np.nan_to_num(values)
    if order == "given" or values.shape[1] < 2:
        return np.arange(values.shape[1])
    if order == "effect":
        return np.argsort(-known.mean(axis=0), kind="stable")
    from scipy.cluster.hierarchy import leaves_list, linkage

    return leaves_list(linkage(known.T, method="average", optimal_ordering=True))


def _size(grid: _Grid) -> tuple[float, float]:
    """Inches of the figure, with room for upright names and a colour bar that is not too short."""
    names = 0.08 * max(map(len, shorten(grid.columns))) if len(grid.columns) * _NARROWEST_NAMED < WIDEST else 0.2
    return min(2.6 + 0.24 * len(grid.columns), WIDEST), 0.8 + names + max(1.4, 0.28 * len(grid.rows))


def _limit(values: FloatArray) -> float:
    """Where the colours end: at the largest value, unless it is one of a few far out."""
    sizes = np.abs(values[np.isfinite(values)])
    most = float(np.percentile(sizes, _EXTREME))
    return most if 0 < most < sizes.max() / _FAR_OUT else float(sizes.max()) or 1.0


def _draw(figure: Figure, ax: Axes, grid: _Grid, *, unit: str, alpha: float) -> None:
    n_rows, n_columns = grid.values.shape
    limit, inches = _limit(grid.values), figure.get_figwidth() * ax.get_position().width / n_columns
    edges = np.arange(n_columns + 1) - 0.5, np.arange(n_rows + 1) - 0.5
    ax.set_facecolor(LIGHT_GREY)
    ax.patch.set(hatch="////", edgecolor=GREY, linewidth=0)
    named = inches >= _NARROWEST_NAMED
    mesh = ax.pcolormesh(
        *edges, np.ma.masked_invalid(grid.values), cmap=_DOWN_UP, vmin=-limit, vmax=limit,
        edgecolors="white" if named else "none", lw=0.4 if named else 0.0,
    )  # fmt: skip
    ax.set_ylim(n_rows - 0.5, -0.5)
    y, x = np.nonzero(grid.significant)
    # ink would not be seen on the ends of the scale
    dark = np.abs(grid.values[y, x]) > 0.6 * limit
    ax.scatter(x, y, s=min(14.0, (40 * inches) ** 2), c=np.where(dark, "white", INK), linewidths=0)
    _label(ax, grid, inches)
    beyond = bool(np.nanmax(np.abs(grid.values)) > limit)
    bar = figure.colorbar(
        mesh, ax=ax, extend="both" if beyond else "neither", aspect=12, pad=0.02, fraction=0.05, label=unit
    )
    bar.outline.set_visible(False)
    _explain(ax, alpha=alpha, untested=bool(np.isnan(grid.values).any()))


def _explain(ax: Axes, *, alpha: float, untested: bool) -> None:
    """Say above the axes what dots and hatches are."""
    dot = Line2D([], [], marker="o", ms=3.5, color=INK, ls="", label=f"FDR {alpha:.0%}")
    hatched = Patch(facecolor=LIGHT_GREY, edgecolor=GREY, hatch="////", linewidth=0, label="not tested")
    ax.legend(
        handles=[dot, hatched] if untested else [dot],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize="small",
        borderaxespad=0.2,
        handletextpad=0.4,
    )


def _label(ax: Axes, grid: _Grid, inches: float) -> None:
    """Name the rows, and the features where `inches` of width for each are room for that."""
    ax.set_yticks(range(len(grid.rows)), shorten(grid.rows, 2 * LONGEST), fontsize="small", parse_math=False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if inches < _NARROWEST_NAMED:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(grid.columns):,} features")
        return
    size = float(np.clip(60 * inches, 5.0, 8.0))
    ax.set_xticks(range(len(grid.columns)), shorten(grid.columns), rotation=90, fontsize=size, parse_math=False)
