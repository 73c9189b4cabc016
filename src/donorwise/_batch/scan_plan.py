"""What a scan over variants would do and take, without doing it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from donorwise._batch.plan import kernels_told, made_up, matrix_bytes, n_patterns_of, reading_seconds
from donorwise._core.engine.analysis import GB
from donorwise._core.engine.scan import run_scan
from donorwise._core.engine.scan_store import Memory
from donorwise._core.wording import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.engine.lmm import LmmAnalysis
    from donorwise._core.engine.scan import Scan

_TEST_BYTES, _PAIR_BYTES = 60, 250  # of a test on the disk, and of one that is about to be written there
_TEST_SECONDS = 1.5e-6  # to write a test
_FEATURES, _VARIANTS = (96, 288), (256, 1024)  # that are tested to see how long it takes
_COPIES = 4  # of the genotypes of a block: as they are read, those that can be used, and on the scale of the models


def describe_scan(scan: Scan, *, max_memory: float) -> str:
    """The plan and the estimates as text.

    Parameters
    ----------
    scan
        What would be scanned.
    max_memory
        GB for the statistics of groups that share a pass over the cells.
    """
    analysis = scan.analysis
    fitted = [number for number, task in enumerate(analysis.tasks) if task.design is not None]
    shared, n_tests = analysis.passes(max_memory), scan.n_pairs() * len(fitted)
    kept = n_tests if scan.options.tests.p_max is None else scan.options.tests.p_max * n_tests
    where = "all of them" if scan.genes is None else f"within {scan.options.window:,} base pairs"
    lines = [
        f"Plan: {len(fitted)} of {len(analysis.tasks)} groups x {len(analysis.variables):,} features of {analysis.response} x "
        f"{scan.genotypes.n_variants:,} variants ({where}), in {len(scan.blocks()):,} blocks; passes over the "
        f"cells: {len(shared)}",
        *kernels_told(analysis),
        "",
        _groups(scan).to_string(index=False),
        "",
        f"Tests: {n_tests:,} before variants are left out, {n_tests // max(1, len(fitted)):,} for each group; to be written: "
        f"{_written(scan, kept)}",
        f"Memory: {_memory(scan, shared, kept)}",
        f"Time: {_time(scan, fitted, len(shared), kept)}",
    ]
    return "\n".join(lines)


def _groups(scan: Scan) -> pd.DataFrame:
    rows = []
    for number, (task, donors) in enumerate(zip(scan.analysis.tasks, scan.donors, strict=True)):
        n_donors = 0 if donors is None else len(donors.names)
        patterns = n_patterns_of(scan.analysis, number)
        rows.append((one_line(task.name), scan.analysis.cells_of(number), patterns, n_donors, one_line(task.reason)))
    table = pd.DataFrame(rows, columns=["group", "cells", "patterns", "donors", "remark"])
    return table if table["remark"].any() else table.drop(columns="remark")


def _written(scan: Scan, kept: float) -> str:
    p_max, size = scan.options.tests.p_max, f"about {kept * _TEST_BYTES / 1e6:,.1f} MB"
    return f"all, {size}" if p_max is None else f"those with p <= {p_max:g}, {size} if nothing is to be found"


def _memory(scan: Scan, shared: Sequence[Sequence[int]], kept: float) -> str:
    low, high = scan.blocks()[0]
    parts = {
        "the matrix": matrix_bytes(scan.analysis.source.matrix),
        "statistics": max(scan.analysis.bytes_of(numbers) for numbers in shared),
        "a block of genotypes": 8 * _COPIES * (high - low) * len(scan.genotypes.donors),
        "its tests": _PAIR_BYTES * kept / max(1, len(scan.blocks())),
    }
    named = ", ".join(f"{value / GB:.2f} GB {name}" for name, value in parts.items())
    return f"about {(sum(parts.values()) + 0.5 * GB) / GB:.1f} GB (0.5 GB the libraries, {named})"


class _Seconds(NamedTuple):
    """Of a group: of a null model, of a variant that is read and made ready, and of a test; and what came before, for all."""

    feature: float
    variant: float
    test: float
    before: float


def _time(scan: Scan, fitted: Sequence[int], n_passes: int, kept: float) -> str:
    analysis = scan.analysis
    if not fitted:
        return "none"
    start = time.perf_counter()
    reading, n_bytes = reading_seconds(analysis, fitted)
    waiting = time.perf_counter() - start
    each = _trial(scan, max(fitted, key=lambda number: n_patterns_of(analysis, number)))
    models = len(scan.analyses) if scan.genes is None else 1
    parts = {
        "before": waiting + each.before,
        "reading": n_passes * reading,
        "models without variants": len(fitted) * models * each.feature * len(analysis.variables),
        "genotypes": len(fitted) * each.variant * scan.genotypes.n_variants,
        "tests": len(fitted) * each.test * scan.n_pairs(),
        "writing": _TEST_SECONDS * kept,
    }
    named = ", ".join(f"{name} {value:,.0f} s" for name, value in parts.items() if value >= 0.5)
    read = f"{n_bytes / 1e6:,.0f} MB of the matrix that were read and from " if n_bytes else ""
    return (
        f"about {max(1.0, sum(parts.values())):,.0f} s with {analysis.n_jobs} thread(s){f' ({named})' if named else ''}, from "
        f"{read}trials of {_FEATURES[1]} made-up features and {_VARIANTS[1]:,} variants at most"
    )


def _trial(scan: Scan, number: int) -> _Seconds:
    """Seconds of the largest group, from four small scans of it; a first one compiles."""
    start = time.perf_counter()
    V = [min(n, _first_chromosome(scan)) for n in _VARIANTS]
    G = [min(n, len(scan.analysis.variables)) if not scan.analysis.source.from_cells else n for n in _FEATURES]
    _scanned(scan, number, G[0], V[0])
    before = time.perf_counter() - start
    seconds = {(g, v): _scanned(scan, number, g, v) for g in dict.fromkeys(G) for v in dict.fromkeys(V)}
    least = seconds[G[0], V[0]]
    more_features, more_variants = seconds[G[-1], V[0]] - least, seconds[G[0], V[-1]] - least
    pairs = (G[-1] - G[0]) * (V[-1] - V[0])
    test = (
        max(0.0, seconds[G[-1], V[-1]] - seconds[G[0], V[0]] - more_features - more_variants) / pairs if pairs else 0.0
    )
    test = test or seconds[G[-1], V[-1]] / (G[-1] * V[-1])  # too quick to be told from the rest
    feature = max(0.0, more_features / (G[-1] - G[0]) - test * V[0]) if G[-1] > G[0] else least / G[0]
    variant = max(0.0, more_variants / (V[-1] - V[0]) - test * G[0]) if V[-1] > V[0] else least / V[0]
    return _Seconds(feature, variant, test, before)


def _first_chromosome(scan: Scan) -> int:
    """Variants that share the models of the first one."""
    others = np.flatnonzero(scan.chrom != scan.chrom[0]) if scan.options.loco else np.zeros(0, dtype=int)
    return int(others[0]) if others.size else scan.genotypes.n_variants


def _scanned(scan: Scan, number: int, n_features: int, n_variants: int) -> float:
    """Seconds to test the first variants with some features of one group, whatever their places are."""
    genotypes = replace(scan.genotypes, n_variants=n_variants)
    key = str(scan.chrom[0]) if scan.options.loco else next(iter(scan.analyses))
    analysis = _some_features(scan.analyses[key], number, n_features)
    small = replace(scan, analyses={key: analysis}, genotypes=genotypes, chrom=scan.chrom[:n_variants], genes=None)
    start = time.perf_counter()
    run_scan(small, Memory(), told=False)
    return time.perf_counter() - start


def _some_features(analysis: LmmAnalysis, number: int, n_features: int) -> LmmAnalysis:
    """One group of an analysis with some of the features: of collapsed rows these, of cells made-up ones in their place."""
    tasks = [
        task if at == number else replace(task, design=None, reason="left out")
        for at, task in enumerate(analysis.tasks)
    ]
    if not analysis.source.from_cells:
        return replace(analysis.few(n_features), tasks=tasks)
    names = tuple(f"feature_{j}" for j in range(n_features))
    source = analysis.source.trying(made_up(analysis.source.matrix.shape[0], n_features))
    return replace(analysis.few(n_features), tasks=tasks, variables=names, source=source)
