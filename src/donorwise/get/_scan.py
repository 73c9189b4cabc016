"""The tables of a scan over variants: lead variants of genes, and the tests of pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from donorwise._anndata import Symbols, keys, read_scan, suggest, symbols_of
from donorwise._core.engine.wanted import Wanted
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._tests import check_cutoff, choose, present, tidy

if TYPE_CHECKING:
    import os

    import anndata as ad

    from donorwise._anndata import StoredScan
    from donorwise._typing import Groups

SIGNIFICANCE = "significance"
_CORRECTIONS = {
    "acat": "p_gene combines the p-values of a gene's variants (ACAT)",
    "permutations": "p_gene is that of the lead variant among permutations (beta approximation)",
    "bonferroni": "p_gene is that of the lead variant times the number of its variants",
}
_OVER_GENES = "adj_p_gene is Benjamini-Hochberg, q_value Storey, both over the genes of a group"
_NONE = "none: the p-values are nominal, those of one gene and variant"


@documented
def scan(
    source: ad.AnnData | str | os.PathLike[str] | Any,
    *,
    key: str = keys.SCAN,
    level: Literal["gene", "variant"] = "gene",
    group: Groups = None,
    gene: str | Sequence[str] | None = None,
    variant: str | Sequence[str] | None = None,
    chrom: str | int | Sequence[str | int] | None = None,
    region: str | None = None,
    p_max: float | None = None,
    q_max: float | None = None,
    gene_symbols: str | None = None,
    sort_by: str | None = SIGNIFICANCE,
    ascending: bool = True,
) -> pd.DataFrame:
    """Return the tests of a scan over variants as a tidy DataFrame.

    Parameters
    ----------
    {scan_source}
    {scan_key}
    level
        ``"gene"``: one row per gene and group, its lead variant with the gene's own p-value. ``"variant"``: one row per test
        that was kept.
    group
        {keep}
    gene, variant
        Which to keep, by name, one or several; None keeps all. Of genes these are lead variants.
    chrom
        Chromosomes of the variants, one or several, with or without ``chr`` before them.
    region
        Stretch of a chromosome, ``"1:1000-2000"``, both ends in it.
    p_max
        Keep tests with a p-value up to this, of genes `p_gene`; None keeps all.
    q_max
        Keep genes with a `q_value` up to this, and the tests of such genes in their groups.
    gene_symbols
        Column of var with other names of the genes, such as their symbols: `gene` may name these, and the table has them in a
        column of that name beside `gene`. Only of an AnnData.
    sort_by
        ``"significance"``: smallest p-value first, also of those that underflow; or a column, missing values last. None keeps
        the order of the genes and of the file.
    {ascending}

    Returns
    -------
    Of genes the columns gene, group, variant, chrom, pos, a0, a1, af, n, beta, se, statistic, df, p_value, neg_log10_p,
    n_variants, p_gene, adj_p_gene, q_value, status and n_donors; of variants those without n_variants, p_gene, adj_p_gene,
    q_value and n_donors. `beta` is the change of the response for one more copy of the allele `a1`, whose frequency
    is `af`; `statistic` is ``beta / se``, of t with `df` degrees of freedom; `neg_log10_p` does not underflow. Of an
    interaction `beta` is its effect, and `beta_main`, `se_main` and `p_main` are those of the variant where the interacting
    variable is zero. Text that is not known is empty. ``attrs`` of the table say the formula, the effect allele,
    how p-values are corrected, up to which p-value tests were kept, and the genomic inflation factor of all tests by group
    (`lambda`).

    Raises
    ------
    DataError
        There is no such scan, group, gene or column of var; the tests were not kept or are not where they were; a region is
        none, or pyarrow is not installed.
    DonorwiseError
        A cutoff or an option is none.

    Notes
    -----
    Of a folder no more is read than is asked for: parts of files whose statistics exclude `group`, `gene`, `variant`, `chrom`,
    `region` or `p_max` are skipped. For a table with everything there must be room in memory.

    Examples
    --------
    >>> import donorwise as dw, pandas as pd
    >>> from types import SimpleNamespace
    >>> test = dict(
    ...     gene="GENE1", group="all", variant="rs1", chrom="1", pos=1000, a0="A", a1="G", af=0.3, n=40, beta=1.0
    ... )
    >>> test |= dict(se=0.2, statistic=5.0, df=37.0, p_value=1.4e-5, neg_log10_p=4.9, status="ok")
    >>> lead = test | dict(n_variants=1, p_gene=1.4e-5, adj_p_gene=1.4e-5, q_value=1.4e-5, n_donors=40)
    >>> counts = dict(group="all", statistic=5.0, p_value=1.4e-5, count=1)
    >>> tables = {"results": lead, "counts": counts, "tests": test}
    >>> result = SimpleNamespace(params={"formula": "~ age"}, **{k: pd.DataFrame([row]) for k, row in tables.items()})
    >>> table = dw.get.scan(result, level="variant", region="1:1-2000", p_max=1e-4)
    >>> table["variant"].tolist(), table.attrs["effect_allele"]
    (['rs1'], 'a1')
    """
    check_option("level", level, ("gene", "variant"))
    for name, value in (("p_max", p_max), ("q_max", q_max)):
        if value is not None:
            check_cutoff(name, value, 1.0)
    stored = read_scan(source, key)
    symbols = scan_symbols(source, gene_symbols, stored)
    lead = choose(choose(stored.results, "group", group), "gene", None if gene is None else symbols.find(gene))
    wanted = place(names_of(variant), names_of(chrom), region)
    table = _genes(lead, wanted, p_max, q_max) if level == "gene" else _variants(stored, lead, wanted, p_max, q_max)
    table = _sorted(symbols.beside(tidy(table), "gene"), level, sort_by, ascending=ascending)
    table.attrs = told(stored.params, level)
    return table


def names_of(wanted: Any) -> tuple[str, ...] | None:
    """Names, one or several, as text; None for all."""
    if wanted is None:
        return None
    several = isinstance(wanted, Iterable) and not isinstance(wanted, str)
    return tuple(str(name) for name in wanted) if several else (str(wanted),)


def place(variant: tuple[str, ...] | None, chrom: tuple[str, ...] | None, region: str | None) -> Wanted:
    """Which variants are wanted.

    Raises
    ------
    DataError
        The region is none, or is given beside chromosomes.
    """
    if region is None:
        return Wanted(variant=variant, chrom=chrom)
    if chrom is not None:
        raise DataError(f"region={region!r} names its chromosome: leave chrom= out.")
    found = re.fullmatch(r"\s*(.+):(\d[\d,]*)-(\d[\d,]*)\s*", str(region))
    low, high = (int(end.replace(",", "")) for end in found.groups()[1:]) if found else (1, 0)
    if found is None or low > high:
        raise DataError(f"region={region!r} must be a chromosome with the first and last position, as '1:1000-2000'.")
    return Wanted(variant=variant, chrom=(found[1],), low=low, high=high)


def scan_symbols(source: Any, gene_symbols: str | None, stored: StoredScan) -> Symbols:
    """Other names of the genes of a scan; None for their own.

    Raises
    ------
    DataError
        There is no such column of var, or `source` is no AnnData.
    """
    if gene_symbols is None:
        return Symbols()
    if not hasattr(source, "var_names"):
        raise DataError(
            f"gene_symbols={gene_symbols!r} is a column of adata.var: give the AnnData that holds the scan."
        )
    return symbols_of(source, gene_symbols, {keys.RESPONSE: keys.RESPONSE_X, **stored.params})


def _genes(lead: pd.DataFrame, wanted: Wanted, p_max: float | None, q_max: float | None) -> pd.DataFrame:
    found = wanted.mask(lead)
    for column, most in (("p_gene", p_max), ("q_value", q_max)):
        if most is not None:
            found &= (lead[column] <= most).to_numpy()
    return lead[found]


def _variants(
    stored: StoredScan, lead: pd.DataFrame, wanted: Wanted, p_max: float | None, q_max: float | None
) -> pd.DataFrame:
    """The tests of the genes and groups in `lead`; names that leave nothing out are no filter."""
    if q_max is not None:
        lead = lead[lead["q_value"] <= q_max]
    chosen = {column: tuple(present(lead, column)) for column in ("gene", "group")}
    gene, group = (names if len(names) < len(stored.results[c].cat.categories) else None for c, names in chosen.items())
    table = stored.table(replace(wanted, gene=gene, group=group, p_max=p_max))
    if q_max is None:
        return table
    pairs = pd.MultiIndex.from_frame(lead[["gene", "group"]].astype(str))
    return table[pd.MultiIndex.from_frame(table[["gene", "group"]].astype(str)).isin(pairs)]


def _sorted(table: pd.DataFrame, level: str, sort_by: str | None, *, ascending: bool) -> pd.DataFrame:
    """Sorted rows; the smallest p-values are told apart by their logarithms."""
    if sort_by is None:
        return table
    if sort_by == SIGNIFICANCE:
        p = table["p_gene"] if level == "gene" else -table["neg_log10_p"]
        by = pd.DataFrame({"p": p, "log_p": -table["neg_log10_p"]})
        order = by.sort_values(["p", "log_p"], ascending=ascending, kind="stable", na_position="last").index
        return table.loc[order].reset_index(drop=True)
    if sort_by not in table.columns:
        raise DataError(f"sort_by: there is no column {sort_by!r}. {suggest(sort_by, [SIGNIFICANCE, *table.columns])}")
    ordered = table.sort_values(sort_by, ascending=ascending, kind="stable", na_position="last")
    return ordered.reset_index(drop=True)


def told(params: dict[str, Any], level: str) -> dict[str, Any]:
    """What a table does not say itself."""
    of_gene = _CORRECTIONS.get(str(params.get("gene_test")), "p_gene: see params['gene_test']")
    most = params.get("p_max")
    return {
        "formula": params.get("formula", ""),
        "effect_allele": params.get("effect_allele", "a1"),
        "correction": f"{of_gene}; {_OVER_GENES}" if level == "gene" else _NONE,
        "kept": "all tests" if most is None or np.isnan(most) else f"tests with p_value <= {most:g}",
        "lambda": dict(params.get("lambda") or {}),
    }
