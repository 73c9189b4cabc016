"""What a Manhattan plot shows: tests or genes with their places, few enough of them to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.engine.wanted import Wanted
from donorwise._core.kinship.labels import bare_chromosomes
from donorwise.errors import DataError
from donorwise.pl._scan_data import natural_order
from donorwise.pl._style import SMALLEST_P

if TYPE_CHECKING:
    from donorwise._anndata import StoredScan, Symbols
    from donorwise._typing import BoolArray, FloatArray

_ACROSS, _UP = 1500, 150
"""Cells of the grid below the line, of each of which one point is kept: about the pixels that there are."""
PEAK = 1_000_000
"""Base pairs around a hit within which others are taken for the same."""
_TESTED = ("gene", "variant", "chrom", "pos", "neg_log10_p")
_NO_PLACES = "The variants of this scan have no chromosomes and positions, which a Manhattan plot needs: scan genotypes that have them."


def variant_points(
    scan: StoredScan, groups: Sequence[str], *, line: float, genes: Sequence[str], labels: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The tests of every group: ``gene, variant, chrom, pos, y, hit``, thinned below the line.

    Raises
    ------
    DataError
        No test has a place.
    """
    parts = {}
    for group in groups:
        found = _placed(pd.DataFrame(columns=[*_TESTED]).rename(columns={"neg_log10_p": "y"}))
        for block in scan.blocks(Wanted(gene=tuple(genes) or None, group=(group,)), _TESTED):
            own = _placed(block.rename(columns={"neg_log10_p": "y"}))
            found = thin(pd.concat([found, own]) if len(found) else own, line=line, labels=labels)
        parts[group] = found.assign(hit=found["y"] >= line)
    if all(part.empty for part in parts.values()):
        if not (scan.results["pos"] > 0).any():
            raise DataError(_NO_PLACES)
        raise DataError(
            "No test of these was kept (p_max= of the scan); level='gene' draws the lead variants, which are always there."
        )
    return parts


def gene_points(
    scan: StoredScan, groups: Sequence[str], *, alpha: float, genes: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], str]:
    """The lead variants of every group, as the tests have them, and what their heights are: of genes where those are known.

    Raises
    ------
    DataError
        No gene was tested.
    """
    of_genes = bool(scan.results["p_gene"].notna().any())
    smallest = scan.results["p_gene"].clip(lower=SMALLEST_P)
    table = scan.results.assign(y=-np.log10(smallest) if of_genes else scan.results["neg_log10_p"])
    table["hit"] = (table["adj_p_gene"] <= alpha).to_numpy()
    if genes:
        table = table[table["gene"].isin(genes)]
    parts = {group: _placed(table[table["group"] == group]) for group in groups}
    if all(part.empty for part in parts.values()):
        if table["p_gene"].notna().any():
            raise DataError(_NO_PLACES)
        raise DataError("No gene of these was tested: look at the status column of dw.get.scan.")
    return parts, f"$-\\log_{{10}}$ p of the {'gene' if of_genes else 'lead variant'}"


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    """Tests that have a number and a place, with plain names of chromosomes."""
    known = table[(table["pos"] > 0) & table["y"].notna() & table["chrom"].notna()]
    names = bare_chromosomes(known["chrom"].to_numpy(dtype=object)).astype(object)
    plain = known.assign(chrom=np.where(names == "M", "MT", names), y=known["y"].astype(np.float64))
    columns = [name for name in ("gene", "variant", "chrom", "pos", "y", "hit") if name in plain]
    return plain.loc[plain["chrom"] != "", columns].astype({"pos": np.float64})


def thin(table: pd.DataFrame, *, line: float, labels: Sequence[str] = ()) -> pd.DataFrame:
    """Keep all points above a line, those with a label, and of the others the highest of every cell of a grid.

    Parameters
    ----------
    table
        Points with the columns gene, variant, chrom, pos and y.
    line
        Height above which every point stays.
    labels
        Genes and variants whose highest points stay.
    """
    width = max(float(_lengths(table).sum()) / _ACROSS, 1.0)
    high = (table["y"] >= line).to_numpy()
    low = table[~high].sort_values("y", ascending=False, kind="stable")
    cells = pd.DataFrame(
        {"chrom": low["chrom"].astype(str), "x": low["pos"] // width, "y": low["y"] // (line / _UP)}, index=low.index
    )
    stays = ~cells.duplicated().to_numpy()
    for name in ("gene", "variant") if len(labels) else ():
        stays |= (low[name].isin(labels) & ~low[name].duplicated()).to_numpy()
    return pd.concat([table[high], low[stays]], ignore_index=True)


def _lengths(table: pd.DataFrame) -> pd.Series:
    return table.groupby("chrom", observed=True)["pos"].max()


@dataclass(frozen=True, slots=True)
class Genome:
    """Chromosomes in a row, in their natural order.

    Attributes
    ----------
    names
        Of the C chromosomes.
    starts, ends
        Shape (C,). Base pairs along the row.
    """

    names: tuple[str, ...]
    starts: FloatArray
    ends: FloatArray

    @property
    def middles(self) -> FloatArray:
        """Where the names stand."""
        return (self.starts + self.ends) / 2

    def along(self, table: pd.DataFrame) -> FloatArray:
        """Places of points with the columns chrom and pos."""
        start = pd.Series(self.starts, index=list(self.names))
        return np.asarray(table["pos"].to_numpy() + start.reindex(table["chrom"].astype(str)).to_numpy())

    def odd(self, table: pd.DataFrame) -> BoolArray:
        """Which points are on the second, fourth, ... of the chromosomes."""
        number = pd.Series(np.arange(len(self.names)) % 2 == 1, index=list(self.names))
        return np.asarray(number.reindex(table["chrom"].astype(str)).to_numpy(dtype=bool))


def genome_of(tables: Iterable[pd.DataFrame]) -> Genome:
    """The chromosomes that occur, each as long as its last point."""
    every = pd.concat([table[["chrom", "pos"]] for table in tables])
    lengths = _lengths(every.astype({"chrom": str}))
    names = tuple(sorted(lengths.index, key=natural_order))
    length = lengths.reindex(list(names)).to_numpy(dtype=np.float64)
    starts = np.concatenate([[0.0], np.cumsum(length)[:-1]]) + 0.01 * length.sum() * np.arange(len(names))
    return Genome(names, starts, starts + length)


def check_labels(labels: Sequence[str], scan: StoredScan, tables: Iterable[pd.DataFrame]) -> None:
    """Raise where a label is neither a gene of the scan nor a variant that is drawn."""
    known = set(scan.genes).union(*(table["variant"].astype(str) for table in tables))
    for name in labels:
        if name not in known:
            raise DataError(f"labels=: no gene of the scan and no variant that is drawn is called {name!r}.")


@dataclass(frozen=True, slots=True)
class Called:
    """What points are called.

    Attributes
    ----------
    by_gene
        By their gene, and not by their variant.
    beside
        The gene behind the variant, where there are several.
    symbols
        What genes are called.
    """

    by_gene: bool
    beside: bool
    symbols: Symbols

    def names(self, points: pd.DataFrame, labels: Sequence[str]) -> list[str]:
        """Names of points; those that were asked for by their variant are called by it."""
        genes = [self.symbols.label(str(gene)) for gene in points["gene"]]
        variants = [str(variant) for variant in points["variant"]]
        plain = [f"{v} ({g})" for v, g in zip(variants, genes, strict=True)] if self.beside else variants
        return [
            g if self.by_gene and v not in labels else text for g, v, text in zip(genes, variants, plain, strict=True)
        ]


def called_by(scan: StoredScan, symbols: Symbols, genes: Sequence[str], *, by_gene: bool) -> Called:
    """What the points are called: where one gene alone is drawn by their variants."""
    one = len(genes or scan.genes) == 1
    return Called(by_gene=by_gene and not one, beside=not one, symbols=symbols)


def to_name(part: pd.DataFrame, n: int, labels: Sequence[str], called: Called) -> pd.DataFrame:
    """The points to name, most important first, with a column ``name``: those asked for, and the best `n` hits.

    Of hits by gene each gene is named once; of others the best variant within a million bases.
    """
    ranked = part.sort_values("y", ascending=False, kind="stable")
    asked = [ranked[ranked[name].isin(labels) & ~ranked[name].duplicated()] for name in ("gene", "variant")]
    chosen = pd.concat(asked)
    hits = ranked[ranked["hit"] & ~ranked.index.isin(chosen.index)]
    hits = hits[~hits["gene"].duplicated()] if called.by_gene else _peaks(hits, n)
    chosen = pd.concat([chosen[~chosen.index.duplicated()], hits.head(n)])
    return chosen.assign(name=called.names(chosen, labels))


def _peaks(hits: pd.DataFrame, n: int) -> pd.DataFrame:
    """The best of hits, highest first, that are near no better one of the same gene."""
    kept: list[int] = []
    left = hits
    while len(left) and len(kept) < n:
        best = left.iloc[0]
        kept.append(left.index[0])
        near = (left["pos"] - best["pos"]).abs() <= PEAK
        left = left[~(near & (left["chrom"] == best["chrom"]) & (left["gene"] == best["gene"]))]
    return hits.loc[kept]
