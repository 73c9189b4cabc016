"""t tests of contrasts and F tests of several rows, for a block of fitted features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from donorwise._core.inference import between_within, kenward_roger, satterthwaite
from donorwise._core.inference.covariance import pieces
from donorwise._core.models.lmm.fit import STATUS_DTYPE, fit_responses

if TYPE_CHECKING:
    from donorwise._core.models.lmm.fit import Block, Model
    from donorwise._typing import FloatArray, StrArray

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
    """F tests of G features, every array (G,), save the numerator df."""

    statistic: FloatArray
    num_df: int
    den_df: FloatArray
    scaling: FloatArray
    p_value: FloatArray
    status: StrArray


def contrast_tests(
    model: Model, block: Block, L: FloatArray, ddf: str, level: float = 0.95, *, chunk: int = _CHUNK
) -> ContrastTests:
    """Test the rows of L (n, p), given in the basis of the formula, `chunk` doubles of pieces at a time.

    Kenward-Roger is defined at the REML estimates: a maximum-likelihood fit is refitted.
    """
    block = _at_reml(model, block, ddf)
    rows = orthonormal_rows(model, L)
    se, df = (np.full((block.status.size, L.shape[0]), np.nan) for _ in range(2))
    for features in _chunks(model, fitted(block), chunk):
        se[features], df[features] = _se_and_df(model, block.take(features), rows, L, ddf)
    estimate = block.beta @ L.T
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / se
        p_value = 2 * stats.t.sf(np.abs(statistic), df)
        half = stats.t.ppf(0.5 + level / 2, df) * se
    tests = ContrastTests(
        estimate, se, df, statistic, p_value, estimate - half, estimate + half, contrast_status(model, block, L)
    )
    return without_too_few(tests)


def joint_tests(model: Model, block: Block, L: FloatArray, ddf: str, *, chunk: int = _CHUNK) -> JointTests:
    """F test that all rows of L (n, p) are zero, given in the basis of the formula."""
    block = _at_reml(model, block, ddf)
    rows = orthonormal_rows(model, L)
    statistic, den_df, scaling = (np.full(block.status.size, np.nan) for _ in range(3))
    for features in _chunks(model, fitted(block), chunk):
        taken = block.take(features)
        statistic[features], den_df[features], scaling[features] = _joint(model, taken, rows, L, ddf)
    p_value = stats.f.sf(statistic, L.shape[0], den_df)
    status = contrast_status(model, block, L)
    worst = np.where((status == "too_few_donors").any(axis=1), "too_few_donors", block.status).astype(STATUS_DTYPE)
    few = worst == "too_few_donors"
    statistic, den_df, scaling, p_value = (np.where(few, np.nan, a) for a in (statistic, den_df, scaling, p_value))
    return JointTests(statistic, L.shape[0], den_df, scaling, p_value, worst)


def fitted(block: Block) -> np.ndarray:
    """Indices of the features that have estimates to test."""
    return np.flatnonzero(np.isin(block.status, ("ok", "boundary")))


def orthonormal_rows(model: Model, L: FloatArray) -> FloatArray:
    """The rows of L for the coefficients of the orthonormal basis."""
    return L @ model.fixed.inverse


def _at_reml(model: Model, block: Block, ddf: str) -> Block:
    if ddf == "kenward-roger" and not block.reml:
        return fit_responses(model, block.responses, reml=True)
    return block


def _chunks(model: Model, features: np.ndarray, chunk: int) -> list[np.ndarray]:
    C, p = model.blocks.parameter.shape[0] + 1, model.p
    size = max(1, chunk // (3 * C * C * p * p + 1))
    return [features[i : i + size] for i in range(0, features.size, size)]


def _se_and_df(model: Model, block: Block, rows: FloatArray, L: FloatArray, ddf: str) -> tuple[FloatArray, FloatArray]:
    if ddf == "kenward-roger":
        parts = pieces(model, block)
        adjustment = kenward_roger.adjust(parts)
        return _se(adjustment.vcov, rows), kenward_roger.contrast_df(parts, adjustment.W, rows)
    vcov = block.sigma2[:, None, None] * block.Phi
    if ddf == "satterthwaite":
        return _se(vcov, rows), satterthwaite.contrast_df(model, pieces(model, block), rows)
    return _se(vcov, rows), np.broadcast_to(_design_df(model, L, ddf), (block.status.size, L.shape[0]))


def _design_df(model: Model, L: FloatArray, ddf: str) -> FloatArray:
    if ddf == "residual":
        return np.full(L.shape[0], float(model.n_obs - model.p))
    return np.clip(between_within.contrast_df(model.design, model.n_obs, L), 1, None)


def _se(vcov: FloatArray, rows: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):  # an adjusted variance can be negative where replicates are used up
        return np.asarray(np.sqrt(((rows @ vcov) * rows).sum(axis=-1)))


def _joint(model: Model, block: Block, rows: FloatArray, L: FloatArray, ddf: str) -> tuple[FloatArray, ...]:
    beta = block.beta @ model.fixed.R.T
    if ddf == "kenward-roger":
        parts = pieces(model, block)
        return kenward_roger.joint_f(parts, kenward_roger.adjust(parts), beta, rows)
    vcov = block.sigma2[:, None, None] * block.Phi
    values, vectors = np.linalg.eigh(rows @ vcov @ rows.T)
    turned = np.swapaxes(vectors, 1, 2) @ rows
    squared_t = np.einsum("gnp,gp->gn", turned, beta) ** 2 / values
    scaling = np.ones(block.status.size)
    if ddf != "satterthwaite":
        return squared_t.mean(axis=1), np.full(scaling.size, _design_df(model, L, ddf).min()), scaling
    df = satterthwaite.contrast_df(model, pieces(model, block), turned)
    return squared_t.mean(axis=1), satterthwaite.pooled_df(df), scaling


def contrast_status(model: Model, block: Block, L: FloatArray) -> StrArray:
    """Status of every feature and contrast: a contrast whose replicates are used up says so."""
    few = between_within.contrast_df(model.design, model.n_obs, L) < 1
    status = np.repeat(block.status[:, None], L.shape[0], axis=1)
    return np.where(few & np.isin(status, ("ok", "boundary")), "too_few_donors", status).astype(STATUS_DTYPE)


def without_too_few(tests: ContrastTests) -> ContrastTests:
    """Blank the inference (not the estimate) where there are too few donors to judge it."""
    few = tests.status == "too_few_donors"
    names = ("se", "df", "statistic", "p_value", "ci_low", "ci_high")
    return replace(tests, **{name: np.where(few, np.nan, getattr(tests, name)) for name in names})
