"""Every gene on the variants of its window, all pairs into Parquet: mixed models and least squares against tensorQTL."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

from competitors import donorwise_scan, missing, tensorqtl_cis
from report import Aim, Section
from scan import Scanned, Study, rounds
from timing import Seconds

N_JOBS, WINDOW = 2, 1_000_000
KERNEL, NONE = "donorwise, a kernel", "donorwise, no random effects"


def run(quick: bool) -> Section:
    study = Study.of(200, 200, 20_000) if quick else Study.of(200, 2_000, 200_000, n_chromosomes=4)
    own = partial(_own, study, gene_test="bonferroni")
    tasks = {KERNEL: own, NONE: partial(own, kernel=False), f"{KERNEL}, with ACAT": partial(own, gene_test="acat")}
    if not missing(tensorqtl_cis):
        tasks[tensorqtl_cis.NAME] = partial(tensorqtl_cis.run, study, n_jobs=N_JOBS, window=WINDOW)
    found = rounds(tasks, repeats=2 if quick else 3)
    rows = [_row(study, name, *own) for name, own in found.items()]
    other = found.get(tensorqtl_cis.NAME)
    aims = [
        Aim(f"{name}, times tensorQTL", found[name][0].ratios(other[0])["median s"], 1.0)
        for name in (KERNEL, NONE)
        if other is not None
    ]
    G, V = len(study.expression), len(study.genotypes)
    return Section(
        "t", f"cis scan, {N_JOBS} threads: {G:,} genes, {V:,} variants, 200 donors, windows of 1 Mb", rows, aims
    )


def _own(study: Study, **options: Any) -> Scanned:
    with tempfile.TemporaryDirectory() as folder:
        return donorwise_scan.run(study, n_jobs=N_JOBS, mode="cis", window=WINDOW, out=f"{folder}/scan", **options)


def _row(study: Study, name: str, seconds: Seconds, kept: Scanned) -> dict[str, Any]:
    twin = {"pairs": kept.t.size, "from a plain twin": study.difference(kept, mixed=name.startswith(KERNEL))}
    return {"": name} | seconds.medians() | twin
