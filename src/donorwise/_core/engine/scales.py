"""How single responses go with their linear predictors: what is fitted, what is left, and what they are without some terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.models.glmm.families import Distribution, Moments
    from donorwise._typing import FloatArray, IntArray


class CellScale(Protocol):
    """Responses y (n, c) of rows (n,) of a matrix, of features (c,), with linear predictors eta (n, c)."""

    def observed(self, y: FloatArray) -> FloatArray:
        """The response in what the matrix holds."""

    def fitted(self, eta: FloatArray, rows: IntArray, features: IntArray) -> FloatArray:
        """Expected responses."""

    def residual(self, y: FloatArray, eta: FloatArray, rows: IntArray, features: IntArray) -> FloatArray:
        """What is left of them when everything is taken out."""

    def without(
        self, y: FloatArray, eta: FloatArray, removed: FloatArray, rows: IntArray, features: IntArray
    ) -> FloatArray:
        """Responses without a part `removed` (n, c) of their linear predictors."""


class Values:
    """Values, of which parts of the linear predictor are subtracted."""

    def observed(self, y: FloatArray) -> FloatArray:
        """See :class:`CellScale`."""
        return y

    def fitted(self, eta: FloatArray, rows: IntArray, features: IntArray) -> FloatArray:
        """See :class:`CellScale`."""
        return eta

    def residual(self, y: FloatArray, eta: FloatArray, rows: IntArray, features: IntArray) -> FloatArray:
        """See :class:`CellScale`: y - eta."""
        return y - eta

    def without(
        self, y: FloatArray, eta: FloatArray, removed: FloatArray, rows: IntArray, features: IntArray
    ) -> FloatArray:
        """See :class:`CellScale`: y - removed."""
        return y - removed


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts, or yes and no, of cells.

    Attributes
    ----------
    distribution
        The family.
    exposure, trials
        What gives those of rows, (n,).
    size
        Shape (G,). Sizes of features; infinite where there is no dispersion.
    detected
        Whether the response is that a count is above zero.
    """

    distribution: Distribution
    exposure: Callable[[IntArray], FloatArray]
    trials: Callable[[IntArray], FloatArray]
    size: FloatArray
    detected: bool = False

    def observed(self, y: FloatArray) -> FloatArray:
        """See :class:`CellScale`."""
        return np.where(y > 0, 1.0, y) if self.detected else y

    def fitted(self, eta: FloatArray, rows: IntArray, features: IntArray) -> FloatArray:
        """See :class:`CellScale`: mu, of counts exposure * exp(eta)."""
        return self.trials(rows)[:, None] * self._moments(eta, rows, features).mean

    def residual(self, y: FloatArray, eta: FloatArray, rows: IntArray, features: IntArray) -> FloatArray:
        """See :class:`CellScale`: Pearson's, (y - mu) / sqrt(V(mu)); zero where y can be nothing else than mu."""
        own, m = self._moments(eta, rows, features), self.trials(rows)[:, None]
        left, sd = y - m * own.mean, np.sqrt(m * own.variance)
        return np.divide(left, sd, out=np.where(np.isnan(left), np.nan, 0.0), where=sd > 0)

    def without(
        self, y: FloatArray, eta: FloatArray, removed: FloatArray, rows: IntArray, features: IntArray
    ) -> FloatArray:
        """See :class:`CellScale`: counts are divided by exp(removed); of yes and no y - mu + mu', mu' being without the terms."""
        if self.distribution.counts:
            return y * np.exp(-removed)
        return y - self.fitted(eta, rows, features) + self.fitted(eta - removed, rows, features)

    def _moments(self, eta: FloatArray, rows: IntArray, features: IntArray) -> Moments:
        """Of single trials."""
        return self.distribution.moments(eta, self.exposure(rows)[:, None], self.size[features])
