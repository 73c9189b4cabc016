"""Where genes are: the start of their transcription, from columns of var."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._anndata.genotypes import CHROMOSOME_COLUMNS, column_of, usual_column
from donorwise._core.engine.scan import Genes
from donorwise._core.kinship.labels import UNKNOWN, bare_chromosomes, chromosome_names, positions_of
from donorwise._core.wording import listing
from donorwise._typing import BoolArray, IntArray, StrArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHROMOSOMES = (*CHROMOSOME_COLUMNS, "gene_chrom", "gene_chromosome", "chromosome_name", "chromosome/scaffold name")
_TSS = ("tss", "tss_position", "tss_pos", "transcription_start_site", "transcription start site (tss)")
_STARTS = ("start", "gene_start", "start_position", "chromstart", "txstart", "gene start (bp)")
_ENDS = ("end", "gene_end", "end_position", "chromend", "txend", "gene end (bp)")
_STRANDS = ("strand", "gene_strand")
_MINUS = ("-", "-1", "-1.0", "\N{MINUS SIGN}", "minus", "reverse")
_PLUS = ("+", "1", "1.0", "+1", "plus", "forward")
_ADVICE = (
    "Add chrom, start and end (and strand), or chrom and tss, from the annotation that the reads were aligned with, such as the "
    "rows of its GTF whose feature is gene: adata.var = adata.var.join(table)."
)


def gene_positions(var: Any, chromosomes: StrArray, *, text: str = "adata.var") -> Genes:
    """Chromosomes and starts of transcription of genes: `tss`, or else the start, of genes on the minus strand the end.

    Parameters
    ----------
    var
        A row for each gene, with columns chrom, start and end, or chrom and tss, or other usual names in any case.
    chromosomes
        Those of the variants; names are compared without "chr".
    text
        What messages call `var`.

    Returns
    -------
    Chromosomes as `bare_chromosomes` names them, "" and -1 for genes without a position.

    Raises
    ------
    DataError
        There are no such columns, a position is a text, negative or no whole number, a gene ends before it starts, or all genes
        are on chromosomes without variants.
    """
    column = usual_column(var, _CHROMOSOMES)
    tss = _tss(var, text)
    if column is None or tss is None:
        raise DataError(_lacking(var, column, tss is not None, text))
    own = chromosome_names(column_of(var, column))
    chrom = bare_chromosomes(own)
    unknown = (chrom == "") | (tss == UNKNOWN)
    _check_shared(own[~unknown], chrom[~unknown], chromosomes, f"{text}[{column!r}]")
    return Genes(np.where(unknown, "", chrom), np.where(unknown, UNKNOWN, tss))


class Body(NamedTuple):
    """Where one gene is: first and last base pair, start of transcription, and strand: 1, -1, or 0 where that is not known."""

    start: float
    end: float
    tss: float
    strand: int


def gene_body(var: Any, gene: str, chromosome: str) -> Body | None:
    """Where a gene is, of which the start of transcription may be all that is known; None where it is not on the chromosome."""
    columns = {kind: usual_column(var, names) for kind, names in {**_KINDS, "chrom": _CHROMOSOMES}.items()}
    row = var.loc[gene]
    known = {kind: row[name] for kind, name in columns.items() if name is not None and pd.notna(row[name])}
    start = known.get("start", known.get("tss"))
    if start is None or "chrom" not in known:
        return None
    if len(set(bare_chromosomes(chromosome_names([known["chrom"], chromosome])))) > 1:
        return None
    end, text = known.get("end", start), str(known.get("strand", "")).strip().lower()
    strand = -1 if text in _MINUS else int(text in _PLUS)
    return Body(float(start), float(end), float(known.get("tss", end if strand < 0 else start)), strand)


def told_unplaced(positions: Genes, names: Sequence[str]) -> list[str]:
    """That genes have no position, and so no variants near them; nothing where all have one."""
    at = np.flatnonzero(positions.tss == UNKNOWN)
    if not at.size:
        return []
    return [
        f"{at.size:,} of {len(positions.tss):,} genes {'has no position, and is' if at.size == 1 else 'have no position, and are'} tested with no "
        f"variant: {listing([names[i] for i in at[:6]], 5)}."
    ]


def _tss(var: Any, text: str) -> IntArray | None:
    """Starts of transcription, -1 where they are not known; None without columns that say."""
    found = {kind: usual_column(var, names) for kind, names in _KINDS.items()}
    given = {
        kind: positions_of(column_of(var, own), f"{text}[{own!r}]")
        for kind, own in found.items()
        if own is not None and kind != "strand"
    }
    if "tss" in given:
        return given["tss"]
    if "start" not in given:
        return None
    start, strand = given["start"], found["strand"]
    if "end" in given:
        _check_order(var, start, given["end"], text)
    minus = np.zeros(len(start), dtype=bool) if strand is None else _on_minus(column_of(var, strand))
    if not minus.any():
        return start
    if "end" not in given:
        raise DataError(
            f"{text} has a strand and no end of genes: those on the minus strand, such as {listing(var.index[minus], 3)}, are "
            "transcribed from their end. Add the column end, or tss."
        )
    return np.where(minus, given["end"], start)


_KINDS = {"tss": _TSS, "start": _STARTS, "end": _ENDS, "strand": _STRANDS}


def _on_minus(strand: pd.Series) -> BoolArray:
    return strand.astype(object).map(lambda own: str(own).strip().lower() in _MINUS).to_numpy(dtype=bool)


def _check_order(var: Any, start: IntArray, end: IntArray, text: str) -> None:
    at = np.flatnonzero((end < start) & (end != UNKNOWN))
    if at.size:
        raise DataError(
            f"{text}: {at.size:,} of {len(start):,} genes end before they start ({listing(var.index[at[:4]], 3)}); on either strand "
            "the start is the smaller number, and strand says the direction."
        )


def _lacking(var: Any, chrom: str | None, placed: bool, text: str) -> str:
    lacks = [name for name, there in (("chromosome", chrom is not None), ("position", placed)) if not there]
    return (
        f"{text} has no {' and no '.join(lacks)} of genes; it has {listing(var.columns, 12) or 'no columns'}. {_ADVICE}"
    )


def _check_shared(names: StrArray, chrom: StrArray, variants: StrArray, text: str) -> None:
    """Raise where no gene is on a chromosome that has variants; `chrom` is what `names` are compared by."""
    if not chrom.size:
        raise DataError(f"{text}: no gene has a chromosome and a position. {_ADVICE}")
    known = pd.unique(variants)
    if not set(bare_chromosomes(known).tolist()) & set(chrom.tolist()):
        raise DataError(
            f"{text}: no gene is on a chromosome that has variants. Chromosomes of genes are {listing(pd.unique(names), 3)}; those of "
            f"variants are {listing(known, 3)}. Give both the same names (with or without chr is the same)."
        )
