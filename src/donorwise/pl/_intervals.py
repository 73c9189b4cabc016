"""Estimates with their intervals, a row each: effects over groups or contrasts (forest), random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._anndata import check_is_anndata, keys, read_params, read_results, symbols_of
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get import ranef as predict
from donorwise.get._tests import choose, passes, present, tidy
from donorwise.pl._contrasts import of_interest, per_unit
from donorwise.pl._effects import closed, draw_rows, effect_colors, tested_parts, texts_of, with_intervals
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    choose_contrast,
    despine,
    feature_names,
    finish,
    group_colors,
    inches,
    outer_labels,
    panel_title,
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

    from donorwise._typing import BoolArray, Groups

_LONGEST = 3.0
"""Beyond the farthest estimate, how many typical half intervals the axis may show: longer ones leave it."""


@documented
def forest(
    adata: ad.AnnData,
    variables: str | Sequence[str] | None = None,
    *,
    contrast: str | Sequence[str] | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
    min_log_fc: float | None = None,
    gene_symbols: str | None = None,
    n_variables: int = 20,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw estimates with their 95% confidence intervals: one feature everywhere, or several in one contrast.

    Parameters
    ----------
    {adata_result}
    variables
        One feature: a row for each group (a panel for each contrast), or where there is only one group, for
        each contrast. Several features: a row for each (a panel for each group). None: those with the
        smallest p-values of each group.
    contrast
        The contrasts to draw. None: those of the declared condition, else those of labels, without the declared batch;
        what the model is adjusted for (slopes over age or depth) is left out, which the figure says. Of several
        features only one contrast, None for the first one of the declared condition, else the first one.
    {group_drawn}
    {key}
    {alpha}
    {min_log_fc}
    {symbols}
    {n_variables}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such result, feature, contrast or group, several contrasts are named for several features, or
        nothing was tested.
    DonorwiseError
        `ax` was given for several panels.

    Notes
    -----
    Full points are significant, rings are not; groups with colours of their own in ``uns`` keep these, elsewhere
    what goes up is orange, what goes down blue. On the right the adjusted p-value or, in a row without an
    estimate, the status that says why. An arrow is the open side of the interval of a separated feature. An interval
    that leaves the axis is some three times as long as is usual in the plot, or longer.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> ax = dw.pl.forest(adata, "gene_0001")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['T cell', 'Monocyte', 'B cell']
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = [] if variables is None else symbols.find(feature_names(variables))
    chosen = choose(choose(stored.results, "variable", names or None), "group", group)
    chosen, names = symbols.rename(chosen), [symbols.label(name) for name in names]
    left_out: list[str] = []
    if len(names) != 1:
        contrast = _single(adata, chosen, contrast)
    elif contrast is None:
        known = present(chosen, "contrast")
        contrast = of_interest(adata, known, stored.params["formula"])
        left_out = [name for name in known if name not in contrast]
    table, x_label = with_intervals(tidy(choose(chosen, "contrast", contrast)), stored.params)
    parts, column = _of_one(table) if len(names) == 1 else _of_several(table, names, str(contrast), n_variables)
    shown = pd.concat(parts.values())
    colors = group_colors(adata, stored, list(table["group"].cat.categories)) if column == "group" else {}
    tallest = max(len(part) for part in parts.values())
    figure, axes = panels(ax, len(parts), size=(5.2, 1.2 + 0.22 * tallest))
    for panel, (title, part) in zip(axes, parts.items(), strict=True):
        significant = passes(part, alpha, min_log_fc)
        _draw_forest(panel, part, column, significant=significant, own=colors)
        # groups are compared on one scale; contrasts may have different units
        _limit(panel, shown if column == "variable" else part)
        write_title(panel, title, beside=shorten(list(part[column].astype(str))), pad=8)
    per = [{per_unit(name, stored.params["formula"]) for name in present(part, "contrast")} for part in parts.values()]
    _name_effects(axes, x_label, [own.pop() if len(own) == 1 else "" for own in per])
    if left_out and ax is None:
        figure.supxlabel(f"not drawn: {', '.join(left_out)} (contrast= draws them)", fontsize="x-small", color=GREY)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _name_effects(axes: Sequence[Axes], scale: str, units: Sequence[str]) -> None:
    """Name the scale on the outside only, or below each panel where they differ in what it is per unit of."""
    if len(set(units)) == 1:
        outer_labels(axes, x=scale + units[0], y="")
        return
    for panel, unit in zip(axes, units, strict=True):
        panel.set_xlabel(scale + unit)


def _single(adata: ad.AnnData, table: pd.DataFrame, contrast: str | Sequence[str] | None) -> str:
    """The one contrast that several features are drawn for."""
    asked = [contrast] if isinstance(contrast, str) or contrast is None else list(contrast)
    if len(asked) != 1:
        raise DataError(f"Several features are drawn for one contrast, and contrast= names {len(asked)}.")
    return choose_contrast(adata, table, asked[0])


def _of_one(table: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], str]:
    """Panels of one feature, and the column that tells their rows apart."""
    variable = str(table["variable"].iloc[0])
    groups = table["group"].cat.categories
    if len(groups) == 1:
        return {panel_title(groups[0], variable): table.sort_values("contrast")}, "contrast"
    parts = table.sort_values("group").groupby("contrast", observed=True)
    return {f"{variable}, {name}": part for name, part in parts}, "group"


def _of_several(
    table: pd.DataFrame, names: Sequence[str], contrast: str, n_variables: int
) -> tuple[dict[str, pd.DataFrame], str]:
    """Panels of several features, those named or those with the smallest p-values."""
    if names:
        order = {name: i for i, name in enumerate(names)}
        table = table.sort_values("variable", key=lambda v: v.astype(str).map(order).astype(int))
        parts = {str(name): part for name, part in table.groupby("group", observed=True)}
    else:
        tested = tested_parts(table, contrast)
        parts = {n: part.sort_values("p_value", kind="stable")[:n_variables] for n, part in tested.items()}
    return {panel_title(name, contrast): part for name, part in parts.items()}, "variable"


def _draw_forest(ax: Axes, part: pd.DataFrame, column: str, *, significant: BoolArray, own: dict[str, str]) -> None:
    labels = part[column].astype(str).to_list()
    if not labels:
        say_empty(ax, "nothing tested")
    colors = effect_colors(part["effect"].to_numpy(), significant)
    draw_rows(
        ax,
        part["effect"],
        part["low"],
        part["high"],
        labels=labels,
        texts=texts_of(part["status"], part["adj_p_value"], "FDR"),
        colors=np.array([own.get(label, color) for label, color in zip(labels, colors, strict=True)]),
        text_colors=colors,
        filled=significant,
    )


def _limit(ax: Axes, rows: pd.DataFrame) -> None:
    """Show zero and all estimates, and the intervals unless they are far longer than that."""
    if not rows["effect"].notna().any():
        ax.set_xlim(-1, 1)
        return
    low, high = closed(rows["effect"], rows["low"], rows["high"])
    reach = rows["effect"].abs().max() + _LONGEST * float(np.nanmedian(high - low)) / 2
    left, right = min(float(np.nanmin(low)), 0.0), max(float(np.nanmax(high)), 0.0)
    left, right = max(left, -reach), min(right, reach)
    margin = 0.05 * (right - left or 1.0)
    ax.set_xlim(left - margin, right + margin)


INTERCEPT = "(Intercept)"
COVERAGE = 1.96
"""Conditional standard deviations on either side: 95% of a normal law."""
_ROW, _SMALLEST_ROW, _TALLEST = 0.16, 0.075, 10.5  # inches; names in smaller rows could not be read


@documented
def ranef(
    adata: ad.AnnData,
    variable: str,
    *,
    group: Groups = None,
    term: str | None = None,
    key: str = keys.LMM,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the random effects of one feature with their intervals, the levels in order (a caterpillar plot).

    Parameters
    ----------
    {adata_refit}
    variable
        A feature.
    {group_drawn}
    term
        Grouping factor, such as ``"donor_id"`` or, with a kernel, ``"gr(donor_id, cov=grm)"``; None for the donor, or for the first where the donor is none.
    {key}
    {symbols}
    {ax}
    {show}

    Returns
    -------
    The Axes, an array of Axes for several panels (one for each random column, such as intercept and
    slope, of each group), the Figure with ``return_fig``, or None with ``show``.

    Raises
    ------
    DataError, DesignError
        As :func:`donorwise.get.ranef`; or the feature could not be fitted.

    Notes
    -----
    A point is a conditional mode (BLUP), in units of the response (per unit of the variable, for a slope);
    the bar is 1.96 conditional standard deviations to either side, given the estimated variances and fixed
    effects (``condVar`` in lme4; Bates et al. 2015, J Stat Softw 67(1)). They come from :func:`donorwise.get.ranef`, which
    fits the model again. Modes are shrunken towards zero, those of donors with few cells the most. Blue
    bars leave out zero: a donor to look at, not a test. The levels stand in the order of the first random
    column, the same in all panels of a group.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.ranef(adata, "gene_0001")
    >>> ax.get_title()
    'gene_0001: intercept'
    """
    check_is_anndata(adata)
    if not isinstance(variable, str):
        raise DataError(f"variable= names one feature, not {variable!r}.")
    symbols = symbols_of(adata, gene_symbols, read_params(adata, key))
    variable = symbols.find_one(variable)
    called = symbols.label(variable)
    effects = predict(adata, variable, key=key, group=group, term=_term(adata, key, term)).dropna()
    if effects.empty:
        raise DataError(f"No model could be fitted to {variable!r}: look at the status column of dw.get.tests.")
    term = str(effects["term"].iloc[0])
    parts = [(g, c) for g, own in effects.groupby("group", sort=False) for c in own["column"].unique()]
    tallest = int(effects.groupby(["group", "column"]).size().max())
    figure, axes = panels(ax, len(parts), size=(3.9, 1.2 + min(_ROW * tallest, _TALLEST)))
    for panel, (name, column) in zip(axes, parts, strict=True):
        rows = _ordered(effects[effects["group"] == name], column)
        _draw_ranef(panel, rows)
        what = "intercept" if column == INTERCEPT else f"slope of {column}"
        names = shorten(list(rows["level"].astype(str)))
        write_title(panel, f"{called if name == keys.ALL else f'{called}, {name}'}: {what}", beside=names)
        panel.set_xlabel(f"conditional mode of {term}\n(bar: 95% interval)", fontsize="small")
    figure.draw_without_rendering()
    for panel, (name, column) in zip(axes, parts, strict=True):
        _name_levels(panel, _ordered(effects[effects["group"] == name], column))
    return finish(figure, axes, show=show, return_fig=return_fig)


def _term(adata: ad.AnnData, key: str, term: str | None) -> str | None:
    """The grouping factor that was asked for, else the donor, else the first."""
    stored = read_results(adata, key)
    if term is not None:
        if not isinstance(term, str):
            raise DataError(f"term= names one grouping factor, not {term!r}.")
        choose(stored.varcomp, "term", term)
        return term
    random = stored.varcomp[stored.varcomp["column1"] != ""]
    terms = list(dict.fromkeys(random["term"].astype(str)))
    donor = stored.params["donor"]
    return donor if donor in terms else terms[0]


def _ordered(effects: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows of one random column, in the order of the first one."""
    first = effects[effects["column"] == effects["column"].iloc[0]]
    order = first.sort_values("value", kind="stable")["level"]
    return effects[effects["column"] == column].set_index("level").loc[order].reset_index()


def _draw_ranef(ax: Axes, rows: pd.DataFrame) -> None:
    value, half = rows["value"].to_numpy(), COVERAGE * rows["cond_sd"].to_numpy()
    place = np.arange(float(len(rows)))
    colors = np.where(np.abs(value) > half, BLUE, GREY)
    ax.axvline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    ax.hlines(place, value - half, value + half, color=colors, lw=float(np.interp(len(rows), [20, 100], [1.4, 0.7])))
    ax.scatter(value, place, c=colors, s=float(np.interp(len(rows), [20, 100], [20, 6])), lw=0, zorder=3)
    if not value.any():
        ax.text(
            0.5, 0.98, "variance estimated at zero", transform=ax.transAxes, ha="center", va="top", fontsize="small",
            color=INK,
        )  # fmt: skip
    ax.locator_params(axis="x", nbins=4)
    ax.set_yticks([])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    despine(ax)


def _name_levels(ax: Axes, rows: pd.DataFrame) -> None:
    """Write the names of the levels where there is room for them, else how many there are."""
    row = inches(ax)[1] / (len(rows) + 0.4)
    if row < _SMALLEST_ROW:
        ax.set_ylabel(f"{len(rows):,} levels of {rows['term'].iloc[0]}")
        return
    ax.set_yticks(
        range(len(rows)), shorten(list(rows["level"].astype(str))), fontsize=min(8.0, 66 * row), parse_math=False
    )
    ax.tick_params(axis="y", length=0)
