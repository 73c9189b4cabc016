"""The pass over the matrix against the floor: loading every number once."""

from __future__ import annotations

from functools import partial
from statistics import median

from competitors import bare_pass, donorwise_collapse
from data import Size, cohort
from report import Aim, Section
from timing import interleave, ratio


def run(quick: bool) -> Section:
    size = Size(cells=20_000) if quick else Size()
    adata = cohort(size)
    rows, aims = [], []
    for n_jobs in (1, 2):
        tasks = {
            "collapse": partial(donorwise_collapse.run, adata, n_jobs=n_jobs),
            "bare": partial(bare_pass.run, adata, n_jobs=n_jobs),
            "vectorised": partial(bare_pass.run_vectorised, adata, n_jobs=n_jobs),
        }
        s = interleave(tasks, repeats=7 if quick else 15, warmup=2)
        bare, vectorised = ratio(s["collapse"], s["bare"]), ratio(s["collapse"], s["vectorised"])
        rows.append(
            {"threads": n_jobs}
            | {f"{name} ms": 1e3 * median(values) for name, values in s.items()}
            | {"/ bare": bare, "/ vectorised": vectorised, "ns per entry": 1e9 * median(s["collapse"]) / adata.X.nnz}
        )
        aims.append(Aim(f"collapse over bare pass, threads = {n_jobs}", bare, 3.0))
    return Section("b", f"the pass over the data: {size}", rows, aims)
