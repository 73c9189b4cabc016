"""Every hit without every donor, beside one tl.lmm of the same."""

from __future__ import annotations

import numpy as np
from data import hits_cohort
from report import Aim, Section
from timing import Seconds

import donorwise as dw

N_JOBS = 2
LIMIT = 30.0


def run(quick: bool) -> Section:
    n_features, n_donors, n_groups = (1_000 if quick else 20_000), (10 if quick else 40), 2
    adata = hits_cohort(n_features, n_donors, n_groups)
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
    one, all_donors = seconds.values()
    rows = [{"": name, "s": s.wall[0], "CPU s": s.cpu[0]} for name, s in seconds.items()]
    rows.append(
        {"": "tl.influence in fits", "s": all_donors.wall[0] / one.wall[0], "CPU s": all_donors.cpu[0] / one.cpu[0]}
    )
    n_hits = int(np.sum(dw.get.lmm(adata)["adj_p_value"] <= 0.05))
    title = (
        f"tl.influence, {N_JOBS} threads: {n_features:,} genes x {n_groups} groups x {n_donors} donors, {n_hits:,} hits"
    )
    return Section("m", title, rows, [Aim("tl.influence", all_donors.wall[0], LIMIT, " s")])
