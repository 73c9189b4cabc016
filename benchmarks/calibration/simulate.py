"""Random data sets with known effects, from the generator that is passed in and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.calibration.data import CountData, GaussianData
from scipy import sparse

from donorwise._core.cells.measures import Collapsed

FORMULA = "~ condition + (1 | donor)"
_CELLS_PER_DONOR = 40
_GENES_AT_ONCE = 100
_TRANSCRIPTOME = 20_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """How counts are made; the defaults are those of scenario B. Logarithms are natural.

    Attributes
    ----------
    cells
        Fewest and most cells of a donor (of each of its samples where paired), log-uniform.
    log_mean
        Mean and sd of the logarithm of the genes' mean counts.
    sd_rises
        Donor sd grows with the rank of a gene's mean, instead of being unrelated to it.
    heavy_tails
        Donor effects follow t with 4 degrees of freedom, scaled to the same sd.
    case_sd
        Donor sd in cases relative to controls.
    depth_sd
        Sd of the donors' log depth.
    slope_sd
        Largest sd of the donors' own effects of the condition (paired designs).
    paired
        Every donor has cells of both conditions.
    detected
        Share of cells that must have a gene for it to be tested.
    """

    cells: tuple[int, int] = (50, 1000)
    log_mean: tuple[float, float] = (np.log(0.3), 1.2)
    sd_rises: bool = False
    heavy_tails: bool = False
    case_sd: float = 1.0
    depth_sd: float = 0.0
    slope_sd: float = 0.0
    paired: bool = False
    detected: float = 0.05


def gaussian(rng: np.random.Generator, n_per_arm: int, n_features: int) -> GaussianData:
    """Donor means and sums of squares: sigma2 = 1, variance ratio 0 (25%) or 0.02 exp N(0, 1); all true nulls."""
    n_donors = 2 * n_per_arm
    ratio = np.where(rng.random(n_features) < 0.25, 0.0, 0.02 * np.exp(rng.normal(size=n_features)))
    sd = np.sqrt(ratio + 1 / _CELLS_PER_DONOR)
    mean = rng.normal(size=n_features) + sd * rng.normal(size=(n_donors, n_features))
    n = np.full(n_donors, _CELLS_PER_DONOR)
    collapsed = Collapsed(
        n_obs=n,
        weight=n.astype(float),
        log_weight=np.zeros(n_donors),
        mean=mean,
        within_ss=rng.chisquare(_CELLS_PER_DONOR - 1, size=(n_donors, n_features)),
        covariate_mean=np.zeros((n_donors, 0)),
        covariate_ss=np.zeros((n_donors, 0, 0)),
        covariate_y=np.zeros((n_donors, 0, n_features)),
        abundance=np.zeros((n_donors, 0)),
    )
    obs = _obs(np.repeat(np.arange(n_donors), n), np.repeat(np.arange(n_donors) >= n_per_arm, n))
    return GaussianData(obs, collapsed, np.zeros(n_features), FORMULA)


def counts(rng: np.random.Generator, n_per_arm: int, n_genes: int, recipe: Recipe) -> CountData:
    """Negative binomial counts of n_per_arm against n_per_arm donors, or of n_per_arm donors twice if paired.

    The genes are a part of a transcriptome of 20,000, whose other genes are one more column, never tested, that
    counts for the depth. In a transcriptome of 2,000 genes the changed ones would move the library size by
    several percent and with it every null gene: a bias of composition, which is not what is measured here.
    """
    donor, case = _cells(rng, n_per_arm, recipe)
    n_donors = int(donor.max()) + 1
    log_mean = rng.normal(*recipe.log_mean, size=n_genes)
    dispersion = np.exp(rng.normal(np.log(0.5), 0.5, size=n_genes))
    effect = np.where(rng.random(n_genes) < 0.1, rng.uniform(0.5, 1, n_genes) * rng.choice([-1, 1], n_genes), 0.0)
    depth = rng.normal(0, 0.3, donor.size) + rng.normal(0, recipe.depth_sd, n_donors)[donor]
    arm = np.array([case[donor == d].any() for d in range(n_donors)]) & (not recipe.paired)
    shift = _donor_effects(rng, log_mean, arm, recipe)
    slope = effect + rng.normal(size=(n_donors, n_genes)) * rng.uniform(0, recipe.slope_sd, n_genes)
    blocks = []
    for low in range(0, n_genes, _GENES_AT_ONCE):
        g = slice(low, low + _GENES_AT_ONCE)
        log_rate = log_mean[g] + shift[donor, g] + case[:, None] * slope[donor, g] + depth[:, None]
        shape = 1 / dispersion[g]
        rate = np.exp(log_rate) * rng.standard_gamma(np.broadcast_to(shape, log_rate.shape)) / shape
        blocks.append(sparse.csc_matrix(rng.poisson(rate).astype(np.float32)))
    others = (_TRANSCRIPTOME - n_genes) * np.exp(recipe.log_mean[0] + recipe.log_mean[1] ** 2 / 2)
    blocks.append(sparse.csc_matrix(rng.poisson(others * np.exp(depth))[:, None].astype(np.float32)))
    return _count_data(sparse.hstack(blocks, format="csr"), _obs(donor, case), effect, recipe)


def _count_data(matrix: sparse.csr_matrix, obs: pd.DataFrame, effect: np.ndarray, recipe: Recipe) -> CountData:
    """The AnnData of counts of genes and, last, of all others; X is log1p of counts normalised to the median depth."""
    depth = np.ravel(matrix.sum(axis=1, dtype=np.float64))
    X = sparse.diags_array((np.median(depth) / depth).astype(np.float32)) @ matrix
    obs["log_depth"] = np.log(depth) - np.log(depth).mean()
    adata = ad.AnnData(sparse.csr_matrix(X).log1p(), obs=obs, layers={"counts": matrix})
    adata.var_names = [*(f"gene{g}" for g in range(effect.size)), "all others"]
    adata.uns["log1p"] = {"base": None}
    tested = np.bincount(matrix.indices, minlength=matrix.shape[1]) >= recipe.detected * matrix.shape[0]
    tested[-1] = False
    return CountData(adata, tested, np.append(effect, 0.0), *_formulas(recipe), paired=recipe.paired)


def _formulas(recipe: Recipe) -> tuple[str, str]:
    if recipe.paired:
        return "~ condition + (1 | donor) + (1 | donor:condition)", FORMULA
    if recipe.depth_sd:
        return "~ condition + log_depth + (1 | donor)", FORMULA
    return FORMULA, ""


def _cells(rng: np.random.Generator, n_per_arm: int, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Donor and condition of every cell."""
    low, high = np.log(recipe.cells)
    n = np.exp(rng.uniform(low, high, 2 * n_per_arm)).round().astype(int)
    sample = np.repeat(np.arange(2 * n_per_arm), n)
    return (sample % n_per_arm if recipe.paired else sample), sample >= n_per_arm


def _donor_effects(rng: np.random.Generator, log_mean: np.ndarray, arm: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Log-scale effects (donors, genes); sd 0 for 20% of the genes, else U(0, .6)."""
    n_genes = log_mean.size
    sd = np.where(rng.random(n_genes) < 0.2, 0.0, rng.uniform(0, 0.6, n_genes))
    if recipe.sd_rises:
        rank = (np.argsort(np.argsort(log_mean)) + 0.5) / n_genes
        sd = 0.6 * rank * rng.uniform(0.5, 1, n_genes)
    size = (arm.size, n_genes)
    z = rng.standard_t(4, size=size) / np.sqrt(2) if recipe.heavy_tails else rng.normal(size=size)
    return z * sd * np.where(arm, recipe.case_sd, 1.0)[:, None]


def _obs(donor: np.ndarray, case: np.ndarray) -> pd.DataFrame:
    names = [f"D{d:02d}" for d in range(donor.max() + 1)]
    condition = pd.Categorical.from_codes(case.astype(int), categories=["control", "case"])
    frame = pd.DataFrame({"donor": pd.Categorical.from_codes(donor, categories=names), "condition": condition})
    frame["sample"] = pd.Categorical(frame["donor"].astype(str) + "-" + frame["condition"].astype(str))
    return frame.set_axis(np.arange(donor.size).astype(str), axis=0)
