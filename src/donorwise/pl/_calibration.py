"""Whether the p-values hold under permuted labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy import stats

from donorwise._anndata import check_is_anndata, keys, read_tables
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DonorwiseError
from donorwise.get._select import choose
from donorwise.pl._names import shorten, write_title
from donorwise.pl._style import GREY, INK, LIGHT_GREY, despine, draw_reference, finish, format_p, level_colors, panels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("levels", "permutations")
_TICKS = (0, 0.5, *(m * 10**e for e in range(6) for m in (1, 2, 5)))
_LONGEST_TICK = 18  # letters
_SPREAD = 0.6  # of the step between two alphas, over which the groups stand side by side


@documented
def calibration(
    adata: ad.AnnData,
    *,
    table: str | None = None,
    group: str | Sequence[str] | None = None,
    key: str = keys.CALIBRATION,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw what permuted labels say of the tests: p-values below alpha, and hits.

    Parameters
    ----------
    adata
        AnnData that holds a calibration (:func:`donorwise.tl.calibrate`).
    table
        ``"levels"`` for the share of p-values below alpha over alpha, ``"permutations"`` for the hits;
        None for both, side by side.
    {group_drawn}
    {key_calibration}
    ax
        Axes to draw in, for one `table`.
    {show}

    Returns
    -------
    An array of two Axes, or the Axes of one `table`; the Figure with ``return_fig``, or None with ``show``.

    Raises
    ------
    DataError
        There is no such calibration or group.
    DonorwiseError
        There is no such table, or `ax` was given for two.

    Notes
    -----
    Left: tests that hold lie at 1 at every alpha, anti-conservative ones above. The bar is the 95% Monte-Carlo
    interval of the mean over permutations: mean ± 1.96 sd / sqrt(permutations), or, where that is wider, the exact
    Poisson interval (Garwood 1936) of as many independent tests, so that a few tests without any p-value below
    alpha do not look certain. Above 1 the axis is logarithmic.

    Right: hits (adjusted p < .05) of every permutation in grey and of the observed labels as a diamond. The p-value is the
    share of the labellings with at least as many hits, the observed one counted (Phipson and Smyth 2010): of the data
    set as a whole, as many permutations as there are allow no smaller one.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort(n_donors=6, n_cells=300, n_genes=20)
    >>> dw.tl.calibrate(adata, "~ condition + (1 | donor_id)", "condition[T.disease]", progress=False)
    >>> ratios, hits = dw.pl.calibration(adata)
    >>> [label.get_text() for label in ratios.get_xticklabels()]
    ['0.05', '0.01', '0.001', '0.0001']
    """
    check_is_anndata(adata)
    if table is not None:
        check_option("table", table, TABLES)
    elif ax is not None:
        raise DonorwiseError(f"ax= holds one panel: choose table={TABLES[0]!r} or {TABLES[1]!r}.")
    tables = read_tables(adata, key, keys.CALIBRATION_TABLES, made_by="dw.tl.calibrate")
    chosen = {name: choose(tables[name], "group", group) for name in (*TABLES, "groups")}
    present = set(chosen["groups"]["group"])
    groups = [str(g) for g in tables["groups"]["group"].cat.categories if g in present]
    colors = level_colors(adata, str(adata.uns[key][keys.PARAMS]["groupby"]), groups)
    drawn = TABLES if table is None else (table,)
    figure, axes = panels(ax, len(drawn), size=(2.9 + 0.35 * len(groups), 3.6))
    for panel, name in zip(axes, drawn, strict=True):
        if name == "levels":
            _draw_levels(panel, _ratios(chosen["levels"], chosen["permutations"]), groups, colors)
        else:
            _draw_hits(panel, chosen["permutations"], groups, colors)
    write_title(axes[0], str(chosen["groups"]["contrast"].iloc[0]), loc="left")
    return finish(figure, axes, show=show, return_fig=return_fig)


def _ratios(levels: pd.DataFrame, permutations: pd.DataFrame) -> pd.DataFrame:
    """Ratios with their Monte-Carlo intervals."""
    rows = []
    for row in levels.itertuples():
        own = permutations[(permutations["group"] == row.group) & ~permutations["observed"]]
        share = own[f"below_{row.alpha:g}"]
        tests = float(own["n_tested"][share.notna()].sum())
        half = np.nan_to_num(1.96 * row.ratio_sd / np.sqrt(share.notna().sum()))
        low, high = _poisson(round(float((share * own["n_tested"]).sum())), tests * row.alpha)
        rows.append(
            (str(row.group), row.alpha, row.ratio, max(min(row.ratio - half, low), 0), max(row.ratio + half, high))
        )
    return pd.DataFrame(rows, columns=["group", "alpha", "ratio", "low", "high"])


def _poisson(count: int, expected: float) -> tuple[float, float]:
    """95% interval of a count over its expectation."""
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low) / expected, float(stats.chi2.ppf(0.975, 2 * count + 2)) / 2 / expected


def _draw_levels(ax: Axes, ratios: pd.DataFrame, groups: Sequence[str], colors: Mapping[str, str]) -> None:
    alphas = list(dict.fromkeys(ratios["alpha"]))
    draw_reference(ax, 1.0)
    for i, (name, short) in enumerate(zip(groups, shorten(groups), strict=True)):
        own = ratios[ratios["group"] == name]
        place = np.arange(len(alphas)) + _SPREAD * ((i + 0.5) / len(groups) - 0.5)
        ax.vlines(place, own["low"], own["high"], color=colors[name], lw=1.3)
        ax.scatter(place, own["ratio"], color=colors[name], s=24, lw=0, zorder=3, label=short)
    ax.set_xticks(range(len(alphas)), [f"{alpha:.10f}".rstrip("0") for alpha in alphas])
    ax.set_xlim(-0.5, len(alphas) - 0.5)
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.6)
    top = 1.15 * max(float(ratios["high"].max()), 1.6)
    ax.set_ylim(-0.05, top)
    _name_ticks(ax, [r for r in _TICKS if r <= top], "{:g}")
    ax.set_xlabel("alpha")
    ax.set_ylabel("p-values below alpha / expected\n(permuted labels)")
    if len(groups) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="x-small", labelspacing=0.4)
    despine(ax)


def _name_ticks(ax: Axes, ticks: Sequence[float], template: str) -> None:
    """Put these ticks, and no others, on the vertical axis."""
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: template.format(value)))


def _draw_hits(ax: Axes, permutations: pd.DataFrame, groups: Sequence[str], colors: Mapping[str, str]) -> None:
    rng = np.random.default_rng(0)
    for i, name in enumerate(groups):
        own = permutations[permutations["group"] == name]
        hits, observed = own["hits"][~own["observed"]].to_numpy(), int(own["hits"][own["observed"]].iloc[0])
        place = i + rng.uniform(-0.28, 0.28, len(hits))
        ax.scatter(place, hits, s=14, color=GREY, alpha=0.5, lw=0, label="permuted labels" if i == 0 else None)
        ax.hlines(hits.mean(), i - 0.33, i + 0.33, color=INK, lw=1.2, zorder=2)
        ax.plot(i, observed, "D", ms=7, color=colors[name], mec="white", mew=0.7, zorder=4)
        p = (1 + np.sum(hits >= observed)) / (1 + len(hits))
        ax.annotate(
            f"{observed:,}\n{format_p(p)}", (i, max(observed, hits.max())), (0, 6), textcoords="offset points", ha="center",
            va="bottom", fontsize="x-small", color=INK,
        )  # fmt: skip
    top = float(permutations["hits"].max())
    ax.set_yscale("symlog", linthresh=10.0)
    ax.set_ylim(-0.5, 1.3 * top + 2 if top < 10 else 3 * top)
    _name_ticks(ax, [n for n in _TICKS if n != 0.5], "{:,.0f}")
    names = ["" if name == keys.ALL else name for name in shorten(groups, _LONGEST_TICK)]
    slanted = sum(map(len, names)) > 12 + 3 * len(names)
    ax.set_xticks(
        range(len(names)), names, rotation=40 if slanted else 0, ha="right" if slanted else "center", parse_math=False
    )
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.set_ylabel("hits (adjusted p < .05)")
    ax.axhline(0, color=LIGHT_GREY, lw=0.8, zorder=0)
    ax.set_xlabel("grey: permuted labels\ndiamond: observed", fontsize="small")
    despine(ax)
