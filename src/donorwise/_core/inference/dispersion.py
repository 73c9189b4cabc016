"""Sizes of negative binomials that lean on a prior which the features share.

The prior on phi = 1 / size is learned from the adjusted profiles of all features at knots of the rank of their mean, as
that of the variances is (:mod:`donorwise._core.inference.prior`); the size is one over the geometric mean of phi over
its posterior, so that a feature with few counts has that of its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.inference.moderation import MIN_FEATURES, posterior
from donorwise._core.inference.prior import fit_prior
from donorwise._core.models.glmm.size import DISPERSIONS

if TYPE_CHECKING:
    from donorwise._typing import FloatArray


def shared_sizes(profiles: FloatArray, rank: FloatArray) -> FloatArray:
    """Sizes (G,) from profiles (G, points) of features with ranks (G,) of their mean; each by itself where they are few."""
    if not len(profiles):
        return np.empty(0)
    prior = np.full_like(profiles, 1 / DISPERSIONS.size)
    if len(profiles) >= MIN_FEATURES:
        prior = fit_prior(profiles, rank, [DISPERSIONS], ("dispersion",)).at(rank)
    return np.exp(-posterior(profiles, prior) @ np.log(DISPERSIONS))
