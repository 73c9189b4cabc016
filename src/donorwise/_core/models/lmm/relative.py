"""Relative covariances T = LL' of the random terms, for many features at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.models.lmm.crossproducts import TermBasis
    from donorwise._typing import FloatArray, IntArray

_ROUNDING = 1e-24  # variance relative to the largest of its term, or to the residual, below which it is zero


def relative_covariance(basis: TermBasis, t: int, parameter: IntArray, gamma: FloatArray) -> FloatArray:
    """T of term `t` in its internal basis, (G, r, r)."""
    r = basis.factor.shape[0]
    T = np.zeros((gamma.shape[0], r, r))
    for k, (term, i, j) in enumerate(parameter):
        if term == t:
            T[:, i, j] = T[:, j, i] = gamma[:, k]
    return T


def original_covariance(basis: TermBasis, t: int, parameter: IntArray, gamma: FloatArray) -> FloatArray:
    """T of term `t` for the columns as the formula has them, (G, r, r)."""
    internal = relative_covariance(basis, t, parameter, gamma)
    internal[np.einsum("gii->g", internal) < _ROUNDING] = 0.0  # or its correlations would be those of rounding errors
    T = basis.back @ internal @ basis.back.T
    variances = np.einsum("gii->gi", T)
    rounding = variances < _ROUNDING * variances.max(axis=1, keepdims=True)
    T[rounding[:, :, None] | rounding[:, None, :]] = 0.0
    return T


def smallest_variance(terms: Sequence[TermBasis], parameter: IntArray, gamma: FloatArray) -> FloatArray:
    """Smallest eigenvalue of any term's relative covariance in the internal basis, (G,)."""
    smallest = np.full(gamma.shape[0], np.inf)
    for t, basis in enumerate(terms):
        T = np.nan_to_num(relative_covariance(basis, t, parameter, gamma))
        smallest = np.minimum(smallest, np.linalg.eigvalsh(T)[:, 0])
    return smallest


def cholesky_psd(T: FloatArray) -> FloatArray:
    """Lower Cholesky factors of (G, r, r) matrices that may be singular; zero columns where they are."""
    L = np.zeros_like(T)
    r = T.shape[1]
    rounding = _ROUNDING * np.einsum("gii->gi", T).max(axis=1)
    for c in range(r):
        pivot = T[:, c, c] - (L[:, c, :c] ** 2).sum(axis=1)
        root = np.sqrt(np.where((pivot > np.maximum(1e-14 * T[:, c, c], rounding)) | np.isnan(pivot), pivot, 0))
        L[:, c, c] = root
        for i in range(c + 1, r):
            rest = T[:, i, c] - (L[:, i, :c] * L[:, c, :c]).sum(axis=1)
            L[:, i, c] = np.divide(rest, root, out=np.zeros_like(rest), where=root != 0)
    return L
