"""A task: one group with its design; the statistics that a pass leaves of it, and the tests of its fitted models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from scipy import sparse

from donorwise._core.cells.chunks import all_in_order
from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.collapsed_rows import merge_rows, with_covariates
from donorwise._core.cells.matrices import missing_patterns
from donorwise._core.cells.measures import Collapsed
from donorwise._core.inference.moderation import Tested, moderated_tests, refusal, tests_by_law
from donorwise._core.inference.wald import contrast_tests
from donorwise._core.models.lmm.crossproducts import column_means
from donorwise._typing import FITTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from donorwise._core.cells.collapsed_rows import CollapsedRows
    from donorwise._core.design.design import Design
    from donorwise._core.inference.moderation import Learned
    from donorwise._core.models.law import Model
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

NUMBERS = ("estimate", "se", "ci_low", "ci_high", "statistic", "df", "p_value")


M = TypeVar("M", bound="Model", covariant=True)


class Fit(Protocol[M]):
    """Fitted models of G features in one task."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the features."""

    @property
    def models(self) -> Sequence[M]:
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

    @property
    def random_labels(self) -> tuple[str, ...]:
        """What shares of the random terms are called."""


@dataclass(frozen=True, slots=True)
class FeatureTests:
    """Tests of n contrasts for G features: `numbers`, `status` and `log_fc` (n, G), `variances` (G, components).

    The variances are posterior means; they are known where the tests made use of them.
    """

    numbers: dict[str, FloatArray]
    status: StrArray
    variances: FloatArray
    log_fc: FloatArray


def ddf_used(fit: Fit[Model], ddf: str) -> tuple[str, str]:
    """The degrees of freedom that a fit's tests use where `ddf` is asked for, and why they are others."""
    reason = refusal(fit.models) if ddf == "moderated" else ""
    return (fit.models[0].fallback if fit.models else "kenward-roger", reason) if reason else (ddf, "")


def test_features(
    fit: Fit[Model], L: FloatArray, ddf: str, level: float, n_jobs: int = 1, features: IntArray | None = None, *,
    min_effect: float | None = 0.0,
) -> FeatureTests:  # fmt: skip
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
    min_effect
        What the contrasts are at most in size by the null hypothesis, which statistics and p-values are of. Standard
        errors, degrees of freedom and intervals are what they are without it. None for levels of the response, such as
        means, which nobody compares with zero; see :func:`donorwise._core.inference.mixture.summarise_level`.
    """
    shape = (len(L), len(fit.variables))
    numbers = {key: np.full(shape, np.nan) for key in NUMBERS}
    status, log_fc = np.repeat(fit.status[None], len(L), axis=0), np.full(shape, np.nan)
    variances = np.full((shape[1], len(fit.models[0].components()[0]) if fit.models else 0), np.nan)
    for whole in fit.models:
        model = whole if features is None else whole.take(np.flatnonzero(np.isin(whole.features, features)))
        tested = _test(fit, model, L, ddf, level, n_jobs, min_effect)
        for key, values in numbers.items():
            values[:, model.features] = getattr(tested.tests, key).T
        status[:, model.features] = with_numbers(tested.tests.status, tested.tests.p_value).T
        variances[model.features] = tested.variances
        log_fc[:, model.features] = tested.log_fc.T
    for key in set(NUMBERS) - {"estimate"}:  # a test without a p-value has no other half of it
        numbers[key][status == "not_converged"] = np.nan
    return FeatureTests(_opened(numbers, status), status, variances, log_fc)


def _opened(numbers: dict[str, FloatArray], status: StrArray) -> dict[str, FloatArray]:
    """Numbers (n, G), of which intervals have no end on the side of an arm that has all of the response, or none."""
    separated, below = status == "separated", numbers["estimate"] < 0
    low = np.where(separated & below, -np.inf, numbers["ci_low"])
    return numbers | {"ci_low": low, "ci_high": np.where(separated & ~below, np.inf, numbers["ci_high"])}


def with_numbers(status: StrArray, p_value: FloatArray) -> StrArray:
    """Statuses, of which those that promise a p-value have one: an adjusted variance can come out below zero."""
    return np.where(np.isin(status, FITTED) & np.isnan(p_value), "not_converged", status)


def _test(
    fit: Fit[Model], model: Model, L: FloatArray, ddf: str, level: float, n_jobs: int, min_effect: float | None
) -> Tested:
    if ddf == "moderated" and model.unmoderated:
        ddf = model.fallback
    if ddf == "moderated":
        return moderated_tests(model, L, fit.learned, level, n_jobs, min_effect=min_effect)
    if (estimated := model.estimated) is None:
        return tests_by_law(model, L, ddf, level, n_jobs, min_effect=min_effect)
    unknown = np.full((model.features.size, len(model.components()[0])), np.nan)
    return Tested(contrast_tests(estimated, L, ddf, level, min_effect=min_effect or 0.0), unknown, estimated.log_fc(L))


@dataclass(frozen=True, slots=True)
class Task:
    """One group of rows with its design, or the reason why it has none, or cannot answer for all of it."""

    name: str
    design: Design | None
    reason: str


class TaskStatistics(Protocol):
    """What one pass leaves of a task, of which any of its models can be fitted: of cells, or of units of them."""

    @property
    def design(self) -> Design:
        """The design, whose patterns the statistics belong to."""

    def take_features(self, features: IntArray) -> Self:
        """The statistics of some features, renumbered in the order given."""

    def take_patterns(self, patterns: IntArray) -> Self:
        """Without the cells of the other patterns."""

    def relabelled(self, design: Design) -> Self:
        """The same cells under another design with the same patterns."""

    def row_space(self) -> FloatArray:
        """A matrix with the row space of X."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Statistics of features that share their rows."""

    features: IntArray
    collapsed: Collapsed


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the cells of one task say, over the patterns of its design: a pass per set of rows."""

    design: Design
    passes: tuple[Pass, ...]

    def take_features(self, features: IntArray) -> Statistics:
        """The statistics of some features, renumbered in the order given."""
        place = np.full(max((int(p.features.max(initial=-1)) for p in self.passes), default=-1) + 1, -1)
        place[features] = np.arange(features.size)
        passes = []
        for own in self.passes:
            kept = np.flatnonzero(place[own.features] >= 0)
            passes.append(Pass(place[own.features[kept]], own.collapsed.take_features(kept)))
        return Statistics(self.design, tuple(p for p in passes if p.features.size))

    def relabelled(self, design: Design) -> Statistics:
        """The same cells under another design with the same patterns."""
        return Statistics(design, self.passes)

    def row_space(self) -> FloatArray:
        """A matrix with the row space of X over the rows in use: the patterns, then what varies inside them."""
        design = self.design
        if all(k < 0 for k in design.varying) or not self.passes:
            return design.X
        collapsed = max((p.collapsed for p in self.passes), key=lambda c: int(c.n_obs.sum()))
        columns = column_means(design.X, design.varying, collapsed)
        values, vectors = np.linalg.eigh(collapsed.covariate_ss.sum(axis=0))
        inside = (np.sqrt(np.clip(values, 0, None)) * vectors).T @ columns.deviation
        return np.vstack([columns.mean, inside])

    def take_patterns(self, patterns: IntArray) -> Statistics:
        """The statistics of some patterns: what the cells of the others say is left out."""
        passes = tuple(Pass(p.features, p.collapsed.take(patterns)) for p in self.passes)
        return Statistics(self.design.take(patterns), passes)


def collapse_tasks(
    matrix: Any,
    variables: tuple[str, ...],
    tasks: Sequence[Task],
    *,
    weights: FloatArray | None = None,
    features: IntArray | None = None,
    log_base: float = float("nan"),
    n_jobs: int | None = 1,
) -> list[Statistics | None]:
    """The statistics of every task from one pass over the matrix; None for a task without a design.

    With the abundances of values that are logarithms, if their `log_base` is given.
    """
    designs = [t.design for t in tasks if t.design is not None]
    if not designs:
        return [None] * len(tasks)
    passes = list(_passes(matrix, variables, designs, weights, features, log_base, n_jobs))
    starts = np.cumsum([0] + [d.n_patterns for d in designs])
    found = iter(
        Statistics(design, tuple(Pass(p.features, _own(p.collapsed, start, design)) for p in passes))
        for design, start in zip(designs, starts[:-1], strict=True)
    )
    return [None if t.design is None else next(found) for t in tasks]


def _own(collapsed: Collapsed, start: int, design: Design) -> Collapsed:
    """Views of one task's patterns and covariates."""
    return collapsed.take(slice(start, start + design.n_patterns)).take_covariates(design.covariates.shape[1])


def _passes(
    matrix: Any,
    variables: tuple[str, ...],
    designs: Sequence[Design],
    weights: FloatArray | None,
    features: IntArray | None,
    log_base: float,
    n_jobs: int | None,
) -> Iterator[Pass]:
    codes, covariates = _stack(designs)
    n_patterns = sum(d.n_patterns for d in designs)
    columns = np.arange(matrix.shape[1]) if features is None else np.asarray(features)
    for at, seen in _masks(matrix, columns, codes):
        used = codes if seen is None else np.where(seen, codes, -1).astype(codes.dtype)
        whole = all_in_order(columns[at], matrix.shape[1])
        collapsed = collapse(
            matrix, used, n_patterns, weights=weights, covariates=covariates, features=None if whole else columns[at],
            names=variables if whole else tuple(variables[i] for i in at), log_base=log_base, n_jobs=n_jobs,
        )  # fmt: skip
        yield Pass(at, collapsed)


def _masks(matrix: Any, columns: IntArray, codes: NDArray[np.int32]) -> list[tuple[IntArray, BoolArray | None]]:
    """Features by the rows in use that they have; positions within `columns`."""
    if sparse.issparse(matrix):
        return [(np.arange(columns.size), None)]
    position = np.full(matrix.shape[1], -1)
    position[columns] = np.arange(columns.size)
    groups: dict[bytes, tuple[list[IntArray], BoolArray | None]] = {}
    for found, seen in missing_patterns(matrix, columns):
        seen = None if seen is None or seen[codes >= 0].all() else seen | (codes < 0)
        key = b"" if seen is None else np.packbits(seen).tobytes()
        groups.setdefault(key, ([], seen))[0].append(position[found])
    return [(np.sort(np.concatenate(found)), seen) for found, seen in groups.values()]


def _stack(designs: Sequence[Design]) -> tuple[NDArray[np.int32], FloatArray | None]:
    """Pattern codes and covariates of all tasks (no row belongs to two)."""
    codes = np.full(designs[0].codes.size, -1, dtype=np.int32)
    m = max(d.covariates.shape[1] for d in designs)
    covariates = np.zeros((codes.size, m)) if m else None
    start = 0
    for design in designs:
        used = design.codes >= 0
        codes[used] = design.codes[used] + start
        if covariates is not None and design.covariates.shape[1]:
            covariates[used, : design.covariates.shape[1]] = design.covariates[used]
        start += design.n_patterns
    return codes, covariates


def regroup(design: Design, rows: CollapsedRows, features: IntArray | None = None) -> Statistics:
    """The statistics of a design on the cells of collapsed rows (a coarse one, see `coarsen`)."""
    at = design.codes[rows.cells.starts].astype(np.int64)
    used = np.flatnonzero(at >= 0)
    values = rows.read(used if used.size < at.size else None, features)
    moved = with_covariates(values, rows.cells, design.covariates, used)
    merged = merge_rows(moved, at[used], design.n_patterns)
    return Statistics(design, (Pass(np.arange(merged.mean.shape[1]), merged),))
