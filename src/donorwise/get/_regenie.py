"""Scans in the columns of regenie."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata import keys, read_scan
from donorwise._core.inference.student import log_two_sided
from donorwise._docs import documented
from donorwise.get._exported import check_file, joined, only_trait, warn_of_cut, write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import anndata as ad

    from donorwise._typing import Label
    from donorwise.get._exported import Trait

_LOG_10 = float(np.log(10))
_FAILED = "TEST_FAIL"


@documented
def to_regenie(
    source: ad.AnnData | str | os.PathLike[str] | Any,
    path: str | os.PathLike[str] | None = None,
    *,
    key: str = keys.SCAN,
    gene: str | None = None,
    group: Label | None = None,
) -> pd.DataFrame | None:
    """Return, or write, the tests of one gene or trait in the columns of regenie's step 2, which many programs read.

    Parameters
    ----------
    {scan_source}
    {export_path}
    {scan_key}
    {export_trait}

    Returns
    -------
    The table, or None with `path`. Its columns are CHROM (X is 23, Y 24, MT 25), GENPOS, ID, ALLELE0, ALLELE1 (the counted one,
    ``a1``), A1FREQ, N, TEST, BETA, SE, CHISQ (the squared statistic), LOG10P (that of the t distribution) and EXTRA, which is
    ``TEST_FAIL`` where there is no result. TEST is ``ADD``; of an interaction with x each variant has two rows, ``ADD-INT_SNP``
    (its own effect where x is zero) and ``ADD-INT_SNPxx``. Rows are sorted by chromosome and position, separated by
    spaces, and missing values are ``NA``. Spaces in names become ``_``.

    Raises
    ------
    DataError
        There is no such scan, gene or group, there are several to choose from, or no test can have a row.
    OutputError
        The file cannot be written.

    Warns
    -----
    DonorwiseWarning
        Tests are left out (no position, another chromosome), or were not kept by the scan.

    Notes
    -----
    The format: https://rgcgithub.github.io/regenie/options (Mbatchou et al. 2021, Nat Genet 53:1097). Of a folder one chromosome
    is in memory at a time.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=30, n_cells=600, n_genes=5, n_variants=200, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> dw.get.to_regenie(adata, gene="gene_0001")["TEST"].unique().tolist()
    ['ADD']
    """
    stored = read_scan(source, key)
    own = only_trait(stored, gene, group)
    warn_of_cut(stored, "the table of regenie")
    what = f"a table of regenie of {own.gene!r}"
    if path is None:
        table = joined(_blocks(own), what)
        own.tell("The table of regenie")
        return table
    out = check_file(path)
    write_text(_blocks(own), out, what, separator=" ", missing="NA")
    own.tell(out.name)
    return None


def _blocks(own: Trait) -> Iterator[pd.DataFrame]:
    interaction = str(own.scan.params.get("interaction") or "")
    for table in own.by_genome():
        if not interaction:
            yield _rows(table, "ADD", table["beta"], table["se"], table["neg_log10_p"])
            continue
        log_p = log_two_sided((table["beta_main"] / table["se_main"]).to_numpy(), table["df"].to_numpy())
        main = _rows(table, "ADD-INT_SNP", table["beta_main"], table["se_main"], log_p / -_LOG_10)
        product = _rows(table, f"ADD-INT_SNPx{_word(interaction)}", table["beta"], table["se"], table["neg_log10_p"])
        both = pd.concat([main, product], ignore_index=True)
        yield both.iloc[np.arange(len(both)).reshape(2, -1).T.ravel()]  # the two rows of a variant beside each other


def _rows(table: pd.DataFrame, test: str, beta: pd.Series, se: pd.Series, log10_p: Any) -> pd.DataFrame:
    failed = ~(np.isfinite(beta) & np.isfinite(se))
    alleles = {f"ALLELE{i}": table[f"a{i}"].astype(str).replace("", np.nan) for i in (0, 1)}
    return pd.DataFrame(
        {
            "CHROM": table["code"].astype(np.int64),
            "GENPOS": table["pos"].astype(np.int64),
            "ID": table["variant"].astype(str).map(_word),
            **alleles,
            "A1FREQ": table["af"],
            "N": table["n"],
            "TEST": test,
            "BETA": beta,
            "SE": se,
            "CHISQ": (beta / se) ** 2,
            "LOG10P": log10_p,
            "EXTRA": pd.Series(_FAILED, index=table.index).where(failed),
        }
    )


def _word(name: str) -> str:
    """A name without the spaces that separate columns."""
    return re.sub(r"\s+", "_", name.strip())
