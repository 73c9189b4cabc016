"""Largest squared correlations of a gene's variants with permuted or random responses: their null distribution.

Responses and genotypes are whitened and residualised, so that the squared correlation r² of the two is all that a test of
a variant knows: t² = df r² / (1 - r²). Permuted responses are exchangeable residuals, projected off the fixed effects once
more (as FastQTL does; Ongen et al. 2016, Bioinformatics 32:1479). Where donors are not exchangeable a direction drawn from
the sphere takes their place: residuals that are Gaussian have a direction that is uniform there, whatever their variance
(rotation tests; Langsrud 2005, Stat Comput 15:53), so the test is exact for them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._typing import FloatArray, IntArray

_LOST = 1e-10  # share of a column's length below which nothing but rounding is left of it
_VARIANTS = 1024  # in one product


def permuted_responses(yhat: FloatArray, n: int, seed: int, Q: FloatArray | None = None) -> FloatArray:
    """A response in `n` random orders, the same for all genes with as many entries.

    Parameters
    ----------
    yhat
        Shape (m,). Whitened residuals.
    n, seed
        Number of permutations, and where they begin.
    Q
        Shape (m, p). Orthonormal basis of the (whitened) fixed effects, which is projected off; None for nothing.

    Returns
    -------
    FloatArray
        Shape (m, n), columns of length one; zero where nothing is left of one.
    """
    return _unit(yhat[_orders(yhat.size, n, seed)], Q)


def rotations(m: int, n: int, seed: int, Q: FloatArray | None = None) -> FloatArray:
    """Random directions (m, n), uniform among those orthogonal to `Q`, (m, p) orthonormal; no data is needed."""
    return _unit(_normals(m, n, seed), Q)


def maxima(xhat: FloatArray, responses: FloatArray) -> FloatArray:
    """Largest squared correlation of any variant with each response.

    Parameters
    ----------
    xhat
        Shape (V, m). Whitened genotypes of some variants without what the fixed effects explain, of any length;
        those without any length are left out. What is found for several blocks is merged by `numpy.maximum`.
    responses
        Shape (m, n), of :func:`permuted_responses` or :func:`rotations`.

    Returns
    -------
    FloatArray
        Shape (n,).
    """
    length = np.sqrt(np.einsum("vm,vm->v", xhat, xhat))
    largest = np.zeros(responses.shape[1])
    usable = np.flatnonzero(length > 0)
    for start in range(0, usable.size, _VARIANTS):
        at = usable[start : start + _VARIANTS]
        r = (xhat[at] / length[at, None]) @ responses
        largest = np.maximum(largest, np.maximum(r.max(axis=0), -r.min(axis=0)))
    return np.minimum(largest**2, 1.0)


def _unit(columns: FloatArray, Q: FloatArray | None) -> FloatArray:
    """Columns without what Q explains, of length one."""
    before = np.sqrt(np.einsum("mn,mn->n", columns, columns))
    if Q is not None:
        columns = columns - Q @ (Q.T @ columns)
    length = np.sqrt(np.einsum("mn,mn->n", columns, columns))
    kept = length > _LOST * before
    return columns * np.where(kept, 1 / np.where(kept, length, 1.0), 0.0)


# Both are drawn response by response, so that more of them begin with the same ones.
@lru_cache(maxsize=4)
def _orders(m: int, n: int, seed: int) -> IntArray:
    rng = np.random.default_rng((seed, m))
    orders = np.ascontiguousarray(rng.permuted(np.tile(np.arange(m), (n, 1)), axis=1).T)
    orders.flags.writeable = False
    return orders


@lru_cache(maxsize=4)
def _normals(m: int, n: int, seed: int) -> FloatArray:
    normals = np.ascontiguousarray(np.random.default_rng((seed, m)).normal(size=(n, m)).T)
    normals.flags.writeable = False
    return normals
