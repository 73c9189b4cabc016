"""A block of variants tested in the null models of a task: pairs that are kept, and what all of them say of each feature."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._core.engine.scan_kernels import add_listed, sift
from donorwise._core.engine.scan_resampled import resample
from donorwise._core.engine.scan_summary import Summary
from donorwise._core.engine.scan_windows import Block, Ranges
from donorwise._core.inference.student import log_two_sided, t_of_p
from donorwise._core.models.lmm.variant_kernels import TINY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from donorwise._core.engine.scan_models import NullFit, TaskModels
    from donorwise._core.models.lmm.variants import Tests, VariantBlock
    from donorwise._typing import FloatArray, IntArray

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
    """|t| from which on variances are estimated again, and from which on pairs are kept."""

    refit: float
    keep: float

    @classmethod
    def of(cls, options: TestOptions, df: float) -> _Limits:
        of_refit = {"none": np.inf, "all": 0.0}.get(options.refit)
        return cls(
            float(t_of_p(options.screen, df)) if of_refit is None else of_refit,
            0.0 if options.p_max is None else float(t_of_p(options.p_max, df)),
        )


class _Span(NamedTuple):
    """Some variants, features of a fit (G,), and which of the variants each of these is tested with."""

    variants: slice
    features: IntArray
    asked: Ranges


class _Sifted(NamedTuple):
    """Pairs (n,) of a tile that are listed; of the others of each feature the largest |t|, where (-1 for none), and how many."""

    v: IntArray
    g: IntArray
    best: IntArray
    largest: FloatArray
    tested: IntArray


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

    @property
    def _order(self) -> IntArray:
        return self.block.at[self.span.variants]

    def test(self, summary: Summary) -> Pairs:
        """Test the pairs, add them to the summary, and give those that are kept."""
        tests = self.fit.models.score(self.prepared, self.span.features, self.span.variants)
        sifted = self._sift(tests, summary)
        if self.options.by_cauchy:
            self._combine(tests, summary)
        tests, failed = self._refit(tests, sifted)
        self._summarise(tests, sifted, summary)
        v, g = sifted.v, sifted.g
        status = np.where(self.prepared.aliased[v + self.span.variants.start], ALIASED, OK)
        status[failed] = UNREFITTED
        if self.options.p_max is not None:
            kept = np.abs(tests.statistic[v, g]) >= self.limits.keep
            v, g, status = v[kept], g[kept], status[kept]
        return self._pairs(tests, v, g, status)

    def _sift(self, tests: Tests, summary: Summary) -> _Sifted:
        G = self.span.features.size
        best, largest, tested = np.full(G, -1), np.zeros(G), np.zeros(G, dtype=np.int64)
        v, g = np.empty((2, tests.statistic.size), dtype=np.int64)
        n = sift(
            tests.statistic,
            self._order,
            *self.span.asked,
            min(self.limits),
            best,
            largest,
            tested,
            summary.counts,
            v,
            g,
        )
        return _Sifted(v[:n], g[:n], best, largest, tested)

    def _refit(self, tests: Tests, sifted: _Sifted) -> tuple[Tests, IntArray]:
        """Estimate the variances of pairs again, in place; gives which of those that are listed failed, too.

        They keep the test at the variances of the null model, if that is the test that was asked for.
        """
        asked = np.flatnonzero(np.abs(tests.statistic[sifted.v, sifted.g]) >= self.limits.refit)
        if not asked.size:
            return tests, asked
        v, g, span = sifted.v[asked], sifted.g[asked], self.span
        pairs = self.prepared, v + span.variants.start, span.features[g]
        if self.options.normal:
            tests = tests._replace(se=np.full(tests.statistic.shape, np.nan))
            tests.statistic[v, g] = tests.estimate[v, g] = np.nan
            found, statistic = self.fit.models.likelihood_ratio(*pairs)
        else:
            found = self.fit.models.refitted(*pairs)
            found.estimate[found.estimate == 0.0] = TINY
            statistic = found.estimate[:, -1] / found.se[:, -1]
        good = np.isfinite(found.se).all(axis=1) & (found.se > 0).all(axis=1)
        at, estimate, se = (v[good], g[good]), found.estimate[good], found.se[good]
        tests.estimate[at], tests.statistic[at] = estimate[:, -1], statistic[good]
        if tests.se is not None:
            tests.se[at] = se[:, -1]
        if tests.main is not None:
            tests.main[0][at], tests.main[1][at] = estimate[:, 0], estimate[:, 0] / se[:, 0]
        return tests, asked[~good]

    def _summarise(self, tests: Tests, sifted: _Sifted, summary: Summary) -> None:
        at, block, low = self.fit.features[self.span.features], self.block, self.span.variants.start
        v, g, best, largest, tested = sifted
        add_listed(tests.statistic, self._order, v, g, best, largest, tested, summary.counts)
        summary.n_variants[at] += tested
        own = np.flatnonzero(best >= 0)
        v = best[own]
        statistic = tests.statistic[v, own]
        summary.take_better(
            at[own], block.at[low + v], tests.estimate[v, own], statistic, _se(tests, v, own), block.frequency[low + v],
            block.n[low + v],
        )  # fmt: skip

    def _combine(self, tests: Tests, summary: Summary) -> None:
        """Combine the p-values of each feature; of few donors those of refits are too small."""
        log_p = log_two_sided(tests.statistic, self.fit.models.df)
        summary.cauchy.add(self.fit.features[self.span.features], np.ascontiguousarray(log_p.T))

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
