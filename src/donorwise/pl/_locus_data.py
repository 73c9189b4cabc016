"""What the plot of a locus shows: one gene's tests, how they go together with the best, and where the gene is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.engine.wanted import Wanted
from donorwise.errors import DataError
from donorwise.pl._scan_genotypes import dosages, r_squared
from donorwise.pl._style import format_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._anndata import StoredScan
    from donorwise._typing import FloatArray

_COLUMNS = ("group", "variant", "chrom", "pos", "a0", "a1", "beta", "neg_log10_p")
USUAL_WINDOW = 1_000_000
"""Base pairs on either side of a lead variant, of scans that are not in cis."""


@dataclass(frozen=True, slots=True)
class Locus:
    """The tests of one gene in one group.

    Attributes
    ----------
    tests
        Columns variant, chrom, pos, beta, neg_log10_p, r2 with the lead variant (NaN where it is not known), and lead,
        which is true of the one with the smallest p-value.
    tested
        Whether there were tests in this group, kept or not.
    """

    tests: pd.DataFrame
    tested: bool


def loci(scan: StoredScan, gene: str, groups: Sequence[str], genotypes: Any, window: float | None) -> dict[str, Locus]:
    """The tests of a gene in every group.

    Raises
    ------
    DataError
        No test was kept, or the genotypes do not have the lead variant.
    """
    kept = scan.table(_region(scan, gene, groups, window), _COLUMNS)
    kept = kept[kept["neg_log10_p"].notna() & (kept["pos"] > 0)].reset_index(drop=True)
    if kept.empty:
        raise DataError(none_kept(scan, gene, groups))
    copies = None if genotypes is None else dosages(genotypes, kept).to_numpy()
    found = {}
    for group in groups:
        own = kept[kept["group"] == group]
        own = own.assign(lead=own.index == (own["neg_log10_p"].idxmax() if len(own) else -1))
        r2 = np.nan if copies is None or own.empty else _r2(copies[:, own.index], own)
        tested = bool(pd.notna(scan.lead(gene, group)["neg_log10_p"]))
        found[group] = Locus(own.assign(r2=r2).reset_index(drop=True), tested)
    return found


def _region(scan: StoredScan, gene: str, groups: Sequence[str], window: float | None) -> Wanted:
    """The tests to draw: all of a scan in cis, else those around the best lead variant of the groups."""
    pairs = Wanted(gene=(gene,), group=tuple(groups))
    own = scan.results[(scan.results["gene"] == gene) & scan.results["group"].isin(groups)]
    own = own[own["neg_log10_p"].notna() & (own["pos"] > 0)]
    if own.empty or (window is None and scan.in_cis):
        return pairs
    best, reach = own.loc[own["neg_log10_p"].idxmax()], int(USUAL_WINDOW if window is None else window)
    return replace(pairs, chrom=(str(best["chrom"]),), low=int(best["pos"]) - reach, high=int(best["pos"]) + reach)


def none_kept(scan: StoredScan, gene: str, groups: Sequence[str]) -> str:
    """Why there is no test of a gene."""
    of_gene = scan.results[(scan.results["gene"] == gene) & scan.results["group"].isin(groups)]
    tested = of_gene[of_gene["neg_log10_p"].notna()]
    if tested.empty:
        statuses = ", ".join(dict.fromkeys(of_gene["status"].astype(str)))
        return f"No variant was tested for {gene!r} (status: {statuses})."
    best = tested.loc[tested["neg_log10_p"].idxmax()]
    if not best["pos"] > 0:
        return f"The variants that {gene!r} was tested against have no positions."
    return (
        f"No test of {gene!r} was kept: its smallest p-value, of {str(best['variant'])!r}, is {format_p(best['p_value'])[4:]}, and the "
        f"scan kept those up to p_max={scan.params.get('p_max', 1.0):g}. Scan this gene again with a larger p_max=."
    )


def _r2(copies: FloatArray, tests: pd.DataFrame) -> FloatArray:
    """Squared correlation of every tested variant with the lead one."""
    lead = int(np.flatnonzero(tests["lead"])[0])
    if np.isnan(copies[:, lead]).all():
        name = str(tests["variant"].iloc[lead])
        raise DataError(f"The genotypes do not have the lead variant {name!r}: give those that were scanned.")
    return r_squared(copies, lead)
