"""One gene against one variant: the donors behind a test of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from donorwise._anndata import (
    check_has_cells,
    check_is_anndata,
    is_collapsed,
    keys,
    read_origin,
    read_scan,
    response_of,
)
from donorwise._docs import documented
from donorwise.errors import DataError
from donorwise.get._scan import scan_symbols
from donorwise.pl._donors_arms import areas_for, size_key
from donorwise.pl._effects import response_unit
from donorwise.pl._genotype_data import collect, interacting
from donorwise.pl._scan_data import genes_of, groups_of
from donorwise.pl._style import (
    BLUE,
    INK,
    LIGHT_GREY,
    VERMILION,
    despine,
    finish,
    fold,
    format_p,
    level_colors,
    limit_height,
    marker_key,
    panel_title,
    panels,
    settle,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._anndata import StoredScan
    from donorwise._typing import Groups
    from donorwise.pl._donors_arms import Areas
    from donorwise.pl._genotype_data import Panel

_WIDTH = 0.62
"""Of the points of a genotype, of the distance between two."""
_FEWEST_BOXED = 5
_LONGEST_ALLELE = 3
"""Letters of alleles that genotypes are named by."""


@documented
def genotype(
    adata: ad.AnnData,
    genotypes: Any,
    gene: str,
    variant: str | None = None,
    *,
    scan: Any = None,
    group: Groups = None,
    by: str | None = None,
    key: str = keys.SCAN,
    gene_symbols: str | None = None,
    ncols: int | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    r"""Draw one gene against one variant: a point for every donor, and the slope of the scan.

    Parameters
    ----------
    adata
        AnnData that was scanned: the cells, collapsed rows of them, or one row for each donor.
    genotypes
        The genotypes that were scanned, as :func:`donorwise.tl.scan` takes them.
    gene
        The gene (or trait).
    variant
        Name of the variant; None for the lead variant of each group.
    scan
        Where the scan is, if not in `adata`: the folder that ``out=`` named, or what :func:`donorwise.scan_variants` returned.
    {group_panels}
    by
        Column of obs by which every donor's cells are split, in colours: a condition, or a number, which is cut at its median.
        None for what the variants interact with, if they do.
    {key}
    {symbols_scan}
    ncols
        Panels in a row, at least 1; None for as many as can be read.
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError, DesignError
        The scan, the gene, a test of the variant, the group or a column of obs is not there, or no donor has a genotype.
    DonorwiseError
        `ax` was given for several panels.

    Notes
    -----
    Across are the copies of the allele `a1`, whose effect `beta` is; genotypes that were called are scattered around 0, 1 and 2,
    dosages stand where they are. Up is the donor's mean over its cells of the group, with an area proportional to their number.
    Grey boxes hold the middle half of the donors with a genotype (of five or more), with their median. The line has the slope
    `beta` of the scan and goes through the mean of the donors, weighted by numbers of cells; covariates, which the
    slope is adjusted for, are not taken out of the points. Of interactions the slope at a level is ``beta_main + beta x``, x being
    what the variable is there. Donors without a genotype are left out and counted.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=40, n_cells=2000, n_genes=20, n_variants=500, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.genotype(adata, genotypes, "gene_0003")
    >>> ax.get_ylabel()
    'donor mean\n(log expression)'
    """
    check_is_anndata(adata)
    found = read_scan(adata if scan is None else scan, key)
    check_has_cells(adata)
    if ncols is not None and ncols < 1:
        raise DataError(f"ncols={ncols} must be 1 or more.")
    symbols = scan_symbols(adata, gene_symbols, found)
    own = genes_of(found, symbols, symbols.find_one(gene))[0]
    by = interacting(adata, found, by)
    content = collect(adata, genotypes, found, gene=own, variant=variant, groups=groups_of(found, group), by=by)
    figure, axes = panels(ax, len(content), size=(3.7, 3.7), alone=(4.6, 4.4), n_columns=ncols, choice="one group")
    colors = _colors(adata, by, content)
    areas = areas_for([panel.donors for panel in content])
    for panel_ax, panel in zip(axes, content, strict=True):
        _draw(panel_ax, panel, colors=colors, areas=areas)
        panel_ax.set_title(_title(panel_ax, panel, symbols.label(own), found), fontsize="medium", parse_math=False)
        panel_ax.set_ylabel(f"donor mean\n({_unit(adata, found, own)})")
    _explain(figure, axes, content, colors=colors, areas=areas)
    if ax is None:
        settle(figure)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _unit(adata: ad.AnnData, scan: StoredScan, gene: str) -> str:
    """What the means are measured in."""
    params = {"response": keys.RESPONSE_X, **scan.params}
    base = (
        read_origin(adata).log_base if is_collapsed(adata) else response_of(adata, params["response"], [gene]).log_base
    )
    params["log_base"] = base
    return response_unit(params, scan.results.rename(columns={"gene": "variable"}).query("variable == @gene"))


def _colors(adata: ad.AnnData, by: str | None, content: Sequence[Panel]) -> dict[str, str]:
    """Of the levels; one colour without."""
    levels = list(dict.fromkeys(level for panel in content for level in panel.levels))
    return {"": BLUE} if by is None else level_colors(adata, by, levels)


def _draw(ax: Axes, panel: Panel, *, colors: Mapping[str, str], areas: Areas) -> None:
    """Draw the boxes, the donors and the line of every level, side by side where genotypes were called."""
    rng, n = np.random.default_rng(0), len(panel.levels)
    width = _WIDTH / n
    for i, (level, slope) in enumerate(zip(panel.levels, panel.slopes, strict=True)):
        own = panel.donors[panel.donors["level"] == level].sort_values("n_cells", ascending=False, kind="stable")
        shift = width * (i - (n - 1) / 2) if panel.called else 0.0
        x = own["x"].to_numpy() + shift
        if panel.called:
            _draw_boxes(ax, own, shift=shift, width=0.86 * width)
            x = x + rng.uniform(-0.36, 0.36, len(x)) * width
        ax.scatter(
            x, own["mean"], s=areas.of(own["n_cells"]), color=colors[level], edgecolors="white", lw=0.6, alpha=0.85, zorder=2,
            rasterized=len(own) > 2_000,
        )  # fmt: skip
        _draw_line(ax, own, slope, shift=shift, color=VERMILION if n == 1 else colors[level])
    limit_height(ax, panel.donors["mean"].tolist())
    low, high = (panel.donors["x"].min(), panel.donors["x"].max()) if not panel.called else (0.0, 2.0)
    ax.set_xlim(min(low, 0.0) - 0.5, max(high, 2.0) + 0.5)
    _name_genotypes(ax, panel)
    despine(ax)


def _draw_boxes(ax: Axes, donors: pd.DataFrame, *, shift: float, width: float) -> None:
    """Boxes around the middle half of the donors with each genotype, behind the points."""
    for copies, part in donors.groupby(donors["x"].round())["mean"]:
        if len(part) < _FEWEST_BOXED:
            continue
        low, middle, high = np.quantile(part, [0.25, 0.5, 0.75])
        left = float(copies) + shift - width / 2
        ax.fill_between([left, left + width], low, high, color=LIGHT_GREY, alpha=0.6, lw=0, zorder=0)
        ax.hlines(middle, left, left + width, color=INK, lw=1.0, zorder=1)


def _draw_line(ax: Axes, donors: pd.DataFrame, slope: float, *, shift: float, color: str) -> None:
    """Lay the slope of the scan through the mean of the donors."""
    if np.isnan(slope):
        return
    x, weights = donors["x"].to_numpy(), donors["n_cells"].to_numpy(dtype=np.float64)
    middle, height = np.average(x, weights=weights), np.average(donors["mean"], weights=weights)
    ends = np.array([x.min() - 0.15, x.max() + 0.15])
    ax.plot(ends + shift, height + slope * (ends - middle), color="white", lw=3.6, zorder=3)
    ax.plot(ends + shift, height + slope * (ends - middle), color=color, lw=2.0, zorder=3)


def _name_genotypes(ax: Axes, panel: Panel) -> None:
    """Name the genotypes by their alleles, with the number of donors that have each (of dosages, nearly)."""
    donors = panel.donors.drop_duplicates("donor")
    n = [int((donors["x"].round() == copies).sum()) for copies in range(3)]
    a0, a1 = ("" if pd.isna(panel.test[name]) else str(panel.test[name]) for name in ("a0", "a1"))
    names = ["0", "1", "2"]
    if 0 < len(a0) <= _LONGEST_ALLELE and 0 < len(a1) <= _LONGEST_ALLELE:
        between = "" if len(a0) == len(a1) == 1 else "/"
        names = [between.join(pair) for pair in ((a0, a0), (a0, a1), (a1, a1))]
    ax.set_xticks(range(3), [f"{name}\n{k:,}" for name, k in zip(names, n, strict=True)], parse_math=False)
    allele = f", copies of {shorten([a1], 12)[0] or 'a1'}"
    lacking = f"\n({panel.lacking:,} donor{'s' * (panel.lacking > 1)} without a genotype)" if panel.lacking else ""
    ax.set_xlabel(f"{shorten([str(panel.test['variant'])])[0]}{allele}{lacking}", parse_math=False)


def _title(ax: Axes, panel: Panel, gene: str, scan: StoredScan) -> str:
    test, interaction = panel.test, scan.params.get("interaction")
    words = [f"by {interaction}:"] if interaction else []
    words += [f"beta = {test['beta']:.3g} (se {test['se']:.2g}),", format_p(float(test["p_value"]))]
    words += [] if str(test["status"]) == "ok" else [f"({str(test['status']).replace('_', ' ')})"]
    # no line ends within one of them
    numbers = fold(ax, " ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words))
    return f"{fold(ax, panel_title(panel.group, gene))}\n{numbers}"


def _explain(
    figure: Figure, axes: Sequence[Axes], content: Sequence[Panel], *, colors: Mapping[str, str], areas: Areas
) -> None:
    """Say what areas and colours are: beside the one panel, or beside all."""
    n_cells = np.concatenate([panel.donors["n_cells"] for panel in content])
    where = axes[0] if len(axes) == 1 else figure
    levels = [level for level in colors if level]
    handles = [
        Line2D([], [], marker="o", color=colors[name], mew=0, ms=6, label=short)
        for name, short in zip(levels, shorten(levels), strict=True)
    ]
    if n_cells.max() > 1:
        size_key(where, areas, pd.Series(n_cells), outside=True)
        if len(axes) == 1 and levels and (sizes := axes[0].get_legend()) is not None:
            axes[0].add_artist(sizes)
    if levels:
        place = (
            {"loc": "lower left", "bbox_to_anchor": (1.0, 0.0)} if len(axes) == 1 else {"loc": "outside right lower"}
        )
        marker_key(where, handles, **place)
