"""Competitive tests of sets of genes: whether the statistics of its genes are larger or smaller than those of the others.

Camera (Wu and Smyth 2012, Nucleic Acids Res 40:e133). The mean of m statistics with the mean correlation rho has the variance
of one times VIF / m, with VIF = 1 + (m - 1) rho: genes of a set go up and down together in the same donors, so that a test that
takes them for independent calls sets at random. With m statistics of mean z_S among all G of mean z and variance s2,

    delta = G / (G - m) (z_S - z),   s2_pooled = ((G - 1) s2 - delta² m (G - m) / G) / (G - 2),
    t = delta / (s2_pooled (VIF / m + 1 / (G - m)))^½,

or, with ranks, the rank-sum test of Wilcoxon with the variance of correlated genes (Barry, Nobel and Wright 2008, Ann Appl Stat
2:286, eq. 9). The numbers are those of limma's `camera` and `cameraPR`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special, stats

if TYPE_CHECKING:
    from scipy import sparse

    from donorwise._typing import FloatArray, IntArray


class SetTests(NamedTuple):
    """Tests of S sets: statistic (larger than zero where a set is up), and two-sided p-value; (S,) each."""

    statistic: FloatArray
    p_value: FloatArray


def mean_correlation(scores: FloatArray, members: sparse.csr_array) -> FloatArray:
    """Mean correlation between the genes of each set (S,), from what is left of them in independent replicates.

    With u_g the scores of a gene divided by the root of their sum of squares, it is the mean of u_g'u_h over pairs of genes, from
    |sum of u|²: that of camera, whose VIF is |sum of u|² / m, and zero on average where genes are independent. NaN for a set
    of one gene.

    Parameters
    ----------
    scores
        Shape (G, D). Residuals of each gene in D directions; all zero where there is none.
    members
        Shape (S, G). 1 for a gene of a set, -1 for one that is expected to go the other way.
    """
    norm = np.sqrt((scores**2).sum(axis=1, keepdims=True))
    u = np.divide(scores, norm, out=np.zeros_like(scores), where=norm > 0)
    m = abs(members).sum(axis=1)
    pairs = ((members @ u) ** 2).sum(axis=1) - abs(members) @ (norm[:, 0] > 0)
    return np.divide(pairs, m * (m - 1), out=np.full(m.size, np.nan), where=m > 1)


def competitive_tests(
    z: FloatArray, members: sparse.csr_array, correlation: FloatArray, df: float, *, use_ranks: bool = False
) -> SetTests:
    """Test each of S sets against the genes that are not in it.

    Parameters
    ----------
    z
        Shape (G,). A statistic of each gene, standard normal where nothing happens; for ranks any that orders genes.
    members
        Shape (S, G). As for :func:`mean_correlation`: the statistic of a gene with -1 is turned around the mean of the genes that
        are not in its set. A set has at least one gene and leaves out at least one.
    correlation
        Shape (S,). Mean correlation between the genes of each; one below zero counts as zero, as does NaN.
    df
        Degrees of freedom: what `correlation` was estimated from, or G - 2 (infinite for ranks) where it is given.
    use_ranks
        Compare ranks in place of means.
    """
    rho = np.clip(np.nan_to_num(correlation), 0.0, None)
    z = z - z.mean()
    G, inside, m = z.size, abs(members) @ z, abs(members).sum(axis=1)
    others = -inside / (G - m)
    if use_ranks:
        return _of_ranks(_rank_sums(z, members, others), m, z, rho, df)
    mine = members @ z - others * members.sum(axis=1)  # that of the others is zero
    delta = G / (G - m) * mine * (1 / m - 1 / G)
    spread = (z**2).sum() + G * others**2 - mine**2 / G
    pooled = (spread - delta**2 * m * (G - m) / G) / (G - 2)
    t = delta / np.sqrt(pooled * ((1 + (m - 1) * rho) / m + 1 / (G - m)))
    return SetTests(t, 2 * stats.t.sf(np.abs(t), df))


def _rank_sums(z: FloatArray, members: sparse.csr_array, others: FloatArray) -> FloatArray:
    """Sum of the ranks of the genes of each set, (S,); `others` is the mean of those outside."""
    sums = abs(members) @ stats.rankdata(z)
    for row in np.unique(np.repeat(np.arange(members.shape[0]), np.diff(members.indptr))[members.data < 0]):
        at = slice(members.indptr[row], members.indptr[row + 1])
        genes, turned = members.indices[at], z.copy()
        turned[genes] = others[row] + members.data[at] * (z[genes] - others[row])
        sums[row] = stats.rankdata(turned)[genes].sum()
    return np.asarray(sums)


def _of_ranks(sums: FloatArray, m: FloatArray, z: FloatArray, rho: FloatArray, df: float) -> SetTests:
    """limma's `rankSumTestWithCorrelation`, of whose two p-values with their corrections for continuity the smaller one counts twice."""
    G = z.size
    rest = G - m
    excess = sums - m * (m + 1) / 2 - m * rest / 2
    plain = m * rest * (G + 1) / 12
    related = (
        np.arcsin(1) * m * rest
        + np.arcsin(0.5) * m * rest * (rest - 1)
        + np.arcsin(rho / 2) * m * (m - 1) * rest * (rest - 1)
        + np.arcsin((rho + 1) / 2) * m * (m - 1) * rest
    ) / (2 * np.pi)
    variance = np.where(rho > 0, related, plain) * (1 - _tied(z))
    statistic = (excess - np.sign(excess) * 0.5) / np.sqrt(variance)
    p = 2 * special.stdtr(df, -np.abs(statistic)) if np.isfinite(df) else 2 * stats.norm.sf(np.abs(statistic))
    return SetTests(statistic, np.where(np.abs(excess) < 0.5, 1.0, p))


def _tied(z: FloatArray) -> float:
    """Share of the variance of ranks that ties take away."""
    _, n = np.unique(z, return_counts=True)
    counts: IntArray = n.astype(np.float64)
    return float((counts * (counts + 1) * (counts - 1)).sum() / (z.size * (z.size + 1.0) * (z.size - 1.0)))
