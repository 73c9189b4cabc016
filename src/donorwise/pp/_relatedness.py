"""Relatedness of donors from their genotypes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from donorwise._anndata import open_genotypes
from donorwise._core.kinship.labels import are_variants, chromosome_names
from donorwise._core.kinship.relatedness import METHODS, Limits, relate
from donorwise._core.kinship.remarks import remarks
from donorwise._core.kinship.square import square
from donorwise._core.wording import listing
from donorwise._docs import documented
from donorwise._typing import check_option
from donorwise.errors import DataError, DonorwiseError, DonorwiseWarning

if TYPE_CHECKING:
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._core.kinship.relatedness import Product, Relations

logger = logging.getLogger("donorwise")

_MOST_DONORS = 20_000
"""A square table of more would take more than 3 GB; where variants were given as rows it comes to this."""


@documented
def relatedness(
    genotypes: Any,
    *,
    method: Literal["centered", "standardized", "vanraden", "gcta"] = "centered",
    loco: bool = False,
    maf: float = 0.01,
    missing: float = 0.05,
    chromosomes: Sequence[str] | None = None,
    layer: str | None = None,
    donors: str | Sequence[str] | None = None,
    chrom: str | Sequence[Any] | None = None,
    block: int | None = None,
    progress: bool = True,
) -> pd.DataFrame | dict[str, pd.DataFrame]:
    r"""Relatedness of donors from their genotypes, as a kernel for the formulas of mixed models.

    With :math:`x_{ij}` the number of copies of an allele that donor i has of variant j (which of the two makes no difference),
    :math:`p_j` its frequency and :math:`z_{ij} = x_{ij} - 2p_j`,

    .. math:: K = Z D^{-1} Z' / c

    Variants are read in blocks, so that memory is that of a block and of K.

    Parameters
    ----------
    genotypes
        Donors x variants: an AnnData (in memory, backed or lazy), an array, a scipy sparse matrix, a dask array or a DataFrame
        (donors in its index); an xarray Dataset named as VCF Zarr and sgkit do (`sample_id`, and `call_dosage` or
        `call_genotype`); or the path of a PLINK ``.bed`` or ``.pgen`` or of a VCF Zarr store (the extra ``genetics``), or of an
        ``.h5ad`` or ``.zarr`` of an AnnData. Values are 0, 1, 2, dosages between them, or NaN where a genotype is missing.
    method
        - ``"centered"``: :math:`D = I`, c the number of variants; GEMMA's ``-gk 1``.
        - ``"standardized"``: D the variances of the :math:`x_j`, c the number of variants; GEMMA's ``-gk 2``.
        - ``"vanraden"``: :math:`D = I, c = \sum_j 2p_j(1 - p_j)` (VanRaden 2008, J Dairy Sci 91:4414, method 1), on the scale of
          a pedigree: 1 for a donor, 1/2 for parent and child.
        - ``"gcta"``: D the variances that Hardy and Weinberg expect, :math:`2p_j(1 - p_j)`, c the number of variants
          (Yang et al. 2011, Am J Hum Genet 88:76); ``plink2 --make-rel meanimpute``.
    loco
        Leave one chromosome out: a kernel for each chromosome, from the variants of all others, for tests of variants on it.
    maf
        Least frequency of a variant's rarer allele; those below are left out, as in GEMMA.
    missing
        Largest share of donors without a genotype; variants above are left out, as in GEMMA.
    chromosomes
        Chromosomes to use. None: all but those called X, Y, MT and alike, of which women and men have different numbers.
    layer
        Layer of the AnnData instead of X.
    donors
        Names of the donors: a column of obs, or a sequence. None takes ``obs_names``, the index, `sample_id` or the IID, and numbers
        the rows of an array.
    chrom
        Chromosome of every variant: a column of var, or a sequence. None takes what comes with the genotypes (in var `chrom`,
        `chromosome`, `chr` or `contig`).
    block
        How many variants are read at once; None for blocks of about 32 MB. The results do not depend on it. A sparse matrix in a
        file by rows (CSR) takes a pass over the file for each of its blocks, of 256 MB: store genotypes as CSC to read them once.
    {progress}

    Returns
    -------
    K, a square DataFrame named by the donors, or with ``loco`` a dict of them by chromosome. Its ``attrs`` say `method`,
    `n_variants` (used), `left_out` (their numbers by reason), `missing` (share of the genotypes used), and `chromosome_left_out`.

    Raises
    ------
    DataError
        A value is no genotype, names repeat, no variant can be used, chromosomes are not known, or a file cannot be read.

    Notes
    -----
    A missing genotype counts as the mean of its variant, as in GEMMA (Zhou and Stephens 2012, Nature Genetics 44:821). GCTA and
    PLINK instead divide each pair's sum by the number of variants that both have, which differs little and need not be positive
    semidefinite.

    Relatedness that is estimated like this is relative to the donors at hand: between donors who are not related it is about
    zero, and below it for half of the pairs.

    Examples
    --------
    >>> import donorwise as dw
    >>> genotypes = dw.datasets.simulate_relatives(n_families=4, n_unrelated=8, n_variants=2000, seed=1)
    >>> K = dw.pp.relatedness(genotypes, method="vanraden", progress=False)
    >>> K.shape, K.attrs["n_variants"]
    ((24, 24), 1976)
    >>> bool(K.loc["F1_mother", "F1_child1"] > 0.3 > K.loc["F1_mother", "F1_father"])
    True
    >>> dw.pp.relatedness(genotypes, loco=True, progress=False)["22"].attrs["n_variants"]
    1887
    """
    check_option("method", method, tuple(METHODS))
    limits = _limits(maf, missing, chromosomes)
    if block is not None and not (block >= 1 and block == int(block)):
        raise DonorwiseError(f"block={block!r} must be a number of variants, 1 or more.")
    source = open_genotypes(genotypes, layer=layer, donors=donors, chrom=chrom)
    _check_before(source)
    _check_chromosomes(source, limits.chromosomes, loco=loco)
    found = relate(source, METHODS[method], limits, by_chromosome=loco, block=block, progress=progress)
    _check_found(found, limits)
    total = found.total()
    whole = _kernel(found, total, method)
    for text in remarks(found, whole.to_numpy()):
        warnings.warn(text, DonorwiseWarning, stacklevel=2)
    _tell(found)
    return _loco(found, total, method) if loco else whole


def _limits(maf: float, missing: float, chromosomes: Sequence[str] | None) -> Limits:
    if not 0 <= maf < 0.5:
        raise DonorwiseError(f"maf={maf!r} must be a frequency, from 0 to below 0.5.")
    if not 0 <= missing <= 1:
        raise DonorwiseError(f"missing={missing!r} must be a share of the donors, from 0 to 1.")
    if isinstance(chromosomes, str):
        chromosomes = [chromosomes]
    return Limits(maf, missing, None if chromosomes is None else frozenset(chromosome_names(chromosomes).tolist()))


def _check_before(source: Genotypes) -> None:
    n, m = len(source.donors), source.n_variants
    if n < 2 or m < 2:
        raise DataError(
            f"{source.text} has {n:,} donors (rows) and {m:,} variants (columns); relatedness needs some of both."
        )
    if n > max(m, _MOST_DONORS):
        raise DataError(
            f"{source.text} has {n:,} rows, which are taken for donors, and {m:,} columns, taken for variants: give its transpose."
        )
    if are_variants(source.donors):
        raise DataError(
            f"{source.text} has rows called {source.donors[0]!r}, which is the name of a variant: rows are donors, so give its transpose."
        )


def _check_chromosomes(source: Genotypes, chosen: frozenset[str] | None, *, loco: bool) -> None:
    if chosen is None and not loco:
        return
    if source.chromosomes is None:
        raise DataError(
            f"{'loco=True' if loco else 'chromosomes='} needs the chromosome of every variant, which does not come with these "
            "genotypes: give chrom=, a sequence or a column of var."
        )
    known = pd.unique(pd.Series(source.chromosomes)).tolist()
    if chosen is not None and not chosen <= set(known):
        raise DataError(
            f"No variant is on chromosome {listing(sorted(chosen - set(known)), 5)}; there are {listing(known, 30)}."
        )
    if loco and "" in known:
        unknown = np.count_nonzero(source.chromosomes == "")
        raise DataError(f"loco=True: {unknown:,} variants have no chromosome; leave them out.")
    if loco and len(known) < 2:
        raise DataError(f"loco=True: all variants are on chromosome {known[0]!r}, and without it none are left.")


def _check_found(found: Relations, limits: Limits) -> None:
    if found.n_variants < 2:
        raise DataError(
            f"{found.n_variants} of {found.genotypes.n_variants:,} variants can be used ({_left_out(found)}); they need a "
            f"rarer allele with a frequency of at least maf={limits.maf:g} and at most a share missing={limits.missing:g} of missing genotypes."
        )
    empty = np.flatnonzero(found.missing == found.n_variants)
    if empty.size:
        names = [found.genotypes.donors[i] for i in empty]
        raise DataError(f"{empty.size:,} donors have no genotype at all: {listing(names, 5)}. Leave them out.")


def _left_out(found: Relations) -> str:
    reasons = [f"{n:,} {reason}" for reason, n in found.left_out.items() if n]
    return f"left out: {', '.join(reasons)}" if reasons else "none left out"


def _tell(found: Relations) -> None:
    logger.info(
        "Relatedness of %s donors from %s of %s variants (%s); %s of the genotypes missing.",
        f"{len(found.genotypes.donors):,}", f"{found.n_variants:,}", f"{found.genotypes.n_variants:,}", _left_out(found),
        f"{found.share_missing:.2%}",
    )  # fmt: skip


def _kernel(found: Relations, product: Product, method: str, chromosome: str = "") -> pd.DataFrame:
    attrs = {
        "method": method,
        "n_variants": product.n_variants,
        "left_out": {reason: n for reason, n in found.left_out.items() if n},
        "missing": found.share_missing,
    }
    if chromosome:
        attrs["chromosome_left_out"] = chromosome
    return square(product.kernel, found.genotypes.donors, attrs)


def _loco(found: Relations, total: Product, method: str) -> dict[str, pd.DataFrame]:
    if len(found.products) < 2:
        raise DataError(f"loco=True: only chromosome {next(iter(found.products))!r} has variants that can be used.")
    return {name: _kernel(found, total.without(own), method, name) for name, own in found.products.items()}
