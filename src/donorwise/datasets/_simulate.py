"""Multi-donor count data with known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from donorwise._typing import check_option
from donorwise.datasets._cells import assign_cells, draw_depth, gene_table, log_normalise, obs_table, reaction_table
from donorwise.datasets._checks import check_cell_types, check_counts, check_positive, check_shares, check_sizes
from donorwise.datasets._designs import COHORT_DESIGNS, CohortDesign, Spread, StudyPlan, plan_study
from donorwise.datasets._genes import SHARED, Genes, draw_counts, draw_genes, log_means


def simulate_cohort(
    design: CohortDesign = "case-control",
    *,
    n_donors: int = 12,
    n_cells: int = 6_000,
    n_genes: int = 1_500,
    cell_types: Sequence[str] = ("T cell", "Monocyte", "B cell"),
    de_fraction: float = 0.1,
    effect_size: float = 1.0,
    donor_sd: float = 0.25,
    slope_sd: float = 0.1,
    sample_sd: float = 0.15,
    batch_sd: float = 0.2,
    depth: float = 1_000.0,
    depth_sd: float = 0.2,
    depth_shift: float = 0.0,
    seed: int = 0,
) -> ad.AnnData:
    """Simulate single-cell counts of a study with several donors.

    A cell's counts are negative binomial. Their expected value is the cell's sequencing depth times
    the gene's share in its cell type, moved on the log scale by the study's effect and by random
    effects of the donor and, where the design has them, of the donor's response, the sample and the
    batch. Numbers of cells and proportions of cell types differ between samples.

    Parameters
    ----------
    design
        - ``"case-control"``: `condition` (control, disease) differs between donors; one sample each.
        - ``"paired"``: each donor gives a control and a stimulated sample.
        - ``"longitudinal"``: donors of two arms (placebo, drug), seen at about 0, 0.5, 1, 1.5 and 2
          years, some of whom drop out; the effect is the difference of slopes, per year.
        - ``"stepped-wedge"``: sites switch from control to treated one after the other; every donor is
          sampled in every period, and periods have effects of their own.
        - ``"crossed"``: case-control donors, each spread over several batches.
    n_donors, n_cells, n_genes
        Size of the study.
    cell_types
        Names, the most frequent first.
    de_fraction
        Fraction of the genes with an effect, a fifth of them in one cell type only.
    effect_size
        Mean absolute log2 fold change of those genes (between 0.5 and 1.5 times this).
    donor_sd, slope_sd, sample_sd, batch_sd
        Standard deviations of the random effects, natural log of the mean count, for the average
        gene: between donors; between donors' responses (or time trends); between samples of a
        donor; between batches (or sites). Only those that the design has are used.
    depth
        Median total count of a cell.
    depth_sd
        Standard deviation of log depth between samples.
    depth_shift
        Difference in mean log depth of the exposed samples. Not zero: confounded with the effect.
    seed
        Seed of :func:`numpy.random.default_rng`; equal arguments give equal data.

    Returns
    -------
    Cells × genes, with

    - ``X``: log1p of counts normalised to 10,000 per cell (float32 CSR); ``layers["counts"]``: the counts.
    - ``obs``: `donor_id`, `sample_id`, `cell_type`, the variables of the design, `sex`, `age` (both
      without effect), `total_counts`, `n_genes_by_counts`, `log_depth` (natural log of `total_counts`).
      The first category is the reference.
    - ``var``: `is_de`, `true_log_fc` (log2, of the expected count), `de_in` ("none", "all" or a cell
      type), `true_time_log_fc`, `mean` (expected count per 10,000), `dispersion`, `marker_of` and the
      standard deviation of each random effect (`donor_sd`, ...).
    - ``varm["true_log_fc"]``: `true_log_fc` by cell type.
    - ``uns["truth"]``: the arguments, a `formula` that matches the simulation and the `contrast` of
      interest in it.

    Raises
    ------
    DonorwiseError
        If an argument is out of range.

    Notes
    -----
    The scale of log1p shrinks fold changes, most for rare genes: estimates from ``X`` rank like
    `true_log_fc` and have its signs, but are smaller.

    Examples
    --------
    >>> import donorwise as dw
    >>> adata = dw.datasets.simulate_cohort("paired", n_donors=6, n_cells=900, n_genes=200)
    >>> adata.shape
    (900, 200)
    >>> adata.uns["truth"]["formula"]
    '~ condition + (1 | donor_id) + (1 | sample_id)'
    >>> adata.obs.groupby("condition", observed=True)["donor_id"].nunique().to_dict()
    {'control': 6, 'stimulated': 6}
    >>> int(adata.var["is_de"].sum())
    20
    """
    arguments: dict[str, Any] = {name: value for name, value in locals().items() if name != "cell_types"}
    types = check_cell_types(cell_types)
    check_option("design", design, COHORT_DESIGNS)
    _check_numbers(arguments)

    rng = np.random.default_rng(seed)
    plan = plan_study(design, n_donors, Spread(donor_sd, slope_sd, sample_sd, batch_sd), rng)
    genes = draw_genes(
        len(types),
        n_genes,
        de_fraction=de_fraction,
        effect_size=effect_size,
        has_time=bool(plan.time.any()),
        rng=rng,
    )
    sample_codes, type_codes = assign_cells(plan, n_cells, len(types), rng)
    shift = depth_sd * rng.standard_normal(len(plan.samples)) + depth_shift * (plan.exposure > 0)
    cell_depth = draw_depth(depth, shift, sample_codes, rng)
    means = log_means(plan, genes, rng)
    counts = draw_counts(means, genes.dispersion, sample_codes, type_codes, cell_depth, rng)

    adata = ad.AnnData(
        X=log_normalise(counts),
        obs=obs_table(plan, counts, sample_codes, pd.Categorical.from_codes(type_codes, types)),
        var=_var_table(plan, genes, types),
        layers={"counts": counts},
    )
    adata.varm["true_log_fc"] = pd.DataFrame(genes.log_fc.T, index=adata.var_names, columns=types)
    adata.uns["log1p"] = {"base": None}
    adata.uns["truth"] = arguments | {
        "cell_types": np.array(types, dtype=object),
        "formula": plan.formula,
        "contrast": plan.contrast,
        "shared_between_cell_types": SHARED,
    }
    return adata


def _check_numbers(arguments: dict[str, Any]) -> None:
    check_counts(arguments, {"n_donors": 2, "n_cells": 1, "n_genes": 1})
    check_sizes(arguments, ("effect_size", "donor_sd", "slope_sd", "sample_sd", "batch_sd", "depth_sd"))
    check_shares(arguments, ("de_fraction",))
    check_positive(arguments, ("depth",))


def _var_table(plan: StudyPlan, genes: Genes, types: list[str]) -> pd.DataFrame:
    table = gene_table(plan, genes, types)
    reaction = reaction_table(genes, types).assign(true_time_log_fc=genes.time_log_fc)
    return pd.concat([reaction.set_index(table.index), table], axis=1)
