"""Effects of all features: against their p-values (volcano), and against mean expression (MA)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogLocator

from donorwise._anndata import Results, Symbols, check_is_anndata, group_means, keys, read_results, symbols_of
from donorwise._anndata.read import feature_names as names_of_rows
from donorwise._docs import documented
from donorwise.get._tests import choose, passes
from donorwise.pl._contrasts import per_unit
from donorwise.pl._effects import (
    Points,
    draw_points,
    draw_threshold,
    draw_zero,
    effect_range,
    name_panels,
    points_of,
    response_unit,
    tested_parts,
    with_effects,
)
from donorwise.pl._style import (
    INK,
    SMALLEST_P,
    choose_contrast,
    feature_names,
    finish,
    outer_labels,
    panel_title,
    panels,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import Groups

_PANEL, _ALONE = (3.6, 3.3), (4.8, 4.2)  # inches of one of several panels, and of a single one


def _read(
    adata: ad.AnnData, key: str, labels: str | Sequence[str], gene_symbols: str | None
) -> tuple[Results, Symbols, list[str]]:
    """The result, what its features are called, and those to name, which are in it."""
    check_is_anndata(adata)
    stored = read_results(adata, key)
    symbols = symbols_of(adata, gene_symbols, stored.params)
    names = symbols.find(feature_names(labels)) if len(labels) else []
    choose(stored.results, "variable", names)
    return stored, symbols, [symbols.label(name) for name in names]


def _chosen(
    adata: ad.AnnData, stored: Results, *, contrast: str | None, group: Groups
) -> tuple[str, dict[str, pd.DataFrame], str]:
    """The contrast to draw, its tested features in each group, and what their effects are called."""
    contrast = choose_contrast(adata, stored.results, contrast)
    table = choose(choose(stored.results, "contrast", contrast), "group", group)
    table, name = with_effects(table, stored.params)
    return contrast, tested_parts(table, contrast), name + per_unit(contrast, stored.params["formula"])


@documented
def volcano(
    adata: ad.AnnData,
    *,
    contrast: str | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
    min_log_fc: float | None = None,
    gene_symbols: str | None = None,
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
    {min_log_fc}
    {symbols}
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
    stored, symbols, labels = _read(adata, key, labels, gene_symbols)
    contrast, tested, x_label = _chosen(adata, stored, contrast=contrast, group=group)
    tested = {name: symbols.rename(part) for name, part in tested.items()}
    parts = {name: _volcano_points(part, alpha, min_log_fc) for name, part in tested.items()}
    figure, axes = panels(ax, len(parts), size=_PANEL, alone=_ALONE, share=True)
    sides = effect_range(np.concatenate([points.x for points in parts.values()]))
    top = 1.12 * max(points.y.max(initial=0.0) for points in parts.values()) or 1.0
    for panel, (name, points) in zip(axes, parts.items(), strict=True):
        draw_points(panel, points)
        draw_zero(panel, vertical=True)
        panel.set_xlim(sides)
        panel.set_ylim(0, top)
        draw_threshold(panel, points.y, passes(tested[name], alpha, None), text=f"FDR {alpha:.0%}")
        for end in [] if not min_log_fc else [-min_log_fc, min_log_fc]:
            panel.axvline(end, color=INK, lw=0.7, ls=(0, (4, 3)), zorder=0)
        write_title(panel, panel_title(name, contrast), pad=18)
    outer_labels(axes, x=x_label, y=f"$-\\log_{{10}}$ {_tested(stored)}")
    name_panels(figure, axes, list(parts.values()), n_labels=n_labels, labels=labels, adjust_text=adjust_text)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _tested(stored: Results) -> str:
    """What a p-value is of, where that is more than an effect of zero."""
    effect = float(stored.params.get("min_effect", 0.0))
    return f"p of |estimate| > {effect:.3g}" if effect else "p-value"


def _volcano_points(tested: pd.DataFrame, alpha: float, min_log_fc: float | None) -> Points:
    return points_of(
        tested,
        x=tested["effect"].to_numpy(),
        y=-np.log10(tested["p_value"].clip(lower=SMALLEST_P).to_numpy()),
        alpha=alpha,
        min_log_fc=min_log_fc,
    )


@documented
def ma(
    adata: ad.AnnData,
    *,
    contrast: str | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
    min_log_fc: float | None = None,
    gene_symbols: str | None = None,
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
    {min_log_fc}
    {symbols}
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
    expression, or for pseudobulk the count per cell, on a log scale; of a protein that of the means of its peptides. The means are not kept with the
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
    stored, symbols, labels = _read(adata, key, labels, gene_symbols)
    contrast, tested, y_label = _chosen(adata, stored, contrast=contrast, group=group)
    means = _means(adata, stored, list(tested))
    parts = {
        name: _ma_points(part, means[name], symbols, alpha=alpha, min_log_fc=min_log_fc)
        for name, part in tested.items()
    }
    figure, axes = panels(ax, len(parts), size=_PANEL, alone=_ALONE, share=True)
    ends = effect_range(np.concatenate([points.y for points in parts.values()]))
    for panel, (name, points) in zip(axes, parts.items(), strict=True):
        draw_points(panel, points)
        draw_zero(panel, vertical=False)
        panel.text(0.5, 1.0, f"FDR {alpha:.0%}", transform=panel.transAxes, ha="center", va="bottom", fontsize="small")
        panel.set_ylim(ends)
        panel.margins(x=0.08)
        if _of_counts(stored):
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(numticks=5))
        write_title(panel, panel_title(name, contrast), pad=18)
    outer_labels(axes, x=_mean_label(stored), y=y_label)
    name_panels(figure, axes, list(parts.values()), n_labels=n_labels, labels=labels, adjust_text=adjust_text)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _means(adata: ad.AnnData, stored: Results, groups: list[str]) -> pd.DataFrame:
    """Means of the features, of a protein that of its peptides' means, features x groups."""
    where = {"response": stored.params["response"], "groupby": stored.groupby, "groups": groups}
    if not stored.features:
        return group_means(adata, list(stored.results["variable"].cat.categories), **where)
    return (
        group_means(adata, list(map(str, adata.var_names)), **where)
        .groupby(names_of_rows(adata, stored.features))
        .mean()
    )


def _ma_points(
    tested: pd.DataFrame, means: pd.Series, symbols: Symbols, *, alpha: float, min_log_fc: float | None
) -> Points:
    x = means.reindex(tested["variable"].astype(str)).to_numpy()
    y = tested["effect"].to_numpy()
    return points_of(symbols.rename(tested), x=x, y=y, alpha=alpha, min_log_fc=min_log_fc)


def _of_counts(stored: Results) -> bool:
    """Whether the response is counts, or that there are any."""
    return stored.params["link"] == "log" or bool(stored.params.get("detected"))


def _mean_label(stored: Results) -> str:
    if _of_counts(stored):
        return "mean count per cell"
    if stored.params["response"].startswith(keys.LABELS_PREFIX):
        return "mean share"
    if stored.features:
        return f"mean {response_unit(stored.params, stored.results)}"
    return "mean log expression" if np.isfinite(stored.params["log_base"]) else f"mean of {stored.params['response']}"
