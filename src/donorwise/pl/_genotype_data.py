"""What the plot of one gene against one variant shows: donors with their means and genotypes, and the model's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys, obs_frame, row_values, suggest
from donorwise._core.engine.groups import group_columns, group_labels
from donorwise._core.engine.scan_setup import donor_names
from donorwise._core.engine.wanted import Wanted
from donorwise.errors import DataError
from donorwise.pl._locus_data import none_kept
from donorwise.pl._scan_genotypes import dosages

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

    from donorwise._anndata import StoredScan

_HARD = 1e-6
"""How near to 0, 1 and 2 genotypes are that were called."""
MAIN = "beta_main"
"""Column of the tests of interactions: what the variant does where the interacting variable is zero."""
HALVES = ("lower half", "upper half")


@dataclass(frozen=True, slots=True)
class Panel:
    """One gene against one variant in one group.

    Attributes
    ----------
    group
        Its name.
    test
        Row of the tests: variant, a0, a1, beta, se, p_value, status; of scans of interactions `MAIN`.
    donors
        One row per donor (and level): donor, level, x (copies of a1), n_cells, mean, weight.
    levels
        Of what donors are split by; one empty text without.
    values
        What the interacting variable is in each level; NaN where that is not known.
    lacking
        How many donors have no genotype.
    """

    group: str
    test: pd.Series
    donors: pd.DataFrame
    levels: tuple[str, ...]
    values: tuple[float, ...]
    lacking: int

    @property
    def called(self) -> bool:
        """Whether all genotypes are 0, 1 or 2."""
        x = self.donors["x"].to_numpy()
        return bool((np.abs(x - np.round(x)) < _HARD).all())

    @property
    def slopes(self) -> tuple[float, ...]:
        """The model's slope in each level: of an interaction that of the variant itself and the change by the level's value.

        NaN where one of these is not known.
        """
        beta = float(self.test["beta"])
        if MAIN not in self.test.index:
            return tuple(beta for _ in self.values)
        return tuple(float(self.test[MAIN]) + beta * value for value in self.values)


def collect(
    adata: ad.AnnData,
    genotypes: Any,
    scan: StoredScan,
    *,
    gene: str,
    variant: str | None,
    groups: Sequence[str],
    by: str | None,
) -> list[Panel]:
    """Gather a panel for every group.

    Raises
    ------
    DataError, DesignError
        The test, the gene, a column of obs, the variant or all donors are not there.
    """
    tests = [_test(scan, gene, variant, group) for group in groups]
    if all(not test["variant"] for test in tests):
        raise DataError(none_kept(scan, gene, groups))
    shown = [(group, test) for group, test in zip(groups, tests, strict=True) if test["variant"]]
    copies = dosages(genotypes, pd.DataFrame([test for _, test in shown]))
    rows = _rows(adata, scan, gene, by)
    panels = []
    for i, (group, test) in enumerate(shown):
        if copies[i].isna().all():
            raise DataError(f"The genotypes do not have {str(test['variant'])!r}: give those that were scanned.")
        panels.append(_panel(rows[rows["group"] == group], copies[i], test, group=group))
    return panels


def _test(scan: StoredScan, gene: str, variant: str | None, group: str) -> pd.Series:
    """The test of a variant, or of the lead one; its variant is empty where nothing was tested in this group."""
    lead = scan.lead(gene, group)
    if variant is None and pd.isna(lead["neg_log10_p"]):
        return lead.astype(object).where(lead.index != "variant", "")
    name = str(lead["variant"]) if variant is None else variant
    is_lead = name == str(lead["variant"])
    # what the variant does by itself is known of tests that were kept
    if is_lead and not scan.params.get("interaction"):
        return lead
    wanted = Wanted(gene=(gene,), group=(group,))
    kept = scan.table(wanted.with_only(variant=[name])) if scan.kept is not None else scan.results.iloc[:0]
    if len(kept):
        return kept.iloc[0]
    if is_lead:
        return pd.concat([lead, pd.Series({MAIN: np.nan})])
    p_max = float(scan.params.get("p_max", 1.0))
    up_to = f", of those with p up to p_max={p_max:g}" if p_max < 1 else ""
    known = [] if scan.kept is None else scan.table(wanted, ["variant"])["variant"].astype(str)
    raise DataError(f"{group!r} has no test of {gene!r} with the variant {variant!r}{up_to}. {suggest(name, known)}")


def _rows(adata: ad.AnnData, scan: StoredScan, gene: str, by: str | None) -> pd.DataFrame:
    """Rows of the AnnData: group, donor, level, inside (what variants interact with, as a number), value, n_cells, weight."""
    weights = str(scan.params.get("weights", ""))
    groupby, donor = group_columns(scan.params.get("groupby", "")), _donor_columns(adata, scan)
    obs = obs_frame(adata, list(dict.fromkeys([*groupby, *donor, *([by] if by else [])])))
    rows = row_values(
        adata, gene, response=str(scan.params.get("response", keys.RESPONSE_X)), weights=weights if weights in adata.obs else ""
    )  # fmt: skip
    rows["donor"] = donor_names(obs, donor) if donor else list(map(str, adata.obs_names))
    rows["level"], rows["inside"] = _split(obs[by], by) if by else ("", np.nan)
    if by != scan.params.get("interaction"):
        rows["inside"] = np.nan
    rows["group"] = np.asarray(group_labels(obs, groupby)) if groupby else keys.ALL
    return rows.dropna(subset=["level", "value"])


def _donor_columns(adata: ad.AnnData, scan: StoredScan) -> list[str]:
    """Columns of obs with the names that the genotypes have; none where those are the names of the rows."""
    name = str(scan.params.get("donor", ""))
    columns = [] if not name else [name] if name in adata.obs else name.split(":")
    for column in columns:
        if column not in adata.obs:
            raise DataError(
                f"The donor column {column!r} of this scan is no longer in obs. {suggest(column, adata.obs)}"
            )
    return columns


def _split(values: pd.Series, by: str) -> tuple[pd.Series, pd.Series]:
    """Levels of a variable, of a number with more than two values its halves, and it as the number that the model has."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 2:
        number = values.astype(np.float64)
        upper = number > number.median()
        codes = np.where(number.isna(), -1, upper.astype(int))
        halves = pd.Categorical.from_codes(codes, categories=[f"{by}, {half}" for half in HALVES])
        return pd.Series(halves, index=values.index), number
    level = values.astype("category").cat.remove_unused_categories()
    is_number = pd.api.types.is_numeric_dtype(values)
    # labels of two levels are 0 and 1 in the model; of more it has several numbers
    as_number = values if is_number else level.cat.codes.where(level.notna() & (len(level.cat.categories) <= 2))
    return level.cat.rename_categories([str(name) for name in level.cat.categories]), as_number.astype(np.float64)


def _panel(rows: pd.DataFrame, copies: pd.Series, test: pd.Series, *, group: str) -> Panel:
    """Donors of one group with their weighted means and genotypes."""
    if rows.empty:
        raise DataError(f"No row of {group!r} is left to draw.")
    weighted = rows.assign(total=rows["value"] * rows["weight"], inside=rows["inside"] * rows["n_cells"])
    sums = weighted.groupby(["donor", "level"], observed=True)[["total", "weight", "inside", "n_cells"]].sum(
        min_count=1
    )
    donors = sums.assign(mean=sums["total"] / sums["weight"]).reset_index()
    donors["x"] = copies.reindex(donors["donor"]).to_numpy()
    known = donors[donors["x"].notna()].reset_index(drop=True)
    if known.empty:
        there = ", ".join(repr(name) for name in copies.index[:3])
        raise DataError(
            f"None of the donors of {group!r} ({donors['donor'].iloc[0]!r}, ...) has a genotype of {str(test['variant'])!r}; those "
            f"of the genotypes are {there}, ..."
        )
    levels = tuple(
        str(name) for name in known["level"].astype("category").cat.remove_unused_categories().cat.categories
    )
    parts = [known[known["level"] == level] for level in levels]
    values = tuple(float(part["inside"].sum(min_count=1) / part["n_cells"].sum()) for part in parts)
    lacking = donors["donor"].nunique() - known["donor"].nunique()
    return Panel(group, test, known[["donor", "level", "x", "n_cells", "mean", "weight"]], levels, values, lacking)


def interacting(adata: ad.AnnData, scan: StoredScan, by: str | None) -> str | None:
    """The column of obs to split donors by: what was asked for, else what the variants interact with.

    Raises
    ------
    DataError
        There is no such column.
    """
    found = by if by is not None else str(scan.params.get("interaction", "")) or None
    if found is None or found in obs_frame(adata).columns:
        return found
    if by is None:
        return None
    raise DataError(f"by={by!r}: adata.obs has no such column. {suggest(by, adata.obs.columns)}")
