"""A scan along the genome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.ticker import FuncFormatter

from donorwise._anndata import keys, read_scan
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.get._scan import scan_symbols
from donorwise.pl._effects import draw_line, draw_threshold
from donorwise.pl._labels import adjust_labels, place_labels
from donorwise.pl._manhattan_data import (
    called_by,
    check_labels,
    gene_points,
    genome_of,
    to_name,
    variant_points,
)
from donorwise.pl._scan_data import genes_of, groups_of, threshold_of
from donorwise.pl._style import (
    BLUE,
    INK,
    VERMILION,
    despine,
    feature_names,
    finish,
    inches,
    outer_labels,
    panel_title,
    panels,
    say_empty,
    write_title,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._typing import FloatArray, Groups
    from donorwise.pl._manhattan_data import Genome

LEVELS = ("variant", "gene")
_SHADES = (BLUE, "#7FB3D9")
"""Of neighbouring chromosomes."""
_LETTER = 0.085  # inches of a letter of a chromosome's name
_MANY = 2_000  # points beyond which they are drawn as pixels in vector formats


@documented
def manhattan(
    source: Any,
    *,
    group: Groups = None,
    gene: str | Sequence[str] | None = None,
    level: Literal["variant", "gene"] | None = None,
    threshold: float | None = None,
    key: str = keys.SCAN,
    gene_symbols: str | None = None,
    n_labels: int = 10,
    labels: str | Sequence[str] = (),
    adjust_text: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw the p-values of a scan along the genome.

    Parameters
    ----------
    {scan_source}
    {group_panels}
    gene
        Draw the tests of these genes (or traits) alone; None for all.
    level
        ``"variant"``: a point for every test that was kept. ``"gene"``: one for every gene, at its lead variant and with the
        p-value of the gene. None for genes after a scan in cis, and for variants otherwise.
    threshold
        What counts as a hit: of variants a p-value, 5e-8 if None, of genes an adjusted p-value (Benjamini-Hochberg over
        the genes of a group), 0.05 if None.
    {scan_key}
    {symbols_scan}
    n_labels
        How many of the hits to name in each panel, highest first: genes of a scan in cis, else variants, of which others
        of the same trait within a million bases are not named again.
    labels
        Genes or variants to name in any case.
    adjust_text
        Leave it to adjustText (the extra ``labels``) where the names go.
    {ax}
    {show}

    Returns
    -------
    {axes_panels}

    Raises
    ------
    DataError
        There is no scan, group, gene or label, no test was kept, or its variants have no positions.
    DonorwiseError
        There is no such level, `threshold` is no p-value, or `ax` was given for several panels.

    Notes
    -----
    Above the threshold every test is drawn. Below it, where points lie on each other, the highest of every spot of about a pixel
    is, so that a scan of any size can be drawn: files are read in blocks. Tests that ``p_max=`` did not keep are not there.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=40, n_cells=2000, n_genes=20, n_variants=500, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> ax = dw.pl.manhattan(adata)
    >>> [label.get_text() for label in ax.get_xticklabels()][:3]
    ['1', '2', '3']
    """
    if level is not None:
        check_option("level", level, LEVELS)
    scan = read_scan(source, key)
    symbols = scan_symbols(source, gene_symbols, scan)
    genes = [] if gene is None else [own for name in feature_names(gene) for own in genes_of(scan, symbols, name)]
    asked = [own for name in feature_names(labels) for own in symbols.features.get(name, [name])] if len(labels) else []
    by_gene = level == "gene" if level else scan.in_cis
    cut = threshold_of(threshold, 0.05 if by_gene else 5e-8)
    groups = groups_of(scan, group)
    if by_gene:
        parts, y_label = gene_points(scan, groups, alpha=cut, genes=genes)
    else:
        parts, y_label = variant_points(scan, groups, line=-np.log10(cut), genes=genes, labels=asked), "$-\\log_{10}$ p"
    check_labels(asked, scan, parts.values())
    genome = genome_of(parts.values())
    size = {"size": (9.0, 2.5), "alone": (9.0, 3.4)}
    figure, axes = panels(ax, len(parts), **size, share=True, n_columns=1, choice="one group")
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        _draw(panel, part, genome)
        write_title(panel, panel_title(name, *map(symbols.label, genes if len(genes) == 1 else ())), loc="left")
    _finish_axes(axes, list(parts.values()), genome, cut=cut, by_gene=by_gene)
    outer_labels(axes, x="chromosome" if len(genome.names) > 1 else f"chromosome {genome.names[0]} (Mb)", y=y_label)
    figure.draw_without_rendering()
    called = called_by(scan, symbols, genes, by_gene=by_gene or scan.in_cis)
    for panel, part in zip(axes, parts.values(), strict=True):
        named = to_name(part, n_labels, asked, called)
        _name(panel, part, named, genome, place=adjust_labels if adjust_text else place_labels)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _draw(ax: Axes, part: pd.DataFrame, genome: Genome) -> None:
    """Draw the points in the colours of their chromosomes, hits on top."""
    if part.empty:
        say_empty(ax, "nothing tested")
    x, odd, hit = genome.along(part), genome.odd(part), part["hit"].to_numpy()
    size = float(np.interp(np.log10(max(len(part), 1)), [2, 4.3], [18, 4]))
    for chosen, color, order in ((~hit & ~odd, _SHADES[0], 1), (~hit & odd, _SHADES[1], 1), (hit, VERMILION, 2)):
        ax.scatter(
            x[chosen], part["y"].to_numpy()[chosen], s=size if order == 1 else 1.5 * size, c=color, lw=0, zorder=order,
            rasterized=len(part) > _MANY,
        )  # fmt: skip
    despine(ax)


def _finish_axes(
    axes: Sequence[Axes], parts: Sequence[pd.DataFrame], genome: Genome, *, cut: float, by_gene: bool
) -> None:
    """Limits, the line of the threshold, and names of chromosomes."""
    line = 0.0 if by_gene else -np.log10(cut)
    top = 1.15 * max([line, *(float(part["y"].max()) for part in parts if len(part))]) or 1.0
    left = min(float(genome.along(part).min()) for part in parts if len(part))
    margin = 0.015 * (genome.ends[-1] - left) or 1.0
    for ax, part in zip(axes, parts, strict=True):
        ax.set_xlim(left - margin, genome.ends[-1] + margin)
        ax.set_ylim(0, top)
        if by_gene:
            draw_threshold(ax, part["y"].to_numpy(), part["hit"].to_numpy(), text=f"FDR {cut:.0%}")
        else:
            draw_line(ax, line, f"p = {cut:.0e}".replace("e-0", "e-"))
        _name_chromosomes(ax, genome)


def _name_chromosomes(ax: Axes, genome: Genome) -> None:
    """Name the chromosomes in their middle, and leave out names without room; a single one has positions in Mb."""
    if len(genome.names) == 1:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g}"))
        return
    inches_per_base = inches(ax)[0] / np.diff(ax.get_xlim())[0]
    last = -np.inf
    ticks: list[float] = []
    names: list[str] = []
    for name, middle in zip(genome.names, genome.middles, strict=True):
        half = _LETTER * (len(name) + 1) / 2
        if middle * inches_per_base - half >= last:
            ticks.append(float(middle))
            names.append(name)
            last = middle * inches_per_base + half
    ax.set_xticks(ticks, names, parse_math=False)
    ax.tick_params(axis="x", length=0)


def _under_words(ax: Axes) -> FloatArray:
    """Points along what is written in the axes already, (n, 2), which names should not cover either."""
    boxes = [text.get_window_extent() for text in ax.texts]
    along = [np.column_stack([np.linspace(box.x0, box.x1, 8), np.full(8, (box.y0 + box.y1) / 2)]) for box in boxes]
    return np.asarray(ax.transData.inverted().transform(np.concatenate([np.empty((0, 2)), *along])))


def _name(ax: Axes, part: pd.DataFrame, named: pd.DataFrame, genome: Genome, *, place: Callable[..., Any]) -> None:
    """Write names beside their points."""
    if named.empty:
        return
    points = np.concatenate([np.column_stack([genome.along(part), part["y"]]), _under_words(ax)])
    xy = np.column_stack([genome.along(named), named["y"]])
    place(ax, list(named["name"]), xy, points=points, colors=[INK] * len(named))
