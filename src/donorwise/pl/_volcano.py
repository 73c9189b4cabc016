"""Effects of all features: against their p-values (volcano), and against mean expression (MA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator

from donorwise._anndata import check_is_anndata, group_means, keys, read_results
from donorwise._docs import documented
from donorwise.get._select import choose
from donorwise.pl._effects import (
    Points,
    draw_points,
    draw_zero,
    effect_range,
    name_panels,
    points_of,
    tested_parts,
    with_effects,
)
from donorwise.pl._names import choose_contrast, feature_names, panel_title, write_title
from donorwise.pl._style import INK, SMALLEST_P, finish, outer_labels, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@documented
def volcano(
    adata: ad.AnnData,
    *,
    contrast: str | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
    n_labels: int = 10,
    labels: str | Sequence[str] = (),
    adjust_text: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the effect of every feature against its evidence, significant ones in colour.

    Parameters
    ----------
    {adata_result}
    {contrast_drawn}
    {group_panels}
    {key}
    {alpha}
    {labels}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such result, contrast or group, or nothing in it was tested.
    DonorwiseError
        `ax` was given for several panels, or adjustText is not installed.

    Notes
    -----
    The horizontal axis is the log2 fold change where the response is on a log scale, and the estimate
    in units of the response elsewhere.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> ax = dw.pl.volcano(adata, group="T cell")
    >>> ax.get_xlabel()
    'log2 fold change'
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    labels = feature_names(labels) if len(labels) else []
    choose(stored.results, "variable", labels)
    contrast = choose_contrast(adata, stored.results, contrast)
    table = choose(choose(stored.results, "contrast", contrast), "group", group)
    table, x_label = with_effects(table, stored.params["log_base"])
    parts = {name: _volcano_points(part, alpha) for name, part in tested_parts(table, contrast).items()}
    figure, axes = panels(ax, len(parts), size=(4.8, 4.2) if len(parts) == 1 else (3.6, 3.3), share=True)
    sides = effect_range(np.concatenate([points.x for points in parts.values()]))
    top = 1.12 * max(points.y.max(initial=0.0) for points in parts.values()) or 1.0
    for panel, (name, points) in zip(axes, parts.items(), strict=True):
        draw_points(panel, points)
        draw_zero(panel, vertical=True)
        _threshold(panel, points, alpha=alpha)
        panel.set_xlim(sides)
        panel.set_ylim(0, top)
        write_title(panel, panel_title(name, contrast), pad=18)
    outer_labels(axes, x=x_label, y="$-\\log_{10}$ p-value")
    name_panels(figure, axes, list(parts.values()), n_labels=n_labels, labels=labels, adjust_text=adjust_text)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _volcano_points(tested: pd.DataFrame, alpha: float) -> Points:
    return points_of(
        tested,
        x=tested["effect"].to_numpy(),
        y=-np.log10(tested["p_value"].clip(lower=SMALLEST_P).to_numpy()),
        alpha=alpha,
    )


def _threshold(ax: Axes, points: Points, *, alpha: float) -> None:
    """Draw the line above which features pass, halfway between the last to pass and the first not to."""
    if not points.significant.any() or points.significant.all():
        return
    height = (points.y[points.significant].min() + points.y[~points.significant].max()) / 2
    ax.axhline(height, color=INK, lw=0.7, ls=(0, (4, 3)), zorder=0)
    ax.text(
        1.0,
        height,
        f"FDR {alpha:.0%} ",
        transform=ax.get_yaxis_transform(),
        ha="right",
        va="top",
        fontsize="x-small",
    )


@documented
def ma(
    adata: ad.AnnData,
    *,
    contrast: str | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
    n_labels: int = 10,
    labels: str | Sequence[str] = (),
    adjust_text: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the effect of every feature against its mean, significant ones in colour.

    Parameters
    ----------
    {adata_refit}
    {contrast_drawn}
    {group_panels}
    {key}
    {alpha}
    {labels}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError, DesignError
        There is no such result, contrast or group, nothing in it was tested, or the values or the column
        of the groups are no longer there.
    DonorwiseError
        `ax` was given for several panels, or adjustText is not installed.

    Notes
    -----
    The horizontal axis is the mean over the cells of the group, of what the model was fitted to: log
    expression, or for pseudobulk the count per cell, on a log scale. The means are not kept with the
    results but read from the AnnData again. The vertical axis is that of effects in the volcano plot.
    Effects that grow where the mean is small are those of few counts.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", groupby="cell_type", progress=False)
    >>> ax = dw.pl.ma(adata, group="T cell")
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('mean log expression', 'log2 fold change')
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    labels = feature_names(labels) if len(labels) else []
    choose(stored.results, "variable", labels)
    contrast = choose_contrast(adata, stored.results, contrast)
    table = choose(choose(stored.results, "contrast", contrast), "group", group)
    table, y_label = with_effects(table, stored.params["log_base"])
    tested = tested_parts(table, contrast)
    means = group_means(
        adata,
        list(table["variable"].cat.categories),
        response=stored.params["response"],
        groupby=stored.params["groupby"],
        groups=list(tested),
    )
    parts = {name: _ma_points(part, means[name], alpha) for name, part in tested.items()}
    figure, axes = panels(ax, len(parts), size=(4.8, 4.2) if len(parts) == 1 else (3.6, 3.3), share=True)
    ends = effect_range(np.concatenate([points.y for points in parts.values()]))
    counted = stored.params.get("method") == keys.PSEUDOBULK
    for panel, (name, points) in zip(axes, parts.items(), strict=True):
        draw_points(panel, points)
        draw_zero(panel, vertical=False)
        panel.text(0.5, 1.0, f"FDR {alpha:.0%}", transform=panel.transAxes, ha="center", va="bottom", fontsize="small")
        panel.set_ylim(ends)
        panel.margins(x=0.08)
        if counted:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(numticks=5))
        write_title(panel, panel_title(name, contrast), pad=18)
    outer_labels(axes, x=_mean_label(stored.params, counted=counted), y=y_label)
    name_panels(figure, axes, list(parts.values()), n_labels=n_labels, labels=labels, adjust_text=adjust_text)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _ma_points(tested: pd.DataFrame, means: pd.Series, alpha: float) -> Points:
    x = means.reindex(tested["variable"].astype(str)).to_numpy()
    return points_of(tested, x=x, y=tested["effect"].to_numpy(), alpha=alpha)


def _mean_label(params: dict[str, Any], *, counted: bool) -> str:
    if counted:
        return "mean count per cell"
    return "mean log expression" if np.isfinite(params["log_base"]) else f"mean of {params['response']}"
