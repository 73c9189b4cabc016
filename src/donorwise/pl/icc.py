"""How alike the cells of one donor are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise.errors import DataError
from donorwise.get._select import choose, present
from donorwise.pl._names import shorten
from donorwise.pl._style import BLUE, INK, despine, finish, level_colors, panels
from donorwise.pl._violins import draw_violins

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import FloatArray


def icc(
    adata: ad.AnnData,
    *,
    term: str | None = None,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the intraclass correlations of the features, one row per group.

    Parameters
    ----------
    adata
        AnnData that holds a result of :func:`donorwise.tl.lmm`.
    term
        Which random term; None for the first of the model.
    group
        Groups of ``groupby`` to include; None for all.
    variables
        Features to include; None for all.
    key
        Entry of ``uns`` that holds the result.
    ax
        Axes to draw in.
    show
        Show the figure and return nothing.
    return_fig
        Return the figure.

    Returns
    -------
    The Axes, the Figure with ``return_fig``, or None with ``show``.

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
    term = term if term is not None else next(iter(stored.icc["term"].astype(str)), None)
    table = choose(choose(stored.icc, "term", term), "variable", variables)
    shown = choose(stored.results, "group", group)
    if not table["icc"][table["group"].isin(present(shown, "group"))].notna().any():
        raise DataError("No model could be fitted: look at the status column of dw.get.lmm.")
    columns = _columns(table, shown)
    figure, axes = panels(ax, 1, size=(5.8, 1.4 + 0.5 * len(columns)))
    groupby = stored.params["groupby"]
    colors = level_colors(adata, groupby, list(columns)) if f"{groupby}_colors" in adata.uns else {}
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
