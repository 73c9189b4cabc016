"""From linear predictors to what readers of means want: the response, rates of counts, shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from donorwise._core.models.glmm.families import DISTRIBUTIONS

if TYPE_CHECKING:
    from donorwise._core.models.glmm.families import Moments
    from donorwise._typing import FloatArray

IDENTITY = "identity"
"""The link of a response that is its own linear predictor."""
PER = 1e4
"""Counts that rates are per, where exposures are total counts."""
_OF_LINK: Final = {own.link: own for own in DISTRIBUTIONS}


@dataclass(frozen=True, slots=True)
class MeanScale:
    """How linear predictors are told.

    Attributes
    ----------
    link
        That of the model.
    exposure
        What the mean is at; 1 where a model has none.
    what, where
        What it is, and at which exposure, in words; empty for a response that is its own.
    """

    link: str = IDENTITY
    exposure: float = 1.0
    what: str = ""
    where: str = ""

    @property
    def unit(self) -> str:
        """Both in one line."""
        return f"{self.what} {self.where}".strip()

    def value(self, eta: FloatArray) -> FloatArray:
        """Means at linear predictors, the ends of which are those of the means."""
        return np.asarray(eta) if self.link == IDENTITY else self._moments(eta).mean

    def slope(self, eta: FloatArray) -> FloatArray:
        """Derivative of :meth:`value`, for standard errors by the delta method."""
        return np.ones_like(eta) if self.link == IDENTITY else self._moments(eta).slope

    def place(self, mean: FloatArray) -> FloatArray:
        """Linear predictors of means."""
        return np.asarray(mean) if self.link == IDENTITY else _OF_LINK[self.link].eta(np.asarray(mean), self.exposure)

    def _moments(self, eta: FloatArray) -> Moments:
        """Those of a distribution with the link, whichever: means do not hang on sizes."""
        with np.errstate(invalid="ignore", over="ignore"):  # slopes where an interval has no end
            return _OF_LINK[self.link].moments(np.asarray(eta), np.asarray(self.exposure), np.asarray(np.inf))


def of_rates(exposure: str, usual: float, *, total: bool, link: str = "log", what: str = "count per cell") -> MeanScale:
    """Rates: per 10,000 counts where exposures are each cell's total, else in a cell of the usual exposure.

    Shares of detection (link ``"cloglog"``) are not proportional to the exposure, and are at the usual one always.
    """
    if total and link == "log":
        return MeanScale(link, PER, "counts", f"in {PER:,.0f} counts")
    where = f"in {usual:,.0f} counts" if total else f"at {exposure} = {usual:.4g}" if exposure else ""
    return MeanScale(link, usual, what, where)
