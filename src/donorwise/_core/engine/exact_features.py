"""Exact fits of the features of an array, together: their tests, and what tables ask of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from scipy import stats

from donorwise._core.design.replicates import known_df
from donorwise._core.engine.tasks import FeatureTests
from donorwise._core.inference.wald import JointTests
from donorwise._core.models.law import STATUS_DTYPE

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._core.models.glmm.exact import ExactFit
    from donorwise._core.models.glmm.families import Distribution
    from donorwise._core.models.glmm.marginal import Observations
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

ExactDdf: TypeAlias = Literal["between-within", "wald"]
EXACT_DDF: tuple[str, ...] = get_args(ExactDdf)
_KNOWN = 1e-8  # of a contrast, outside of what a separated feature knows


@dataclass(frozen=True, slots=True)
class FeatureData:
    """The rows of a feature, and the patterns of the design that they have."""

    observations: Observations
    patterns: IntArray

    @property
    def fingerprint(self) -> tuple[float, ...]:
        """Numbers that agree where responses, trials and offsets do, whatever the order of the rows."""
        obs = self.observations
        return tuple(
            float(v) for v in (obs.y.sum(), obs.y @ obs.y, obs.trials.sum(), obs.offset.sum(), obs.y @ obs.offset)
        )


@dataclass(frozen=True, slots=True)
class ExactFeatures:
    """All features of a fit.

    Attributes
    ----------
    design, distribution
        Of all.
    data, fits
        By feature.
    """

    design: Design
    distribution: Distribution
    data: tuple[FeatureData, ...]
    fits: tuple[ExactFit, ...]

    @property
    def features(self) -> IntArray:
        """Positions of the features, (G,)."""
        return np.arange(len(self.fits))

    @property
    def _status(self) -> StrArray:
        return np.array([f.status for f in self.fits], dtype=STATUS_DTYPE)

    @property
    def _vcov(self) -> FloatArray:
        return np.array([f.vcov for f in self.fits])

    def random_effects(self, term: int) -> tuple[FloatArray, FloatArray]:
        """Conditional modes (G, levels, r) of a term, and covariances (G, levels, r, r)."""
        modes, covariances = zip(*((f.modes[term], f.conditional[term]) for f in self.fits), strict=True)
        return np.stack(modes), np.stack(covariances)

    def tests(self, L: FloatArray, ddf: ExactDdf, level: float) -> FeatureTests:
        """Tests of contrasts L (n, p)."""
        known, df = self._known(L), self._df(L, ddf)
        finite = np.array([f.finite for f in self.fits])
        estimate = np.where(known, finite @ L.T, self._at_infinity(L))
        se = np.sqrt(np.einsum("np,gpq,nq->gn", L, np.nan_to_num(self._vcov), L))
        few = known & (df < 1)
        se = np.where(known & ~few, se, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = estimate / se
            half = stats.t.ppf(0.5 + level / 2, df) * se
            p = 2 * stats.t.sf(np.abs(statistic), df)
        df = np.where(np.isnan(se), np.nan, df)
        numbers = {
            "estimate": estimate, "se": se, "ci_low": estimate - half, "ci_high": estimate + half,
            "statistic": statistic, "df": df, "p_value": p,
        }  # fmt: skip
        status = np.where(few, "too_few_donors", self._status[:, None]).astype(STATUS_DTYPE)
        return FeatureTests(
            {k: v.T for k, v in numbers.items()}, status.T, np.empty((len(finite), 0)), np.full(status.T.shape, np.nan)
        )

    def _known(self, L: FloatArray) -> BoolArray:
        """Which contrasts (n, p) a feature has a finite estimate of, (G, n)."""
        out = np.zeros((len(self.fits), len(L)), dtype=bool)
        for g, fit in enumerate(self.fits):
            rest = L - L @ fit.known @ fit.known.T
            out[g] = np.isfinite(fit.finite).all() & (np.abs(rest).max(axis=1) <= _KNOWN * np.abs(L).max(axis=1))
        return out

    def _at_infinity(self, L: FloatArray) -> FloatArray:
        """Contrasts of coefficients of which some are infinite, (G, n)."""
        with np.errstate(invalid="ignore"):
            weighted = np.where(L != 0, L * np.array([f.beta for f in self.fits])[:, None], 0.0).sum(axis=2)
        return np.where(np.isinf(weighted), weighted, np.nan)

    def _df(self, L: FloatArray, ddf: ExactDdf) -> FloatArray:
        """Degrees of freedom, (G, n)."""
        if ddf == "wald":
            return np.full((len(self.fits), len(L)), np.inf)
        found: dict[tuple[int, bytes], FloatArray] = {}
        out = np.empty((len(self.fits), len(L)))
        for g, own in enumerate(self.data):
            n_obs = own.observations.y.size
            key = (n_obs, own.patterns.tobytes())
            if key not in found:
                found[key] = known_df(self.design.take(own.patterns), n_obs, L)
            out[g] = found[key]
        return out

    def joint_tests(self, L: FloatArray, ddf: ExactDdf) -> JointTests:
        """Tests that all contrasts L (n, p) are zero."""
        known: BoolArray = self._known(L).min(axis=1)
        den_df = self._df(L, ddf).min(axis=1)
        few = known & (den_df < 1)
        statistic, status = np.full(len(known), np.nan), np.where(few, "too_few_donors", self._status)
        for g in np.flatnonzero(known & ~few):
            estimate = L @ self.fits[g].finite
            statistic[g] = estimate @ np.linalg.solve(L @ self.fits[g].vcov @ L.T, estimate) / len(L)
        den_df = np.where(np.isnan(statistic), np.nan, den_df)
        p = np.where(np.isinf(den_df), stats.chi2.sf(statistic * len(L), len(L)), stats.f.sf(statistic, len(L), den_df))
        return JointTests(statistic, den_df, np.where(np.isnan(statistic), np.nan, 1.0), p, status.astype(STATUS_DTYPE))
