"""The size of a negative binomial, feature by feature: an adjusted profile, and a prior that the features share.

Every group of rows (those that share their levels and categories) has a mean of its own, so that what lies between donors
is no dispersion.
With phi = 1 / size, f_k the log-likelihood of a group at its best mean and W_k its information there, the adjusted
profile (Cox and Reid 1987, JRSS B 49:1-39; McCarthy, Chen and Smyth 2012, Nucleic Acids Res 40:4288-4297) is

    A(phi) = sum_cells [log Gamma(y + 1/phi) - log Gamma(1/phi)] + sum_k (f_k - log(W_k) / 2).

A prior on phi is learned from the profiles of all features, by rank of their mean, as that of the variances is; the
size is one over the geometric mean of phi over its posterior.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

from donorwise._core.models.glmm.axes import thinned
from donorwise._core.models.glmm.profile_kernels import adjusted_profiles

if TYPE_CHECKING:
    from donorwise._core.models.glmm.rows import Values
    from donorwise._typing import FloatArray, IntArray

DISPERSIONS = np.geomspace(1e-3, 1e2, 31)
_SOME = thinned(DISPERSIONS, 19)  # where profiles are worked out


def profiles(
    values: Values,
    shared: FloatArray,
    exposures: FloatArray,
    offset: FloatArray,
    groups: IntArray,
    counted: FloatArray,
    cells: FloatArray,
) -> FloatArray:
    """The adjusted profile of G features at :data:`DISPERSIONS`, without constants, (G, points).

    Parameters
    ----------
    values
        Of the features in K rows.
    shared, exposures
        Shape (K, J).
    offset
        Shape (K, G). What rows have of their own in the linear predictor; (0, G) for nothing.
    groups
        Shape (C + 1,). First row of every group, and K.
    counted, cells
        Shapes (H,), (G, H). Counts that occur, and in how many cells.
    """
    size = 1 / _SOME.some
    out = np.zeros((size.size, values.total.shape[1]))
    total, own = map(np.ascontiguousarray, values)
    adjusted_profiles(total, own, shared, exposures, offset, groups, size, out)
    gamma = gammaln(counted[:, None] + size) - gammaln(size)
    return (out.T + cells @ gamma) @ _SOME.carry.T
