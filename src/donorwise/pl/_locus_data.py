"""What the plot of a locus shows: one gene's tests, how they go together with the best, and where the gene is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.engine.wanted import Wanted
from donorwise.errors import DataError
from donorwise.pl._scan_data import lead_of
from donorwise.pl._scan_genotypes import dosages, r_squared
from donorwise.pl._style import format_p

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._anndata import StoredScan
    from donorwise._typing import BoolArray, FloatArray

_COLUMNS = ("group", "variant", "chrom", "pos", "a0", "a1", "beta", "neg_log10_p")


@dataclass(frozen=True, slots=True)
class Locus:
    """The tests of one gene in one group.

    Attributes
    ----------
    tests
        Columns variant, chrom, pos, beta, neg_log10_p, and r2 with the lead variant (NaN where it is not known).
    lead
        Its row of the results.
    """

    tests: pd.DataFrame
    lead: pd.Series


def loci(scan: StoredScan, gene: str, groups: Sequence[str], genotypes: Any) -> dict[str, Locus]:
    """The tests of a gene in every group that has some.

    Raises
    ------
    DataError
        No test was kept, or the genotypes do not have the lead variant.
    """
    kept = scan.table(Wanted(gene=(gene,), group=tuple(groups)), _COLUMNS)
    kept = kept[kept["neg_log10_p"].notna() & (kept["pos"] > 0)]
    if kept.empty:
        raise DataError(none_kept(scan, gene, groups))
    kept = kept.reset_index(drop=True)
    copies = None if genotypes is None else dosages(genotypes, kept).to_numpy()
    found = {}
    for group in groups:
        own, lead = kept[kept["group"] == group], lead_of(scan, gene, group)
        r2 = (
            np.nan
            if copies is None or own.empty
            else _r2(copies[:, own.index], is_lead(own, lead), str(lead["variant"]))
        )
        found[group] = Locus(own.assign(r2=r2).reset_index(drop=True), lead)
    return found


def is_lead(tests: pd.DataFrame, lead: pd.Series) -> BoolArray:
    """Which of the tests of a gene is that of its lead variant."""
    alike = [tests[name].astype(str) == str(lead[name]) for name in ("variant", "a0", "a1")]
    return np.asarray(alike[0] & alike[1] & alike[2])


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


def _r2(copies: FloatArray, lead: BoolArray, name: str) -> FloatArray:
    """Squared correlation of every tested variant with the lead one."""
    at = np.flatnonzero(lead)
    if not at.size or np.isnan(copies[:, at[0]]).all():
        raise DataError(f"The genotypes do not have the lead variant {name!r}: give those that were scanned.")
    return r_squared(copies, int(at[0]))
