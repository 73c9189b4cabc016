"""One gene's window of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import FixedLocator, FuncFormatter

from donorwise._anndata import keys, read_scan
from donorwise._anndata.gene_positions import gene_body
from donorwise._core.kinship.labels import bare
from donorwise._docs import documented
from donorwise.errors import DataError, DonorwiseError
from donorwise.get._scan import scan_symbols
from donorwise.pl._effects import draw_line
from donorwise.pl._labels import place_labels
from donorwise.pl._locus_data import loci
from donorwise.pl._scan_data import genes_of, groups_of, threshold_of
from donorwise.pl._style import (
    BLUE,
    GREY,
    INK,
    LIGHT_GREY,
    VERMILION,
    despine,
    feature_names,
    finish,
    outer_labels,
    panel_title,
    panels,
    say_empty,
    shorten,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._anndata.gene_positions import Body
    from donorwise._typing import BoolArray, Groups
    from donorwise.pl._locus_data import Locus

_STEPS = np.linspace(0, 1, 6)
_LD = ListedColormap(["#C3CBD3", "#8DBBD6", "#3F93BF", "#1B62A0", "#0A2A57"])
"""From light to dark, so that the order is seen without colours as well."""
_GENE_ROOM = 0.2
"""Depth below zero of the room for the gene, of the height of the points."""


@documented
def locus(
    source: Any,
    gene: str,
    genotypes: Any = None,
    *,
    group: Groups = None,
    window: float | None = None,
    labels: str | Sequence[str] = (),
    direction: bool = False,
    threshold: float | None = None,
    key: str = keys.SCAN,
    gene_symbols: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the tests of one gene along the genome, shaded by linkage disequilibrium with its lead variant.

    Parameters
    ----------
    {scan_source}
    gene
        The gene (or trait).
    genotypes
        The genotypes that were scanned, as :func:`donorwise.tl.scan` takes them: points are shaded by the squared correlation r²
        of their variant with the lead one, over the donors of these genotypes. None leaves the points unshaded.
    {group_panels}
    window
        Base pairs to draw on either side of the lead variant (of the best of several groups). None for all that was
        tested in cis, and a million after other scans.
    labels
        Variants to name besides the lead one.
    direction
        Draw triangles that point up where the allele `a1` raises the response, and down where it lowers it.
    threshold
        Draw a line at this p-value.
    {scan_key}
    {symbols_scan}
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no scan, gene, group or label, no test of the gene was kept, or the genotypes lack its lead variant.
    DonorwiseError
        `ax` was given for several panels, or `threshold` or `window` makes no sense.

    Notes
    -----
    The diamond is the lead variant of the group, the one with the smallest p-value. Below is the gene, from start to end with an
    arrow along its strand and a dotted line at the start of its transcription, where `source` is an AnnData whose var says where
    it is (`chrom, start, end, strand`, or `tss`). Where the scan kept small p-values only (``p_max=``), the room of the
    others is grey. Variants that the genotypes do not have are rings.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=40, n_cells=2000, n_genes=20, n_variants=500, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.locus(adata, "gene_0001", genotypes)
    >>> ax.get_xlabel()
    'position on chromosome 1 (Mb)'
    """
    scan = read_scan(source, key)
    symbols = scan_symbols(source, gene_symbols, scan)
    found = genes_of(scan, symbols, symbols.find_one(gene))[0]
    if window is not None and not (np.isfinite(window) and window > 0):
        raise DonorwiseError(f"window={window!r} must be a number of base pairs, such as 500_000.")
    cut = None if threshold is None else threshold_of(threshold, 5e-8)
    panels_of = loci(scan, found, groups_of(scan, group), genotypes, window)
    asked = feature_names(labels) if len(labels) else []
    _check_labels(asked, found, panels_of)
    chrom = next(str(own.tests["chrom"].iloc[0]) for own in panels_of.values() if len(own.tests))
    body = gene_body(source.var, found, chrom) if found in getattr(source, "var_names", ()) else None
    figure, axes = panels(ax, len(panels_of), size=(5.2, 3.0), alone=(7.5, 3.9), share=True, choice="one group")
    _set_limits(axes[0], panels_of, body)
    for panel, (name, own) in zip(axes, panels_of.items(), strict=True):
        _draw(panel, own, shaded=genotypes is not None, direction=direction)
        if body is not None:
            _draw_gene(panel, body, shorten([symbols.label(found)])[0])
        _draw_lines(panel, cut, scan.params.get("p_max"))
        write_title(panel, panel_title(name, symbols.label(found)))
    outer_labels(axes, x=f"position on chromosome {bare(chrom)} (Mb)", y="$-\\log_{10}$ p")
    if genotypes is not None:
        _color_key(figure, axes)
    figure.draw_without_rendering()
    for panel, own in zip(axes, panels_of.values(), strict=True):
        _name(panel, own, asked)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _check_labels(labels: Sequence[str], gene: str, found: dict[str, Locus]) -> None:
    known = {str(name) for own in found.values() for name in own.tests["variant"]}
    for name in labels:
        if name not in known:
            raise DataError(f"labels=: no test of {gene!r} with the variant {name!r} was kept.")


def _set_limits(ax: Axes, found: dict[str, Locus], body: Body | None) -> None:
    """Limits that all panels share: the variants and the gene, and room below zero for that."""
    places = [own.tests["pos"].to_numpy(dtype=np.float64) for own in found.values()]
    ends = np.concatenate([*places, [] if body is None else [body.start, body.end]]) / 1e6
    margin = 0.03 * np.ptp(ends) or 0.001
    ax.set_xlim(ends.min() - margin, ends.max() + margin)
    top = 1.15 * max(own.tests["neg_log10_p"].max() for own in found.values() if len(own.tests)) or 1.0
    ax.set_ylim(-_GENE_ROOM * top if body is not None else 0.0, top)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ax.get_yticks() if 0 <= tick <= top]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _draw(ax: Axes, own: Locus, *, shaded: bool, direction: bool) -> None:
    """Draw the points, those in linkage disequilibrium on top of others and the lead variant on top of all."""
    despine(ax)
    if own.tests.empty:
        say_empty(ax, "no test kept" if own.tested else "nothing tested")
        return
    tests = own.tests.sort_values("r2", kind="stable", na_position="first")
    best = tests["lead"].to_numpy()
    up = (tests["beta"] > 0).to_numpy()
    size = float(np.interp(np.log10(len(tests)), [2, 4], [26, 8]))
    for marker, chosen in (("^", up), ("v", ~up)) if direction else (("o", np.ones(len(tests), dtype=bool)),):
        _scatter(ax, tests[chosen & ~best], marker=marker, size=size, shaded=shaded)
    lead = tests[best]
    marker = ("^" if up[best].any() else "v") if direction else "D"
    ax.scatter(
        lead["pos"] / 1e6,
        lead["neg_log10_p"],
        s=52,
        marker=marker,
        color=VERMILION,
        edgecolors="white",
        lw=0.7,
        zorder=4,
    )


def _scatter(ax: Axes, tests: pd.DataFrame, *, marker: str, size: float, shaded: bool) -> None:
    known: BoolArray = tests["r2"].notna().to_numpy()
    many = len(tests) > 2_000
    x, y = tests["pos"].to_numpy(dtype=np.float64) / 1e6, tests["neg_log10_p"].to_numpy()
    if not shaded:
        ax.scatter(x, y, s=size, marker=marker, color=BLUE, alpha=0.75, lw=0, zorder=2, rasterized=many)
        return
    norm = BoundaryNorm(_STEPS, _LD.N)
    ax.scatter(x[~known], y[~known], s=size, marker=marker, facecolors="none", edgecolors=GREY, lw=0.6, zorder=1)
    ax.scatter(
        x[known], y[known], s=size, marker=marker, c=tests["r2"].to_numpy()[known], cmap=_LD, norm=norm, lw=0.3,
        edgecolors="white", zorder=2, rasterized=many,
    )  # fmt: skip


def _draw_gene(ax: Axes, body: Body, name: str) -> None:
    """Draw the gene below the points, with an arrow in the direction of its strand and its name beside it."""
    depth, top = ax.get_ylim()
    height, (start, end, tss) = 0.5 * depth, (x / 1e6 for x in (body.start, body.end, body.tss))
    left, right = ax.get_xlim()
    ax.axhline(0, color=INK, lw=0.8, zorder=0)
    ax.vlines(tss, height, top, color=GREY, lw=0.8, ls=":", zorder=0)
    ax.plot([start, end], [height, height], color=INK, lw=4, solid_capstyle="butt", zorder=3)
    if body.strand:
        ax.plot(
            end if body.strand > 0 else start, height, ">" if body.strand > 0 else "<", color=INK, ms=9, mew=0, zorder=3
        )
    elif start == end:
        ax.plot(start, height, "|", color=INK, ms=9, mew=1.5, zorder=3)
    beside_right = (start + end) / 2 < (left + right) / 2
    ax.annotate(
        name, (end if beside_right else start, height), (9 if beside_right else -9, 0), textcoords="offset points",
        ha="left" if beside_right else "right", va="center", fontsize="small", style="italic", parse_math=False, color=INK,
    )  # fmt: skip


def _draw_lines(ax: Axes, threshold: float | None, p_max: float | None) -> None:
    """The p-value asked for, and the ground on which no test was kept."""
    if threshold is not None:
        draw_line(ax, -np.log10(threshold), f"p = {threshold:.0e}".replace("e-0", "e-"))
    if p_max is not None and p_max < 1:
        ax.axhspan(0, -np.log10(p_max), color=LIGHT_GREY, alpha=0.5, lw=0, zorder=0)
        text = f" p above {p_max:g}: not kept"
        ax.text(0, 0, text, transform=ax.get_yaxis_transform(), va="bottom", fontsize="x-small", color=INK)


def _color_key(figure: Figure, axes: Sequence[Axes]) -> None:
    bar = figure.colorbar(
        ScalarMappable(BoundaryNorm(_STEPS, _LD.N), _LD), ax=list(axes), ticks=_STEPS, aspect=18, pad=0.02, fraction=0.05,
        shrink=0.7,
    )  # fmt: skip
    bar.set_label("r² with the lead variant", fontsize="small")
    bar.ax.tick_params(length=0, labelsize="small")
    bar.outline.set_visible(False)


def _name(ax: Axes, own: Locus, labels: Sequence[str]) -> None:
    """Name the lead variant and those asked for."""
    tests = own.tests
    names = tests["variant"].astype(str)
    best = tests["lead"].to_numpy()
    order = [*np.flatnonzero(best), *np.flatnonzero(names.isin(labels) & ~best)]
    if order:
        points = np.column_stack([tests["pos"] / 1e6, tests["neg_log10_p"]])
        colors = [VERMILION if best[i] else INK for i in order]
        place_labels(ax, shorten(names[order].tolist(), 32), points[order], points=points, colors=colors)
