"""Scans in the columns of tensorQTL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from donorwise._anndata import keys, read_scan
from donorwise._anndata.gene_positions import gene_positions
from donorwise._core.engine.scan_folder import check_pyarrow
from donorwise._core.engine.wanted import Wanted
from donorwise._core.files import locked, replaced
from donorwise._core.kinship.labels import bare_chromosomes
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError
from donorwise.get._exported import check_file, joined, minor_allele_count, only_group, warn_of_cut, write_text
from donorwise.get._tests import check_cutoff, choose

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad

    from donorwise._anndata import StoredScan
    from donorwise._typing import Label

_PERMUTED = ("beta_shape1", "beta_shape2", "true_df")
"""What permutations leave beside p-values of genes."""


@documented
def to_tensorqtl(
    source: ad.AnnData | str | os.PathLike[str] | Any,
    path: str | os.PathLike[str] | None = None,
    *,
    key: str = keys.SCAN,
    level: Literal["gene", "variant"] = "variant",
    group: Label | None = None,
    gene: str | Sequence[str] | None = None,
    p_max: float | None = None,
    genes: pd.DataFrame | None = None,
) -> pd.DataFrame | None:
    """Return, or write, the tests of one group in the columns of tensorQTL, which eQTL pipelines read.

    Parameters
    ----------
    {scan_source}
    path
        File to write: ``.parquet``, or a table of text that is separated by tabs, compressed with ``.gz`` behind its name. None
        returns the table.
    {scan_key}
    level
        ``"variant"``: the tests, as of ``cis_nominal`` (of a scan in trans: ``trans``). ``"gene"``: the lead variants, as of
        ``cis``.
    group
        The group; may be left out where there is only one.
    gene
        Genes to keep; None for all.
    p_max
        Keep tests with a p-value up to this; None keeps all.
    genes
        Positions of the genes of a scan in cis, from which distances are counted: a row for each, with ``chrom`` and ``tss`` or
        ``start``, ``end`` and ``strand``. None takes ``var`` of the AnnData.

    Returns
    -------
    The table, or None with `path`, in the order of the scan. Of variants phenotype_id, variant_id, start_distance (from the
    start of transcription), af (of the counted allele ``a1``), ma_samples, ma_count, pval_nominal, slope and slope_se; of
    an interaction pval_g, b_g, b_g_se, pval_i, b_i, b_i_se, pval_gi, b_gi and b_gi_se take the place of the last three; of
    a scan that is not in cis variant_id, phenotype_id, pval, b, b_se and af. Of genes phenotype_id, num_var, beta_shape1,
    beta_shape2, true_df, pval_true_df, variant_id, start_distance, ma_samples, ma_count, af, pval_nominal, slope, slope_se,
    pval_perm, pval_beta and qval; genes without a tested variant have no row. What a scan does not know is missing: `ma_samples`,
    the effect of the interacting variable, and without permutations what comes of these.

    Raises
    ------
    DataError
        There is no such scan, group or gene, there are several groups to choose from, no positions of genes, or no tests. Or
        genes of an interaction are asked for.
    OutputError
        The file cannot be written.

    Warns
    -----
    DonorwiseWarning
        The scan did not keep all its tests.

    Notes
    -----
    The format: https://github.com/broadinstitute/tensorqtl/blob/master/docs/outputs.md (Taylor-Weiner et al. 2019, Genome Biol
    20:228). Tests of a folder are written as they are read, in blocks.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=30, n_cells=600, n_genes=5, n_variants=200, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> list(dw.get.to_tensorqtl(adata).columns[:3])
    ['phenotype_id', 'variant_id', 'start_distance']
    """
    check_option("level", level, ("gene", "variant"))
    if p_max is not None:
        check_cutoff("p_max", p_max, 1.0)
    stored = read_scan(source, key)
    lead = stored.results[stored.results["group"] == only_group(stored, group)]
    lead = choose(lead, "gene", gene)
    if level == "variant" and (p_max is None or p_max > stored.params.get("p_max", 1.0)):
        warn_of_cut(stored, "the table of tensorQTL")
    starts = _starts(source, genes, stored, lead) if stored.in_cis else None
    blocks = _leads(stored, lead, starts, p_max) if level == "gene" else _tests(stored, lead, starts, p_max)
    if path is None:
        return joined(blocks, "a table of tensorQTL")
    _write(blocks, check_file(path))
    return None


def _starts(source: Any, genes: pd.DataFrame | None, stored: StoredScan, lead: pd.DataFrame) -> pd.Series:
    """Start of transcription of every gene that has variants."""
    table = getattr(source, "var", None) if genes is None else genes
    text = "adata.var" if genes is None else "genes"
    if table is None:
        raise DataError("Distances need the positions of the genes, which only an AnnData has: genes=adata.var.")
    names = lead.loc[lead["variant"] != "", "gene"].astype(str).unique()
    missing = [name for name in names if name not in table.index]
    if missing:
        raise DataError(f"{text} has no row for the gene {missing[0]!r} (nor for {len(missing) - 1:,} others).")
    if not len(names):
        return pd.Series(dtype=np.int64)
    chromosomes = bare_chromosomes(np.unique(stored.results["chrom"].astype(str)))
    positions = gene_positions(table.loc[names], chromosomes, text=text)
    return pd.Series(positions.tss, index=names)


def _common(table: pd.DataFrame, starts: pd.Series | None) -> dict[str, Any]:
    """Columns that tables of variants and of genes have."""
    distance = {} if starts is None else {"start_distance": _distance(table, starts)}
    return {"phenotype_id": table["gene"].astype(str), "variant_id": table["variant"].astype(str), **distance} | {
        "af": table["af"], "ma_samples": np.full(len(table), np.nan), "ma_count": minor_allele_count(table),
    }  # fmt: skip


def _distance(table: pd.DataFrame, starts: pd.Series) -> pd.Series:
    start = starts.reindex(table["gene"].astype(str)).to_numpy()
    return (table["pos"] - start).astype(np.int64)


def _nominal(table: pd.DataFrame, starts: pd.Series | None) -> pd.DataFrame:
    own = {"pval_nominal": table["p_value"], "slope": table["beta"], "slope_se": table["se"]}
    return pd.DataFrame(_common(table, starts) | own)


def _interaction(table: pd.DataFrame, starts: pd.Series | None) -> pd.DataFrame:
    unknown = dict.fromkeys(("pval_i", "b_i", "b_i_se"), np.nan)
    main = {"pval_g": table["p_main"], "b_g": table["beta_main"], "b_g_se": table["se_main"]}
    product = {"pval_gi": table["p_value"], "b_gi": table["beta"], "b_gi_se": table["se"]}
    return pd.DataFrame(_common(table, starts) | main | unknown | product)


def _trans(table: pd.DataFrame, starts: pd.Series | None) -> pd.DataFrame:
    own = {"pval": table["p_value"], "b": table["beta"], "b_se": table["se"], "af": table["af"]}
    return pd.DataFrame({"variant_id": table["variant"].astype(str), "phenotype_id": table["gene"].astype(str)} | own)


def _form(stored: StoredScan) -> Callable[[pd.DataFrame, pd.Series | None], pd.DataFrame]:
    if stored.params.get("interaction"):
        return _interaction
    return _nominal if stored.in_cis else _trans


def _tests(
    stored: StoredScan, lead: pd.DataFrame, starts: pd.Series | None, p_max: float | None
) -> Iterator[pd.DataFrame]:
    names = tuple(lead["gene"].astype(str))
    some = names if len(names) < len(stored.genes) else None
    wanted, form = Wanted(gene=some, group=(str(lead["group"].iloc[0]),), p_max=p_max), _form(stored)
    for table in stored.blocks(wanted):
        yield form(table[np.isfinite(table["beta"])], starts)


def _leads(
    stored: StoredScan, lead: pd.DataFrame, starts: pd.Series | None, p_max: float | None
) -> Iterator[pd.DataFrame]:
    if stored.params.get("interaction"):
        raise DataError(
            "tensorQTL's table of genes has the effects of variants themselves, which a scan of an interaction keeps for tests "
            "only: level='variant' has them."
        )
    found = lead[(lead["variant"] != "") & np.isfinite(lead["beta"])]
    if p_max is not None:
        found = found[found["p_value"] <= p_max]
    of_variants = _nominal(found, starts)
    af = of_variants.pop("af")
    of_variants.insert(of_variants.columns.get_loc("ma_count") + 1, "af", af)
    of_genes = {"phenotype_id": of_variants.pop("phenotype_id"), "num_var": found["n_variants"].astype(np.int64)}
    before, behind = _permuted(found, permuted=stored.params.get("gene_test") == "permutations")
    yield pd.concat(
        [pd.DataFrame(of_genes | before), of_variants, pd.DataFrame(behind | {"qval": found["q_value"]})], axis=1
    )


def _permuted(found: pd.DataFrame, *, permuted: bool) -> tuple[dict[str, pd.Series], dict[str, pd.Series]]:
    """What permutations said of genes, as far as it is known: columns before the variant's and behind them."""
    unknown = pd.Series(np.nan, index=found.index)
    law = {name: found.get(name, unknown) for name in _PERMUTED}
    p_beta = found["p_gene"] if permuted else unknown
    nominal = betaincinv(
        law["beta_shape1"], law["beta_shape2"], p_beta
    )  # of which p_beta is the beta law's distribution function
    before = law | {"pval_true_df": pd.Series(nominal, index=found.index)}
    return before, {"pval_perm": found.get("p_perm", unknown), "pval_beta": p_beta}


def _write(blocks: Iterator[pd.DataFrame], path: Path) -> None:
    if path.suffix != ".parquet":
        write_text(blocks, path, "a table of tensorQTL", separator="\t", missing="")
        return
    check_pyarrow()
    with locked(path), replaced(path) as temporary:
        if not _write_parquet(blocks, temporary):
            raise DataError("There are no tests for a table of tensorQTL.")


def _write_parquet(blocks: Iterator[pd.DataFrame], path: Path) -> int:
    """Write a row group for each block; how many rows there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_rows, writer = 0, None
    try:
        for block in blocks:
            table = pa.Table.from_pandas(block, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            n_rows += len(block)
    finally:
        if writer is not None:
            writer.close()
    return n_rows
