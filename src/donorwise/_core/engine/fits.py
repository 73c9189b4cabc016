"""What is asked of the fitted models of one task, whatever family they are of: tests of their features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from donorwise._core.inference.moderation import Tested, moderated_tests, refusal, tests_by_law
from donorwise._core.inference.wald import contrast_tests
from donorwise._core.models.law import ByLaw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.models.law import Model
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FloatArray, IntArray, StrArray

NUMBERS = ("estimate", "se", "ci_low", "ci_high", "statistic", "df", "p_value")


class Fit(Protocol):
    """Fitted models of G features in one task."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the features."""

    @property
    def models(self) -> Sequence[Model]:
        """Models of the features that have one, by the rows that they have."""

    @property
    def design(self) -> Design:
        """The design that all share."""

    @property
    def status(self) -> StrArray:
        """Status of every feature, (G,)."""

    @property
    def learned(self) -> Learned:
        """The prior that the features share."""


@dataclass(frozen=True, slots=True)
class FeatureTests:
    """Tests of n contrasts for G features: `numbers` and `status` (n, G), `variances` (G, components).

    The variances are posterior means; they are known where the tests made use of them.
    """

    numbers: dict[str, FloatArray]
    status: StrArray
    variances: FloatArray


def ddf_used(fit: Fit, ddf: str) -> tuple[str, str]:
    """The degrees of freedom that a fit's tests use where `ddf` is asked for, and why they are others."""
    reason = refusal(fit.models) if ddf == "moderated" else ""
    return (fit.models[0].fallback if fit.models else "kenward-roger", reason) if reason else (ddf, "")


def test_features(
    fit: Fit, L: FloatArray, ddf: str, level: float, n_jobs: int = 1, features: IntArray | None = None
) -> FeatureTests:
    """Test contrasts L (n, p); what is not in a model keeps its status.

    Parameters
    ----------
    fit
        The models.
    L
        Contrasts in the basis of the formula.
    ddf
        As :func:`ddf_used` gives it.
    level
        Coverage of the intervals.
    n_jobs
        Threads.
    features
        Which features to test (their prior is that of all); None for all. Those left out are NaN.
    """
    shape = (len(L), len(fit.variables))
    numbers = {key: np.full(shape, np.nan) for key in NUMBERS}
    status = np.repeat(fit.status[None], len(L), axis=0)
    variances = np.full((shape[1], len(fit.models[0].components()[0]) if fit.models else 0), np.nan)
    for whole in fit.models:
        model = whole if features is None else whole.take(np.flatnonzero(np.isin(whole.features, features)))
        tested = _test(fit, model, L, ddf, level, n_jobs)
        for key, values in numbers.items():
            values[:, model.features] = getattr(tested.tests, key).T
        status[:, model.features] = tested.tests.status.T
        variances[model.features] = tested.variances
    return FeatureTests(numbers, status, variances)


def _test(fit: Fit, model: Model, L: FloatArray, ddf: str, level: float, n_jobs: int) -> Tested:
    if ddf == "moderated":
        return moderated_tests(model, L, fit.learned, level, n_jobs)
    if isinstance(model, ByLaw):
        return tests_by_law(model, L, level, n_jobs)
    unknown = np.full((model.features.size, len(model.components()[0])), np.nan)
    return Tested(contrast_tests(cast("LMM", model), L, ddf, level), unknown)
