"""Where the variance lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import PercentFormatter

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise.errors import DataError
from donorwise.get._select import choose, present
from donorwise.pl._names import write_title
from donorwise.pl._style import GREY, OKABE_ITO, despine, finish, outer_labels, panels, say_empty
from donorwise.pl._violins import draw_violins

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESIDUAL = ("Residual", "Residuals")
NAMES = {"fixed": "fixed\neffects", "Residual": "residual", "Residuals": "residual"}


def variance_partition(
    adata: ad.AnnData,
    *,
    group: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    key: str = keys.LMM,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw how the variance of the features divides over the terms of the model.

    Parameters
    ----------
    adata
        AnnData that holds a result of :func:`donorwise.tl.lmm`.
    group
        Groups of ``groupby`` to draw, one panel each; None for all.
    variables
        Features to include; None for all.
    key
        Entry of ``uns`` that holds the result.
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
        There is no such result, group or variable, or no model could be fitted.

    Notes
    -----
    One violin per term over the features, quartiles inside; the number above is the median. The terms
    stand in the order of their medians, what remains last.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.variance_partition(adata)
    """
    check_is_anndata(adata)
    stored = read_results(adata, key)
    groups = present(choose(stored.results, "group", group), "group")
    table = choose(stored.variance_partition, "variable", variables)
    table = table[table["group"].isin(groups) & table["fraction"].notna()]
    if table.empty:
        raise DataError("No model could be fitted: look at the status column of dw.get.lmm.")
    terms = _ordered_terms(table)
    colors = [GREY if term in RESIDUAL else OKABE_ITO[i % len(OKABE_ITO)] for i, term in enumerate(terms)]
    figure, axes = panels(ax, len(groups), size=(1.6 + 0.9 * len(terms), 3.6), share=True)
    for panel, name in zip(axes, groups, strict=True):
        _draw(panel, table[table["group"] == name], terms=terms, colors=colors)
        write_title(panel, "" if name == keys.ALL else name, pad=18)
    outer_labels(axes, x="", y="share of the variance")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _ordered_terms(table: pd.DataFrame) -> list[str]:
    medians = table.groupby("term", observed=True)["fraction"].median().sort_values(ascending=False, kind="stable")
    terms = [str(term) for term in medians.index]
    return [t for t in terms if t not in RESIDUAL] + [t for t in terms if t in RESIDUAL]


def _draw(ax: Axes, table: pd.DataFrame, *, terms: list[str], colors: list[str]) -> None:
    if table.empty:
        say_empty(ax, "nothing fitted")
    columns = [table["fraction"][table["term"] == term].to_numpy() for term in terms]
    draw_violins(ax, columns, colors=colors)
    for place, values in enumerate(columns):
        if len(values):
            text = f"{np.median(values):.1%}"
            ax.text(place, 1.02, text, transform=ax.get_xaxis_transform(), ha="center", fontsize="small")
    ax.set_xticks(range(len(terms)), [NAMES.get(term, term).replace(":", ":\n") for term in terms])
    ax.tick_params(axis="x", length=0, labelbottom=True)
    ax.set_xlim(-0.6, len(terms) - 0.4)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    despine(ax)
