"""What each donor contributes to an estimate, gene by gene: the replicates in which genes are seen to go together.

An estimate is c'b = sum_p a_p y_p over the patterns p of a design, with a = V⁻¹X (X'V⁻¹X)⁻¹c, and so is its error, of the errors. Put
together by donor, r_gd = sum_{p in d} a_p (y_gp - x_p'b_g), they are what cluster-robust variances are made of (Liang and Zeger
1986, Biometrika 73:13): sum_d r_gd r_hd estimates the covariance of the estimates of genes g and h, whatever the contrast
compares. For one between donors r_gd is a donor's residual mean, and for one within donors the residual of its difference.

V is one for all genes, a + b / weight on the diagonal and c between patterns of the same donor, by moments of the residuals of all
genes: an estimate of the correlation does not need it to be right, only not to hang on a donor with a handful of cells. What
fixed effects take away is lost: under V the scores have the covariance

    B = A V A' - A X (X'V⁻¹X)⁻¹ X'A',   A = a by donor,

and so many degrees of freedom as Satterthwaite (1946) gives them, tr(B)² / tr(B²): D - p for D donors of p coefficients who count alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import nnls

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, FloatArray, IntArray

_ROUNDING = 1e-9
_ENOUGH = 2000  # genes from which V is learned
_LEAST = 1e-6  # of the mean over patterns, of weights and of variances
_MOST_SHARED = 0.99  # of the smallest variance of a pattern, so that V has an inverse


class DonorScores(NamedTuple):
    """Scores (G, D), zero where a donor says nothing about a gene, and their degrees of freedom."""

    values: FloatArray
    df: float


class Working(NamedTuple):
    """A covariance of K patterns: `own` (K,) on the diagonal, and `shared` by those of one donor."""

    own: FloatArray
    shared: float

    def solve(self, X: FloatArray, by_donor: sparse.csr_array) -> FloatArray:
        """V⁻¹X of X (K, p), by Sherman and Morrison's formula for each donor's block."""
        w = 1 / self.own
        within = self.shared / (1 + self.shared * (by_donor @ w))
        WX = w[:, None] * X
        return np.asarray(WX - w[:, None] * (by_donor.T @ (within[:, None] * (by_donor @ WX))))


@dataclass(frozen=True, slots=True)
class Replicated:
    """G genes in K patterns of D donors, ready to be asked about contrasts; see :func:`replicated`.

    Attributes
    ----------
    left
        Shape (G, K). What the fixed effects leave under V; zero where there is no response.
    X, VX, inverse
        Shapes (K, p) twice and (p, p). X, V⁻¹X and (X'V⁻¹X)⁻¹.
    V
        The covariance that is taken for all genes.
    by_donor
        Shape (D, K). Ones for the patterns of each donor.
    """

    left: FloatArray
    X: FloatArray
    VX: FloatArray
    inverse: FloatArray
    V: Working
    by_donor: sparse.csr_array

    def scores(self, c: FloatArray) -> DonorScores:
        """Contributions to the estimate of a contrast (p,)."""
        a = self.VX @ (self.inverse @ c)
        weighted = self.by_donor.multiply(a[None]).tocsr()
        AX = weighted @ self.X
        whole = self.by_donor @ (a**2 * self.V.own) + self.V.shared * (self.by_donor @ a) ** 2
        B = np.diag(whole) - AX @ self.inverse @ AX.T
        trace = float(np.trace(B))
        df = trace**2 / float((B**2).sum()) if trace > _ROUNDING * whole.sum() else 0.0
        return DonorScores(np.asarray(self.left @ weighted.T), df)


def replicated(residuals: FloatArray, weights: FloatArray, X: FloatArray, donor: IntArray) -> Replicated:
    """What genes have in donors beside the fixed effects.

    Parameters
    ----------
    residuals
        Shape (G, K). Response less fixed effects of each pattern; NaN where there is none.
    weights
        Shape (G, K). Precision of each by chance, up to a factor of the gene.
    X
        Shape (K, p). Fixed effects of the patterns, of full column rank.
    donor
        Shape (K,). Donor of each pattern.
    """
    known = np.isfinite(residuals)
    left = np.where(known, residuals, 0.0)
    K = donor.size
    by_donor = sparse.csr_array((np.ones(K), (donor, np.arange(K))), shape=(int(donor.max()) + 1, K))
    some = np.unique(np.linspace(0, len(left) - 1, min(len(left), _ENOUGH)).astype(np.int64))
    V = working_covariance(left[some], known[some], weights[some], by_donor)
    VX = V.solve(X, by_donor)
    inverse = np.asarray(np.linalg.inv(X.T @ VX), dtype=np.float64)
    left -= ((left @ VX) @ inverse) @ X.T
    left[~known] = 0.0
    return Replicated(left, X, VX, inverse, V, by_donor)


def working_covariance(e: FloatArray, known: BoolArray, weights: FloatArray, by_donor: sparse.csr_array) -> Working:
    """Covariance of patterns that fits the residuals of genes (G, K), each scaled to a mean square of one.

    Mean squares are regressed on one over the usual weight, with coefficients that are not negative; products of residuals of one
    donor are averaged.
    """
    n = np.maximum(known.sum(axis=1, keepdims=True), 1)
    size = np.sqrt((e**2).sum(axis=1, keepdims=True) / n)
    z = np.divide(e, size, out=np.zeros_like(e), where=size > 0)
    used = (known & (size > 0)).astype(np.float64)
    share = np.divide(weights * n, weights.sum(axis=1, keepdims=True), out=np.zeros_like(weights), where=used > 0)
    counts = np.maximum(used.sum(axis=0), 1)
    chance = 1 / np.maximum(share.sum(axis=0) / counts, _LEAST)
    (between, noise), _ = nnls(np.stack([np.ones_like(chance), chance], axis=1), (z**2).sum(axis=0) / counts)
    own = np.maximum(between + noise * chance, _LEAST)
    pairs = (used @ by_donor.T) ** 2 - used @ by_donor.T
    products = ((z @ by_donor.T) ** 2).sum() - (z**2).sum()
    shared = float(np.clip(products / max(float(pairs.sum()), 1.0), 0.0, _MOST_SHARED * own.min()))
    return Working(own - shared, shared)
