"""Estimated marginal means with their intervals, and the donors behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from donorwise._anndata import (
    check_has_cells,
    check_is_anndata,
    is_collapsed,
    keys,
    obs_frame,
    read_results,
    symbols_of,
)
from donorwise._core.design.formula import parse
from donorwise._core.design.lost import read_as_labels
from donorwise._core.design.places import shown_value
from donorwise._core.engine.groups import group_columns
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._means import marginal_means
from donorwise.pl._donors_data import observed
from donorwise.pl._donors_rates import Plain, scale_of
from donorwise.pl._effects import closed, response_unit
from donorwise.pl._style import (
    BLUE,
    OKABE_ITO,
    despine,
    feature_names,
    finish,
    group_colors,
    level_colors,
    limit_height,
    marker_key,
    outer_labels,
    panel_title,
    panels,
    say_empty,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._anndata import Results
    from donorwise._core.engine.mean_scale import MeanScale
    from donorwise._typing import Ddf, FloatArray, GlmmDdf, Groups
    from donorwise.pl._donors_rates import Scale

_STEPS = 40  # points along a line
_DODGE, _WIDEST = 0.18, 0.6  # of the distance between two levels: between means at one, and that all of them take
_SCATTER = 0.02  # of that distance, between donors side by side
_LONGEST = 14  # letters of a level below an axis
_MARKERS = "osD^vPX*"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), "-.")
_NONE = pd.DataFrame({"x": [], "mean": [], "hue": []})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What goes where.

    Attributes
    ----------
    x
        Variable across.
    colours
        Column of the table of means that is told apart by colour; empty for none.
    numeric
        Whether `x` is a number.
    levels, hues
        Levels of x and of the colours, in their order; no levels of a number.
    """

    x: str
    colours: str
    numeric: bool
    levels: tuple[Any, ...]
    hues: tuple[Any, ...]

    def shift(self, hue: int) -> float:
        """How far the means of a colour stand beside their level."""
        n = len(self.hues)
        return 0.0 if self.numeric or n < 2 else min(_DODGE, _WIDEST / (n - 1)) * (hue - (n - 1) / 2)


@documented
def means(
    adata: ad.AnnData,
    variables: str | Sequence[str],
    *,
    x: str,
    by: str | None = None,
    at: Mapping[str, Hashable | Sequence[Hashable]] | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    level: float = 0.95,
    weights: Literal["equal", "proportional"] = "equal",
    ddf: Ddf | GlmmDdf | None = None,
    donors: bool = True,
    gene_symbols: str | None = None,
    ncols: int | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw what a model expects at levels of its variables, with intervals, and the donors behind.

    Parameters
    ----------
    {adata_refit}
    variables
        A feature, or several with a panel each.
    x
        Variable of the formula's fixed part that goes across: levels, or a number, which makes a line with a band.
    by
        Another one, told apart by colour and mark; a number needs its values in `at`. The column that is `groupby` of the
        fit draws all groups into one panel.
    at
        Values at which other variables are held, as in :func:`donorwise.get.means`; for a number `x` the values to draw
        (by default from the smallest to the largest that there is).
    {group_panels}
    {key}
    level
        Coverage of the intervals.
    weights, ddf
        As in :func:`donorwise.get.means`.
    donors
        Whether to draw the donors' own means as small points. They are not adjusted for anything, and are left out where
        the levels of `by` differ within donors, and for collapsed rows.
    {symbols}
    ncols
        Panels in a row, at least 1; None for as many as can be read.
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError, DesignError
        The result, the variable, the group or a variable of the formula is not there; or the AnnData is not the one
        that was fitted any more.
    DonorwiseError
        `ax` was given for several panels.

    Notes
    -----
    The means are those of :func:`donorwise.get.means`: numbers at their means over the cells, other categories with equal
    weights. Rates of counts and shares stand at their places on the scale of the estimates, so that the same
    height is the same ratio, and intervals are as long above as below.

    Intervals are those of single means. Of donors that are in several arms, a difference can be certain where
    intervals overlap much: :func:`donorwise.pl.forest` draws differences.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=400, n_genes=120, seed=1)
    >>> dw.tl.lmm(adata, "~ condition * sex + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.means(adata, "gene_0001", x="condition", by="sex")
    >>> ax.get_ylabel()
    'mean (log expression)'
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    check_has_cells(adata)
    if ncols is not None and ncols < 1:
        raise DataError(f"ncols={ncols} must be 1 or more.")
    groupby = group_columns(stored.groupby)
    if x in groupby:
        raise DataError(
            f"x={x!r} makes the groups, each of which has a model of its own: name it with by=, for colours."
        )
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = symbols.find(feature_names(variables))
    values = _along(adata, x, dict(at or {}), stored.params["formula"])
    table, told = marginal_means(
        adata, x, by, values, key=key, variables=names, group=group, level=level, scale="link", weights=weights, ddf=ddf
    )
    scale = _axis(stored, table, told)
    asked = _asked(table, x, by, groupby)
    content = _content(table, names, asked)
    figure, axes = panels(ax, len(content), size=(3.6, 3.4), alone=(4.8, 4.0), n_columns=ncols)
    colors = _colors(adata, stored, asked, by)
    for panel, own in zip(axes, content, strict=True):
        points = _donors(adata, stored, key, own, asked) if donors else _NONE
        _draw(panel, own, points, asked, colors=colors, scale=scale)
        group_name = keys.ALL if asked.colours == "group" else str(own["group"].iloc[0])
        write_title(panel, panel_title(group_name, symbols.label(str(own["variable"].iloc[0]))))
    if len(asked.hues) > 1:
        _key(axes[-1], asked, colors=colors, title=str(by))
    outer_labels(axes, x=x, y=scale.height)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _along(adata: ad.AnnData, x: str, at: dict[str, Any], formula: str) -> dict[str, Any]:
    """Values of variables, among which those that a number across goes through."""
    if x in at or x not in adata.obs.columns or x in read_as_labels(parse(formula)):
        return at
    values = obs_frame(adata, [x])[x]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return at
    return {**at, x: np.linspace(float(values.min()), float(values.max()), _STEPS)}


def _asked(table: pd.DataFrame, x: str, by: str | None, groupby: Sequence[str]) -> _Asked:
    """What goes where in the panels of a table."""
    colours = "group" if by is not None and by in groupby else by or ""
    numeric = not isinstance(table[x].dtype, pd.CategoricalDtype)
    hues = tuple(dict.fromkeys(table[colours].sort_values())) if colours else ("",)
    return _Asked(x, colours, numeric, () if numeric else tuple(table[x].cat.categories), hues)


def _content(table: pd.DataFrame, names: Sequence[str], asked: _Asked) -> list[pd.DataFrame]:
    """Rows of the means of every panel."""
    by = ["variable"] if asked.colours == "group" else ["variable", "group"]
    parts = dict(iter(table.groupby(by, observed=True, sort=True)))
    return [own for name in names for label, own in parts.items() if label[0] == name]


def _axis(stored: Results, table: pd.DataFrame, told: MeanScale) -> Scale:
    """What the vertical axis shows."""
    if told.link == "identity":
        return Plain(f"mean ({response_unit(stored.params, table)})")
    return scale_of(told)


def _colors(adata: ad.AnnData, stored: Results, asked: _Asked, by: str | None) -> dict[Any, str]:
    """A colour for every hue; without hues, for every level across."""
    if asked.colours == "group":
        known = group_colors(adata, stored, [str(hue) for hue in asked.hues])
        return {hue: known.get(hue, OKABE_ITO[i % len(OKABE_ITO)]) for i, hue in enumerate(asked.hues)}
    if asked.colours:
        named = level_colors(adata, str(by), [str(hue) for hue in asked.hues])
        return {hue: named[str(hue)] for hue in asked.hues}
    named = level_colors(adata, asked.x, [str(own) for own in asked.levels])
    return {"": BLUE} | {own: named[str(own)] for own in asked.levels}


def _donors(adata: ad.AnnData, stored: Results, key: str, own: pd.DataFrame, asked: _Asked) -> pd.DataFrame:
    """Donors' own means: x, mean, and the hue that they belong to; no rows where they cannot be told."""
    parts, variable = [_NONE], str(own["variable"].iloc[0])
    hue_of = _hues(adata, stored, asked)
    if is_collapsed(adata) or hue_of is None:
        return _NONE
    for group in own["group"].unique():
        try:
            found = observed(adata, stored, key, variable=variable, group=str(group), condition=asked.x).donors
        except DataError:  # nothing was measured there: the panel has no such means either
            continue
        hue = [group] * len(found) if asked.colours == "group" else found["donor"].map(hue_of) if hue_of else ""
        parts.append(pd.DataFrame({"x": found["condition"].to_numpy(), "mean": found["mean"].to_numpy(), "hue": hue}))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _hues(adata: ad.AnnData, stored: Results, asked: _Asked) -> dict[str, Any] | None:
    """The level of `by` of each donor, empty where groups or nothing are told apart; None where donors have several."""
    if asked.colours in ("", "group"):
        return {}
    donor = stored.params["donor"]
    if donor not in adata.obs.columns or asked.colours not in adata.obs.columns:
        return None
    pairs = obs_frame(adata, [donor, asked.colours]).dropna().drop_duplicates()
    if pairs[donor].duplicated().any() or not isinstance(asked.hues[0], str | bool):
        return None
    return dict(zip(pairs[donor].astype(str), pairs[asked.colours], strict=True))


def _draw(
    ax: Axes, own: pd.DataFrame, points: pd.DataFrame, asked: _Asked, *, colors: Mapping[Any, str], scale: Scale
) -> None:
    known = own[own["mean"].notna()]
    if known.empty:
        say_empty(ax, f"no means:\n{own['status'].iloc[0]}")
        return
    for i, hue in enumerate(asked.hues):
        rows = known if not asked.colours else known[known[asked.colours] == hue]
        seen = points[points["hue"] == hue]
        x = _places(rows[asked.x], asked) + asked.shift(i)
        color = [colors[own] for own in rows[asked.x]] if not (asked.colours or asked.numeric) else colors[hue]
        _draw_donors(ax, seen, asked, i, colors=colors)
        (_draw_line if asked.numeric else _draw_levels)(ax, x, rows, color, mark=i, joined=len(asked.hues) > 1)
    _heights(ax, known, points["mean"])
    scale.name_ticks(ax)
    if not asked.numeric:
        names = shorten([str(level) for level in asked.levels], _LONGEST)
        ax.set_xticks(range(len(names)), names, parse_math=False)
        ax.set_xlim(-0.6, len(names) - 0.4)
    despine(ax)


def _places(values: pd.Series, asked: _Asked) -> FloatArray:
    """Where values stand across."""
    if asked.numeric:
        return values.to_numpy(dtype=np.float64)
    place = {str(level): i for i, level in enumerate(asked.levels)}
    return values.astype(str).map(place).to_numpy(dtype=np.float64)


def _draw_donors(ax: Axes, seen: pd.DataFrame, asked: _Asked, hue: int, *, colors: Mapping[Any, str]) -> None:
    """Small points, beside each other at a level."""
    x = _places(seen["x"], asked)
    if not asked.numeric:
        rank = seen.groupby(x)["mean"].rank(method="first").to_numpy() if len(seen) else x
        x = x + asked.shift(hue) + _SCATTER * ((2 * rank) % 5 - 2)
    color = colors[asked.hues[hue]] if asked.colours or asked.numeric else [colors[own] for own in seen["x"]]
    ax.scatter(x, seen["mean"], s=14, marker=_MARKERS[hue % len(_MARKERS)], color=color, alpha=0.4, lw=0, zorder=1)


def _draw_levels(ax: Axes, x: FloatArray, rows: pd.DataFrame, color: Any, *, mark: int, joined: bool) -> None:
    """A mark with its interval at each level, joined where several lines are to be compared."""
    mean = rows["mean"].to_numpy()
    low, high = closed(mean, rows["ci_low"], rows["ci_high"])
    if joined:
        ax.plot(x, mean, color=color, lw=0.8, alpha=0.6, zorder=2)
    ax.vlines(x, low, high, color=color, lw=1.6, zorder=3)
    ax.scatter(x, mean, s=42, marker=_MARKERS[mark % len(_MARKERS)], color=color, edgecolors="white", lw=0.7, zorder=4)


def _draw_line(ax: Axes, x: FloatArray, rows: pd.DataFrame, color: Any, *, mark: int, joined: bool) -> None:
    """A line with its band."""
    ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=color, alpha=0.18, lw=0, zorder=0)
    ax.plot(x, rows["mean"], color=color, lw=2.0, ls=_DASHES[mark % len(_DASHES)], zorder=3)


def _heights(ax: Axes, known: pd.DataFrame, points: pd.Series) -> None:
    """Show the means, donors, and intervals as far as they are not far longer than these."""
    seen = np.concatenate([known["mean"], points])
    reach = seen.min() - (np.ptp(seen) or 1.0), seen.max() + (np.ptp(seen) or 1.0)
    limit_height(ax, [*seen, *known["ci_low"].clip(*reach), *known["ci_high"].clip(*reach)])


def _key(ax: Axes, asked: _Asked, *, colors: Mapping[Any, str], title: str) -> None:
    """Explain colours and marks beside the last panel."""
    names = shorten([shown_value(hue) for hue in asked.hues])
    marks = [
        Line2D(
            [], [], color=colors[hue], label=name, ls=_DASHES[i % len(_DASHES)] if asked.numeric else "",
            lw=2.0, marker="" if asked.numeric else _MARKERS[i % len(_MARKERS)], ms=6.5,
        )
        for i, (hue, name) in enumerate(zip(asked.hues, names, strict=True))
    ]  # fmt: skip
    marker_key(
        ax, marks, loc="upper left", bbox_to_anchor=(1.0, 1.0), title=shorten([title])[0], title_fontsize="x-small"
    )
