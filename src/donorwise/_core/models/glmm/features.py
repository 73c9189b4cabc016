"""What features of a generalised model are, before anything is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._core.models.glmm.rows import Counts, SharedRows
    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class CountFeatures:
    """Features with counts in the rows of one design.

    Attributes
    ----------
    features
        Shape (G,). Their positions in the fit.
    rows
        What they share.
    counts
        Their data.
    size, mean, start
        Shape (G,): of the negative binomial; what they are ranked by. Shape (G, p): coefficients to begin with.
    """

    features: IntArray
    rows: SharedRows
    counts: Counts
    size: FloatArray
    mean: FloatArray
    start: FloatArray

    @property
    def distribution(self) -> Distribution:
        """The family."""
        return self.counts.distribution

    @property
    def column_spread(self) -> FloatArray:
        """Covariance over the cells of the columns of X, (p, p)."""
        R = self.rows.equations.fixed.R
        return np.asarray(R.T @ self.rows.equations.spread @ R)

    @property
    def latent_variance(self) -> FloatArray:
        """Variance of the latent response beside that of the random terms, (G,)."""
        return self.distribution.latent_variance(self.mean / int(self.counts.n_obs.sum()), self.size)
