"""Effect against evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise.errors import DataError
from donorwise.get._select import choose, only_one
from donorwise.pl._labels import place_labels
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    SMALLEST_P,
    VERMILION,
    despine,
    finish,
    outer_labels,
    panels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import BoolArray, FloatArray


class _Points(NamedTuple):
    """The tested features of one panel; all arrays have shape (G,)."""

    names: np.ndarray
    x: FloatArray
    y: FloatArray
    adj_p: FloatArray
    significant: BoolArray


def volcano(
    adata: ad.AnnData,
    *,
    contrast: str | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    alpha: float = 0.05,
    n_labels: int = 10,
    labels: Sequence[str] = (),
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the effect of every feature against its evidence, significant ones in colour.

    Parameters
    ----------
    adata
        AnnData that holds a result of :func:`donorwise.tl.lmm`.
    contrast
        The contrast to draw; may be left out where there is only one.
    group
        Groups of ``groupby`` to draw, one panel each; None for all.
    key
        Entry of ``uns`` that holds the result.
    alpha
        Features with an adjusted p-value up to this are coloured.
    n_labels
        How many of the coloured features to name in each panel, smallest p-value first.
    labels
        Features to name in any case.
    ax
        Axes to draw in, for one panel.
    show
        Show the figure and return nothing.
    return_fig
        Return the figure.

    Returns
    -------
    The Axes, an array of Axes for several panels, the Figure with ``return_fig``, or None with ``show``.

    Raises
    ------
    DataError
        There is no such result, contrast or group, or nothing in it was tested.

    Notes
    -----
    The horizontal axis is the log2 fold change where the response is on a log scale, and the estimate
    in units of the response elsewhere.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.volcano(adata, contrast="condition[T.disease]")
    """
    check_is_anndata(adata)
    results = read_results(adata, key).results
    contrast = only_one(results, "contrast", contrast)
    table = choose(choose(results, "contrast", contrast), "group", group)
    groups = [name for name in table["group"].cat.categories if (table["group"] == name).any()]
    parts = {name: _points(table[table["group"] == name], alpha) for name in groups}
    if not any(len(points.x) for points in parts.values()):
        raise DataError(f"No feature was tested for {contrast!r}: look at the status column of dw.get.lmm.")
    x_label = "log2 fold change" if table["log_fc"].notna().any() else "estimate"
    figure, axes = panels(ax, len(groups), size=(4.8, 4.2) if len(groups) == 1 else (3.6, 3.3), share=True)
    left, right, top = _limits(list(parts.values()))
    for panel, (name, points) in zip(axes, parts.items(), strict=True):
        _draw(panel, points, alpha=alpha)
        panel.set_xlim(left, right)
        panel.set_ylim(0, top)
        panel.set_title(contrast if name == keys.ALL else f"{name}, {contrast}", fontsize="medium", pad=18)
    outer_labels(axes, x=x_label, y="$-\\log_{10}$ p-value")
    figure.draw_without_rendering()
    for panel, points in zip(axes, parts.values(), strict=True):
        _name(panel, points, n_labels=n_labels, labels=labels)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _points(table: pd.DataFrame, alpha: float) -> _Points:
    tested = table[table["p_value"].notna()]
    effect = tested["log_fc"] if table["log_fc"].notna().any() else tested["estimate"]
    adj_p = tested["adj_p_value"].to_numpy()
    return _Points(
        names=tested["variable"].astype(str).to_numpy(),
        x=effect.to_numpy(),
        y=-np.log10(tested["p_value"].clip(lower=SMALLEST_P).to_numpy()),
        adj_p=adj_p,
        significant=adj_p <= alpha,
    )


def _colors(points: _Points) -> np.ndarray:
    direction = np.where(points.x > 0, VERMILION, BLUE)
    return np.where(points.significant, direction, GREY)


def _draw(ax: Axes, points: _Points, *, alpha: float) -> None:
    n = len(points.x)
    size = float(np.interp(np.log10(max(n, 1)), [2, 4.3], [22, 5]))
    colors = _colors(points)
    for chosen, opacity in ((~points.significant, 0.35), (points.significant, 0.85)):
        ax.scatter(
            points.x[chosen],
            points.y[chosen],
            c=colors[chosen],
            s=size,
            alpha=opacity,
            linewidths=0,
            rasterized=n > 5000,
        )
    ax.axvline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    _threshold(ax, points, alpha=alpha)
    for side, color, x, chosen in (("left", BLUE, 0.02, points.x <= 0), ("right", VERMILION, 0.98, points.x > 0)):
        word = "down" if side == "left" else "up"
        count = f"{np.sum(points.significant & chosen):,} {word}"
        ax.text(x, 1.0, count, transform=ax.transAxes, ha=side, va="bottom", color=color, fontsize="small")
    despine(ax)


def _limits(parts: Sequence[_Points]) -> tuple[float, float, float]:
    """Return left, right and top of the axes: zero well inside, with headroom for names."""
    x = np.concatenate([points.x for points in parts])
    top = 1.12 * np.concatenate([points.y for points in parts]).max()
    left, right = max(-x.min(), 0.0), max(x.max(), 0.0)
    return -1.2 * max(left, 0.4 * right) or -1.0, 1.2 * max(right, 0.4 * left) or 1.0, top or 1.0


def _threshold(ax: Axes, points: _Points, *, alpha: float) -> None:
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


def _name(ax: Axes, points: _Points, *, n_labels: int, labels: Sequence[str]) -> None:
    order = np.argsort(-points.y, kind="stable")
    asked = np.isin(points.names, list(labels))
    chosen = [i for i in order if asked[i]] + [i for i in order if points.significant[i] and not asked[i]][:n_labels]
    if chosen:
        xy = np.column_stack([points.x, points.y])
        colors = np.where(points.significant, _colors(points), INK)[chosen]
        place_labels(ax, list(points.names[chosen]), xy[chosen], points=xy, colors=list(colors))
