"""The design of a study at a glance."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from donorwise._accessor import DonorwiseAccessor
from donorwise._anndata import check_is_anndata
from donorwise.pl._design_data import find_columns, flags, tabulate
from donorwise.pl._design_draw import FLAG, LETTER, draw_cohort, lay_out
from donorwise.pl._names import shorten
from donorwise.pl._sizes import inches
from donorwise.pl._style import GREY, finish, level_colors, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def design(
    adata: ad.AnnData,
    formula: str | None = None,
    *,
    condition: str | None = None,
    cell_type: str | None = None,
    covariates: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw who gave which cells: donors against cell types and conditions, and what goes with the condition.

    Parameters
    ----------
    adata
        AnnData of cells, or of collapsed rows.
    formula
        A model: its labels are drawn, and the warnings of ``adata.donorwise.audit`` stand below.
    condition
        Column of obs with the arms. By default the declared one (:meth:`adata.donorwise.setup`), else the first
        labels among the fixed effects.
    cell_type
        Column of obs for the columns of the picture. By default the declared or guessed one; ``""`` for none.
    covariates
        Further columns of obs with labels, such as batch or sex. By default those of the formula, and the
        declared batch. Left out are those with more than 12 levels, and parts of donors such as samples.
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
    FormulaError, DesignError, DataError
        The formula does not parse; a column is not in obs; no column is known to be the donor; or the
        condition is not one of a few levels.

    Notes
    -----
    One row per donor, in blocks of donors that have the same levels of the condition; one column per cell
    type (and level of the condition, where that varies within donors). The area of a marker is the number
    of cells, a cross stands where a donor has none. Covariates follow on the right: their level where each
    donor has one, the cells per level elsewhere. Orange is what the data cannot tell apart from the
    condition: levels of a covariate that occur in one arm only, and arms without cells.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=5)
    >>> ax = dw.pl.design(adata, "~ condition + sex + (1 | donor_id)")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['D01', 'D05', 'D03', 'D02', 'D06', 'D04']
    """
    check_is_anndata(adata)
    audit = None if formula is None else DonorwiseAccessor(adata).audit(formula)
    roles = find_columns(adata, formula, audit, condition=condition, cell_type=cell_type, covariates=covariates)
    cohort = tabulate(adata, roles)
    found = [*flags(cohort), *(audit.warnings if audit else ())]
    layout = lay_out(cohort)
    width, height = layout.size
    names = max(map(len, shorten(cohort.donors)))
    text = _words(found, width=width - 1.0 - LETTER * names if ax is None else inches(ax)[0])
    figure, axes = panels(ax, 1, size=(width, height + 0.125 * len(text.splitlines())))
    colors = level_colors(adata, roles.condition, cohort.arms) if roles.condition else {"": GREY}
    axes[0].set_xlabel(text, loc="left", fontsize="x-small", color=FLAG, linespacing=1.25)
    draw_cohort(axes[0], cohort, layout, colors=colors)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _words(sentences: Sequence[str], *, width: float) -> str:
    """Break sentences into lines that fit under a figure of a width in inches."""
    n_letters = max(40, int(width / LETTER))
    return "\n".join(fill(sentence, n_letters, subsequent_indent="   ") for sentence in sentences)
