"""How far each donor lies from what the fixed effects say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get import ranef as predict
from donorwise.get._tests import choose
from donorwise.pl._style import BLUE, GREY, INK, LIGHT_GREY, despine, finish, inches, panels, shorten, write_title

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INTERCEPT = "(Intercept)"
COVERAGE = 1.96
"""Conditional standard deviations on either side: 95% of a normal law."""
_ROW, _SMALLEST_ROW, _TALLEST = 0.16, 0.075, 10.5  # inches; names in smaller rows could not be read


@documented
def ranef(
    adata: ad.AnnData,
    variable: str,
    *,
    group: str | Sequence[str] | None = None,
    term: str | None = None,
    key: str = keys.LMM,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the random effects of one feature with their intervals, the levels in order (a caterpillar plot).

    Parameters
    ----------
    {adata_refit}
    variable
        A feature.
    {group_drawn}
    term
        Grouping factor, such as ``"donor_id"``; None for the donor, or for the first where the donor is none.
    {key}
    {ax}
    {show}

    Returns
    -------
    The Axes, an array of Axes for several panels (one for each random column, such as intercept and
    slope, of each group), the Figure with ``return_fig``, or None with ``show``.

    Raises
    ------
    DataError, DesignError
        As :func:`donorwise.get.ranef`; or the feature could not be fitted.

    Notes
    -----
    A point is a conditional mode (BLUP), in units of the response (per unit of the variable, for a slope);
    the bar is 1.96 conditional standard deviations to either side, given the estimated variances and fixed
    effects (``condVar`` in lme4; Bates et al. 2015, J Stat Softw 67(1)). They come from :func:`donorwise.get.ranef`, which
    fits the model again. Modes are shrunken towards zero, those of donors with few cells the most. Blue
    bars leave out zero: a donor to look at, not a test. The levels stand in the order of the first random
    column, the same in all panels of a group.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.lmm(adata, "~ condition + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.ranef(adata, "gene_0001")
    >>> ax.get_title()
    'gene_0001: intercept'
    """
    check_is_anndata(adata)
    if not isinstance(variable, str):
        raise DataError(f"variable= names one feature, not {variable!r}.")
    effects = predict(adata, variable, key=key, group=group, term=_term(adata, key, term)).dropna()
    if effects.empty:
        raise DataError(f"No model could be fitted to {variable!r}: look at the status column of dw.get.tests.")
    term = str(effects["term"].iloc[0])
    parts = [(g, c) for g, own in effects.groupby("group", sort=False) for c in own["column"].unique()]
    tallest = int(effects.groupby(["group", "column"]).size().max())
    figure, axes = panels(ax, len(parts), size=(3.9, 1.2 + min(_ROW * tallest, _TALLEST)))
    for panel, (name, column) in zip(axes, parts, strict=True):
        rows = _ordered(effects[effects["group"] == name], column)
        _draw(panel, rows)
        what = "intercept" if column == INTERCEPT else f"slope of {column}"
        names = shorten(list(rows["level"].astype(str)))
        write_title(panel, f"{variable if name == keys.ALL else f'{variable}, {name}'}: {what}", beside=names)
        panel.set_xlabel(f"conditional mode of {term}\n(bar: 95% interval)", fontsize="small")
    figure.draw_without_rendering()
    for panel, (name, column) in zip(axes, parts, strict=True):
        _name_levels(panel, _ordered(effects[effects["group"] == name], column))
    return finish(figure, axes, show=show, return_fig=return_fig)


def _term(adata: ad.AnnData, key: str, term: str | None) -> str | None:
    """The grouping factor that was asked for, else the donor, else the first."""
    stored = read_results(adata, key)
    if term is not None:
        if not isinstance(term, str):
            raise DataError(f"term= names one grouping factor, not {term!r}.")
        choose(stored.varcomp, "term", term)
        return term
    random = stored.varcomp[stored.varcomp["column1"] != ""]
    terms = list(dict.fromkeys(random["term"].astype(str)))
    donor = stored.params["donor"]
    return donor if donor in terms else terms[0]


def _ordered(effects: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows of one random column, in the order of the first one."""
    first = effects[effects["column"] == effects["column"].iloc[0]]
    order = first.sort_values("value", kind="stable")["level"]
    return effects[effects["column"] == column].set_index("level").loc[order].reset_index()


def _draw(ax: Axes, rows: pd.DataFrame) -> None:
    value, half = rows["value"].to_numpy(), COVERAGE * rows["cond_sd"].to_numpy()
    place = np.arange(float(len(rows)))
    colors = np.where(np.abs(value) > half, BLUE, GREY)
    ax.axvline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    ax.hlines(place, value - half, value + half, color=colors, lw=float(np.interp(len(rows), [20, 100], [1.4, 0.7])))
    ax.scatter(value, place, c=colors, s=float(np.interp(len(rows), [20, 100], [20, 6])), lw=0, zorder=3)
    if not value.any():
        ax.text(
            0.5, 0.98, "variance estimated at zero", transform=ax.transAxes, ha="center", va="top", fontsize="small",
            color=INK,
        )  # fmt: skip
    ax.locator_params(axis="x", nbins=6)
    ax.set_yticks([])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    despine(ax)


def _name_levels(ax: Axes, rows: pd.DataFrame) -> None:
    """Write the names of the levels where there is room for them, else how many there are."""
    row = inches(ax)[1] / (len(rows) + 0.4)
    if row < _SMALLEST_ROW:
        ax.set_ylabel(f"{len(rows):,} levels of {rows['term'].iloc[0]}")
        return
    ax.set_yticks(
        range(len(rows)), shorten(list(rows["level"].astype(str))), fontsize=min(8.0, 66 * row), parse_math=False
    )
    ax.tick_params(axis="y", length=0)
