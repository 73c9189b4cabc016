"""Scans of arrays and a DataFrame, without an AnnData of one's own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata.genotypes import open_genotypes
from donorwise._anndata.prepare_scan import prepare_scan
from donorwise._core.engine.arrays import check_weights, read_arrays
from donorwise._docs import documented
from donorwise.errors import DataError, DonorwiseWarning
from donorwise.tl._scan import check_out, scan_options, scan_to, with_loco

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from donorwise._core.engine.scan_result import ScanResult


@documented
def scan_variants(
    Y: Any,
    obs: pd.DataFrame,
    genotypes: Any,
    formula: str,
    *,
    genes: pd.DataFrame | None = None,
    mode: str | None = None,
    window: float | None = 1_000_000,
    weights: Any = None,
    kernels: Mapping[str, Any] | None = None,
    relmat: Mapping[str, Any] | None = None,
    levels: Any = None,
    donor: str | None = None,
    variants: pd.DataFrame | None = None,
    interaction: str | None = None,
    test: str = "wald",
    refit: str = "screen",
    screen: float = 1e-3,
    gene_test: str | None = None,
    n_permutations: int = 1000,
    loco: bool = False,
    maf: float = 0.01,
    missing: float = 0.05,
    out: str | os.PathLike[str] | None = None,
    p_max: float | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> ScanResult:
    """Test genetic variants in the mixed models of the columns of `Y`; :func:`donorwise.tl.scan` for arrays.

    Parameters
    ----------
    Y
        Responses, (N, G): array, sparse matrix, DataFrame, or one vector (N,). NaN where one is missing.
    obs
        N rows: the variables of the formula, and the donors that the genotypes are of.
    genotypes, formula
        See :func:`donorwise.tl.scan`.
    genes
        Of the G columns, a row each with ``chrom`` and ``tss`` (or ``start``, ``end``, ``strand``), for ``mode="cis"``.
    mode
        ``"cis"``, ``"trans"`` or ``"gwas"``; None for cis where there are `genes`, else gwas.
    weights
        Precision weights: an array (N,), or the name of a column of `obs`.
    {kernels}
    window, donor, variants, interaction, test, refit, screen, gene_test, n_permutations, loco, maf, missing, out, p_max, seed, resume, overwrite
        See :func:`donorwise.tl.scan`.
    {n_jobs}
    {progress}

    Returns
    -------
    ScanResult
        With the tables ``results``, ``tests`` (None with `out`) and ``counts``, and ``params``.

    Raises
    ------
    FormulaError, DesignError, DataError
        See :func:`donorwise.tl.scan`.

    Examples
    --------
    >>> import numpy as np, pandas as pd, donorwise as dw
    >>> rng = np.random.default_rng(0)
    >>> donors = [f"d{i}" for i in range(60)]
    >>> G = pd.DataFrame(rng.binomial(2, 0.3, size=(60, 4)), donors, ["rs1", "rs2", "rs3", "rs4"])
    >>> obs = pd.DataFrame({"donor_id": donors, "age": rng.normal(size=60)})
    >>> y = G["rs2"].to_numpy() + rng.normal(size=60)
    >>> scan = dw.scan_variants(y, obs, G, "~ age", donor="donor_id")
    >>> scan.results["variant"].tolist()
    ['rs2']
    """
    import anndata as ad

    matrix, names = read_arrays(Y, obs)
    var = _genes(genes, names)
    options = scan_options(
        mode=mode or ("gwas" if genes is None else "cis"), window=window, interaction=interaction, test=test, refit=refit,
        screen=screen, gene_test=gene_test, n_permutations=n_permutations, loco=loco, maf=maf, missing=missing, p_max=p_max, seed=seed,
    )  # fmt: skip
    plain = obs.set_axis(pd.Index([str(i) for i in range(len(obs))], name=obs.index.name), axis=0)
    check_out(out, resume=resume, overwrite=overwrite)
    source = open_genotypes(genotypes, variants=variants)
    kernels = with_loco(formula, kernels, source, progress=progress) if loco else kernels
    prepared = prepare_scan(
        ad.AnnData(X=matrix, obs=plain, var=var), source, formula, options, donor=donor, weights=check_weights(weights, obs),
        kernels=kernels, relmat=relmat, levels=levels, n_jobs=n_jobs,
        genes_text="genes",
    )  # fmt: skip
    for text in prepared.warnings:
        warnings.warn(text, DonorwiseWarning, stacklevel=2)
    return scan_to(prepared, out, max_memory=None, resume=resume, overwrite=overwrite, progress=progress)


def _genes(genes: pd.DataFrame | None, names: tuple[str, ...]) -> pd.DataFrame:
    """A row for each response."""
    if genes is None:
        return pd.DataFrame(index=pd.Index(names, dtype=object))
    if missing := [name for name in names if name not in genes.index]:
        raise DataError(f"genes has no row for {missing[0]!r}, a column of Y (nor for {len(missing) - 1:,} others).")
    return genes.loc[list(names)]
