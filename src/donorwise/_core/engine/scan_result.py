"""What a scan gives: its tables and params."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.engine.groups import stored_columns
from donorwise._core.engine.scan import run_scan
from donorwise._core.engine.scan_folder import COUNTS, LEAD, read_params, read_table
from donorwise._core.engine.scan_kernels import BINS_PER_UNIT
from donorwise._core.engine.scan_store import Folder, Memory
from donorwise._core.engine.scan_tables import counts_table, pairs_table, results_table, stacked, usual
from donorwise._core.inference.genomic_control import genomic_lambda
from donorwise._core.kinship.usable import REASONS
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from donorwise._core.engine.scan import Scan, TaskResult
    from donorwise._core.engine.scan_tiles import TestOptions

logger = logging.getLogger("donorwise")

EFFECT_ALLELE = "a1"


@dataclass(frozen=True, repr=False)
class ScanResult:
    """Tests of variants with features.

    Attributes
    ----------
    results
        A row per gene and group: the variant with the smallest p-value, and the p-value of all together.
    tests
        A row per pair that is kept; None where they are in files.
    counts
        How many of all tests have a statistic of which size.
    params
        What was asked, and what was left out.
    """

    results: pd.DataFrame
    tests: pd.DataFrame | None
    counts: pd.DataFrame
    params: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Numbers of what is there."""
        p = self.params
        groups = self.results["group"].nunique()
        kept = "in files" if self.tests is None else f"{len(self.tests):,} kept"
        return (
            f"ScanResult of {p['formula']!r}, {p['mode']}: {self.results['gene'].nunique():,} genes"
            f"{f' in {groups} groups' if groups > 1 else ''}, {p['n_tests']:,} tests ({kept}), "
            f"{int((self.results['q_value'] <= 0.05).sum()):,} genes at q <= .05; tables: results, tests, counts"
        )


def scanned(scan: Scan, store: Memory | Folder, *, max_memory: float | None, progress: bool) -> ScanResult:
    """Run a scan, and make its tables.

    Raises
    ------
    DataError
        No group could be scanned.
    """
    results = run_scan(scan, store, max_memory=max_memory, progress=progress)
    if isinstance(store, Folder) and store.complete:
        logger.info("%s is finished: it was made from these data with these options.", store.folder)
        return _read(store.folder)
    failed = {task.name: own.failed for task, own in zip(scan.analysis.tasks, results, strict=True) if own.failed}
    if len(failed) == len(results):
        raise DataError("No group could be scanned: " + " ".join(dict.fromkeys(failed.values())))
    counts, leads = counts_table(scan, results), results_table(scan, results)
    params = _params(scan, results, counts, failed)
    if isinstance(store, Memory):
        return ScanResult(leads, _tests(scan, store), counts, params)
    params["out"] = str(store.folder.resolve())
    store.finish(leads, counts, params)
    return ScanResult(leads, None, counts, params)


def _read(folder: Path) -> ScanResult:
    """What a finished scan says."""
    params = read_params(folder) | {"out": str(folder)}
    return ScanResult(read_table(folder, LEAD), None, read_table(folder, COUNTS), params)


def _tests(scan: Scan, store: Memory) -> pd.DataFrame:
    groups = tuple(task.name for task in scan.analysis.tasks)
    tables = []
    for number in range(len(groups)):
        own = pairs_table(scan, store.of(number))
        own.insert(1, "group", pd.Categorical.from_codes(np.full(len(own), number), categories=list(groups)))
        tables.append(own)
    return stacked(tables)


def _params(scan: Scan, results: Sequence[TaskResult], counts: pd.DataFrame, failed: dict[str, str]) -> dict[str, Any]:
    """All that a scan says of itself."""
    analysis, options = scan.analysis, scan.options
    names = [task.name for task in analysis.tasks]
    left = {
        f"left_out_{reason}": {name: int(own.summary.left_out[i]) for name, own in zip(names, results, strict=True)}
        for i, reason in enumerate(REASONS)
    }
    return {
        "method": "scan",
        "formula": analysis.formula.source,
        "groupby": stored_columns(analysis.groupby),
        "donor": next(own.column for own in scan.donors if own is not None),
        "response": analysis.response,
        "weights": analysis.weights,
        "mode": options.mode,
        "window": options.window if scan.genes is not None else -1,
        "interaction": options.interaction or "",
        "test": options.tests.test,
        "refit": options.tests.refit,
        "screen": options.tests.screen,
        "gene_test": options.gene_test,
        **_permutations(options.tests),
        "loco": options.loco,
        "maf": options.maf,
        "missing": options.missing,
        "p_max": options.tests.p_max,
        "effect_allele": EFFECT_ALLELE,
        "n_tests": int(counts["count"].sum()),
        "n_variants": {name: int(own.summary.variants[0]) for name, own in zip(names, results, strict=True)},
        "n_donors": {name: len(own.names) for name, own in zip(names, scan.donors, strict=True) if own is not None},
        **left,
        "imputed": {name: int(own.summary.imputed[0]) for name, own in zip(names, results, strict=True)},
        "lambda": {name: _lambda(own) for name, own in zip(names, results, strict=True)},
        "reasons": failed,
        "version": version("donorwise"),
    }


def _permutations(tests: TestOptions) -> dict[str, int]:
    """What permuted responses can be made again by; nothing where there are none."""
    return {"n_permutations": tests.n_permutations, "seed": tests.seed} if tests.n_permutations else {}


def _lambda(own: TaskResult) -> float:
    """Genomic lambda of all tests of a task."""
    counts = own.summary.counts
    return genomic_lambda(np.arange(counts.size) / BINS_PER_UNIT, counts, usual(own.df))
