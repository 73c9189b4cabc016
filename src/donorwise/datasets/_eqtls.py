"""Cells and genotypes of one study, with known eQTLs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from donorwise._typing import FloatArray, check_option
from donorwise.datasets._cells import (
    TARGET_SUM,
    assign_cells,
    draw_depth,
    gene_table,
    log_normalise,
    obs_table,
    reaction_table,
    rows_of,
)
from donorwise.datasets._checks import (
    check_cell_types,
    check_chromosomes,
    check_counts,
    check_positive,
    check_shares,
    check_sizes,
)
from donorwise.datasets._designs import Spread, StudyPlan
from donorwise.datasets._genes import SHARED, Genes, draw_counts, draw_genes, log_means
from donorwise.datasets._loci import Loci, draw_loci, place_genes
from donorwise.datasets._panel import draw_genotypes, draw_panel, plan_samples, with_ancestry
from donorwise.datasets._relatives import draw_variants
from donorwise.errors import DonorwiseError

Families: TypeAlias = Literal["unrelated", "nuclear"]

CELL_TYPES = ("T cell", "Monocyte", "B cell")
SPACING = 20_000
"""Mean distance of neighbouring variants, in bases."""

REACTING, REACTION = 0.1, 1.0
"""Share of the genes that a condition changes, and mean absolute log2 fold change."""

DEPTH_SD = 0.2


def simulate_eqtls(
    *,
    n_donors: int = 100,
    n_cells: int | None = 20_000,
    n_genes: int = 500,
    n_variants: int = 5_000,
    n_chromosomes: int = 10,
    cell_types: Sequence[str] | None = None,
    condition: bool = False,
    eqtl_fraction: float = 0.3,
    effect_size: float = 0.3,
    interaction: float = 0.2,
    families: Families = "unrelated",
    n_children: int = 2,
    populations: int = 1,
    fst: float = 0.1,
    population_sd: float = 0.3,
    polygenic_sd: float = 0.2,
    donor_sd: float = 0.2,
    slope_sd: float = 0.1,
    sample_sd: float = 0.15,
    ld_range: float = 100_000.0,
    missing: float = 0.0,
    depth: float = 1_000.0,
    cells_sd: float = 0.4,
    seed: int = 0,
) -> tuple[ad.AnnData, ad.AnnData]:
    r"""Simulate cells and genotypes of the same donors, with known eQTLs.

    Of gene g in cell type t of donor i, the natural log of the expected share of a cell's counts is

    .. math:: \mu_{tg} + \beta_{tg} (x_{ig} - \bar x_g) + a_{tig} + d_{tig} + p_{tg}

    with :math:`x_{ig}` the number of copies of `a1` of the gene's eQTL, :math:`a` polygenic (its covariance between donors is
    that of their pedigree), :math:`d` the donor's own and :math:`p` that of the donor's population. A condition adds an effect
    on some genes, how much the donor responds to it, and the sample's own effect. Counts are negative binomial.

    Variants lie 20,000 bases apart on average, on chromosomes of equal length. Founders' haplotypes are mosaics of some
    ancestors, changed by recombination, so that r² falls with distance; children inherit their parents' haplotypes with
    crossovers.

    Parameters
    ----------
    n_donors, n_cells, n_genes, n_variants, n_chromosomes
        Size of the study. Without cells (``n_cells=None``) there is a row of log expression per donor (and cell type, and
        condition, where these are asked for).
    cell_types
        Names, the most frequent first. None: three, or none without cells.
    condition
        Whether every donor gives a control and a stimulated sample, rather than one sample. A tenth of the genes react.
    eqtl_fraction
        Fraction of the genes with an eQTL: a common variant within a million bases, usually much closer, of the gene's start.
    effect_size
        Mean absolute effect of a copy of `a1` in natural logs of the expected count (between 0.5 and 1.5 times this).
    interaction
        Fraction of the eQTLs that are active in one cell type or in one condition only, where there are several.
    families, n_children
        ``"unrelated"``, or ``"nuclear"``: families of two parents and so many children, and those who are left over.
    populations, fst
        Number of populations, to which families belong by turns, and how much their allele frequencies differ.
    population_sd, polygenic_sd, donor_sd
        Standard deviations in natural logs, for the average gene: between populations, so that a plain regression on
        variants is inflated; between donors, as far as relatives are alike; and of what is a donor's own. Between donors
        who are not related nothing tells the last two apart.
    slope_sd, sample_sd
        With a condition: standard deviations between donors' responses, and between samples of a donor.
    ld_range
        Mean length, in bases, of what a founder copies from one ancestor: r² of variants at this distance is about a tenth of
        that of neighbours.
    missing
        Fraction of genotypes that are missing at random.
    depth
        Median total count of a cell.
    cells_sd
        Standard deviation of the natural log of the number of cells, between samples.
    seed
        Seed of :func:`numpy.random.default_rng`; equal arguments give equal data.

    Returns
    -------
    adata
        Cells × genes, with

        - ``X``: log1p of counts normalised to 10,000 per cell (float32 CSR); ``layers["counts"]``: the counts. Without cells
          the natural log of the expected count per 10,000 (float64).
        - ``obs``: `donor_id`, `sample_id`, `cell_type`, `condition`, `family` ("" outside families), `population`, `sex`, `age`
          (both without effect); of cells `total_counts`, `n_genes_by_counts`, `log_depth`.
        - ``var``: `chrom`, `start`, `end`, `strand`, `tss` (the start on strand +, else the end); the truth: `eqtl` (name of
          the variant, or "none"), `eqtl_in` ("none", "all", a cell type or a condition), `effect` (per copy of `a1`, where
          active; 0 for none); `mean`, `dispersion`, `marker_of`, the standard deviation of each random effect, and
          with a condition `is_de` and `true_log_fc` as in :func:`donorwise.datasets.simulate_cohort`.
        - ``varm["effect"]``: effects by cell type, in the first condition; ``varm["interaction"]``: what a stimulated sample
          adds to them.
        - ``uns["truth"]``: the arguments.
    genotypes
        Donors × variants, with

        - ``X``: copies of `a1`: 0, 1 or 2 (float32), NaN where missing.
        - ``obs``: `family`, `role`, `father`, `mother`, `sex`, as in :func:`donorwise.datasets.simulate_relatives`, and
          `population`; its index are the values of `donor_id`.
        - ``var``: `chrom`, `pos` (base pairs), `a0`, `a1`, `af` (frequency of `a1` among these donors).
        - ``obsp["pedigree"]``: relatedness expected from the pedigree.

    Raises
    ------
    DonorwiseError
        An argument is out of range.

    Notes
    -----
    The scale of log1p shrinks effects, most for rare genes: estimates from the ``X`` of cells rank like `effect` and have its
    signs, but are smaller. Models of counts, logs of pseudobulk rates and rows without cells have the scale of `effect`.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata, genotypes = dw.datasets.simulate_eqtls(n_donors=40, n_cells=2000, n_genes=50, n_variants=1000, seed=1)
    >>> adata.shape, genotypes.shape
    ((2000, 50), (40, 1000))
    >>> eqtls = adata.var[adata.var["eqtl"] != "none"]
    >>> len(eqtls)
    15
    >>> variants = genotypes.var.loc[eqtls["eqtl"]]
    >>> bool((abs(variants["pos"].to_numpy() - eqtls["tss"].to_numpy()) <= 1_000_000).all())
    True

    A row per donor, for studies of many:

    >>> donors, genotypes = dw.datasets.simulate_eqtls(n_donors=200, n_cells=None, n_genes=50, families="nuclear")
    >>> donors.shape
    (200, 50)
    """
    arguments: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    types = _cell_types(cell_types, n_cells)
    _check(arguments)
    rng = np.random.default_rng(seed)

    people = draw_panel(n_donors, 2 + n_children if families == "nuclear" else 0, populations, rng)
    length = SPACING * -(-n_variants // n_chromosomes)
    variants = draw_variants(n_variants, n_chromosomes, length, rng)
    genotypes = draw_genotypes(people, variants, copied=ld_range, fst=fst, rng=rng)

    plan = plan_samples(people, condition, Spread(donor_sd, slope_sd, sample_sd, batch=0.0), rng)
    plan = with_ancestry(plan, people, polygenic_sd, population_sd)
    reacting = REACTING if condition else 0.0
    genes = draw_genes(len(types), n_genes, de_fraction=reacting, effect_size=REACTION, has_time=False, rng=rng)
    places = place_genes(n_genes, n_chromosomes, length, rng)
    loci = draw_loci(
        places, genotypes.var, types,
        has_condition=condition, fraction=eqtl_fraction, effect_size=effect_size, specific=interaction, rng=rng,
    )  # fmt: skip
    means = _with_eqtls(log_means(plan, genes, rng), plan, loci, np.asarray(genotypes.X))

    if n_cells is None:
        adata = _rows(means, plan, types if cell_types is not None else None)
    else:
        adata = _cells(means, genes, plan, types, n_cells, depth, cells_sd, rng)
    _tell_truth(adata, plan, genes, places, loci, genotypes.var_names, types)
    adata.uns["truth"] = arguments | {"cell_types": np.array(types, dtype=object), "shared_between_cell_types": SHARED}
    genotypes.X[rng.random(genotypes.shape, dtype=np.float32) < missing] = np.nan
    return adata, genotypes


def _cell_types(cell_types: Sequence[str] | None, n_cells: int | None) -> list[str]:
    if cell_types is not None:
        return check_cell_types(cell_types)
    return list(CELL_TYPES) if n_cells is not None else ["all"]


def _check(arguments: dict[str, Any]) -> None:
    check_option("families", arguments["families"], get_args(Families))
    least = {"n_donors": 2, "n_genes": 1, "populations": 1, "n_children": 1, "n_cells": 1}
    check_counts(arguments, {name: value for name, value in least.items() if name in arguments})
    check_chromosomes(arguments["n_chromosomes"], arguments["n_variants"])
    check_sizes(arguments, (name for name in arguments if name.endswith("_sd") or name == "effect_size"))
    check_shares(arguments, ("eqtl_fraction", "interaction", "fst", "missing"))
    check_positive(arguments, ("depth", "ld_range"))
    for name in ("fst", "missing"):
        if arguments[name] == 1:
            raise DonorwiseError(f"{name}={arguments[name]!r}: must be below 1.")


def _with_eqtls(
    means: Callable[[int], FloatArray], plan: StudyPlan, loci: Loci, genotypes: NDArray[np.float32]
) -> Callable[[int], FloatArray]:
    """Log means of the genes in sample s, (T, G), moved by the donor's alleles."""
    # Genes without an eQTL have the effect 0 of the last variant.
    copies = genotypes[:, loci.variant].astype(np.float64)
    copies -= copies.mean(axis=0)
    donor = plan.samples["donor_id"].cat.codes.to_numpy()
    return lambda s: means(s) + loci.shift(copies[donor[s]], plan.exposure[s])


def _rows(means: Callable[[int], FloatArray], plan: StudyPlan, types: list[str] | None) -> ad.AnnData:
    """A row per sample, or per sample and cell type."""
    n_samples, n_types = len(plan.samples), len(types or [""])
    X = np.concatenate([means(s) for s in range(n_samples)]) + np.log(TARGET_SUM)
    cell_type = None if types is None else pd.Categorical.from_codes(np.tile(np.arange(n_types), n_samples), types)
    obs = rows_of(plan, np.repeat(np.arange(n_samples), n_types), cell_type)
    names = obs["sample_id"].astype(str)
    obs.index = pd.Index(names if types is None else names + "_" + obs["cell_type"].astype(str), name=None)
    return ad.AnnData(X=X, obs=obs)


def _cells(
    means: Callable[[int], FloatArray],
    genes: Genes,
    plan: StudyPlan,
    types: list[str],
    n_cells: int,
    depth: float,
    cells_sd: float,
    rng: np.random.Generator,
) -> ad.AnnData:
    sample_codes, type_codes = assign_cells(plan, n_cells, len(types), rng, spread=cells_sd)
    cell_depth = draw_depth(depth, DEPTH_SD * rng.standard_normal(len(plan.samples)), sample_codes, rng)
    counts = draw_counts(means, genes.dispersion, sample_codes, type_codes, cell_depth, rng)
    obs = obs_table(plan, counts, sample_codes, pd.Categorical.from_codes(type_codes, types))
    adata = ad.AnnData(X=log_normalise(counts), obs=obs, layers={"counts": counts})
    adata.uns["log1p"] = {"base": None}
    return adata


def _tell_truth(
    adata: ad.AnnData,
    plan: StudyPlan,
    genes: Genes,
    places: pd.DataFrame,
    loci: Loci,
    variants: pd.Index,
    types: list[str],
) -> None:
    """Write var and varm."""
    table = gene_table(plan, genes, types)
    names = np.array([*variants, "none"], dtype=object)  # the code -1 is the last
    eqtls = places.assign(eqtl=names[loci.variant], eqtl_in=loci.active_in, effect=loci.size).set_index(table.index)
    parts = (
        [eqtls, reaction_table(genes, types).set_index(table.index), table] if plan.exposure.any() else [eqtls, table]
    )
    adata.var = pd.concat(parts, axis=1)
    adata.varm["effect"] = pd.DataFrame(loci.effect.T, index=table.index, columns=types)
    if plan.exposure.any():
        adata.varm["interaction"] = pd.DataFrame(loci.interaction.T, index=table.index, columns=types)
