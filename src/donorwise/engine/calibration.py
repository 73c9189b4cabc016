"""One group's tests under permuted labels, refitted from its collapsed statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from joblib import Parallel, delayed
from scipy import stats

from donorwise.design.exchange import estimable, find_exchange, relabel
from donorwise.design.permutations import arrange
from donorwise.engine.run import blas, fit_statistics
from donorwise.engine.statistics import Statistics
from donorwise.inference.moderation import learn_prior, moderated_p_values
from donorwise.inference.multiplicity import adjust
from donorwise.inference.tables import contrast_table, ddf_used
from donorwise.inference.wald import contrast_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from donorwise._typing import FloatArray, IntArray, StrArray
    from donorwise.design.exchange import Exchange
    from donorwise.design.permutations import Arrangements
    from donorwise.design.structure import Design
    from donorwise.inference.prior import Prior
    from donorwise.lmm.result import LMMFit

ALPHAS = (0.05, 0.01, 0.001, 1e-4)
BINS = np.linspace(0, 1, 21)
FDR = 0.05
_RANKS = 200
_TIE = 1e-9  # relative difference below which two |t| of equivalent fits are the same


@dataclass(frozen=True, slots=True)
class Plan:
    """What is permuted: a contrast's weights (p,), the labels that move, and their arrangements."""

    weights: FloatArray
    exchange: Exchange
    arrangements: Arrangements


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests of G features under one labelling, every array (G,).

    `evidence` grows with ``|t|``: that itself, or -log p of the moderated test; -inf where nothing was tested.
    """

    estimate: FloatArray
    evidence: FloatArray
    p_value: FloatArray
    status: StrArray


@dataclass(frozen=True, slots=True)
class Shape:
    """How the p-values of one labelling are distributed.

    Attributes
    ----------
    n_tested, hits
        Features with a p-value; those with an adjusted one below .05.
    inflation
        Genomic lambda: the median of the chi-squared (1 df) values of the p-values over its expectation
        (Devlin and Roeder 1999).
    share_below
        Share of the p-values below each of `ALPHAS`.
    curve
        p-values at the ranks of :func:`ranks`.
    counts
        Number of p-values in each of the `BINS`.
    """

    n_tested: int
    hits: int
    inflation: float
    share_below: FloatArray
    curve: FloatArray
    counts: IntArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """Tests of one group under its own and under permuted labels.

    Attributes
    ----------
    plan
        What was permuted, and how.
    ddf, reason
        The degrees of freedom that were calibrated, and why they are not those asked for.
    observed
        The tests with the observed labels.
    n_as_large, n_compared
        Shape (G,). Permutations with evidence at least the observed; permutations with a test.
    shapes
        The observed labelling's, then one per permutation.
    """

    plan: Plan
    ddf: str
    reason: str
    observed: Tests
    n_as_large: IntArray
    n_compared: IntArray
    shapes: tuple[Shape, ...]

    @property
    def permutation_p(self) -> FloatArray:
        """Share of the labellings, the observed one among them, with evidence at least the observed, (G,)."""
        p = (1 + self.n_as_large) / (1 + self.n_compared)
        return np.where(np.isfinite(self.observed.p_value) & (self.n_compared > 0), p, np.nan)


def make_plan(
    design: Design,
    obs: pd.DataFrame,
    weights: FloatArray,
    *,
    donor: str = "",
    permute: str | None = None,
    strata: Sequence[str] = (),
    n_permutations: int = 100,
    seed: tuple[int, ...] = (0,),
) -> Plan:
    """Decide what to permute and draw the arrangements, before any response is read."""
    exchange = find_exchange(design, obs, weights, donor=donor, permute=permute, strata=strata)
    rng = np.random.default_rng(seed)

    def usable(labels: IntArray) -> bool:
        return estimable(relabel(design, exchange, labels))

    return Plan(weights, exchange, arrange(exchange, n_permutations, rng, usable))


def calibrate_statistics(
    statistics: Statistics,
    variables: tuple[str, ...],
    plan: Plan,
    *,
    ddf: str,
    donor: str = "",
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
) -> Calibration:
    """Test under every arrangement of the labels; `update` is told how many refits are done."""

    def test(labelled: Statistics) -> Tests:
        return refit(labelled, variables, plan.weights, ddf=used, donor=donor, start=prior)

    # The limit on BLAS threads is the process's own, so it is set once around all workers.
    with blas().limit(limits=1):
        fit = fit_statistics(statistics, variables, donor=donor)
        used, reason = ddf_used(fit, ddf)
        prior = fit.prior if used == "moderated" else None
        observed = _tests(fit, plan.weights, used, prior)
        shapes = [shape_of(observed.p_value)]
        enough = observed.evidence * (1 - _TIE)
        n_as_large, n_compared = (np.zeros(len(variables), dtype=np.int64) for _ in range(2))
        parallel = Parallel(n_jobs, prefer="threads", return_as="generator")
        # Formulas are evaluated as jobs are handed out, one at a time: that is not safe in threads.
        jobs = (delayed(test)(permuted(statistics, plan, labels)) for labels in plan.arrangements.labels)
        for tests in parallel(jobs):
            shapes.append(shape_of(tests.p_value))
            n_as_large += tests.evidence >= enough
            n_compared += np.isfinite(tests.p_value)
            update(1)
    return Calibration(plan, used, reason, observed, n_as_large, n_compared, tuple(shapes))


def permuted(statistics: Statistics, plan: Plan, labels: IntArray) -> Statistics:
    """The same cells where the units have other labels (U,)."""
    return Statistics(relabel(statistics.design, plan.exchange, labels), statistics.passes)


def refit(
    statistics: Statistics,
    variables: tuple[str, ...],
    weights: FloatArray,
    *,
    ddf: str,
    donor: str = "",
    start: Prior | None = None,
) -> Tests:
    """Fit all features and test the contrast `weights` (p,); EM starts from the prior `start`."""
    fit = fit_statistics(statistics, variables, donor=donor)
    moderated = ddf == "moderated" and not ddf_used(fit, ddf)[1]
    return _tests(fit, weights, ddf, learn_prior(fit.parts, start) if moderated else None)


def _tests(fit: LMMFit, weights: FloatArray, ddf: str, prior: Prior | None) -> Tests:
    if prior is not None:
        return _moderated(fit, weights, prior)
    table = contrast_table(fit, ("",), weights[None], ddf, 0.95)
    estimate, t, p = (table[name].to_numpy(dtype=np.float64) for name in ("estimate", "statistic", "p_value"))
    return Tests(estimate, np.where(np.isfinite(p), np.abs(t), -np.inf), p, table["status"].astype(str).to_numpy())


def _moderated(fit: LMMFit, weights: FloatArray, prior: Prior) -> Tests:
    estimate, p = moderated_p_values(fit.parts, weights, prior)
    status = fit.status.copy()
    for part in fit.parts:
        if part.model is not None and part.block is not None:
            status[part.features] = contrast_status(part.model, part.block, weights[None])[:, 0]
    with np.errstate(divide="ignore"):
        return Tests(estimate, np.where(np.isfinite(p), -np.log(p), -np.inf), p, status)


def ranks(n: int) -> IntArray:
    """Ranks out of `n` at which a curve of sorted p-values is kept: all of the smallest, fewer further on."""
    return np.unique(np.round(np.geomspace(1, max(n, 1), _RANKS)).astype(np.int64))


def shape_of(p_values: FloatArray) -> Shape:
    """Summarise the p-values (G,) of one labelling; NaN where a feature was not tested."""
    p = np.sort(p_values[np.isfinite(p_values)])
    at = ranks(p_values.size)
    curve = np.full(at.size, np.nan)
    if p.size:
        curve = p[np.ceil(at * (p.size / p_values.size)).astype(np.int64) - 1]
    return Shape(
        n_tested=p.size,
        hits=int((adjust(p) < FDR).sum()),
        inflation=float(stats.chi2.isf(np.median(p), 1) / stats.chi2.median(1)) if p.size else np.nan,
        share_below=np.searchsorted(p, ALPHAS) / p.size if p.size else np.full(len(ALPHAS), np.nan),
        curve=curve,
        counts=np.histogram(p, BINS)[0],
    )
