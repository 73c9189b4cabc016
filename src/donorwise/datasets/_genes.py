"""True parameters of genes, and the counts of cells that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from donorwise._typing import FloatArray, IntArray
from donorwise.datasets._designs import StudyPlan, Variation

SHARED = 0.5
"""Share of a random effect's variance that all cell types of a donor (sample, batch) have in common."""

SPECIFIC_FRACTION = 0.2
"""Share of the differential genes that react in one cell type only."""

MARKER_FRACTION = 0.05
TIME_FRACTION = 0.1
CHUNK = 2_000
"""Rows drawn at a time: bounds the dense working memory."""


@dataclass(frozen=True, slots=True)
class Genes:
    """True parameters of G genes in T cell types.

    Attributes
    ----------
    log_mean
        Shape (T, G). Natural log of a gene's expected share of a cell's counts, without any effect.
    dispersion
        Shape (G,). Variance of a count is ``mean + dispersion * mean**2``.
    variability
        Shape (G,). Multiplies the standard deviation of every random effect; averages 1.
    marker_of
        Shape (G,). Cell type that the gene marks, -1 for none.
    de_in
        Shape (G,). Cell type that reacts, -1 for none, T for all of them.
    log_fc
        Shape (T, G). True log2 fold change of the expected count per unit of exposure.
    time_log_fc
        Shape (G,). True log2 fold change per unit of time, whatever the exposure.
    """

    log_mean: FloatArray
    dispersion: FloatArray
    variability: FloatArray
    marker_of: IntArray
    de_in: IntArray
    log_fc: FloatArray
    time_log_fc: FloatArray


def draw_genes(
    n_types: int, n_genes: int, *, de_fraction: float, effect_size: float, has_time: bool, rng: np.random.Generator
) -> Genes:
    """Draw all gene-level parameters."""
    marker_of = np.where(rng.uniform(size=n_genes) < MARKER_FRACTION * n_types, rng.integers(n_types, size=n_genes), -1)
    log_mean = rng.normal(0.0, 1.5, n_genes) + rng.normal(0.0, 0.3, (n_types, n_genes))
    log_mean[:, marker_of >= 0] -= 0.5
    log_mean[marker_of[marker_of >= 0], np.flatnonzero(marker_of >= 0)] += 2.5
    log_mean -= np.log(np.exp(log_mean).sum(axis=1, keepdims=True))
    de_in = _choose_de(n_types, n_genes, de_fraction, rng)
    trend = rng.uniform(size=n_genes) < (TIME_FRACTION if has_time else 0.0)
    return Genes(
        log_mean=log_mean,
        dispersion=np.exp(rng.normal(np.log(0.3), 0.4, n_genes)),
        variability=np.exp(rng.normal(-0.08, 0.4, n_genes)),
        marker_of=marker_of,
        de_in=de_in,
        log_fc=_draw_effects(log_mean, de_in, effect_size, rng),
        time_log_fc=np.where(trend, rng.choice([-0.5, 0.5], n_genes), 0.0),
    )


def _choose_de(n_types: int, n_genes: int, de_fraction: float, rng: np.random.Generator) -> IntArray:
    """Which cell types react in each gene: -1 none, T all."""
    de_in = np.full(n_genes, -1, dtype=np.int64)
    chosen = rng.permutation(n_genes)[: round(de_fraction * n_genes)]
    n_specific = round(SPECIFIC_FRACTION * len(chosen)) if n_types > 1 else 0
    de_in[chosen] = n_types
    de_in[chosen[:n_specific]] = rng.integers(n_types, size=n_specific)
    return de_in


def _draw_effects(log_mean: FloatArray, de_in: IntArray, effect_size: float, rng: np.random.Generator) -> FloatArray:
    """Log2 fold changes (T, G): sizes around `effect_size`, signs that leave a cell's total count alone."""
    n_types, n_genes = log_mean.shape
    size = effect_size * rng.uniform(0.5, 1.5, size=(n_genes,))
    log_fc = np.zeros((n_types, n_genes))
    for scope in range(n_types + 1):
        types = np.arange(n_types) if scope == n_types else np.array([scope])
        genes = np.flatnonzero(de_in == scope)
        block = np.ix_(types, genes)
        share: FloatArray = np.exp(log_mean[block]).mean(axis=0)
        log_fc[block] = size[genes] * _balanced_signs(share, size[genes])
    return log_fc


def _balanced_signs(share: FloatArray, size: FloatArray) -> FloatArray:
    """Signs of log2 effects such that what goes up in a cell's total is what goes down.

    Otherwise normalising by the total would turn every other gene slightly differential.
    """
    signs = np.ones(len(share))
    total = 0.0
    for g in np.argsort(-share, kind="stable"):
        up, down = share[g] * (2.0 ** size[g] - 1.0), share[g] * (2.0 ** -size[g] - 1.0)
        signs[g] = 1.0 if abs(total + up) < abs(total + down) else -1.0
        total += up if signs[g] > 0 else down
    return signs


def log_means(plan: StudyPlan, genes: Genes, rng: np.random.Generator) -> Callable[[int], FloatArray]:
    """Draw the random effects, and give a function that computes log expected shares of the genes in sample s, (T, G)."""
    effects = [_draw_levels(v, genes, rng) for v in plan.variations]

    def of_sample(s: int) -> FloatArray:
        log2_shift = plan.exposure[s] * genes.log_fc + plan.time[s] * genes.time_log_fc
        log_mean = genes.log_mean + np.log(2.0) * log2_shift
        for variation, effect in zip(plan.variations, effects, strict=True):
            log_mean = log_mean + variation.values[s] * effect[variation.codes[s]]
        return log_mean

    return of_sample


def _draw_levels(variation: Variation, genes: Genes, rng: np.random.Generator) -> FloatArray:
    """Effects (levels, T, G) of one random term, correlated between cell types."""
    n_levels = int(variation.codes.max()) + 1
    n_types, n_genes = genes.log_mean.shape
    common = rng.standard_normal((n_levels, 1, n_genes))
    own = rng.standard_normal((n_levels, n_types, n_genes))
    deviates = np.sqrt(SHARED) * common + np.sqrt(1.0 - SHARED) * own
    if variation.factor is not None:
        deviates = np.tensordot(variation.factor, deviates, axes=1)
    return variation.sd * genes.variability * deviates


def draw_counts(
    log_means: Callable[[int], FloatArray],
    dispersion: FloatArray,
    sample_codes: IntArray,
    type_codes: IntArray,
    depth: FloatArray,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Counts (cells, G) as float32 CSR.

    Parameters
    ----------
    log_means
        Gives the natural log of each gene's expected share in the T cell types of sample s, (T, G).
    dispersion
        Shape (G,).
    sample_codes, type_codes
        Shape (N,). Sample (sorted, none without cells) and cell type of each cell.
    depth
        Shape (N,). Expected total count of each cell.
    rng
        Source of randomness.

    Returns
    -------
    Sparse matrix with sorted indices.
    """
    starts = np.searchsorted(sample_codes, np.arange(sample_codes[-1] + 2))
    blocks = []
    for s, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        mean = np.exp(log_means(s))
        for rows in _chunks(start, stop):
            blocks.append(_draw_block(depth[rows, None] * mean[type_codes[rows]], dispersion, rng))
    return sparse.vstack(blocks, format="csr", dtype=np.float32)


def _chunks(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, CHUNK):
        yield slice(first, min(first + CHUNK, stop))


def _draw_block(mean: FloatArray, dispersion: FloatArray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Negative binomial as a Poisson of gamma-distributed means."""
    mean *= rng.standard_gamma(np.broadcast_to(1.0 / dispersion, mean.shape)) * dispersion
    return sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
