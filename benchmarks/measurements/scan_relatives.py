"""Mice that are relatives, in one thread: restricted maximum likelihood for every variant against GEMMA; many traits against FaST-LMM.

GEMMA takes a process for each trait, and works out eigenvectors, rotation and variances in each; here traits share all but the
variances. So both are shown: a run with one trait, and what a trait takes of a run with many.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from competitors import fastlmm_scan, gemma_lmm, missing
from mice import Mice
from report import Aim, Section
from scan import Scanned, null_t, rounds
from threadpoolctl import threadpool_limits

import donorwise as dw
from donorwise._core.cells.collapse import collapse
from donorwise._core.models.lmm.crossproducts import Columns
from donorwise._core.models.lmm.variants import null_models

if TYPE_CHECKING:
    from scan import Array

FEW, SOME, REFITTED = 10, 30, 100  # traits of FaST-LMM, from which more are extrapolated, and of exact refits
TOGETHER = 2_048  # variants
FORMULA = "~ 1 + (1 | gr(mouse, cov=K))"


def run(quick: bool) -> Section:
    title = "scans of relatives, one thread: 1,410 mice x 10,768 variants"
    if missing(gemma_lmm):
        return Section("u", f"{title}: needs {missing(gemma_lmm)}", [])
    with tempfile.TemporaryDirectory() as folder:
        mice = Mice.of(Path(folder))
        rows, aims = _one_trait(mice, 1 if quick else 3)
        more, aimed = _many_traits(mice, 50 if quick else 1_000, rows)
    return Section("u", title, rows + more, aims + aimed)


def _one_trait(mice: Mice, repeats: int) -> tuple[list[dict[str, Any]], list[Aim]]:
    """Whole runs with one trait; what GEMMA takes for reading is left out, as nothing is read here but the genotypes."""
    tables = [gemma_lmm.run(mice) for _ in range(repeats)]
    parts = np.median([own for own, _ in tables], axis=0)
    whole = float(parts[2:].sum())
    theirs = dict(zip(("eigenvectors", "rotation", "tests"), parts[2:].tolist(), strict=True))
    rows = [{"": gemma_lmm.NAME, "traits": 1, "CPU s": float(parts[1]), "without reading": whole} | theirs]
    found = rounds({refit: partial(own_scan, mice, mice.traits(1), refit=refit) for refit in ("all", "none")}, repeats)
    own, tests = _own_parts(mice)
    aims = []
    for (refit, (seconds, kept)), faster in zip(found.items(), (10.0, 50.0), strict=True):
        cpu = seconds.medians()["median CPU s"]
        about = {"": f"donorwise, refit={refit!r}", "traits": 1, "CPU s": cpu, "without reading": cpu}
        rows.append(
            about
            | own
            | {"tests": tests[refit], "from a plain twin": twin(mice, mice.traits(1), kept, refit=refit == "all")}
        )
        aims.append(Aim(f"refit={refit!r}, one trait: share of GEMMA's time", cpu / whole, 1 / faster))
        aims.append(
            Aim(
                f"refit={refit!r}: share of GEMMA's time for the tests alone",
                tests[refit] / theirs["tests"],
                1 / faster,
            )
        )
    rows[1]["from GEMMA"] = _from_gemma(found["all"][1], tables[0][1])
    return rows, aims


def _own_parts(mice: Mice) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the null model and of the rotation; and of the tests, by how they are made."""
    obs, at = pd.DataFrame({"mouse": mice.names}), np.arange(len(mice.names))
    x = np.ascontiguousarray(mice.genotypes)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some mice are twins
        start = time.process_time()
        (model,) = dw.fit_lmm(mice.trait, obs, FORMULA, kernels={"K": mice.kernel}).models
        rows = collapse(mice.trait[:, None], model.design.codes, at.size)
        column = Columns(np.ones((at.size, 1)), np.zeros((0, 1)))
        null = null_models(model, rows, model.design.codes.argsort(), at.size, [column])
        fitted = time.process_time()
        blocks = [null.block(x[low : low + TOGETHER]) for low in range(0, len(x), TOGETHER)]
        rotated = time.process_time()
        for block in blocks:
            null.score(block, np.array([0]))
        scored = time.process_time()
        for block in blocks:
            null.refitted(block, np.arange(len(block.x)), np.zeros(len(block.x), dtype=int))
        tests = {"none": scored - rotated, "all": time.process_time() - scored}
    return {"eigenvectors": fitted - start, "rotation": rotated - fitted}, tests


def _from_gemma(kept: Scanned, table: pd.DataFrame) -> float:
    """Largest relative difference of t from GEMMA's, whose search ends early."""
    theirs = np.abs((table["beta"] / table["se"]).to_numpy())[kept.variant]
    clear = theirs > 0.1
    return float(np.abs(np.abs(kept.t) / theirs - 1)[clear].max())


def _many_traits(mice: Mice, n: int, before: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Aim]]:
    gemma = before[0]["without reading"]
    traits = mice.traits(n)
    tasks = {
        "none": (n, partial(own_scan, mice, traits, refit="none", p_max=1e-3)),
        "all": (min(n, REFITTED), partial(own_scan, mice, traits[:, :REFITTED], refit="all", p_max=1e-3)),
    }
    found = {refit: rounds({refit: task}, 1)[refit] for refit, (_, task) in tasks.items()}
    rows, aims = [], []
    for (refit, (own, _)), (seconds, kept), faster in zip(tasks.items(), found.values(), (50.0, 10.0), strict=True):
        cpu = seconds.medians()["median CPU s"]
        rows.append(
            {"": f"donorwise, refit={refit!r}", "traits": own, "CPU s": cpu, "CPU s each": cpu / own}
            | {"from a plain twin": twin(mice, traits, kept, refit=refit == "all")}
        )
        aims.append(
            Aim(f"refit={refit!r}, {own:,} traits: share of GEMMA's time for each", cpu / own / gemma, 1 / faster)
        )
    if not missing(fastlmm_scan):
        few, some = (fastlmm_scan.run(mice, traits[:, :T]) for T in (FEW, SOME))
        more = (some.cpu - few.cpu) / (SOME - FEW)
        each = (some.cpu + (n - SOME) * more) / n
        rows.append({"": fastlmm_scan.NAME, "traits": SOME, "CPU s": some.cpu, "CPU s each": each})
        rows[-1]["from a plain twin"] = twin(mice, traits, some)
        ours = rows[0]["CPU s each"]
        aims.append(Aim(f"{n:,} traits: share of FaST-LMM's time (extrapolated)", ours / each, 1 / 20))
    return rows, aims


def own_scan(mice: Mice, traits: Array, **options: Any) -> Scanned:
    """Scan traits (mice, T), from PLINK files to the table."""
    obs, named = pd.DataFrame({"mouse": mice.names}), pd.DataFrame(traits).rename(columns=str)
    wall, cpu = time.perf_counter(), time.process_time()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some mice have no trait
        found = dw.scan_variants(
            named, obs, mice.folder / "mice.bed", "~ 1 + (1 | gr(mouse, cov=K))", kernels={"K": mice.kernel}, mode="gwas",
            donor="mouse", gene_test="bonferroni", n_jobs=1, progress=False, **options,
        )  # fmt: skip
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tests = found.tests
    number = {name: v for v, name in enumerate(mice.variants)}
    gene, variant = tests["gene"].astype(str).astype(int), tests["variant"].astype(str).map(number)
    return Scanned(gene.to_numpy(), variant.to_numpy(), tests["statistic"].to_numpy(), wall, cpu)


def twin(mice: Mice, traits: Array, kept: Scanned, *, refit: bool = False, n_pairs: int = 5) -> float:
    """Largest relative difference of t from that of a plain twin."""
    X, K = np.ones((len(mice.names), 1)), mice.kernel.to_numpy()
    some = np.linspace(0, kept.t.size - 1, n_pairs).astype(int)
    plain = [null_t(traits[:, kept.gene[i]], X, mice.genotypes[kept.variant[i]], K, refit=refit) for i in some]
    return float(np.abs(np.abs(kept.t[some]) / np.abs(plain) - 1).max())
