"""The design of a study at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from donorwise._anndata import check_has_cells, check_is_anndata
from donorwise._anndata.prepare import audit_cells
from donorwise._core.design.formula import parse
from donorwise._core.design.peptide_names import PEPTIDE
from donorwise._docs import documented
from donorwise.pl._design_data import find_columns, flags, tabulate
from donorwise.pl._style import (
    GREY,
    INK,
    LIGHT_GREY,
    area_key,
    areas,
    finish,
    inches,
    level_colors,
    marker_key,
    panels,
    root,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata as ad
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import FloatArray, IntArray
    from donorwise.pl._design_data import Cohort, Covariate


@documented
def design(
    adata: ad.AnnData,
    formula: str | None = None,
    *,
    condition: str | None = None,
    cell_type: str | None = None,
    covariates: str | Sequence[str] | None = None,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
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
        A model: its labels are drawn, and the warnings of ``adata.donorwise.audit`` stand below. Random terms of peptides,
        which are columns of var, are left out.
    condition
        Column of obs with the arms. By default the declared one (``adata.donorwise.setup``), else the first
        labels among the fixed effects.
    cell_type
        Column of obs for the columns of the picture. By default the declared or guessed one; ``""`` for none.
    covariates
        Further columns of obs with labels, such as batch or sex. By default those of the formula, and the
        declared batch. Left out are those with more than 12 levels, and parts of donors such as samples.
    {kernels}
    ax
        Axes to draw in.
    {show}

    Returns
    -------
    {axes}

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
    check_has_cells(adata)
    parsed = None if formula is None else _of_rows(parse(formula), adata)
    audit = None if parsed is None else audit_cells(adata, parsed, kernels=kernels, relmat=relmat, levels=levels)
    roles = find_columns(adata, parsed, audit, condition=condition, cell_type=cell_type, covariates=covariates)
    cohort = tabulate(adata, roles)
    found = [*flags(cohort), *(audit.warnings if audit else ())]
    layout = lay_out(cohort) if ax is None else lay_out(cohort, tallest=0.8 * inches(ax)[1])
    width, height = layout.size
    names = max(map(len, shorten(cohort.donors)))
    text = _words(found, width=width - 1.0 - LETTER * names if ax is None else inches(ax)[0])
    figure, axes = panels(ax, 1, size=(width, height + 0.125 * len(text.splitlines())))
    colors = level_colors(adata, roles.condition, cohort.arms) if roles.condition else {"": GREY}
    axes[0].set_xlabel(text, loc="left", fontsize="x-small", color=FLAG, linespacing=1.25)
    draw_cohort(axes[0], cohort, layout, colors=colors)
    return finish(figure, axes, show=show, return_fig=return_fig)


def _of_rows(parsed: ParsedFormula, adata: ad.AnnData) -> ParsedFormula:
    """The formula without the random terms of peptides, which are columns of var."""
    own = {PEPTIDE, *map(str, adata.var.columns)} - set(map(str, adata.obs.columns))
    of_peptides = [bar for bar in parsed.bars if own.intersection(bar.group)]
    return parsed.keep([bar for bar in parsed.bars if bar not in of_peptides]) if of_peptides else parsed


def _words(sentences: Sequence[str], *, width: float) -> str:
    """Break sentences into lines that fit under a figure of a width in inches."""
    n_letters = max(40, int(width / LETTER))
    return "\n".join(fill(sentence, n_letters, subsequent_indent="   ") for sentence in sentences)


FLAG = "#B00020"
"""What cannot be told apart from the condition; no colour of a level, and never without a sign or bold type."""
LETTER = 0.062
"""Inches of a letter in the smallest type."""
_ROW, _LOWEST_ROW, _TALLEST, _COLUMN = 0.22, 0.05, 11.0, 0.34  # inches
_SMALLEST_NAME = 0.085  # inches of a row in which a name can be read
_HEAD = 0.19  # inches that a heading takes
_LARGEST = 0.3  # inches across of a marker
_GAP = 0.5  # steps between groups of columns, and between blocks of rows
_LONGEST, _LONGEST_ARM = 14, 24  # letters of a level
_BOLD = 0.085  # inches of a letter of a heading


@dataclass(frozen=True, slots=True)
class AreaLayout:
    """Where things stand, in steps of one row and one column.

    Attributes
    ----------
    rows
        Shape (D,). Places of the donors.
    columns
        Shape (cell types, arms). All arms of a cell type are in one place unless they vary within donors.
    covariates
        Places of each covariate's levels; one for a covariate between donors, where its text begins.
    right, bottom
        Ends of the axes.
    size
        Width and height in inches of a figure for it.
    """

    rows: FloatArray
    columns: FloatArray
    covariates: tuple[FloatArray, ...]
    right: float
    bottom: float
    size: tuple[float, float]


def lay_out(cohort: Cohort, *, tallest: float = _TALLEST) -> AreaLayout:
    """Find a place for everything, with rows and headings in `tallest` inches."""
    n_types, n_arms = len(cohort.cell_types), len(cohort.arms)
    step, shift = (n_arms + _GAP, 1.0) if cohort.within else (1.0, 0.0)
    columns: FloatArray = np.arange(n_types)[:, None] * step + np.arange(n_arms) * shift
    end, covariates = float(columns.max()) + 0.5, []
    for covariate in cohort.covariates:
        n = 1 if covariate.between else len(covariate.levels)
        covariates.append(end + _GAP + (0.0 if covariate.between else 0.5) + np.arange(float(n)))
        end += _GAP + (_width(covariate) if covariate.between else n)
    n_donors, n_blocks = len(cohort.donors), int(cohort.blocks[-1]) + 1
    row = float(np.clip((tallest - 2 * _HEAD * n_blocks) / n_donors, _LOWEST_ROW, _ROW))
    head = max(1.0, _HEAD / row)
    rows = np.arange(float(n_donors)) + (head + _GAP) * cohort.blocks + head
    names = max(map(len, shorten(cohort.donors)))
    widest = max(_COLUMN * (end + 0.5), _BOLD * max(len(_head(cohort, block)) for block in range(n_blocks)))
    width = LETTER * names + widest + 1.4
    height = row * (rows[-1] + 1) + 0.3 + LETTER * max(map(len, _column_names(cohort)))
    return AreaLayout(rows, columns, tuple(covariates), end, float(rows[-1]), (max(width, 5.0), height))


def draw_cohort(ax: Axes, cohort: Cohort, layout: AreaLayout, *, colors: Mapping[str, str]) -> None:
    """Draw a cohort into axes, which take their limits from it."""
    if root(ax).get_layout_engine() is None:
        _make_room(ax, cohort)
    ax.set_xlim(-0.7, layout.right + 0.2)
    ax.set_ylim(layout.bottom + 0.7, -0.6)
    _name_columns(ax, cohort, layout)
    ax.spines[:].set_visible(False)
    ax.set_yticks([])
    root(ax).draw_without_rendering()
    width, height = inches(ax)
    column, row = width / (layout.right + 0.9), height / (layout.bottom + 1.3)
    largest = (72 * _diameter(cohort, layout, column=column, row=row)) ** 2
    font = min(66 * row, 7.5) if row > _SMALLEST_NAME else None
    most = float(max(cohort.n_cells.max(), *(c.n_cells.max() for c in cohort.covariates if not c.between), 1))
    ax.hlines(layout.rows, -0.5, layout.right, color=LIGHT_GREY, lw=0.4, zorder=0)
    _name_rows(ax, cohort, layout, colors=colors, font=font, above=np.sqrt(largest) / 2 + 2)
    _draw_cells(ax, cohort, layout, colors=colors, most=most, largest=largest)
    for covariate, places in zip(cohort.covariates, layout.covariates, strict=True):
        if covariate.between:
            _write_levels(ax, covariate, places[0], layout.rows, blocks=cohort.blocks, font=font)
        else:
            _draw_levels(ax, covariate, places, layout.rows, most=most, largest=largest)
    arms = [
        Line2D([], [], ls="", marker="o", mec="none", color=colors[arm], label=name)
        for arm, name in zip(cohort.arms, shorten(cohort.arms, _LONGEST_ARM), strict=True)
        if arm
    ]
    handles = [*(arms if cohort.within else []), *area_key(most, largest)]
    marker_key(ax, handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _diameter(cohort: Cohort, layout: AreaLayout, *, column: float, row: float) -> float:
    """Inches across of the largest marker: no two touch, nor does one touch the heading of a block."""
    between = np.diff(layout.rows).max(initial=0.0) if cohort.blocks[-1] else np.inf
    return float(max(min(0.95 * column, 0.95 * row, between * row - _HEAD, _LARGEST), _LOWEST_ROW))


def _make_room(ax: Axes, cohort: Cohort) -> None:
    """Give up room for the names above and the legend beside the axes, where no layout engine makes it."""
    place, (_, height) = ax.get_position(), inches(ax)
    names = LETTER * max(map(len, _column_names(cohort))) / height
    ax.set_position((place.x0, place.y0, 0.78 * place.width, (1 - min(names, 0.5)) * place.height))


def _width(covariate: Covariate) -> float:
    """Columns that the text of a covariate between donors takes."""
    longest = min(max(map(len, covariate.levels)), _LONGEST)
    return max(1.0, (LETTER * longest + 0.1) / _COLUMN)


def _column_names(cohort: Cohort) -> list[str]:
    names = [name or "cells" for name in shorten(cohort.cell_types)]
    for covariate in cohort.covariates:
        levels = shorten(covariate.levels)
        names += [covariate.name] if covariate.between else [f"{covariate.name} {level}" for level in levels]
    return names


def _name_columns(ax: Axes, cohort: Cohort, layout: AreaLayout) -> None:
    """Write the names above, marked where a column lacks an arm or is confounded with it."""
    places = list(layout.columns.mean(axis=1))
    warn = [bool(row.any()) for row in cohort.empty()]
    for covariate, own in zip(cohort.covariates, layout.covariates, strict=True):
        places += [own[0] + 0.3] if covariate.between else list(own)
        warn += [covariate.confounded] if covariate.between else list(covariate.confined)
    names = [f"! {name}" if marked else name for name, marked in zip(_column_names(cohort), warn, strict=True)]
    ticks = ax.set_xticks(places, names, fontsize="small", rotation=90, parse_math=False)
    for tick, marked in zip(ticks, warn, strict=True):
        tick.label2.set(color=FLAG if marked else INK, weight="bold" if marked else "normal")
    ax.tick_params(axis="x", length=0, top=False, labeltop=True, bottom=False, labelbottom=False)


def _name_rows(
    ax: Axes,
    cohort: Cohort,
    layout: AreaLayout,
    *,
    colors: Mapping[str, str],
    font: float | None,
    above: float,
) -> None:
    """Write the donors' names, where there is room, and `above` every block (points) what its donors have in common."""
    if font is not None:
        ax.set_yticks(layout.rows, shorten(cohort.donors), fontsize=font, parse_math=False)
    ax.tick_params(axis="y", length=0)
    for block in range(int(cohort.blocks[-1]) + 1):
        arms = [cohort.arms[j] for j in _arms_of(cohort, block)]
        ax.annotate(
            _head(cohort, block), (-0.5, layout.rows[cohort.blocks == block][0]), (0, above),
            textcoords="offset points", va="bottom", fontsize="small", weight="bold", annotation_clip=False,
            color=colors[arms[0]] if len(arms) == 1 else INK, parse_math=False,
        )  # fmt: skip


def _arms_of(cohort: Cohort, block: int) -> list[int]:
    """Which levels of the condition the donors of a block have."""
    return [j for j, has in enumerate(cohort.has_arm[cohort.blocks == block][0]) if has and cohort.arms[j]]


def _head(cohort: Cohort, block: int) -> str:
    """What the donors of a block have in common, and how many they are."""
    own, short = cohort.blocks == block, shorten(cohort.arms, _LONGEST_ARM)
    n_donors, n_cells = int(own.sum()), int(cohort.n_cells[own].sum())
    numbers = f"{n_donors:,} donor{'' if n_donors == 1 else 's'}, {n_cells:,} cells"
    arms = " + ".join(short[j] for j in _arms_of(cohort, block))
    return f"{arms}: {numbers}" if arms else numbers


def _draw_cells(
    ax: Axes, cohort: Cohort, layout: AreaLayout, *, colors: Mapping[str, str], most: float, largest: float
) -> None:
    """Draw the cells of every cell type and arm, and crosses where a donor of the arm has none."""
    empty = cohort.empty()
    for j, arm in enumerate(cohort.arms):
        for i in range(len(cohort.cell_types)):
            n_cells = cohort.n_cells[:, i, j]
            _draw_areas(ax, n_cells, layout.columns[i, j], layout.rows, color=colors[arm], most=most, largest=largest)
            none = cohort.has_arm[:, j] & (n_cells == 0)
            color, size = (FLAG, 0.3) if empty[i, j] else (GREY, 0.15)
            ax.scatter(
                np.full(none.sum(), layout.columns[i, j]), layout.rows[none], marker="x", color=color, lw=0.9,
                s=size * largest,
            )  # fmt: skip


def _draw_areas(
    ax: Axes, n_cells: IntArray, place: float, rows: FloatArray, *, color: str, most: float, largest: float
) -> None:
    some = n_cells > 0
    s = areas(n_cells[some], most=most, largest=largest)
    ax.scatter(np.full(some.sum(), place), rows[some], s=s, color=color, lw=0, zorder=2)


def _draw_levels(
    ax: Axes, covariate: Covariate, places: FloatArray, rows: FloatArray, *, most: float, largest: float
) -> None:
    """Draw the cells at each level of a covariate that varies within donors."""
    for place, n_cells, only in zip(places, covariate.n_cells.T, covariate.confined, strict=True):
        color = FLAG if only else GREY
        _draw_areas(ax, n_cells, place, rows, color=color, most=most, largest=largest)


def _write_levels(
    ax: Axes, covariate: Covariate, place: float, rows: FloatArray, *, blocks: IntArray, font: float | None
) -> None:
    """Write each donor's level, in bold where it occurs with one level of the condition only.

    Where rows are too small for that, the first of some donors with the same level has it.
    """
    level = np.where(covariate.n_cells.any(axis=1), np.argmax(covariate.n_cells, axis=1), -1)
    written = level >= 0
    if font is None:
        written[1:] &= (np.diff(level) != 0) | (np.diff(blocks) != 0)
    for row, own in zip(rows[written], level[written], strict=True):
        marked, name = bool(covariate.confined[own]), covariate.levels[own]
        text = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        ax.text(
            place, row, text, va="center", fontsize=font or 5.0, color=FLAG if marked else INK,
            weight="bold" if marked else "normal",
        )  # fmt: skip
