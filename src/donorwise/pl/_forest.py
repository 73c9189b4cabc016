"""Estimates with their confidence intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose, tidy
from donorwise.pl._effects import draw_rows, effect_colors, tested_parts, with_effects
from donorwise.pl._style import (
    choose_contrast,
    feature_names,
    finish,
    format_p,
    level_colors,
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 3.0
"""Beyond the farthest estimate, how many typical half intervals the axis may show: longer ones leave it."""


@documented
def forest(
    adata: ad.AnnData,
    variables: str | Sequence[str] | None = None,
    *,
    contrast: str | Sequence[str] | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
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
        The contrasts to draw, None for all; of several features only one contrast, None for the first one of
        the declared condition, else the first one.
    {group_drawn}
    {key}
    {alpha}
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
    estimate, the status that says why. An interval that leaves the axis is some three times as
    long as is usual in the plot, or longer.

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
    chosen = choose(choose(stored.results, "variable", variables), "group", group)
    names = [] if variables is None else feature_names(variables)
    if len(names) != 1:
        contrast = _single(adata, chosen, contrast)
    table, x_label = with_effects(tidy(choose(chosen, "contrast", contrast)), stored.params["log_base"])
    parts, column = _of_one(table) if len(names) == 1 else _of_several(table, names, str(contrast), n_variables)
    shown = pd.concat(parts.values())
    colors = _own_colors(adata, stored.params, table) if column == "group" else {}
    tallest = max(len(part) for part in parts.values())
    figure, axes = panels(ax, len(parts), size=(5.2, 1.2 + 0.22 * tallest))
    for panel, (title, part) in zip(axes, parts.items(), strict=True):
        _draw(panel, part, column, alpha=alpha, own=colors)
        # groups are compared on one scale; contrasts may have different units
        _limit(panel, shown if column == "variable" else part)
        write_title(panel, title, beside=shorten(list(part[column].astype(str))), pad=8)
    outer_labels(axes, x=x_label, y="")
    return finish(figure, axes, show=show, return_fig=return_fig)


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


def _own_colors(adata: ad.AnnData, params: dict[str, Any], table: pd.DataFrame) -> dict[str, str]:
    groupby = params["groupby"]
    has_colors = f"{groupby}{keys.COLORS_SUFFIX}" in adata.uns
    return level_colors(adata, groupby, list(table["group"].cat.categories)) if has_colors else {}


def _draw(ax: Axes, part: pd.DataFrame, column: str, *, alpha: float, own: dict[str, str]) -> None:
    labels = part[column].astype(str).to_list()
    if not labels:
        say_empty(ax, "nothing tested")
    significant = (part["adj_p_value"] <= alpha).to_numpy()
    colors = effect_colors(part["effect"].to_numpy(), significant)
    tests = zip(part["status"].astype(str), part["adj_p_value"], strict=True)
    draw_rows(
        ax,
        part["effect"],
        part["low"],
        part["high"],
        labels=labels,
        texts=[status.replace("_", " ") if np.isnan(p) else format_p(p, "FDR") for status, p in tests],
        colors=np.array([own.get(label, color) for label, color in zip(labels, colors, strict=True)]),
        text_colors=colors,
        filled=significant,
    )


def _limit(ax: Axes, rows: pd.DataFrame) -> None:
    """Show zero and all estimates, and the intervals unless they are far longer than that."""
    if not rows["effect"].notna().any():
        ax.set_xlim(-1, 1)
        return
    reach = rows["effect"].abs().max() + _LONGEST * (rows["high"] - rows["low"]).median() / 2
    left, right = min(rows["low"].min(), 0.0), max(rows["high"].max(), 0.0)
    left, right = max(left, -reach), min(right, reach)
    margin = 0.05 * (right - left or 1.0)
    ax.set_xlim(left - margin, right + margin)
