"""Distances between samples by their taxa, and the kernels that distances make."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import pdist, squareform

from donorwise._typing import FloatArray, IntArray
from donorwise.errors import DataError

_NOTHING = 1e-12
"""Share of the largest eigenvalue that rounding makes of zero."""


class Dissimilarity(NamedTuple):
    """What is done to abundances (n, taxa), the metric of scipy, and whether values are amounts, that none may be below 0."""

    transform: Callable[[FloatArray], FloatArray]
    metric: str
    amounts: bool = True


def proportions(abundances: FloatArray) -> FloatArray:
    """Shares of the sample's total."""
    return abundances / abundances.sum(axis=1, keepdims=True)


def centred_log_ratio(abundances: FloatArray) -> FloatArray:
    """Logarithms minus the sample's mean logarithm (Aitchison 1986); abundances are positive."""
    logs = np.log(abundances)
    return logs - logs.mean(axis=1, keepdims=True)


DISSIMILARITIES = {
    "aitchison": Dissimilarity(centred_log_ratio, "euclidean"),
    "braycurtis": Dissimilarity(proportions, "braycurtis"),
    "jaccard": Dissimilarity(lambda abundances: (abundances > 0).astype(np.float64), "jaccard"),
    "euclidean": Dissimilarity(lambda values: values, "euclidean", amounts=False),
}


def distances(values: FloatArray, kind: Dissimilarity) -> FloatArray:
    """Distances (n, n) between the rows of `values`."""
    return squareform(pdist(kind.transform(values), kind.metric))


class DistanceKernel(NamedTuple):
    """A kernel (n, n), positive semidefinite, with zero row sums; and how much was taken off to make it so.

    `negative` is the share of negative eigenvalues in the sum of all, in absolute value.
    """

    values: FloatArray
    negative: float


def kernel_of(distance: FloatArray) -> DistanceKernel:
    """-J D2 J / 2 of distances (n, n), D2 their squares and J the centring (Gower 1966, Biometrika 53:325).

    Negative eigenvalues, which distances have that are none between points of a space, are set to zero (as Zhao et al. 2015,
    Am J Hum Genet 96:797, do).

    Raises
    ------
    DataError
        All distances are zero.
    """
    centred = _centred(-0.5 * distance**2)
    roots, vectors = np.linalg.eigh(centred)
    if not roots[-1] > 0:
        raise DataError("All samples are the same: there is no distance between any two of them.")
    roots = np.where(np.abs(roots) > _NOTHING * roots[-1], roots, 0.0)
    negative = float(np.abs(roots[roots < 0]).sum() / np.abs(roots).sum())
    half = vectors * np.sqrt(np.maximum(roots, 0.0))
    return DistanceKernel(half @ half.T, negative)


def averaged(kernel: FloatArray, codes: IntArray, n: int) -> FloatArray:
    """The kernel (n, n) of groups of samples, each at the mean place of its samples; `codes` are their numbers."""
    mean = np.zeros((n, len(codes)))
    mean[codes, np.arange(len(codes))] = 1.0
    mean /= mean.sum(axis=1, keepdims=True)
    return mean @ kernel @ mean.T


def unit_variance(kernel: FloatArray) -> FloatArray:
    """The centred kernel PKP on the scale on which its trace is n - 1, that of independent donors of variance one."""
    centred = _centred(kernel)
    return centred * ((len(kernel) - 1) / np.trace(centred))


def _centred(values: FloatArray) -> FloatArray:
    """J V J, exactly symmetric."""
    centred = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean()
    return (centred + centred.T) / 2
