"""Scans in the format of the GWAS Catalog."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from donorwise._anndata import keys, read_scan
from donorwise._core.design.formula import parse
from donorwise._core.design.terms import variables
from donorwise._core.files import replaced
from donorwise._docs import documented
from donorwise.get._exported import check_file, joined, only_trait, warn_of_cut, write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad

    from donorwise._typing import Label
    from donorwise.get._exported import Trait

logger = logging.getLogger("donorwise")

MISSING = "#NA"
_BASES = "[ACGT]+"
_SMALLEST = -np.log10(np.finfo(np.float64).tiny)
"""Of a p-value that is stored with all its digits, as -log10."""
_ASKED = ("genome_assembly", "genotyping_technology")
META_SUFFIX = "-meta.yaml"


@documented
def to_gwas_ssf(
    source: ad.AnnData | str | os.PathLike[str] | Any,
    path: str | os.PathLike[str] | None = None,
    *,
    key: str = keys.SCAN,
    gene: str | None = None,
    group: Label | None = None,
    trait: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> pd.DataFrame | None:
    """Return, or write, the tests of one gene or trait as summary statistics of the GWAS Catalog (GWAS-SSF v1.0).

    Parameters
    ----------
    {scan_source}
    {export_path}
        With it comes ``<path>-meta.yaml``, the metadata that the format asks for.
    {scan_key}
    {export_trait}
    trait
        What was measured, for the metadata; the gene and group if None.
    metadata
        Fields of the metadata that nothing here knows, and those to replace: ``genome_assembly`` ("GRCh38"),
        ``genotyping_technology`` (a list), ``samples`` (``[{"sample_ancestry_category": ["European"]}]``), ...

    Returns
    -------
    The table, or None with `path`. Its columns are chromosome (X is 23, Y 24, MT 25), base_pair_location, effect_allele (the
    counted one, ``a1``), other_allele, beta, standard_error, effect_allele_frequency, p_value (neg_log_10_p_value where
    p-values underflow), variant_id, rsid and n; its rows are sorted by chromosome and position. `variant_id` has the other allele
    in the place of the reference allele, which it is in ``.pgen`` and VCF files.

    Raises
    ------
    DataError
        There is no such scan, gene or group, there are several to choose from, or no test can have a row.
    OutputError
        The file cannot be written.

    Warns
    -----
    DonorwiseWarning
        Tests are left out, since the format has no place for them (no alleles of A, C, G and T, no position, another
        chromosome, no result), or were not kept by the scan.

    Notes
    -----
    The format: Hayhurst et al. 2022, bioRxiv, and the specification 1.0 at
    https://github.com/EBISPOT/gwas-summary-statistics-standard. Of an interaction `beta` is that of the interaction. Of a folder
    one chromosome is in memory at a time.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=30, n_cells=600, n_genes=5, n_variants=200, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> table = dw.get.to_gwas_ssf(adata, gene="gene_0001")
    >>> list(table.columns[:4])
    ['chromosome', 'base_pair_location', 'effect_allele', 'other_allele']
    """
    stored = read_scan(source, key)
    own = only_trait(stored, gene, group)
    warn_of_cut(stored, "the table of the GWAS Catalog")
    blocks, what = _blocks(own), f"a table of the GWAS Catalog of {own.gene!r}"
    if path is None:
        table = joined(blocks, what)
        own.tell("The table of the GWAS Catalog")
        return table
    out = check_file(path)
    write_text(blocks, out, what, separator="\t", missing=MISSING)
    _write_metadata(own, out, trait, dict(metadata or {}))
    own.tell(out.name)
    return None


def _blocks(own: Trait) -> Iterator[pd.DataFrame]:
    lead = own.lead["neg_log10_p"]
    logarithms = bool(lead >= _SMALLEST)
    for table in own.by_genome():
        yield _rows(own, table, logarithms=logarithms)


def _rows(own: Trait, table: pd.DataFrame, *, logarithms: bool) -> pd.DataFrame:
    """Tests in the columns of the format; those that have no row there are counted."""
    table = own.keep(table, "without a result", np.isfinite(table["beta"]) & np.isfinite(table["se"]))
    effect, other = (table[name].astype(str).str.upper() for name in ("a1", "a0"))
    good = effect.str.fullmatch(_BASES) & other.str.fullmatch(_BASES)
    table = own.keep(table, "without alleles of A, C, G and T", good)
    effect, other = effect[good.to_numpy()], other[good.to_numpy()]
    names, code, pos = table["variant"].astype(str), table["code"].astype(np.int64), table["pos"].astype(np.int64)
    p = ("neg_log_10_p_value", "neg_log10_p") if logarithms else ("p_value", "p_value")
    return pd.DataFrame(
        {
            "chromosome": code,
            "base_pair_location": pos,
            "effect_allele": effect,
            "other_allele": other,
            "beta": table["beta"],
            "standard_error": table["se"],
            "effect_allele_frequency": table["af"],
            p[0]: table[p[1]],
            "variant_id": code.astype(str) + "_" + pos.astype(str) + "_" + other + "_" + effect,
            "rsid": names.where(names.str.fullmatch(r"rs\d+")),
            "n": table["n"],
        }
    )


def _write_metadata(own: Trait, path: Path, trait: str | None, given: dict[str, Any]) -> None:
    """Write what is known of the analysis beside its file, and log what the Catalog asks for besides."""
    params = own.scan.params
    adjusted = variables(parse(params["formula"]).terms) if params.get("formula") else []
    tested = f", interaction of variants with {params['interaction']}" if params.get("interaction") else ""
    samples = [{"sample_size": int(own.lead["n_donors"])} | dict(sample) for sample in given.pop("samples", [{}])]
    known = {
        "trait_description": [trait or f"{own.gene}{f' in {own.group}' if params.get('groupby') else ''}"],
        "genome_assembly": "unknown",
        "coordinate_system": "1-based",
        "samples": samples,
        "data_file_name": path.name,
        "file_type": "GWAS-SSF v1.0",
        "data_file_md5sum": _md5(path),
        "analysis_software": f"donorwise {params.get('version') or version('donorwise')}",
        "adjusted_covariates": list(adjusted),
        "author_notes": f"Mixed model {params.get('formula', '')}{tested}",
        "is_harmonised": False,
        "is_sorted": True,
    }
    whole = {name: value for name, value in (known | given).items() if value not in ([], None)}
    with replaced(path.with_name(path.name + META_SUFFIX)) as temporary:
        temporary.write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True), encoding="utf-8")
    lacking = [name for name in _ASKED if name not in given]
    lacking += [] if all("sample_ancestry_category" in sample for sample in samples) else ["sample_ancestry_category"]
    if lacking:
        logger.info("%s: the GWAS Catalog also asks for %s, see metadata=.", path.name, ", ".join(lacking))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
