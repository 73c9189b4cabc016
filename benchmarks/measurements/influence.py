"""Every hit without every donor, beside one tl.lmm of the same."""

from __future__ import annotations

import numpy as np
from data import hits_cohort
from report import Aim, Section
from timing import Seconds

import donorwise as dw

N_JOBS = 2
GROUPS = 2


def run(quick: bool) -> Section:
    return measure("m", 1_000 if quick else 2_000, 10 if quick else 40)


def measure(key: str, n_features: int, n_donors: int, limit: float | None = None) -> Section:
    """One run of each; `limit` is that of the seconds of tl.influence."""
    adata = hits_cohort(n_features, n_donors, GROUPS)
    tasks = {
        "tl.lmm, moderated": lambda: dw.tl.lmm(
            adata, "~ condition + (1 | donor)", groupby="cell_type", n_jobs=N_JOBS, progress=False
        ),
        "tl.influence of its hits": lambda: dw.tl.influence(adata, n_jobs=N_JOBS, progress=False),
    }
    tasks["tl.lmm, moderated"]()  # kernels are compiled
    seconds = {name: Seconds() for name in tasks}
    for name, task in tasks.items():
        seconds[name].time(task)
    one, again = seconds.values()
    rows = [{"": name, "s": s.wall[0], "CPU s": s.cpu[0]} for name, s in seconds.items()]
    rows.append({"": "influence over lmm", "s": again.wall[0] / one.wall[0], "CPU s": again.cpu[0] / one.cpu[0]})
    rows[1]["hits"] = int(np.sum(adata.uns["lmm"]["results"]["adj_p_value"] <= 0.05))
    title = f"tl.influence, {N_JOBS} threads: {n_features:,} genes x {GROUPS} groups x {n_donors} donors"
    return Section(key, title, rows, [] if limit is None else [Aim("tl.influence", again.wall[0], limit, " s")])
