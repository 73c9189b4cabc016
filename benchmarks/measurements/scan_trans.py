"""All genes on all variants: mixed models with a kernel against the matrix product of least squares, pymatrixeqtl and tensorQTL."""

from __future__ import annotations

from functools import partial
from typing import Any

from competitors import donorwise_scan, missing, numpy_ols, pymatrixeqtl, tensorqtl_trans
from report import Aim, Section
from scan import Scanned, Study, rounds
from timing import Seconds

N_JOBS, P_MAX = 2, 1e-5
PRODUCT, KERNEL, NONE = "numpy, matrix product alone", "donorwise, a kernel", "donorwise, no random effects"


def run(quick: bool) -> Section:
    study = Study.of(200, 1_000, 4_000) if quick else Study.of(200, 10_000, 20_000)
    own = partial(donorwise_scan.run, study, n_jobs=N_JOBS, mode="trans", p_max=P_MAX)
    tasks = {
        PRODUCT: partial(numpy_ols.run, study, n_jobs=N_JOBS, p_max=None),
        numpy_ols.NAME: partial(numpy_ols.run, study, n_jobs=N_JOBS, p_max=P_MAX),
        KERNEL: own,
        NONE: partial(own, kernel=False),
    }
    others = [c for c in (pymatrixeqtl, tensorqtl_trans) if not missing(c)]
    tasks |= {c.NAME: partial(c.run, study, n_jobs=N_JOBS, p_max=P_MAX) for c in others}
    found = rounds(tasks, repeats=2 if quick else 3)
    rows = [_row(study, name, *own, found[numpy_ols.NAME][0]) for name, own in found.items()]
    aims = [
        Aim(f"a kernel, times {name}", found[KERNEL][0].ratios(found[name][0])["median s"], 1.5)
        for name in (PRODUCT, numpy_ols.NAME, pymatrixeqtl.NAME)
        if name in found
    ]
    G, V = len(study.expression), len(study.genotypes)
    title = f"trans scan, {N_JOBS} threads: {G:,} genes x {V:,} variants x 200 donors, 10 covariates, p below {P_MAX:g} kept"
    return Section("s", title, rows, aims)


def _row(study: Study, name: str, seconds: Seconds, kept: Scanned, floor: Seconds) -> dict[str, Any]:
    row = {"": name} | seconds.medians() | {"/ numpy": seconds.ratios(floor)["median s"], "kept": kept.t.size}
    if kept.t.size:
        row["from a plain twin"] = study.difference(kept, mixed=name == KERNEL)
    return row
