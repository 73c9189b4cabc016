"""t tests of contrasts and F tests of several rows at the estimates of a Gaussian model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.special import stdtr

from donorwise._core.inference import kenward_roger, satterthwaite
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from donorwise._core.models.law import Estimated, Model
    from donorwise._typing import FloatArray, IntArray, StrArray

# Doubles that one chunk of features may use for the derivative pieces (64 MB).
_CHUNK = 8_000_000


@dataclass(frozen=True, slots=True)
class ContrastTests:
    """Tests of n contrasts for G features, every array (G, n); `status` as in the results."""

    estimate: FloatArray
    se: FloatArray
    df: FloatArray
    statistic: FloatArray
    p_value: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    status: StrArray


@dataclass(frozen=True, slots=True)
class JointTests:
    """F tests of G features, every array (G,)."""

    statistic: FloatArray
    den_df: FloatArray
    scaling: FloatArray
    p_value: FloatArray
    status: StrArray


def contrast_tests(
    model: Estimated, L: FloatArray, ddf: str, level: float = 0.95, *, min_effect: float = 0.0, chunk: int = _CHUNK
) -> ContrastTests:
    """Test contrasts L (n, p), given in the basis of the formula, `chunk` doubles of pieces at a time.

    The null hypothesis is that they are at most `min_effect` in size; see :func:`treat`. Kenward-Roger is defined at the REML estimates: a maximum-likelihood fit is refitted.
    """
    model = _at_reml(model, ddf)
    se, df = (np.full((model.features.size, len(L)), np.nan) for _ in range(2))
    known = np.flatnonzero(model.informed(L))
    for at in _chunks(model, model.usable, chunk) if known.size else []:
        se[np.ix_(at, known)], df[np.ix_(at, known)] = _se_and_df(model.take(at), L[known], ddf)
    estimate = np.where(model.informed(L), model.beta @ L.T, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / se
        p_value = 2 * stats.t.sf(np.abs(statistic), df)
        if min_effect:
            statistic, p_value = treat(estimate, se, df, min_effect)
        half = stats.t.ppf(0.5 + level / 2, df) * se
    low, high = estimate - half, estimate + half
    return without_too_few(ContrastTests(estimate, se, df, statistic, p_value, low, high, model.status(L)))


def treat(
    estimate: FloatArray, se: FloatArray, df: FloatArray | float, min_effect: float
) -> tuple[FloatArray, FloatArray]:
    """Statistics and p-values of the null hypothesis that effects are at most `min_effect` in size.

    With b the size of the estimate and d the effect, the statistic is the excess max(b - d, 0) / se with the sign of the
    estimate, and p = P(T > (b - d) / se) + P(T > (b + d) / se), which is largest at the ends of the hypothesis (McCarthy
    and Smyth 2009, Bioinformatics 25:765-771).
    """
    size = np.abs(estimate)
    p_value = stdtr(df, (min_effect - size) / se) + stdtr(df, (-min_effect - size) / se)
    return excess(estimate, se, min_effect), p_value


def excess(estimate: FloatArray, se: FloatArray, min_effect: float) -> FloatArray:
    """How far estimates are beyond `min_effect`, in standard errors; zero where they are not."""
    return np.asarray(np.sign(estimate) * np.maximum(np.abs(estimate) - min_effect, 0) / se)


def joint_tests(model: Estimated, L: FloatArray, ddf: str, *, chunk: int = _CHUNK) -> JointTests:
    """F test that all contrasts L (n, p) are zero, given in the basis of the formula."""
    model = _at_reml(model, ddf)
    statistic, den_df, scaling = (np.full(model.features.size, np.nan) for _ in range(3))
    status = joint_status(model, L)
    for at in _chunks(model, model.usable[np.isin(status[model.usable], FITTED)], chunk):
        statistic[at], den_df[at], scaling[at] = _joint(model.take(at), L, ddf)
    return JointTests(statistic, den_df, scaling, stats.f.sf(statistic, len(L), den_df), status)


def joint_status(model: Model, L: FloatArray) -> StrArray:
    """Status of every feature's test that all contrasts (n, p) are zero, (G,)."""
    each, own = model.status(L), model.estimated
    status = each[:, 0]
    if own is not None and not _independent(own.turned(L)):
        status = np.where(np.isin(status, FITTED), "constant", status)
    for reason in ("separated", "too_few_donors", "not_estimable"):
        status = np.where((each == reason).any(axis=1), reason, status)
    return status.astype(STATUS_DTYPE)


def _independent(L: FloatArray) -> bool:
    """Whether contrasts all say something of their own: not so of what has no variance in some features."""
    norms = np.sqrt((L**2).sum(axis=1, keepdims=True))
    return bool(np.linalg.matrix_rank(L / np.where(norms > 0, norms, 1)) == len(L))


def _at_reml(model: Estimated, ddf: str) -> Estimated:
    return model.fitted_by(reml=True) if ddf == "kenward-roger" else model


def _chunks(model: Estimated, at: IntArray, chunk: int) -> list[IntArray]:
    C, p = model.n_variances, model.beta.shape[1]
    size = max(1, chunk // (3 * C * C * p * p + 1))
    return [at[i : i + size] for i in range(0, at.size, size)]


def _se_and_df(model: Estimated, L: FloatArray, ddf: str) -> tuple[FloatArray, FloatArray]:
    turned = model.turned(L)
    if ddf == "kenward-roger":
        parts = model.pieces()
        adjustment = kenward_roger.adjust(parts)
        return _se(adjustment.vcov, turned), kenward_roger.contrast_df(parts, adjustment.W, turned)
    se = _se(model.vcov, turned)
    if ddf == "satterthwaite":
        return se, satterthwaite.contrast_df(model.pieces(), turned)
    return se, np.broadcast_to(_design_df(model, L, ddf), se.shape)


def _design_df(model: Estimated, L: FloatArray, ddf: str) -> FloatArray:
    """Degrees of freedom of contrasts (n, p), (n,), or (G, n) where features have rows of their own."""
    if ddf == "residual":
        return np.repeat(np.asarray(model.residual_df, dtype=np.float64)[..., None], len(L), axis=-1)
    return np.clip(model.between_within(L), 1, None)


def _se(vcov: FloatArray, L: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):  # an adjusted variance can be negative where replicates are used up
        return np.asarray(np.sqrt(((L @ vcov) * L).sum(axis=-1)))


def _joint(model: Estimated, L: FloatArray, ddf: str) -> tuple[FloatArray, ...]:
    turned = model.turned(L)
    if ddf == "kenward-roger":
        parts = model.pieces()
        return kenward_roger.joint_f(parts, kenward_roger.adjust(parts), model.coefficients, turned)
    values, vectors = np.linalg.eigh(turned @ model.vcov @ turned.T)
    orthogonal = np.swapaxes(vectors, 1, 2) @ turned
    squared_t = np.einsum("gnp,gp->gn", orthogonal, model.coefficients) ** 2 / values
    scaling = np.ones(model.features.size)
    if ddf != "satterthwaite":
        return squared_t.mean(axis=1), np.broadcast_to(_design_df(model, L, ddf).min(axis=-1), scaling.shape), scaling
    df = satterthwaite.contrast_df(model.pieces(), orthogonal)
    return squared_t.mean(axis=1), satterthwaite.pooled_df(df), scaling


def without_too_few(tests: ContrastTests) -> ContrastTests:
    """Blank the inference (not the estimate) where there are too few donors to judge it, and all of what has no rows."""
    none = tests.status == "not_estimable"
    few = none | (tests.status == "too_few_donors")
    names = ("se", "df", "statistic", "p_value", "ci_low", "ci_high")
    blank = {name: np.where(few, np.nan, getattr(tests, name)) for name in names}
    return replace(tests, estimate=np.where(none, np.nan, tests.estimate), **blank)
