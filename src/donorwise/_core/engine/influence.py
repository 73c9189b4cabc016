"""What the tests say without each donor in turn, from statistics that were collapsed once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from donorwise._core.design.independence import split_columns
from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.tasks import ddf_used, test_features
from donorwise._core.jobs import in_threads
from donorwise._core.models.law import STATUS_DTYPE
from donorwise._typing import STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from donorwise._core.engine.analysis import Replicates
    from donorwise._core.engine.results import Contrasts
    from donorwise._core.engine.tasks import Fit, TaskStatistics
    from donorwise._typing import BoolArray, FloatArray, IntArray

    S = TypeVar("S", bound=TaskStatistics)

LEVEL = 0.95
NUMBERS = ("estimate", "se", "ci_low", "ci_high", "p_value")
_NOT_IN_SPAN = 1e-7  # relative part of a contrast that the remaining rows cannot express


def leave_one_out(
    statistics: S,
    fit: Callable[[S], Fit[Any]],
    contrasts: Contrasts,
    donors: Replicates,
    *,
    ddf: str,
    wanted: IntArray,
    min_effect: float = 0.0,
    n_jobs: int = 1,
    update: Callable[[int], object] = lambda n: None,
) -> pd.DataFrame:
    """Test the contrasts without each donor in turn.

    The columns of the design are those that all donors gave: a spline keeps its knots and a scaled
    covariate its scale, so that a contrast means the same without any of them.

    Parameters
    ----------
    statistics
        Of all donors; reduced, never recomputed.
    fit
        Fits the models of statistics, in one thread.
    contrasts
        The n contrasts.
    donors
        Replicates of the patterns.
    ddf, wanted, min_effect
        As for :func:`retest`.
    n_jobs
        Replicates are left out in so many threads.
    update
        Told 1 after each donor.

    Returns
    -------
    Replicates x contrasts x features: ``donor, contrast, variable``, the numbers and the status.
    """

    def without(code: int) -> pd.DataFrame:
        kept = np.flatnonzero(donors.codes != code)
        if not kept.size:
            return _table(fit(statistics).variables, contrasts, wanted, *_nothing(contrasts, wanted))
        return retest(statistics.take_patterns(kept), fit, contrasts, ddf=ddf, wanted=wanted, min_effect=min_effect)

    tables = []
    with one_blas_thread():
        for code, table in enumerate(in_threads(without, range(len(donors.names)), n_jobs)):
            codes = np.full(len(table), code)
            table.insert(0, "donor", pd.Categorical.from_codes(codes, categories=list(donors.names)))
            tables.append(table)
            update(1)
    return pd.concat(tables, ignore_index=True)


def retest(
    statistics: S, fit: Callable[[S], Fit[Any]], contrasts: Contrasts, *, ddf: str, wanted: IntArray,
    min_effect: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """Fit all features and test some, `wanted` (positions); what cannot be answered is ``not_estimable``.

    A moderated test learns its prior from all the features, and is worked out for those that are wanted.
    """
    reduced, L, estimable = _estimable(statistics, contrasts.L)
    numbers, status = _nothing(contrasts, wanted)
    with one_blas_thread():
        made = fit(reduced)
        if estimable.any():
            tested = test_features(
                made, L[estimable], ddf_used(made, ddf)[0], LEVEL, features=wanted, min_effect=min_effect
            )
            status[estimable] = tested.status[:, wanted]
            for name, values in numbers.items():
                values[estimable] = tested.numbers[name][:, wanted]
    return _table(made.variables, contrasts, wanted, numbers, status)


def _nothing(contrasts: Contrasts, wanted: IntArray) -> tuple[dict[str, FloatArray], np.ndarray]:
    """Numbers and statuses (n, features) of tests that have no answer."""
    shape = (len(contrasts.names), wanted.size)
    return {name: np.full(shape, np.nan) for name in NUMBERS}, np.full(shape, "not_estimable", dtype=STATUS_DTYPE)


def _table(
    variables: tuple[str, ...],
    contrasts: Contrasts,
    wanted: IntArray,
    numbers: dict[str, FloatArray],
    status: np.ndarray,
) -> pd.DataFrame:
    n, names = len(contrasts.names), [variables[i] for i in wanted]
    codes = np.repeat(np.arange(n), wanted.size)
    table = pd.DataFrame({"contrast": pd.Categorical.from_codes(codes, categories=list(contrasts.names))})
    table["variable"] = pd.Categorical(names * n, categories=names)
    for name, values in numbers.items():
        table[name] = values.ravel()
    return table.assign(status=pd.Categorical(status.ravel(), categories=list(STATUSES)))


def _estimable(statistics: S, L: FloatArray) -> tuple[S, FloatArray, BoolArray]:
    """Drop columns of X that the others give, rewrite the contrasts, and say which can be answered.

    With X = X₁T for independent columns X₁, a contrast c'β with c' = a'X is c₁'(Tβ), c₁ being the
    entries of c that belong to X₁; others have no answer (Searle 1971, Linear Models, section 5.4).
    """
    design = statistics.design
    X = statistics.row_space()
    kept, aliased = split_columns(X, design.fixed_names)
    if not aliased:
        return statistics, L, np.ones(len(L), dtype=bool)
    norm = np.sqrt((X**2).sum(axis=0))
    scale = np.where(norm > 0, norm, 1.0)
    T = np.linalg.lstsq(X[:, kept] / scale[kept], X / scale, rcond=None)[0]
    c = L / scale
    estimable = np.abs(c - c[:, kept] @ T).max(axis=1) <= _NOT_IN_SPAN * np.abs(c).max(axis=1)
    smaller = replace(
        design, X=design.X[:, kept], fixed_names=tuple(design.fixed_names[j] for j in kept),
        varying=tuple(design.varying[j] for j in kept),
    )  # fmt: skip
    return statistics.relabelled(smaller), L[:, kept], estimable
