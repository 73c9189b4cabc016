"""A block of variants tested in the null models of a task: pairs that are kept, and what all of them say of each feature."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.engine.scan_kernels import summarise
from donorwise._core.engine.scan_summary import Summary, cauchy_terms
from donorwise._core.inference.student import log_two_sided, t_of_p

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.engine.scan_models import NullFit, TaskModels
    from donorwise._core.models.lmm.variants import Tests, VariantBlock
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
    """

    test: str = "wald"
    refit: str = "screen"
    screen: float = 1e-3
    p_max: float | None = None
    by_cauchy: bool = True

    @property
    def normal(self) -> bool:
        """Whether statistics are normal, not t."""
        return self.test == "lrt"


class Block(NamedTuple):
    """V variants in use of a block: positions in the genotypes `at`, genotypes `x` (V, D), frequency and known donors (V,)."""

    at: IntArray
    x: FloatArray
    frequency: FloatArray
    n: IntArray

    def take(self, which: slice | IntArray) -> Block:
        """Some of them."""
        return Block(self.at[which], self.x[which], self.frequency[which], self.n[which])


class Ranges(NamedTuple):
    """Variants low..high-1 of a block that each of the G features of a task is tested with, (G,)."""

    low: IntArray
    high: IntArray

    def within(self, which: slice) -> Ranges:
        """Those among some of the block's variants."""
        n = which.stop - which.start
        return Ranges(*(np.clip(end - which.start, 0, n) for end in self))


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
        prepared = fit.models.block(block.x)
        for tile in _tiles(fit, len(block.at), asked):
            kept.append(_Tile(fit, prepared, block, tile, options).test(summary))
    return Pairs.concatenate(kept), summary


class _Span(NamedTuple):
    """Some variants, features of a fit, and which of the pairs are asked for, (V, G); all for None."""

    variants: slice
    features: IntArray
    asked: BoolArray | None


def _tiles(fit: NullFit, n_variants: int, asked: Ranges | None) -> Iterator[_Span]:
    """Tiles that fit into a processor's cache, or whole windows where variances are worked out feature by feature."""
    V, G = fit.models.variances.tile
    for low in range(0, n_variants, V):
        own = slice(low, min(low + V, n_variants))
        if asked is None:
            for first in range(0, fit.features.size, G):
                yield _Span(own, np.arange(first, min(first + G, fit.features.size)), None)
            continue
        near = np.flatnonzero((asked.low < own.stop) & (asked.high > own.start) & (asked.high > asked.low))
        for first in range(0, near.size, G):
            features = near[first : first + G]
            at = np.arange(own.start, own.stop)[:, None]
            pairs = (at >= asked.low[features]) & (at < asked.high[features])
            yield _Span(own, features, None if pairs.all() else pairs)


@dataclass(frozen=True, slots=True)
class _Tile:
    """One tile of pairs of a null fit."""

    fit: NullFit
    prepared: VariantBlock
    block: Block
    span: _Span
    options: TestOptions

    def test(self, summary: Summary) -> Pairs:
        """Test the pairs, add them to the summary, and give those that are kept."""
        fit, span = self.fit, self.span
        tests = fit.models.score(self.prepared, span.features, span.variants)
        if span.asked is not None:
            tests.statistic[~span.asked] = np.nan
        tests, failed = self._refit(tests)
        self._summarise(tests, fit.features[span.features], summary)
        if self.options.p_max is None:
            listed = np.ones(tests.statistic.shape, dtype=np.bool_) if span.asked is None else span.asked
        else:
            listed = np.abs(tests.statistic) >= t_of_p(self.options.p_max, fit.df)
        v, g = np.nonzero(listed)
        status = np.where(self.prepared.aliased[v + span.variants.start], ALIASED, OK)
        if failed.size:
            status[np.isin(v * span.features.size + g, failed)] = UNREFITTED
        return self._pairs(tests, v, g, status)

    def _refit(self, tests: Tests) -> tuple[Tests, IntArray]:
        """Estimate the variances of pairs again, in place; gives those (v * G + g) where that failed, too.

        They keep the test at the variances of the null model, if that is the test that was asked for.
        """
        options, span = self.options, self.span
        if options.refit == "none":
            return tests, np.zeros(0, dtype=np.int64)
        smallest = 0.0 if options.refit == "all" else t_of_p(options.screen, self.fit.df)
        v, g = np.nonzero(np.abs(tests.statistic) >= smallest)
        if not v.size:
            return tests, v
        pairs = self.prepared, v + span.variants.start, span.features[g]
        if options.normal:
            tests = tests._replace(se=np.full(tests.statistic.shape, np.nan))
            tests.statistic[v, g] = tests.estimate[v, g] = np.nan
            found, statistic = self.fit.models.likelihood_ratio(*pairs)
        else:
            found = self.fit.models.refitted(*pairs)
            statistic = found.estimate[:, -1] / found.se[:, -1]
        good = np.isfinite(found.se).all(axis=1) & (found.se > 0).all(axis=1)
        at, estimate, se = (v[good], g[good]), found.estimate[good], found.se[good]
        tests.estimate[at], tests.statistic[at] = estimate[:, -1], statistic[good]
        if tests.se is not None:
            tests.se[at] = se[:, -1]
        if tests.main is not None:
            tests.main[0][at], tests.main[1][at] = estimate[:, 0], estimate[:, 0] / se[:, 0]
        return tests, (v * span.features.size + g)[~good]

    def _summarise(self, tests: Tests, at: IntArray, summary: Summary) -> None:
        block, low = self.block, self.span.variants.start
        best = np.full(at.size, -1)
        tested = np.zeros(at.size, dtype=np.int64)
        summarise(tests.statistic, best, tested, summary.counts)
        summary.n_variants[at] += tested
        own = np.flatnonzero(best >= 0)
        v = best[own]
        statistic = tests.statistic[v, own]
        summary.take_better(
            at[own], block.at[low + v], tests.estimate[v, own], statistic, _se(tests, v, own), block.frequency[low + v],
            block.n[low + v],
        )  # fmt: skip
        if self.options.by_cauchy:
            summary.cauchy[at] += cauchy_terms(log_two_sided(tests.statistic, self.fit.df)).sum(axis=0)

    def _pairs(self, tests: Tests, v: IntArray, g: IntArray, status: IntArray) -> Pairs:
        at, block = v + self.span.variants.start, self.block
        estimate, statistic = tests.estimate[v, g], tests.statistic[v, g]
        main = (np.zeros(0), np.zeros(0)) if tests.main is None else (tests.main[0][v, g], tests.main[1][v, g])
        return Pairs(
            self.fit.features[self.span.features[g]], block.at[at], estimate, statistic, _se(tests, v, g),
            log_two_sided(statistic, self.fit.df), np.full(v.size, self.fit.df), status, block.frequency[at], block.n[at],
            *main,
        )  # fmt: skip


def _se(tests: Tests, v: IntArray, g: IntArray) -> FloatArray:
    """Standard errors of pairs (n,)."""
    if tests.se is not None:
        return tests.se[v, g]
    with np.errstate(divide="ignore", invalid="ignore"):
        return tests.estimate[v, g] / tests.statistic[v, g]
