"""Histogram of p-values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise.pl._pvalues import Distribution, draw_distributions
from donorwise.pl._style import BLUE, GREY, INK, despine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pvalues(
    adata: ad.AnnData,
    *,
    key: str | None = None,
    contrast: str | None = None,
    group: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the histogram of the p-values, with what permuted labels give.

    Parameters
    ----------
    adata
        AnnData that holds a calibration (:func:`donorwise.tl.calibrate`) or a result of tests
        (:func:`donorwise.tl.lmm`).
    key
        Entry of ``uns`` that holds it; None for the calibration where there is one, else the result.
    contrast
        The contrast to draw; None for the first one of the declared condition, else the first one.
    group
        Groups of ``groupby`` to draw, one panel each; None for all.
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
        There is no such entry, contrast or group, or nothing in it was tested.

    Notes
    -----
    Flat where nothing is to be found, flat with a peak at zero where something is. Without permutations
    the band is that of independent tests, a binomial count in each bin.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.pvalues(adata)
    """
    return draw_distributions(
        adata, _draw, key=key, contrast=contrast, group=group, ax=ax, sizes=((4.8, 3.6), (3.8, 3.1)),
        x="p-value", y="features", show=show, return_fig=return_fig,
    )  # fmt: skip


def _draw(ax: Axes, own: Distribution) -> None:
    table = own.histogram
    edges = np.append(table["left"], table["right"].iloc[-1])
    ax.stairs(table["observed"], edges, fill=True, color=BLUE, alpha=0.55, lw=0, label="observed labels")
    low, high = (np.append(table[side], table[side].iloc[-1]) for side in ("low", "high"))
    ax.fill_between(edges, low, high, step="post", color=GREY, alpha=0.45, lw=0, label=own.band)
    if own.permuted is not None:
        ax.stairs(table["median"], edges, baseline=None, color=INK, lw=1, label="median of permutations")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.45 * max(table["observed"].max(), table["high"].max()))
    ax.legend(loc="upper right", frameon=False, fontsize="small", handlelength=1.4)
    despine(ax)
