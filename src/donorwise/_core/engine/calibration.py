"""One group's tests under permuted labels, refitted from its collapsed statistics."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from donorwise._core.design.exchange import estimable, find_exchange, relabel
from donorwise._core.design.permutations import arrange
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.tasks import ddf_used, test_features, with_numbers
from donorwise._core.inference.genomic_control import genomic_lambda_of_p
from donorwise._core.inference.moderation import Learned, learn, p_values
from donorwise._core.inference.multiplicity import adjust
from donorwise._core.inference.wald import contrast_tests
from donorwise._core.jobs import in_threads
from donorwise._typing import STATUSES
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.design.exchange import Exchange
    from donorwise._core.design.permutations import Arrangements
    from donorwise._core.engine.tasks import Fit, TaskStatistics
    from donorwise._core.inference.prior import Prior
    from donorwise._core.models.law import Model
    from donorwise._typing import FloatArray, IntArray, StrArray

    S = TypeVar("S", bound=TaskStatistics)

ALPHAS = (0.05, 0.01, 0.001, 1e-4)
BINS = np.linspace(0, 1, 21)
FDR = 0.05
_RANKS = 200
_TIE = 1e-9  # relative difference below which two |t| of equivalent fits are the same


@dataclass(frozen=True, slots=True)
class Relabelling:
    """What is permuted: a contrast L (1, p), the labels that move, and their arrangements."""

    L: FloatArray
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

    plan: Relabelling
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
    L: FloatArray,
    *,
    donor: str = "",
    donors: IntArray | None = None,
    permute: str | None = None,
    strata: Sequence[str] = (),
    n_permutations: int = 100,
    seed: tuple[int, ...] = (0,),
) -> Relabelling:
    """Decide what to permute and draw the arrangements, before any response is read."""
    exchange = find_exchange(design, obs, L[0], donor=donor, donors=donors, permute=permute, strata=strata)
    rng = np.random.default_rng(seed)

    def usable(labels: IntArray) -> bool:
        return estimable(relabel(design, exchange, labels))

    return Relabelling(L, exchange, arrange(exchange, n_permutations, rng, usable))


def calibrate_statistics(
    statistics: S,
    fit: Callable[[S], Fit[Any]],
    plan: Relabelling,
    *,
    ddf: str,
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
) -> Calibration:
    """Test under every arrangement of the labels; `update` is told how many refits are done.

    `fit` fits the models of statistics, in one thread; there are `n_jobs` of them.
    """
    # The limit on BLAS threads is the process's own, so it is set once around all workers.
    with one_blas_thread():
        made = fit(statistics)
        used, reason = ddf_used(made, ddf)
        learned = made.learned if used == "moderated" else None
        observed = _tests(made, plan.L, used, learned)

        def test(labelled: S) -> Tests:
            return refit(labelled, fit, plan.L, ddf=used, start=None if learned is None else learned.prior)

        shapes = [shape_of(observed.p_value)]
        enough = observed.evidence * (1 - _TIE)
        n_as_large, n_compared = (np.zeros(enough.size, dtype=np.int64) for _ in range(2))
        # Formulas are evaluated as jobs are handed out, one at a time: that is not safe in threads.
        for tests in in_threads(test, (permuted(statistics, plan, own) for own in plan.arrangements.labels), n_jobs):
            shapes.append(shape_of(tests.p_value))
            n_as_large += tests.evidence >= enough
            n_compared += np.isfinite(tests.p_value)
            update(1)
    return Calibration(plan, used, reason, observed, n_as_large, n_compared, tuple(shapes))


def permuted(statistics: S, plan: Relabelling, labels: IntArray) -> S:
    """The same cells where the units have other labels (U,)."""
    return statistics.relabelled(relabel(statistics.design, plan.exchange, labels))


def refit(statistics: S, fit: Callable[[S], Fit[Any]], L: FloatArray, *, ddf: str, start: Prior | None = None) -> Tests:
    """Fit all features and test the contrast L (1, p); EM starts from the prior `start`."""
    made = fit(statistics)
    moderated = ddf == "moderated" and not ddf_used(made, ddf)[1]
    return _tests(made, L, ddf, learn(made.models, start) if moderated else None)


def _tests(fit: Fit[Any], L: FloatArray, ddf: str, learned: Learned | None) -> Tests:
    if learned is not None:
        return _moderated(fit, L, learned)
    tested = test_features(fit, L, ddf, 0.95)
    estimate, t, p = (tested.numbers[name][0] for name in ("estimate", "statistic", "p_value"))
    return Tests(estimate, np.where(np.isfinite(p), np.abs(t), -np.inf), p, tested.status[0])


def _moderated(fit: Fit[Any], L: FloatArray, learned: Learned) -> Tests:
    estimate, p = (np.full(len(fit.variables), np.nan) for _ in range(2))
    status = fit.status.copy()
    for model in fit.models:
        estimate[model.features], p[model.features] = _p_values(model, L, learned)
        status[model.features] = with_numbers(model.status(L)[:, 0], p[model.features])
    with np.errstate(divide="ignore"):
        return Tests(estimate, np.where(np.isfinite(p), -np.log(p), -np.inf), p, status)


def _p_values(model: Model, L: FloatArray, learned: Learned) -> tuple[FloatArray, FloatArray]:
    """Estimates and p-values (G,), not moderated where the model cannot be."""
    if (estimated := model.estimated) is None or not model.unmoderated:
        return p_values(model, L, learned)
    tests = contrast_tests(estimated, L, model.fallback)
    return tests.estimate[:, 0], tests.p_value[:, 0]


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
        inflation=genomic_lambda_of_p(p),
        share_below=np.searchsorted(p, ALPHAS) / p.size if p.size else np.full(len(ALPHAS), np.nan),
        curve=curve,
        counts=np.histogram(p, BINS)[0],
    )


SMALLEST_P = 1e-300
_BAND = (5, 50, 95)


def calibration_tables(
    by_group: Mapping[str, Calibration | None], variables: tuple[str, ...], contrast: str
) -> dict[str, pd.DataFrame]:
    """The tables of all groups; a group without a calibration has rows in ``variables`` only."""
    made = {name: own for name, own in by_group.items() if own is not None}
    if not any(shape.n_tested for own in made.values() for shape in own.shapes):
        raise DataError(
            f"Nothing can be calibrated: {contrast} is tested for none of {len(variables):,} features, in no group. Are "
            "they constant (all zero)?"
        )
    tables = {
        "groups": pd.DataFrame([{"group": name, "contrast": contrast} | _facts(own) for name, own in made.items()]),
        "levels": _stacked({name: _levels(own) for name, own in made.items()}),
        "permutations": _stacked({name: _permutations(own) for name, own in made.items()}),
        "curves": _stacked({name: _curves(own, len(variables)) for name, own in made.items()}),
        "histogram": _stacked({name: _histogram(own) for name, own in made.items()}),
        "variables": _stacked({name: _variables(own, variables) for name, own in by_group.items()}, at=1),
    }
    for table in tables.values():
        table["group"] = pd.Categorical(table["group"], categories=list(by_group))
    return tables


def _stacked(tables: Mapping[str, pd.DataFrame], at: int = 0) -> pd.DataFrame:
    for name, table in tables.items():
        table.insert(at, "group", name)
    return pd.concat(list(tables.values()), ignore_index=True)


def _facts(own: Calibration) -> dict[str, object]:
    inflation = np.array([shape.inflation for shape in own.shapes])
    low, middle, high = _band(inflation[1:, None])
    n_distinct = own.plan.arrangements.n_distinct
    return {
        "permuted": own.plan.exchange.variable,
        "ddf": own.ddf,
        "kind": own.plan.exchange.kind,
        "n_units": own.plan.exchange.labels.size,
        "n_blocks": int(own.plan.exchange.block.max()) + 1,
        "n_distinct": float(n_distinct) if n_distinct < sys.float_info.max else np.inf,
        "n_permutations": len(own.plan.arrangements.labels),
        "n_unusable": own.plan.arrangements.n_unusable,
        "exhaustive": own.plan.arrangements.exhaustive,
        "smallest_p": 1 / n_distinct,
        "lambda_observed": inflation[0],
        "lambda_median": middle[0],
        "lambda_low": low[0],
        "lambda_high": high[0],
    }


def _levels(own: Calibration) -> pd.DataFrame:
    ratio = np.array([shape.share_below for shape in own.shapes]) / ALPHAS
    permuted = ratio[1:][np.isfinite(ratio[1:, 0])]
    if not len(permuted):  # nothing was tested
        permuted = np.full((1, len(ALPHAS)), np.nan)
    return pd.DataFrame(
        {
            "alpha": ALPHAS,
            "ratio": permuted.mean(axis=0),
            "ratio_sd": permuted.std(axis=0, ddof=1) if len(permuted) > 1 else np.nan,
            "ratio_min": permuted.min(axis=0),
            "ratio_max": permuted.max(axis=0),
            "ratio_observed": ratio[0],
        }
    )


def _permutations(own: Calibration) -> pd.DataFrame:
    n = np.arange(len(own.shapes))
    table = pd.DataFrame({"permutation": n, "observed": n == 0})
    table["n_tested"] = [shape.n_tested for shape in own.shapes]
    table["hits"] = [shape.hits for shape in own.shapes]
    table["lambda"] = [shape.inflation for shape in own.shapes]
    for i, alpha in enumerate(ALPHAS):
        table[f"below_{alpha:g}"] = [shape.share_below[i] for shape in own.shapes]
    return table


def _curves(own: Calibration, n_variables: int) -> pd.DataFrame:
    curves = -np.log10(np.maximum([shape.curve for shape in own.shapes], SMALLEST_P))
    low, middle, high = _band(curves[1:])
    expected = -np.log10((ranks(n_variables) - 0.5) / n_variables)
    return pd.DataFrame({"expected": expected, "observed": curves[0], "median": middle, "low": low, "high": high})


def _histogram(own: Calibration) -> pd.DataFrame:
    counts = np.array([shape.counts for shape in own.shapes], dtype=np.float64)
    low, middle, high = _band(counts[1:])
    return pd.DataFrame(
        {"left": BINS[:-1], "right": BINS[1:], "observed": counts[0], "median": middle, "low": low, "high": high}
    )


def _band(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Percentiles 5, 50 and 95 over the permutations (rows)."""
    kept = values[np.isfinite(values).all(axis=1)]  # a permutation without tests has none at all
    low, middle, high = np.percentile(kept, _BAND, axis=0) if len(kept) else np.full((3, values.shape[1]), np.nan)
    return low, middle, high


def _variables(own: Calibration | None, variables: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame({"variable": pd.Categorical(variables, categories=list(dict.fromkeys(variables)))})
    none = np.full(len(variables), np.nan)
    table["estimate"] = none if own is None else own.observed.estimate
    table["p_value"] = none if own is None else own.observed.p_value
    table["permutation_p"] = none if own is None else own.permutation_p
    table["n_compared"] = 0 if own is None else own.n_compared
    status = np.full(len(variables), "not_estimable") if own is None else own.observed.status
    table["status"] = pd.Categorical(status, categories=list(STATUSES))
    return table
