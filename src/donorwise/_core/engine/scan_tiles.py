"""A block of variants tested in the null models of a task: pairs that are kept, and what all of them say of each feature."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.engine.scan_kernels import count_pairs, sift, sift_scores
from donorwise._core.engine.scan_resampled import resample
from donorwise._core.engine.scan_summary import Summary
from donorwise._core.engine.scan_windows import Block, Ranges
from donorwise._core.inference.student import log_two_sided, t_of_p
from donorwise._core.models.lmm.variant_kernels import TINY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.engine.scan_models import NullFit, TaskModels
    from donorwise._core.models.lmm.variant_tests import Scores, Tests
    from donorwise._core.models.lmm.variants import VariantBlock
    from donorwise._typing import BoolArray, FloatArray, IntArray

OK, ALIASED, UNREFITTED = 0, 1, 2
STATUS = ("ok", "not_estimable", "not_converged")


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOptions:
    """What is tested, and what is kept of it.

    Attributes
    ----------
    test
        ``"wald"``, or ``"lrt"`` of pairs that are all estimated again.
    refit
        Pairs whose variances are estimated again: those of a p-value up to `screen`, ``"all"``, or ``"none"``.
    screen, p_max
        P-values; pairs up to `p_max` are kept (None for all).
    by_cauchy
        Whether the p-values of each feature are combined.
    n_permutations, seed
        Permuted responses of each feature, and where they begin.
    """

    test: str = "wald"
    refit: str = "screen"
    screen: float = 1e-3
    p_max: float | None = None
    by_cauchy: bool = True
    n_permutations: int = 0
    seed: int = 0

    @property
    def normal(self) -> bool:
        """Whether statistics are normal, not t."""
        return self.test == "lrt"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs that are kept, (n,) each: positions of feature and variant, what was found, and what is known of the variant.

    `main` and `main_statistic` are those of the variant itself where it interacts; empty without.
    """

    feature: IntArray
    variant: IntArray
    estimate: FloatArray
    statistic: FloatArray
    se: FloatArray
    log_p: FloatArray
    df: FloatArray
    status: IntArray
    frequency: FloatArray
    n: IntArray
    main: FloatArray
    main_statistic: FloatArray

    @classmethod
    def concatenate(cls, several: list[Pairs]) -> Pairs:
        """All of them."""
        return cls(**{f.name: np.concatenate([getattr(own, f.name) for own in several]) for f in fields(cls)})

    def in_order(self) -> Pairs:
        """By feature and variant, whatever they were tested with."""
        order = np.lexsort([self.variant, self.feature])
        return Pairs(
            **{f.name: values[order] if (values := getattr(self, f.name)).size else values for f in fields(self)}
        )

    @classmethod
    def none(cls) -> Pairs:
        """No pairs."""
        number, whole = np.zeros(0), np.zeros(0, dtype=np.int64)
        return cls(whole, whole, number, number, number, number, number, whole, number, whole, number, number)


def scan_block(models: TaskModels, block: Block, ranges: Ranges | None, options: TestOptions) -> tuple[Pairs, Summary]:
    """Test a block of variants with the features of a task: all of them, or those whose `ranges` have some."""
    summary, kept = Summary.empty(len(models.status)), [Pairs.none()]
    for fit in models.fits:
        asked = None if ranges is None else Ranges(ranges.low[fit.features], ranges.high[fit.features])
        if asked is not None and not (asked.high > asked.low).any():
            continue
        prepared, limits = fit.models.block(block.x), _Limits.of(options, fit.df)
        if options.n_permutations:
            every = asked or _every(fit, len(block.at))
            resample(fit, prepared, every, options.n_permutations, options.seed, summary)
        for span in _tiles(fit, len(block.at), asked):
            kept.append(_Tile(fit, prepared, block, span, options, limits).test(summary))
    return Pairs.concatenate(kept), summary


class _Limits(NamedTuple):
    """|t| from which on variances are estimated again, pairs are kept, and pairs are looked at one by one."""

    refit: float
    keep: float
    listed: float

    @classmethod
    def of(cls, options: TestOptions, df: float) -> _Limits:
        of_refit = {"none": np.inf, "all": 0.0}.get(options.refit)
        refit = float(t_of_p(options.screen, df)) if of_refit is None else of_refit
        keep = 0.0 if options.p_max is None else float(t_of_p(options.p_max, df))
        return cls(refit, keep, 0.0 if options.by_cauchy else min(refit, keep))


class _Span(NamedTuple):
    """Some variants, features of a fit (G,), and which of the variants each of these is tested with."""

    variants: slice
    features: IntArray
    asked: Ranges


@dataclass(frozen=True, slots=True)
class _Listed:
    """Pairs (n,) of a tile that are looked at one by one, and their tests; `main` as in `Pairs`."""

    v: IntArray
    g: IntArray
    estimate: FloatArray
    statistic: FloatArray
    se: FloatArray
    status: IntArray
    main: FloatArray
    main_statistic: FloatArray

    def take(self, which: BoolArray | IntArray) -> _Listed:
        """Some of them."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return _Listed(**{name: values[which] if values.size else values for name, values in own.items()})


def _every(fit: NullFit, n_variants: int) -> Ranges:
    """All variants for every feature."""
    n = fit.features.size
    return Ranges(np.zeros(n, dtype=np.int64), np.full(n, n_variants))


def _tiles(fit: NullFit, n_variants: int, asked: Ranges | None) -> Iterator[_Span]:
    """Tiles that fit into a processor's cache, or whole windows where variances are worked out feature by feature."""
    V, G = fit.models.variances.tile
    ranges = asked or _every(fit, n_variants)
    for low in range(0, n_variants, V):
        own = slice(low, min(low + V, n_variants))
        within = ranges.within(own)
        near = np.flatnonzero(within.high > within.low)
        for first in range(0, near.size, G):
            features = near[first : first + G]
            yield _Span(own, features, Ranges(within.low[features], within.high[features]))


@dataclass(frozen=True, slots=True)
class _Tile:
    """One tile of pairs of a null fit."""

    fit: NullFit
    prepared: VariantBlock
    block: Block
    span: _Span
    options: TestOptions
    limits: _Limits

    def test(self, summary: Summary) -> Pairs:
        """Test the pairs, add them to the summary, and give those that are kept."""
        pairs = self._sift(summary)
        log_p = log_two_sided(pairs.statistic, self.fit.models.df)
        if self.options.by_cauchy:  # before variances are estimated again, whose p-values are too small in few donors
            summary.cauchy.add(self.fit.features[self.span.features[pairs.g]], log_p)
        again = self._refit(pairs)
        log_p[again] = log_two_sided(pairs.statistic[again], self.fit.df)
        self._summarise(pairs, summary)
        if self.options.p_max is None:
            return self._pairs(pairs, log_p)
        kept = np.abs(pairs.statistic) >= self.limits.keep
        return self._pairs(pairs.take(kept), log_p[kept])

    def _sift(self, summary: Summary) -> _Listed:
        """Pairs that are looked at one by one; the others are added to the summary."""
        models, span = self.fit.models, self.span
        G, V = span.features.size, span.variants.stop - span.variants.start
        best, tested = np.full(G, -1), np.zeros(G, dtype=np.int64)
        rows, columns = np.empty((2, V * G), dtype=np.int64)
        order = self.block.at[span.variants]
        out = (order, *span.asked, self.limits.listed, best, tested, summary.counts, rows, columns)
        tests: Scores | Tests
        if models.n_columns == 1:
            tests = models.scores(self.prepared, span.features, span.variants)
            n = sift_scores(*tests, *out)
        else:
            tests = models.score(self.prepared, span.features, span.variants)
            n = sift(tests.statistic, *out)
        summary.n_variants[self.fit.features[span.features]] += tested
        g = np.flatnonzero(best >= 0)
        self._lead(summary, self._of(tests, best[g], g))
        return self._of(tests, rows[:n], columns[:n])

    def _of(self, tests: Scores | Tests, v: IntArray, g: IntArray) -> _Listed:
        estimate, statistic = tests.at(v, g)
        status = np.where(self.prepared.aliased[v + self.span.variants.start], ALIASED, OK)
        with np.errstate(divide="ignore", invalid="ignore"):
            se = estimate / statistic
        main = (np.zeros(0), np.zeros(0)) if tests.main is None else (tests.main[0][v, g], tests.main[1][v, g])
        return _Listed(v, g, estimate, statistic, se, status, *main)

    def _refit(self, pairs: _Listed) -> IntArray:
        """Estimate the variances of pairs again, in place; gives which.

        Those where that fails keep the test at the variances of the null model, if that is the test that was asked for.
        """
        asked = np.flatnonzero(np.abs(pairs.statistic) >= self.limits.refit)
        if not asked.size:
            return asked
        where = self.prepared, pairs.v[asked] + self.span.variants.start, self.span.features[pairs.g[asked]]
        if self.options.normal:
            pairs.statistic[asked] = pairs.estimate[asked] = pairs.se[asked] = np.nan
            found, statistic = self.fit.models.likelihood_ratio(*where)
        else:
            found = self.fit.models.refitted(*where)
            found.estimate[found.estimate == 0.0] = TINY
            statistic = found.estimate[:, -1] / found.se[:, -1]
        good = np.isfinite(found.se).all(axis=1) & (found.se > 0).all(axis=1)
        at, estimate, se = asked[good], found.estimate[good], found.se[good]
        pairs.estimate[at], pairs.statistic[at], pairs.se[at] = estimate[:, -1], statistic[good], se[:, -1]
        if pairs.main.size:
            pairs.main[at], pairs.main_statistic[at] = estimate[:, 0], estimate[:, 0] / se[:, 0]
        pairs.status[asked[~good]] = UNREFITTED
        return asked

    def _summarise(self, pairs: _Listed, summary: Summary) -> None:
        at = self.fit.features[self.span.features]
        best, tested = np.full(at.size, -1), np.zeros(at.size, dtype=np.int64)
        order = self.block.at[pairs.v + self.span.variants.start]
        count_pairs(pairs.statistic, order, pairs.g, best, tested, summary.counts)
        summary.n_variants[at] += tested
        self._lead(summary, pairs.take(best[best >= 0]))

    def _lead(self, summary: Summary, pairs: _Listed) -> None:
        """Take the tests of a pair for each of some features where they are the largest so far."""
        block, v = self.block, pairs.v + self.span.variants.start
        summary.take_better(
            self.fit.features[self.span.features[pairs.g]], block.at[v], pairs.estimate, pairs.statistic, pairs.se,
            block.frequency[v], block.n[v],
        )  # fmt: skip

    def _pairs(self, pairs: _Listed, log_p: FloatArray) -> Pairs:
        block, v = self.block, pairs.v + self.span.variants.start
        return Pairs(
            self.fit.features[self.span.features[pairs.g]], block.at[v], pairs.estimate, pairs.statistic, pairs.se, log_p,
            np.full(v.size, self.fit.df), pairs.status, block.frequency[v], block.n[v], pairs.main, pairs.main_statistic,
        )  # fmt: skip
