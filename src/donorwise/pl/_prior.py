"""What the features together say about a variance ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from donorwise._anndata import check_is_anndata, keys, read_results
from donorwise._core.engine.fitted import LMMFit
from donorwise._core.engine.partition import RESIDUAL
from donorwise._core.engine.tables import prior_table
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._tests import choose
from donorwise.pl._style import INK, LIGHT_GREY, despine, finish, outer_labels, panels, write_title

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import FloatArray, Groups

_CMAP = "viridis"
UNIT = "unit"  # what pseudobulk calls the term of its units
_GAP = 0.12  # between a ratio of zero and the smallest of the others, of the width of the grid
_HEADROOM = 1.22  # the legend is above the peaks
_BRIGHTEST = 0.85  # of the colour map: its yellow end is pale on white


@documented
def prior(
    data: ad.AnnData | LMMFit,
    *,
    term: str | None = None,
    group: Groups = None,
    key: str = keys.LMM,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the prior on the variance ratios, and where the features' own estimates lie.

    Parameters
    ----------
    data
        AnnData that holds a moderated result of :func:`donorwise.tl.lmm`, or one of :func:`donorwise.tl.glmm` or
        :func:`donorwise.tl.pseudobulk`; or a :class:`donorwise.LMMFit`.
    term
        Which random term, ``"(1 | donor_id)"`` or ``"donor_id"``; for pseudobulk ``"unit"``, or what the units are
        (``"donor_id"``). None for all of the model, a panel each.
    {group_panels}
    {key}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no such result, term or group, or its tests are not moderated.
    DesignError
        The features of the LMMFit share no prior, see :attr:`donorwise.LMMFit.prior`.

    Notes
    -----
    Lines: the share of features that the prior gives each ratio of the term's to the residual variance, from
    features with a low to those with a high mean response. Bars: the same for the features' own estimates,
    which spread more than the truth, since each is estimated from few donors. The leftmost place is a
    variance of zero. For pseudobulk the axis is the variance of log rates between units itself, for models of counts or of
    yes and no that of the term, and features have no estimates of their own.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=120)
    >>> fit = dw.fit_lmm(adata.X, adata.obs, "~ condition + (1 | donor_id)")
    >>> ax = dw.pl.prior(fit)
    """
    table, varcomp, on_variance, units = _tables(data, key)
    table = choose(choose(table, "term", _meant(term, list(table["term"].cat.categories), units)), "group", group)
    pairs = table[["term", "group"]].astype(str).drop_duplicates()
    found = [(name, each) for each in pairs["term"].unique() for name in pairs.loc[pairs["term"] == each, "group"]]
    parts = [table[(table["group"] == g) & (table["term"] == t)] for g, t in found]
    grids = {tuple(part["ratio"].unique()) for part in parts}
    figure, axes = panels(ax, len(found), size=(4.6, 3.4), share=len(grids) == 1)
    for panel, part, (name, its_term) in zip(axes, parts, found, strict=True):
        own = _own_ratios(varcomp, "" if on_variance else its_term)
        _draw(panel, part, own[own["group"].astype(str) == name]["ratio"].to_numpy())
    _leave_room(axes, shared=len(grids) == 1)
    _name_panels(axes, found, units, on_variance=on_variance)
    _legend(axes[0], own=bool(axes[0].patches))
    _color_key(figure, axes, np.unique(table["knot"].to_numpy()))
    return finish(figure, axes, show=show, return_fig=return_fig)


def _tables(data: ad.AnnData | LMMFit, key: str) -> tuple[pd.DataFrame, pd.DataFrame, bool, str]:
    """The prior, the variance components, whether it is on a variance, and between which units of counts (empty for none)."""
    if isinstance(data, LMMFit):
        prior, varcomp, on_variance, units = prior_table(data.prior), data.varcomp().assign(group=keys.ALL), False, ""
        prior = prior.assign(group=keys.ALL)
    else:
        check_is_anndata(data)
        stored = read_results(data, key)
        if stored.prior is None:
            raise DataError(
                f"The tests of {key!r} are not moderated (params['ddf_used']), so there is no prior to draw."
            )
        prior, varcomp = stored.prior, stored.varcomp
        on_variance, units = stored.params["prior_on"] == "variance", str(stored.params.get("units", ""))
    prior = prior.assign(**{name: prior[name].astype("category") for name in ("term", "group")})
    return prior, varcomp, on_variance, units


def _meant(term: str | None, known: Sequence[str], units: str) -> str | list[str] | None:
    """The terms that are meant by a grouping factor, or by what the units of counts are."""
    if term is None or term in known:
        return term
    return [name for name in known if name[1:-1].partition(" | ")[2] == term] or (
        UNIT if units and term in (units, *units.split(":")) else term
    )


def _own_ratios(varcomp: pd.DataFrame, term: str) -> pd.DataFrame:
    """Every feature's estimate of the ratio: variable, group, ratio."""
    index = ["variable", "group"]
    residual = varcomp[(varcomp["term"] == RESIDUAL) & (varcomp["column1"] == "")].set_index(index)["variance"]
    names = varcomp["column1"].astype(str).map(lambda column: "1" if column == "(Intercept)" else f"0 + {column}")
    chosen = (names.radd("(") + " | " + varcomp["term"].astype(str) + ")" == term) & (varcomp["column2"] == "")
    ratio = varcomp[chosen].set_index(index)["variance"] / residual
    return ratio.rename("ratio").dropna().reset_index()


def _draw(ax: Axes, table: pd.DataFrame, own: FloatArray) -> None:
    """Bars of the features' own ratios and a line per knot, over the places of the grid."""
    ratios = np.unique(table["ratio"].to_numpy())
    places = _places(ratios.size)
    if own.size:
        share = np.bincount(_nearest(own, ratios), minlength=ratios.size) / own.size
        ax.bar(places, share, width=1.0, color=LIGHT_GREY, zorder=1)
    for knot in np.unique(table["knot"].to_numpy()):
        weight = table[table["knot"] == knot].sort_values("ratio")["weight"].to_numpy()
        color = colormaps[_CMAP](_BRIGHTEST * knot)
        ax.plot(places[1:], weight[1:], color=color, lw=1.6, zorder=3)
        ax.plot(places[0], weight[0], "o", color=color, ms=4, zorder=4)
    _name_ratios(ax, ratios)
    despine(ax)


def _places(n: int) -> np.ndarray:
    """Places of the grid's points: ratio zero stands apart."""
    return np.concatenate([[-_GAP * n], np.arange(n - 1)])


def _name_ratios(ax: Axes, ratios: FloatArray) -> None:
    places = _places(ratios.size)
    decades = [e for e in range(-6, 3) if ratios[1] <= 10.0**e <= ratios[-1]]
    at = np.interp(decades, np.log10(ratios[1:]), places[1:])
    names = [f"{10.0**e:g}" if e >= -2 else f"$10^{{{e}}}$" for e in decades]
    ax.set_xticks([places[0], *at], ["0", *names])
    ax.set_xlim(places[0] - 1.5, places[-1] + 0.5)


def _nearest(values: FloatArray, ratios: FloatArray) -> np.ndarray:
    """Place on the grid of every value; exact zeros alone are at place 0."""
    steps = np.sqrt(ratios[1:-1] * ratios[2:])
    return np.where(values > 0, 1 + np.searchsorted(steps, values), 0)


def _name_panels(axes: Sequence[Axes], found: Sequence[tuple[str, str]], units: str, *, on_variance: bool) -> None:
    """Group, and term where there are several, above the panels; the ratio below them."""
    terms = list(dict.fromkeys(term for _, term in found))
    several = len(terms) > 1
    for panel, (group, term) in zip(axes, found, strict=True):
        called = f"units ({units})" if units and term == UNIT else term
        parts = [part for part, shown in ((group, group != keys.ALL), (called, several)) if shown]
        write_title(panel, ", ".join(parts))
    whose = "the term" if several else terms[0]
    levels = f"units ({units})" if terms == [UNIT] else f"levels of {whose}"
    of_terms = f"variance of {whose}" if on_variance else f"variance of {whose} / residual variance"
    x = f"variance of log rates between {levels}" if units else of_terms
    outer_labels(axes, x=x, y="share of features")


def _leave_room(axes: Sequence[Axes], *, shared: bool) -> None:
    """Space above the peaks, where the legend goes."""
    tops = [panel.dataLim.y1 for panel in axes]
    for panel, top in zip(axes, tops, strict=True):
        panel.set_ylim(0, _HEADROOM * (max(tops) if shared else top))


def _legend(ax: Axes, *, own: bool) -> None:
    handles: list[Artist] = [Line2D([], [], color=colormaps[_CMAP](_BRIGHTEST / 2), lw=1.6, label="prior")]
    if own:
        handles.append(Patch(color=LIGHT_GREY, label="features' own estimates"))
    ax.legend(handles=handles, frameon=False, fontsize="small", labelcolor=INK, loc="upper right", ncols=2)


def _color_key(figure: Figure, axes: Sequence[Axes], knots: FloatArray) -> None:
    """A bar with the colour of each knot of mean response."""
    steps = np.append(knots - np.diff(knots, prepend=-knots[1]) / 2, knots[-1] + knots[1] / 2)
    spec = axes[0].get_subplotspec()
    n_rows = spec.get_gridspec().nrows if spec is not None and len(axes) > 1 else 1
    colors = ListedColormap(colormaps[_CMAP](_BRIGHTEST * knots))
    bar = figure.colorbar(
        ScalarMappable(BoundaryNorm(steps, knots.size), colors),
        ax=list(axes),
        ticks=knots,
        shrink=0.8 / n_rows,
        anchor=(0.0, 1.0),
        aspect=25,
        pad=0.02,
    )
    bar.ax.set_yticks(knots, [f"{knot:g}" for knot in knots], fontsize="small")
    bar.ax.tick_params(which="both", length=0)
    bar.set_label("mean response, rank", fontsize="small")
    bar.outline.set_visible(False)
