"""Cells of a study: whose they are and of which type, how deep, and the tables that say so."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._typing import FloatArray, IntArray
from donorwise.datasets._designs import StudyPlan
from donorwise.datasets._genes import Genes
from donorwise.errors import DonorwiseError

CELL_DEPTH_SD = 0.3
CELLS_SD = 0.4
"""Standard deviation of the log number of cells between samples."""
TARGET_SUM = 1e4


def assign_cells(
    plan: StudyPlan, n_cells: int, n_types: int, rng: np.random.Generator, *, spread: float = CELLS_SD
) -> tuple[IntArray, IntArray]:
    """Sample and cell type of each cell; samples differ in size and donors in composition."""
    n_samples = len(plan.samples)
    if n_cells < n_samples:
        raise DonorwiseError(f"n_cells={n_cells}: this design has {n_samples} samples, each with at least one cell.")
    weight = np.exp(spread * rng.standard_normal(n_samples))
    sizes = 1 + rng.multinomial(n_cells - n_samples, weight / weight.sum())
    sample_codes = np.repeat(np.arange(n_samples), sizes)
    usual = 0.7 ** np.arange(n_types)
    donor = plan.samples["donor_id"].cat.codes.to_numpy()
    proportions = rng.dirichlet(30.0 * usual / usual.sum(), donor.max() + 1)
    thresholds = proportions.cumsum(axis=1)[donor[sample_codes], :-1]
    return sample_codes, (rng.uniform(size=(n_cells, 1)) > thresholds).sum(axis=1)


def log_normalise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log1p of counts per `TARGET_SUM`, as ``scanpy.pp.normalize_total`` and ``log1p`` do."""
    scale = TARGET_SUM / np.maximum(_row_sums(counts), 1.0)
    normalised = counts.copy()
    normalised.data = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr))).astype(np.float32)
    return normalised


def _row_sums(counts: sparse.csr_matrix) -> FloatArray:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def rows_of(plan: StudyPlan, sample_codes: IntArray, cell_type: pd.Categorical | None) -> pd.DataFrame:
    """What obs says of rows by their sample and cell type."""
    obs = plan.samples.iloc[sample_codes].reset_index(drop=True)
    first, last = ["donor_id", "sample_id"], ["sex", "age"]
    if cell_type is not None:
        obs, first = obs.assign(cell_type=cell_type), [*first, "cell_type"]
    return obs[[*first, *obs.columns.difference(first + last, sort=False), *last]]


def obs_table(
    plan: StudyPlan, counts: sparse.csr_matrix, sample_codes: IntArray, cell_type: pd.Categorical
) -> pd.DataFrame:
    """Rows of obs of cells."""
    obs = rows_of(plan, sample_codes, cell_type)
    width = len(str(len(obs)))
    obs.index = pd.Index([f"cell_{i + 1:0{width}d}" for i in range(len(obs))])
    total = _row_sums(counts)
    return obs.assign(
        total_counts=total.astype(np.int64),
        n_genes_by_counts=np.diff(counts.indptr),
        log_depth=np.log(np.maximum(total, 1.0)),
    )


def reaction_table(genes: Genes, types: list[str]) -> pd.DataFrame:
    """Columns of var on the effect of exposure."""
    strongest = np.abs(genes.log_fc).argmax(axis=0)
    return pd.DataFrame(
        {
            "is_de": genes.de_in >= 0,
            "true_log_fc": genes.log_fc[strongest, np.arange(len(strongest))],
            # A code of -1 picks the last name.
            "de_in": pd.Categorical(np.array([*types, "all", "none"], dtype=object)[genes.de_in]),
        }
    )


def gene_table(plan: StudyPlan, genes: Genes, types: list[str]) -> pd.DataFrame:
    """Columns of var that hold whatever acts on the genes, and their names."""
    n_genes = len(genes.dispersion)
    width = max(4, len(str(n_genes)))
    return pd.DataFrame(
        {
            "mean": TARGET_SUM * np.exp(genes.log_mean).mean(axis=0),
            "dispersion": genes.dispersion,
            "marker_of": pd.Categorical(np.array([*types, "none"], dtype=object)[genes.marker_of]),
        }
        | {f"{v.name}_sd": v.sd * genes.variability for v in plan.variations},
        index=pd.Index([f"gene_{g + 1:0{width}d}" for g in range(n_genes)]),
    )


def draw_depth(median: float, shift: FloatArray, sample_codes: IntArray, rng: np.random.Generator) -> FloatArray:
    """Expected total count of each cell; `shift` moves the log depth of a sample."""
    return median * np.exp(shift[sample_codes] + CELL_DEPTH_SD * rng.standard_normal(len(sample_codes)))
