"""Sorted p-values against those of tests without effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise.pl._pvalues import Distribution, draw_distributions
from donorwise.pl._style import BLUE, GREY, INK, LIGHT_GREY, despine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def qq(
    adata: ad.AnnData,
    *,
    key: str | None = None,
    contrast: str | None = None,
    group: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the sorted p-values against their expectation, with what permuted labels give.

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
    Points above the band are more small p-values than chance gives in this very data set. Without
    permutations the band is that of independent tests, each rank a beta quantile; tests of genes are not
    independent, so it is too narrow. Genomic lambda is the median chi-squared value over its expectation
    (Devlin and Roeder 1999).

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.qq(adata)
    """
    return draw_distributions(
        adata, _draw, key=key, contrast=contrast, group=group, ax=ax, sizes=((4.4, 4.2), (3.6, 3.5)),
        x="expected $-\\log_{10}$ p", y="observed $-\\log_{10}$ p", show=show, return_fig=return_fig,
    )  # fmt: skip


def _draw(ax: Axes, own: Distribution) -> None:
    curve = own.curve
    x = curve["expected"]
    ax.fill_between(x, curve["low"], curve["high"], color=LIGHT_GREY, lw=0, label=own.band)
    if own.permuted is not None:
        ax.plot(x, curve["median"], color=GREY, lw=1.2, label="median of permutations")
    ax.axline((0, 0), slope=1, color=INK, lw=0.7, ls=(0, (4, 3)))
    ax.scatter(x, curve["observed"], s=9, color=BLUE, lw=0, zorder=3, label="observed labels", clip_on=False)
    ax.set_xlim(0, 1.03 * x.max())
    ax.set_ylim(0, 1.05 * max(curve["observed"].max(), curve["high"].max(), x.max()))
    ax.text(
        0.97, 0.03, inflation_text(own), transform=ax.transAxes, ha="right", va="bottom", fontsize="small", color=INK
    )
    ax.legend(loc="upper left", frameon=False, fontsize="small", handlelength=1.4)
    despine(ax)


def inflation_text(own: Distribution) -> str:
    """Genomic lambda, and where permutations put it."""
    text = f"$\\lambda$ = {own.inflation:.2f}"
    if own.permuted is None:
        return text
    middle, low, high = own.permuted
    return f"{text}\npermuted {middle:.2f} ({low:.2f} to {high:.2f})"
