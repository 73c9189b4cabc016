"""Distributions of counts and of yes/no data, as frozen records; their densities are in `lanes`, `cell_sums` and `derivatives`.

Every family is a sum over rows (patterns of cells, or cells) of a function of the linear predictor eta. What is
summed over the cells of a pattern is kept on J nodes t_j of their exposure (one node where there is nothing to
interpolate), so that a row has

    poisson     total eta - sum_j shared_j t_j exp(eta)
    nb          total (eta - log r) - sum_j (own_j + r shared_j) log(1 + t_j exp(eta) / r)
    logit       total eta - sum_j shared_j log(1 + exp(eta))
    cloglog     sum_j own_j log(1 - exp(-t_j exp(eta))) - total exp(eta)

with `total` the counts (or successes; for cloglog the exposure of the failures), `shared_j` the cells (or trials; for
poisson, at a node of 1, their exposure) and `own_j` the counts (for cloglog the successes) of the feature, spread over
the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy.special import expit, logit

from donorwise.errors import DataError

if TYPE_CHECKING:
    from donorwise._core.design.depth import Depth
    from donorwise._typing import FloatArray

POISSON, NB, LOGIT, CLOGLOG = range(4)
_LATENT = {LOGIT: np.pi**2 / 3, CLOGLOG: np.pi**2 / 6}

_HALF = 0.5  # of a count, or of a yes and a no each: what keeps logarithms finite


class Moments(NamedTuple):
    """Mean of responses, its derivative in eta, and their variance, in one shape."""

    mean: FloatArray
    slope: FloatArray
    variance: FloatArray


@dataclass(frozen=True, slots=True)
class Distribution:
    """A family with its link.

    Attributes
    ----------
    name, link
        As the user gives them.
    code
        Which density the kernels use.
    counts
        Whether responses are counts, that have an exposure; otherwise they are yes/no, or k of m.
    exposed
        Whether the mean depends on an exposure.
    dispersed
        Whether every feature has a size, the variance being mu + mu² / size.
    ratio
        What exp(estimate) is.
    """

    name: str
    link: str
    code: int
    counts: bool
    exposed: bool
    dispersed: bool
    ratio: str

    def has_residual(self, *, of_many: bool) -> bool:
        """Whether an effect of every row could not be told from what rows have of their own; else it is over-dispersion.

        The negative binomial has its size, and a single yes or no says nothing of its row; successes `of_many` trials do.
        """
        return self.dispersed or not (self.counts or of_many)

    @property
    def smooth(self) -> str:
        """What is interpolated in the logarithm of the exposure; empty where nothing is."""
        return {NB: "nb", CLOGLOG: "cloglog"}.get(self.code, "")

    def depth_in(self, *, of_genes: bool, exposure: bool) -> Depth:
        """How a model takes the depth of cells, as the audit asks.

        `of_genes` says whether responses are those of genes, which all hang on depth; `exposure` whether there is one.
        """
        if self.exposed and exposure:
            return "exposure"
        return "missing" if self.counts else "chance" if of_genes else "none"

    def latent_variance(self, mean: FloatArray, size: FloatArray) -> FloatArray:
        """Variance of the distribution about the linear predictor, on its scale, of features with these means (G,) and sizes.

        It is log(1 + 1/mean + 1/size) of log rates, pi²/3 of log odds, and pi²/6 of the complementary log-log (Nakagawa,
        Johnson and Schielzeth 2017, J R Soc Interface 14:20170213).
        """
        if not self.counts:
            return np.full(len(mean), _LATENT[self.code])
        return np.asarray(np.log1p(1 / mean + (1 / size if self.dispersed else 0.0)))

    def moments(self, eta: FloatArray, exposure: FloatArray, size: FloatArray) -> Moments:
        """Those of single cells (or trials) with these linear predictors and exposures, of features with these sizes."""
        if self.code == LOGIT:
            mean = expit(eta)
            return Moments(mean, mean * expit(-eta), mean * expit(-eta))
        rate = exposure * np.exp(eta)
        if self.code == CLOGLOG:
            none = np.exp(-rate)
            return Moments(-np.expm1(-rate), rate * none, -np.expm1(-rate) * none)
        return Moments(rate, rate, rate + rate**2 / size if self.dispersed else rate)

    def eta(self, mean: FloatArray, exposure: float) -> FloatArray:
        """Linear predictors of means, the inverse of :meth:`moments`."""
        if self.code == LOGIT:
            return np.asarray(logit(mean))
        return np.asarray(np.log((-np.log1p(-mean) if self.code == CLOGLOG else mean) / exposure))

    def linked(self, total: FloatArray, most: FloatArray) -> FloatArray:
        """The link of sums of counts, or of successes out of `most`, half a count (half a yes and half a no) being added.

        It is finite for all of them, as Haldane's log odds are; of counts it is log(sum + 1/2).
        """
        yes, no = total + _HALF, most - total + _HALF
        if self.counts:
            return np.log(yes)
        if self.code == LOGIT:
            return np.asarray(np.log(yes / no))
        return np.log(-np.log(no / (yes + no)))

    @property
    def of_rates(self) -> bool:
        """Whether estimates are differences of logarithms of rates."""
        return self.ratio == "rate_ratio"


DISTRIBUTIONS: Final = (
    Distribution("nb", "log", NB, counts=True, exposed=True, dispersed=True, ratio="rate_ratio"),
    Distribution("poisson", "log", POISSON, counts=True, exposed=True, dispersed=False, ratio="rate_ratio"),
    Distribution("binomial", "logit", LOGIT, counts=False, exposed=False, dispersed=False, ratio="odds_ratio"),
    Distribution("binomial", "cloglog", CLOGLOG, counts=False, exposed=True, dispersed=False, ratio="rate_ratio"),
)
FAMILIES: Final = tuple(dict.fromkeys(d.name for d in DISTRIBUTIONS))
LINKS: Final = tuple(dict.fromkeys(d.link for d in DISTRIBUTIONS))
RATIO_OF_LINK: Final = {d.link: d.ratio for d in DISTRIBUTIONS}
"""What exp of an estimate is, by the link of its model."""


def distribution(family: str, link: str | None = None) -> Distribution:
    """The family of this name and link (None for the usual one).

    Raises
    ------
    DataError
        There is none; those that there are are named.
    """
    own = [d for d in DISTRIBUTIONS if d.name == family]
    if not own:
        raise DataError(f"family={family!r} is not known; use one of {', '.join(map(repr, FAMILIES))}.")
    found = next((d for d in own if link in (None, d.link)), None)
    if found is None:
        links = " or ".join(repr(d.link) for d in own)
        raise DataError(f"link={link!r} is not a link of family={family!r}; it has {links}.")
    return found
