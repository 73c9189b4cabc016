"""Variants of donors against the features of an AnnData."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import check_free, check_is_anndata, copied, keys
from donorwise._anndata.genotypes import open_genotypes
from donorwise._anndata.prepare_scan import prepare_scan
from donorwise._anndata.scan_results import write_scan
from donorwise._core.design.formula import parse
from donorwise._core.engine.arrays import check_max_memory
from donorwise._core.engine.scan import ScanOptions
from donorwise._core.engine.scan_result import scanned
from donorwise._core.engine.scan_store import Folder, Memory, check_place, check_size
from donorwise._core.engine.scan_tiles import TestOptions
from donorwise._core.files import real
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DonorwiseError, DonorwiseWarning
from donorwise.pp._relatedness import relatedness

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import anndata as ad
    import pandas as pd

    from donorwise._core.engine.scan import Scan
    from donorwise._core.engine.scan_result import ScanResult
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, FloatArray, GroupBy

MODES = ("cis", "trans", "gwas")
TESTS = ("wald", "lrt")
REFITS = ("screen", "all", "none")
GENE_TESTS = ("acat", "permutations", "bonferroni")
_LONGEST = 1e12  # base pairs of a window
_USUAL_TEST = {"cis": "acat", "gwas": "acat", "trans": "bonferroni"}


@documented
def scan(
    adata: ad.AnnData,
    genotypes: Any,
    formula: str,
    *,
    mode: str = "cis",
    window: float | None = 1_000_000,
    groupby: GroupBy = None,
    layer: str | None = None,
    obsm: str | None = None,
    obs_keys: str | Sequence[str] | None = None,
    mask_var: str | BoolArray | None = None,
    weights: str | FloatArray | None = None,
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
    key_added: str = keys.SCAN,
    n_jobs: int | None = None,
    max_memory: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    copy: bool = False,
) -> ad.AnnData | None:
    r"""Test genetic variants in the mixed models of many features: eQTLs in cis or trans, or association of any trait.

    Every feature's model without variants is fitted once; then a variant costs what it costs by ordinary least squares.

    Parameters
    ----------
    {adata_cells}
        Or one row for each donor (with the number of cells in `weights`).
    genotypes
        Donors x variants: an AnnData (var with ``chrom, pos, a0, a1``), a DataFrame or array (with `variants`), an xarray Dataset
        named as VCF Zarr, or the path of a PLINK ``.bed`` or ``.pgen``, an ``.h5ad``, ``.zarr`` or ``.vcz``. They are read in
        blocks. Values are copies of the allele ``a1``, of which effects are; dosages are welcome. Donors are matched by name.
    formula
        The model without variants, such as ``"~ sex + PC1 + (1 | gr(donor_id, cov=grm)) + (1 | donor_id)"``. Of several cells of
        a donor it needs a random term of the donors; with one row for each donor ``(1 | donor_id)`` is the residual.
    mode
        ``"cis"``: variants within `window` of the start of a gene. ``"trans"``: all variants with all genes. ``"gwas"``: the same,
        for few features such as traits or scores.
    window
        Base pairs on either side of the transcription start, which is in var: ``tss``, or ``start``, ``end`` and ``strand``; with
        ``chrom``. None for all variants, as ``mode="trans"``.
    {groupby}
    {response}
    {mask_var}
    {weights}
    {kernels}
    donor
        Column of obs with the names that the genotypes have; None for the declared donor or the grouping factor that looks like it.
    variants
        Of genotypes that are an array or a DataFrame: a row for each variant with ``chrom, pos, a0, a1``.
    interaction
        Term of the formula (a number, or labels of two levels) that variants interact with; the test is that of the interaction.
        What differs between cells of a donor needs a random term that lets donors respond differently: of a number its slope,
        ``(0 + x | donor_id)``, of labels ``(1 | donor_id:x)``.
    test
        ``"wald"``, or ``"lrt"``: likelihood ratio of the models with and without the variant by maximum likelihood, which needs
        ``refit="all"``; `statistic` is its signed root, normal, and `beta` and `se` are by maximum likelihood, too. Of few donors its
        p-values are too small.
    refit
        Which pairs get variances of their own, with the variant in the model: those with a p-value below `screen`, ``"all"``, or
        ``"none"``. Others have the variances of the model without variants. Tests with variances of their own are those of GEMMA; of
        less than about 200 donors who are related their small p-values are too small, up to fourfold, those of ``"none"`` are not.
    screen
        See `refit`.
    gene_test
        How the variants of a gene are combined: ``"acat"`` (Liu et al. 2019), beta-approximated ``"permutations"`` (Ongen et al.
        2016; of models with one variance at most beside the residual's), both of tests at the variances of the model without
        variants, whatever `refit`; or ``"bonferroni"`` of the smallest p-value. None: the first, and the last for trans.
    n_permutations
        How many, for ``gene_test="permutations"``.
    loco
        Leave the chromosome of the variant out of the kernel. A kernel that the formula names and `kernels` lacks is made of
        `genotypes`; else give it by chromosome, as ``dw.pp.relatedness(genotypes, loco=True)`` does.
    maf
        Least frequency of the rarer allele among the donors of a group.
    missing
        Largest share of them without a genotype; others get the mean of their variant.
    out
        Folder for the tests, as a Parquet dataset with a part for each group and block of variants. None keeps them in
        ``uns``.
    p_max
        Keep tests with at most this p-value. All are counted.
    seed
        Of the permutations.
    {key_added}
    {n_jobs}
    max_memory
        GB for the statistics of groups that share a pass over the cells.
    resume, overwrite
        Go on with a stopped scan of the same data and options in `out` (a finished one is taken as it is), or replace what a scan
        left there. Without either it is in the way.
    {progress}
    {copy}

    Returns
    -------
    None, or the copy. ``adata.uns[key_added]`` holds ``params``, ``results`` (a row per gene and group: the variant with the
    smallest p-value, the p-value of all of the gene's variants together, and its q-value), ``counts`` of all tests by size, and
    without `out` ``tests``; read them with :func:`donorwise.get.scan`. Tests are ``gene, group, variant, chrom, pos, a0, a1, af,
    n, beta, se, statistic, df, p_value, neg_log10_p, status``: `beta` is the difference that one more copy of `a1` makes, `af`
    its frequency, `n` donors with a genotype, `statistic` has a t distribution with `df`.

    Raises
    ------
    FormulaError
        If the formula does not parse.
    DesignError
        If obs or var cannot answer it.
    DataError
        If genotypes or responses cannot be used, or no donors match.

    Notes
    -----
    With P of the model without variants, :math:`n = x'Py` and :math:`s = x'Px`, the effect is :math:`n / s`, and its squared
    standard error :math:`(y'Py - n^2/s) / (\nu s)`; where donors have several rows that of
    :math:`(y'Py\,(d+1)/(\nu+1) - n^2/s) / (d s)` with the degrees of freedom d of the test, as what a variant explains is taken
    from the variance between donors, but no less than without such a variance. P depends on the ratio of variances alone, which
    is estimated for each feature (Kang et al. 2010, Nat Genet 42:348); `refit` estimates it with the variant (Zhou and Stephens
    2012, Nat Genet 44:821). Degrees of freedom are donors less fixed effects, that of the variant among them.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=40, n_cells=2000, n_genes=20, n_variants=500, seed=1)
    >>> dw.tl.scan(adata, genotypes, "~ sex + (1 | donor_id)", progress=False)
    >>> len(adata.uns["scan"]["results"])
    20
    """
    check_is_anndata(adata)
    if copy:
        adata = copied(adata)
    check_free(adata, key_added)
    check_max_memory(max_memory)
    options = scan_options(
        mode=mode, window=window, interaction=interaction, test=test, refit=refit, screen=screen, gene_test=gene_test,
        n_permutations=n_permutations, loco=loco, maf=maf, missing=missing, p_max=p_max, seed=seed,
    )  # fmt: skip
    check_out(out, resume=resume, overwrite=overwrite)
    source = open_genotypes(genotypes, variants=variants)
    kernels = with_loco(formula, kernels, source, progress=progress) if loco else kernels
    prepared = prepare_scan(
        adata, source, formula, options, donor=donor, groupby=groupby, layer=layer, obsm=obsm,
        obs_keys=obs_keys, mask_var=mask_var, weights=weights, kernels=kernels, relmat=relmat, levels=levels, n_jobs=n_jobs,
    )  # fmt: skip
    for text in prepared.warnings:
        warnings.warn(text, DonorwiseWarning, stacklevel=2)
    found = scan_to(prepared, out, max_memory=max_memory, resume=resume, overwrite=overwrite, progress=progress)
    write_scan(adata, key_added, params=found.params, results=found.results, counts=found.counts, tests=found.tests)
    return adata if copy else None


def scan_options(
    *,
    mode: str,
    window: float | None,
    interaction: str | None,
    test: str,
    refit: str,
    screen: float,
    gene_test: str | None,
    n_permutations: int,
    loco: bool,
    maf: float,
    missing: float,
    p_max: float | None,
    seed: int,
) -> ScanOptions:
    """The options of a scan, checked.

    Raises
    ------
    DonorwiseError
        One of them makes no sense.
    """
    check_option("mode", mode, MODES)
    check_option("test", test, TESTS)
    check_option("refit", refit, REFITS)
    if test == "lrt":
        _check_likelihood_ratio(refit, interaction)
    if window is None:
        mode, window = "trans" if mode == "cis" else mode, _LONGEST
    gene_test = _USUAL_TEST[mode] if gene_test is None else gene_test
    check_option("gene_test", gene_test, GENE_TESTS)
    for name, value, high in (("screen", screen, 1), ("maf", maf, 0.5), ("missing", missing, 1), ("p_max", p_max, 1)):
        if value is not None or name != "p_max":
            _check_number(name, value, 0, high, f"must be a number between 0 and {high}")
    _check_number(
        "window", window, 1, _LONGEST, "must be a number of base pairs, or None for all variants (mode='trans')"
    )
    _check_number(
        "n_permutations", n_permutations, 1, np.inf, "must be a number of permutations, such as 1000", whole=True
    )
    _check_number("seed", seed, 0, np.inf, "must be a whole number from 0 on", whole=True)
    tests = TestOptions(
        test=test, refit=refit, screen=screen, p_max=p_max, by_cauchy=gene_test == "acat",
        n_permutations=int(n_permutations) if gene_test == "permutations" else 0, seed=int(seed),
    )  # fmt: skip
    return ScanOptions(
        mode=mode, window=int(window), interaction=interaction, tests=tests, gene_test=gene_test, loco=loco, maf=maf,
        missing=missing,
    )  # fmt: skip


def _check_number(name: str, value: Any, low: float, high: float, text: str, *, whole: bool = False) -> None:
    """Raise unless an option is a number from `low` to `high`."""
    if not (isinstance(value, Integral if whole else Real) and low <= float(value) <= high):
        raise DonorwiseError(f"{name}={value!r} {text}.")


def with_loco(
    formula: str, kernels: Mapping[str, Any] | None, genotypes: Genotypes, *, progress: bool
) -> dict[str, Any]:
    """Kernels of a formula, of which those that are not given are the donors' relatedness without each chromosome."""
    given = dict(kernels or {})
    missing = [name for name in parse(formula).covs if name not in given]
    if missing:
        related = relatedness(genotypes, loco=True, progress=progress)
        others = set(np.asarray(genotypes.chromosomes, dtype=str).tolist()) - set(related)
        if others:  # X and alike, of which relatedness is not made
            related |= dict.fromkeys(sorted(others), relatedness(genotypes, progress=progress))
        given |= dict.fromkeys(missing, related)
    return given


def _check_likelihood_ratio(refit: str, interaction: str | None) -> None:
    if refit != "all":
        raise DonorwiseError(
            f"test='lrt' compares models that are fitted with the variant, and refit={refit!r} does not fit all of them: give "
            "refit='all', or take test='wald'."
        )
    if interaction is not None:
        raise DonorwiseError("test='lrt' is that of the variant itself: for interaction= take test='wald'.")


def check_out(out: str | os.PathLike[str] | None, *, resume: bool, overwrite: bool) -> None:
    """Raise before long work where a scan could not be written to `out`, or kept in memory and gone on with.

    Raises
    ------
    DataError
        Something else is there, or a scan and nobody said what becomes of it.
    DonorwiseError
        There is no folder to go on with.
    """
    if out is not None:
        check_place(real(Path(out)), resume=resume, overwrite=overwrite)
    elif resume or overwrite:
        raise DonorwiseError(f"{'resume' if resume else 'overwrite'}=True is of a scan in a folder: give out=.")


def scan_to(
    prepared: Scan,
    out: str | os.PathLike[str] | None,
    *,
    max_memory: float | None,
    resume: bool,
    overwrite: bool,
    progress: bool,
    inputs: Mapping[str, Any] | None = None,
) -> ScanResult:
    """Scan into memory, or into a folder; `inputs` tell the run from others, None for what the scan itself says."""
    store: Memory | Folder = Memory()
    if out is None:
        check_size(prepared)
    else:
        store = Folder(prepared, real(Path(out)), resume=resume, overwrite=overwrite, inputs=inputs)
    return scanned(prepared, store, max_memory=max_memory, progress=progress)
