"""Likelihood ratio tests of random terms, for all features of a fit, whatever the family of its models.

Twice what the restricted log-likelihood loses where variances (and their covariances) are zero, the fixed effects being the
same. A variance lies on its bound then: of one variance with c covariances the law is the equal mixture of chi-squared
with c and c + 1 degrees of freedom (Self and Liang 1987, J Am Stat Assoc 82:605; Stram and Lee 1994, Biometrics 50:1171), of
several that of all parameters is an upper bound. With few donors zero is more often the best than half of the time, so
that the mixture is conservative; of Gaussian models with one variance, or two of which one has a kernel, the law of a
finite number of donors is simulated (Crainiceanu and Ruppert 2004, J R Stat Soc B 66:165).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.inference.best import best_of
from donorwise._core.inference.intervals import Judge
from donorwise._core.inference.likelihood_ratio import Extra, p_value
from donorwise._core.inference.proportions import Component
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._typing import FITTED
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from donorwise._core.engine.tasks import Fit
    from donorwise._core.models.law import Estimated, Model, Part
    from donorwise._typing import FloatArray, IntArray, StrArray

_NO_DIFFERENCE = 1e-5  # accuracy of twice a difference of log-likelihoods


@dataclass(frozen=True, slots=True)
class VarianceTests:
    """Tests of a part of the random effects for G features, every array (G,).

    `df` are the parameters that it has; `variance` is the estimate where it is a single one.
    """

    statistic: FloatArray
    df: int
    p_value: FloatArray
    variance: FloatArray
    status: StrArray


def variance_tests(fit: Fit[Model], parts: Sequence[Part], n_jobs: int = 1) -> list[VarianceTests]:
    """Test parts of the random effects; what is not in a model keeps its status."""
    if not fit.models:
        return [_empty(fit, 0) for _ in parts]
    extra = [_extra(fit.models[0].parameters, part) for part in parts]
    out = [_empty(fit, sum(own)) for own in extra]
    judge = _judge(fit.models, parts)
    for model in fit.models:
        own = model.estimated
        if own is None and model.unmoderated:
            raise DesignError(f"Likelihood ratios are those of a grid: {model.unmoderated}.")
        found = _by_law(model, parts, n_jobs) if own is None else _by_estimates(own, parts)
        for i, (part, tested) in enumerate(zip(parts, out, strict=True)):
            statistic, variance = found[i]
            statistic = np.where(statistic < _NO_DIFFERENCE, 0.0, statistic)
            at = model.features
            p = p_value(statistic, extra[i]) if own is None or judge is None else judge(own, i, statistic, extra[i])
            tested.statistic[at], tested.p_value[at] = statistic, np.where(np.isfinite(statistic), p, np.nan)
            tested.variance[at] = variance if extra[i].variances == 1 else np.nan
            tells = np.ones(at.size, dtype=bool) if own is None else own.tells(part)
            tested.status[at] = np.where(tells, _status(fit.status[at], statistic), "not_estimable")
    return out


def _empty(fit: Fit[Model], df: int) -> VarianceTests:
    unknown = (np.full(len(fit.variables), np.nan) for _ in range(3))
    statistic, p, variance = unknown
    return VarianceTests(statistic, df, p, variance, fit.status.astype(STATUS_DTYPE))


def _extra(parameters: IntArray, part: Part) -> Extra:
    """Parameters of a part."""
    own = parameters[part.of(parameters)]
    variances = int((own[:, 1] == own[:, 2]).sum())
    return Extra(0, variances, len(own) - variances)


def _status(status: StrArray, statistic: FloatArray) -> StrArray:
    """Of features that were fitted: whether the variance is zero, or has not been found."""
    fitted, kept = np.isin(status, FITTED), status == "reduced"
    own = np.where(kept, status, np.where(statistic == 0, "boundary", "ok"))
    return np.where(fitted, np.where(np.isfinite(statistic), own, "not_converged"), status)


def _by_law(model: Model, parts: Sequence[Part], n_jobs: int) -> list[tuple[FloatArray, FloatArray]]:
    """Statistic and variance of each part, of a model that is known by its law."""
    parameters, scale = model.parameters, np.array(model.components()[1])
    full = best_of(model, np.zeros(len(parameters), dtype=bool), n_jobs)
    found = []
    for part in parts:
        gone = part.of(parameters)
        without = best_of(model, gone, n_jobs)
        last = int(np.flatnonzero(gone & (parameters[:, 1] == parameters[:, 2]))[-1])
        found.append((2 * (full.loglik - without.loglik), full.point[:, last] * scale[last]))
    return found


def _by_estimates(model: Estimated, parts: Sequence[Part]) -> list[tuple[FloatArray, FloatArray]]:
    """The same of a model with estimates."""
    reml = model.fitted_by(reml=True)
    found = []
    for part in parts:
        tells = reml.tells(part)
        statistic = np.where(tells, 2 * (reml.loglik - reml.loglik_without(part)), np.nan)
        found.append((statistic, np.where(tells, reml.variance(part), np.nan)))
    return found


def _judge(
    models: Sequence[Model], parts: Sequence[Part]
) -> Callable[[Estimated, int, FloatArray, Extra], FloatArray] | None:
    """What finds p-values where the law can be simulated, once for the rows of the model with most; None where it cannot."""
    own = [model.estimated for model in models]
    simulated = [model.simulated for model in own if model is not None and model.simulated is not None]
    if not simulated:
        return None
    most = max((equations for equations, _ in simulated), key=lambda equations: equations.n_obs)
    whole = [i for i, part in enumerate(parts) if part.first == 0]
    judge = Judge(most, [Component(str(i), (parts[i].term,)) for i in whole])

    def p_values(model: Estimated, i: int, statistic: FloatArray, extra: Extra) -> FloatArray:
        if model.simulated is None or i not in whole:
            return p_value(statistic, extra)
        (equations, responses), known = model.simulated, np.flatnonzero(np.isfinite(statistic))
        out = np.full(statistic.size, np.nan)
        out[known] = judge.of(equations, responses.take(known), ()).p_value[:, whole.index(i)]
        return np.where(statistic == 0, 1.0, out)

    return p_values
