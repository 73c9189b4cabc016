"""From linear predictors to what readers of means want: the response, rates of counts, shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import expit, logit

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._typing import FloatArray

PER = 1e4
"""Counts that rates are per, where exposures are total counts."""
# link: the mean at a linear predictor and an exposure, its slope over the predictor, and the predictor of a mean
_LINKS: Final[dict[str, tuple[Callable[[FloatArray, float], FloatArray], ...]]] = {
    "identity": (lambda eta, t: eta, lambda eta, t: np.ones_like(eta), lambda mean, t: mean),
    "log": (lambda eta, t: t * np.exp(eta), lambda eta, t: t * np.exp(eta), lambda mean, t: np.log(mean / t)),
    "logit": (lambda eta, t: expit(eta), lambda eta, t: expit(eta) * expit(-eta), lambda mean, t: logit(mean)),
    "cloglog": (
        lambda eta, t: -np.expm1(-t * np.exp(eta)),
        lambda eta, t: t * np.exp(eta - t * np.exp(eta)),
        lambda mean, t: np.log(-np.log1p(-mean) / t),
    ),
}


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

    link: str = "identity"
    exposure: float = 1.0
    what: str = ""
    where: str = ""

    @property
    def unit(self) -> str:
        """Both in one line."""
        return f"{self.what} {self.where}".strip()

    def value(self, eta: FloatArray) -> FloatArray:
        """Means at linear predictors, the ends of which are those of the means."""
        return np.asarray(_LINKS[self.link][0](np.asarray(eta), self.exposure))

    def slope(self, eta: FloatArray) -> FloatArray:
        """Derivative of :meth:`value`, for standard errors by the delta method."""
        return np.asarray(_LINKS[self.link][1](np.asarray(eta), self.exposure))

    def place(self, mean: FloatArray) -> FloatArray:
        """Linear predictors of means."""
        return np.asarray(_LINKS[self.link][2](np.asarray(mean), self.exposure))


def of_rates(exposure: str, usual: float, *, total: bool, link: str = "log", what: str = "count per cell") -> MeanScale:
    """Rates: per 10,000 counts where exposures are each cell's total, else in a cell of the usual exposure.

    Shares of detection (link ``"cloglog"``) are not proportional to the exposure, and are at the usual one always.
    """
    if total and link == "log":
        return MeanScale(link, PER, "counts", f"in {PER:,.0f} counts")
    where = f"in {usual:,.0f} counts" if total else f"at {exposure} = {usual:.4g}" if exposure else ""
    return MeanScale(link, usual, what, where)
