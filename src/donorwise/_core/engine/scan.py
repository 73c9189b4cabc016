"""Scans: variants of donors against features, group after group and block after block."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from donorwise._core.engine.arrays import one_blas_thread
from donorwise._core.engine.scan_models import task_models
from donorwise._core.engine.scan_summary import Summary
from donorwise._core.engine.scan_tiles import Pairs, TestOptions, scan_block
from donorwise._core.engine.scan_windows import Block, Ranges
from donorwise._core.jobs import Progress, in_threads
from donorwise._core.kinship.usable import REASONS, usable_variants
from donorwise._core.models.lmm.recent import REMEMBERING
from donorwise.errors import DataError, DonorwiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.scan_models import TaskDonors, TaskModels
    from donorwise._core.engine.tasks import Statistics
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, FloatArray, IntArray, StrArray

logger = logging.getLogger("donorwise")

_TOGETHER = 2048  # variants of a block that one thread takes
NO_VARIANTS = "no_variants"
_FEW_RELATIVES = 200  # donors: shares below 1e-4 were 2 to 4 times that with 40 of them, 1.8 with 100 and 1 with 980
EVERY = ""
"""The chromosome of models that do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions:
    """What is asked; see :func:`donorwise.tl.scan`."""

    mode: str = "cis"
    window: int = 1_000_000
    interaction: str | None = None
    tests: TestOptions = field(default_factory=TestOptions)
    gene_test: str = "acat"
    loco: bool = False
    maf: float = 0.01
    missing: float = 0.05


class Genes(NamedTuple):
    """Chromosome (empty where it is not known) and start of transcription of G features, (G,)."""

    chrom: StrArray
    tss: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What is scanned.

    Attributes
    ----------
    analyses
        The null models: by chromosome where they leave it out, else under an empty name. They differ in kernels alone.
    donors, rows
        For each task its donors, and where they are in the genotypes, (D,); None for a task without a design.
    column
        For each task the column of the fixed part that variants interact with; None for none.
    genotypes, chrom
        The genotypes, and the chromosome of each variant (V,) as genes call it.
    genes
        Where features are; None where all variants are tested with all of them.
    options, warnings
        What is asked, and what to say before it is done.
    """

    analyses: Mapping[str, LmmAnalysis]
    donors: tuple[TaskDonors | None, ...]
    rows: tuple[IntArray | None, ...]
    column: tuple[int | None, ...]
    genotypes: Genotypes
    chrom: StrArray
    genes: Genes | None
    options: ScanOptions
    warnings: tuple[str, ...] = ()

    @property
    def analysis(self) -> LmmAnalysis:
        """The analysis that gives tasks and statistics."""
        return next(iter(self.analyses.values()))

    def blocks(self) -> list[tuple[int, int]]:
        """Variants low..high-1 that are read together: they depend on the genotypes alone, and on one chromosome each with `loco`."""
        n = self.genotypes.n_variants
        size = max(1, self.genotypes.block_numbers // len(self.genotypes.donors))
        ends = np.flatnonzero(self.chrom[1:] != self.chrom[:-1]) + 1 if self.options.loco else np.zeros(0, dtype=int)
        cuts = np.unique(np.concatenate([np.arange(0, n, size), ends, [n]]))
        return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))

    def n_pairs(self) -> int:
        """Pairs of a variant and a feature in one group, if all variants can be tested."""
        genes, positions = self.genes, self.genotypes.positions
        if genes is None or positions is None:
            return len(self.analysis.variables) * self.genotypes.n_variants
        n = 0
        for name in np.unique(genes.chrom[genes.tss >= 0]):
            there = np.sort(positions[self.chrom == name])
            tss, window = genes.tss[genes.chrom == name], self.options.window
            ends = np.searchsorted(there, tss + window, side="right") - np.searchsorted(
                there, tss - window, side="left"
            )
            n += int(ends.sum())
        return n


class NoModelError(DataError):
    """The models of a group without variants could not be fitted."""


class Store(Protocol):
    """Where the pairs of a scan go, by task and block."""

    def check(self, task: int, chrom: str, models: FloatArray) -> None:
        """Note numbers of null models, or raise where blocks that are finished were tested in others."""

    def finished(self, task: int) -> Mapping[int, Summary]:
        """Blocks of a task that need not be tested, and what they say."""

    def save(self, task: int, block: int, pairs: Pairs, summary: Summary) -> None:
        """Keep what a block says."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a scan says of a task of G features: status, donors and degrees of freedom (G,), all tests together, or why there are none."""

    status: StrArray
    n_donors: IntArray
    df: FloatArray
    summary: Summary
    failed: str = ""


def run_scan(
    scan: Scan, store: Store, *, max_memory: float | None = None, progress: bool = False, told: bool = True
) -> list[TaskResult]:
    """Test every task; one bad group does not end the run. What is finished is logged, unless it is not to be `told`.

    Raises
    ------
    DataError
        A genotype cannot be read, or is none.
    """
    analysis, blocks = scan.analysis, scan.blocks()
    _tell_of_refits(scan)
    total = scan.genotypes.n_variants * sum(task.design is not None for task in analysis.tasks)
    out: dict[int, TaskResult] = {}
    with (
        Progress(total=total, unit="variant", desc="scan", disable=not progress, unit_scale=True) as bar,
        one_blas_thread(),
    ):
        for numbers in analysis.passes(max_memory):
            statistics = analysis.statistics(numbers)
            for at, number in enumerate(numbers):
                own, statistics[at] = statistics[at], None
                start = time.monotonic()
                out[number] = _task(scan, number, own, blocks, store, bar.update)
                if told:
                    _log(scan, number, out[number], time.monotonic() - start)
    return [out[number] for number in range(len(analysis.tasks))]


def _tell_of_refits(scan: Scan) -> None:
    """Say so where tests of refits are known not to hold."""
    fewest = min((len(own.names) for own in scan.donors if own is not None), default=0)
    if scan.analysis.formula.covs and scan.options.tests.refit != "none" and fewest < _FEW_RELATIVES:
        logger.warning(
            "With fewer than %d donors who are related small p-values of refits are too small, up to fourfold; with refit='none' "
            "they hold.", _FEW_RELATIVES,
        )  # fmt: skip


def _log(scan: Scan, number: int, result: TaskResult, seconds: float) -> None:
    """Say that a group is finished."""
    name, n, n_tests = scan.analysis.tasks[number].name, len(scan.analysis.tasks), int(result.summary.counts.sum())
    what = "not scanned" if result.failed else f"{n_tests:,} tests, {seconds:.1f} s"
    data = {
        "event": "group",
        "group": name,
        "number": number + 1,
        "groups": n,
        "seconds": round(seconds, 3),
        "tests": n_tests,
    }
    extra = {"data": data | {"failed": bool(result.failed)}}
    logger.info("Group %d of %d, %s: %s.", number + 1, n, name, what, extra=extra)


def _task(
    scan: Scan,
    number: int,
    statistics: Statistics | None,
    blocks: list[tuple[int, int]],
    store: Store,
    update: Callable[[int], object],
) -> TaskResult:
    analysis = scan.analysis
    task, G = analysis.tasks[number], len(analysis.variables)
    unknown = np.full(G, "not_estimable", dtype=object), np.zeros(G, dtype=np.int64), np.full(G, np.nan)
    if statistics is None:
        return TaskResult(*unknown, Summary.empty(G), task.reason)
    try:
        with REMEMBERING:
            return _Task(scan, number, statistics, store, update).run(blocks)
    except NoModelError as error:
        if len(analysis.tasks) > 1:
            logger.warning("%s: not scanned. %s", task.name, error)
        return TaskResult(*unknown, Summary.empty(G), str(error))


@dataclass(frozen=True, slots=True)
class _Task:
    """One task of a scan."""

    scan: Scan
    number: int
    statistics: Statistics
    store: Store
    update: Callable[[int], object]

    def run(self, blocks: list[tuple[int, int]]) -> TaskResult:
        """Test all blocks that are not finished; chromosome by chromosome where the models depend on it."""
        G = len(self.scan.analysis.variables)
        summary, done = Summary.empty(G), self.store.finished(self.number)
        status, n_donors = np.full(G, NO_VARIANTS, dtype=object), np.zeros(G, dtype=np.int64)
        df = np.full(G, np.nan)
        for chrom, own in self._by_models(blocks):
            features = self._features(chrom)
            if not features.size:
                self.update(sum(blocks[number][1] - blocks[number][0] for number in own))
                continue
            models = self._models(chrom, features)
            self.store.check(self.number, chrom, models.told())
            status[features], n_donors[features], df[features] = models.status, models.n_donors, models.df
            for number in own:
                found = done.get(number)
                if found is None:
                    pairs, found = self._block(models, features, *blocks[number])
                    self.store.save(self.number, number, pairs, found)
                summary.add(found)
                self.update(blocks[number][1] - blocks[number][0])
        if summary.left_out.sum() and not summary.variants[0]:
            why = [f"{n:,} {REASONS[key]}" for key, n in zip(REASONS, summary.left_out, strict=True) if n]
            logger.warning(
                "%s: no variant can be tested: %s (see maf= and missing=).",
                self.scan.analysis.tasks[self.number].name, "; ".join(why),
            )  # fmt: skip
        return TaskResult(status, n_donors, df, summary)

    def _by_models(self, blocks: list[tuple[int, int]]) -> Iterator[tuple[str, list[int]]]:
        """Numbers of the blocks that are tested in the same models, and the chromosome that these leave out."""
        if not self.scan.options.loco:
            yield EVERY, list(range(len(blocks)))
            return
        first = np.array([str(self.scan.chrom[low]) for low, _ in blocks])
        for chrom in dict.fromkeys(first.tolist()):
            yield chrom, np.flatnonzero(first == chrom).tolist()

    def _features(self, chrom: str) -> IntArray:
        """Features that have variants to be tested with; in models of one chromosome those that are near it."""
        genes = self.scan.genes
        n = len(self.scan.analysis.variables)
        return np.arange(n) if genes is None or chrom == EVERY else np.flatnonzero(genes.chrom == chrom)

    def _models(self, chrom: str, features: IntArray) -> TaskModels:
        analysis = self.scan.analyses[chrom]
        design, donors = analysis.tasks[self.number].design, self.scan.donors[self.number]
        assert design is not None and donors is not None  # a task with statistics
        statistics = replace(self.statistics, design=design)
        if features.size < len(analysis.variables):
            statistics, analysis = statistics.take_features(features), analysis.take_features(features)
        try:
            fit = analysis.fit(self.number, statistics, lambda n: None)
        except (DonorwiseError, np.linalg.LinAlgError) as error:
            raise NoModelError(str(error)) from error
        return task_models(
            fit, statistics, donors, self.scan.column[self.number], normal=self.scan.options.tests.normal
        )

    def _block(self, models: TaskModels, features: IntArray, low: int, high: int) -> tuple[Pairs, Summary]:
        """Read some variants, and test those that can be."""
        scan, G = self.scan, len(self.scan.analysis.variables)
        genotypes = scan.genotypes.checked(low, high)[scan.rows[self.number]]
        kept, summary = [Pairs.none()], Summary.empty(G)
        for number, (donors, fits) in enumerate(models.by_donors()):
            at = np.arange(high - low) if number == 0 else self._near(features[fits.fitted], low, high)
            usable = usable_variants(genotypes[np.ix_(donors, at)], maf=scan.options.maf, missing=scan.options.missing)
            if number == 0:
                summary.tell(usable)
            block = Block(low + at[usable.at], _spread(usable.x, donors), usable.frequency, usable.n)
            work = [(fits, own, ranges, scan.options.tests) for own, ranges in self._parts(block, features)]
            for pairs, found in in_threads(lambda item: scan_block(*item), work, scan.analysis.n_jobs):
                kept.append(replace(pairs, feature=features[pairs.feature]))
                summary.add(found.of(features, G))
        return Pairs.concatenate(kept), summary

    def _near(self, features: IntArray, low: int, high: int) -> IntArray:
        """Which of the variants low..high-1 some of the features are tested with."""
        genes, positions = self.scan.genes, self.scan.genotypes.positions
        if genes is None or positions is None:
            return np.arange(high - low)
        chrom, pos = self.scan.chrom[low:high], positions[low:high]
        near, there = np.zeros(high - low, dtype=np.bool_), set(chrom.tolist())
        for g in features:
            if genes.chrom[g] in there:
                near |= (chrom == genes.chrom[g]) & (np.abs(pos - genes.tss[g]) <= self.scan.options.window)
        return np.flatnonzero(near)

    def _parts(self, block: Block, features: IntArray) -> Iterator[tuple[Block, Ranges | None]]:
        """Parts of a block that a thread takes, and the variants that each feature is tested with."""
        for own, ranges in self._ordered(block, features):
            for low in range(0, len(own.at), _TOGETHER):
                which = slice(low, min(low + _TOGETHER, len(own.at)))
                yield own.take(which), None if ranges is None else ranges.within(which)

    def _ordered(self, block: Block, features: IntArray) -> Iterator[tuple[Block, Ranges | None]]:
        """The block; for windows one chromosome after the other, by position."""
        genes = self.scan.genes
        if genes is None:
            yield block, None
            return
        positions = self.scan.genotypes.positions
        assert positions is not None  # checked before
        chrom, tss, window = genes.chrom[features], genes.tss[features], self.scan.options.window
        placed = np.where(positions[block.at] >= 0, self.scan.chrom[block.at], "")
        for name in filter(None, dict.fromkeys(placed.tolist())):  # what has no place is in no window
            at = np.flatnonzero(placed == name)
            at = at[np.argsort(positions[block.at[at]], kind="stable")]
            own, pos = block.take(at), positions[block.at[at]]
            there = (chrom == name) & (tss >= 0)
            low = np.where(there, np.searchsorted(pos, tss - window, side="left"), 0)
            high = np.where(there, np.searchsorted(pos, tss + window, side="right"), 0)
            yield own, Ranges(low, high)


def _spread(x: FloatArray, donors: BoolArray) -> FloatArray:
    """Genotypes (V, n) of some donors among all of them (V, D); what others have is in no row."""
    if donors.all():
        return x
    out = np.zeros((len(x), donors.size))
    out[:, donors] = x
    return out
