"""A heatmap of how strongly covariates go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._docs import documented
from donorwise.get._covariates import covariates as correlations_of
from donorwise.pl._style import GREY, INK, LIGHT_GREY, finish, panels, shorten, write_title

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DARK = 0.7  # from where on numbers are white


@documented
def covariates(
    adata: ad.AnnData,
    columns: str | Sequence[str],
    *,
    donor: str | None = None,
    sample: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw how strongly covariates go together among the donors.

    Parameters
    ----------
    adata
        AnnData of cells, or of collapsed rows.
    columns
        Columns of obs, or a formula: its variables, grouping factors too, but for the donors and samples.
    donor, sample
        As of :func:`donorwise.get.covariates`.
    ax
        Axes to draw in.
    {show}

    Returns
    -------
    {axes}

    Raises
    ------
    DesignError
        A column is not there, there are fewer than two, or no column is known to be the donor.
    FormulaError
        The formula does not parse.

    Notes
    -----
    The numbers are those of :func:`donorwise.get.covariates`, 0 for covariates that have nothing to do with one another and 1
    where one says the other. Hatched are covariates with a single value. What goes together cannot be told apart by a model;
    ``adata.donorwise.audit`` says what that means for one.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=8, n_cells=300, n_genes=5)
    >>> ax = dw.pl.covariates(adata, ["condition", "sex", "age"])
    """
    table = correlations_of(adata, columns, donor=donor, sample=sample)
    n, names = len(table), shorten(list(table.index))
    room = 0.085 * max(map(len, names))
    figure, axes = panels(ax, 1, size=(1.6 + room + 0.55 * n, 1.0 + room + 0.5 * n))
    _draw(axes[0], table, names)
    write_title(axes[0], f"canonical correlation, {table.attrs['units']}", loc="left")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _draw(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    values, n = table.to_numpy(), len(table)
    edges = np.arange(n + 1) - 0.5
    ax.set_facecolor(LIGHT_GREY)
    ax.patch.set(hatch="////", edgecolor=GREY, linewidth=0)
    ax.pcolormesh(
        edges, edges, np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1.2, edgecolors="white", lw=0.8
    )
    for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
        ax.text(
            j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize="small",
            color="white" if values[i, j] > _DARK else INK,
        )  # fmt: skip
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_xticks(range(n), names, rotation=90, fontsize="small", parse_math=False)
    ax.set_yticks(range(n), names, fontsize="small", parse_math=False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
