"""Generalised mixed models of counts, and of yes and no, against scanpy's t-test and NEBULA on the same matrix."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from competitors import donorwise_glmm, edgepython_nebula, missing, scanpy_t_test
from report import Aim, Section
from timing import interleave

import donorwise as dw

if TYPE_CHECKING:
    import anndata as ad
    from timing import Seconds

N_JOBS = 2
SIZES = {"S": (20_000, 20), "M": (100_000, 50)}
GENES = 2_000
FAMILIES: dict[str, tuple[dict[str, Any], float]] = {
    "nb": ({"family": "nb"}, 15.0),
    "poisson": ({"family": "poisson"}, 5.0),
    "detected, logit": ({"family": "binomial", "response": "detected"}, 5.0),
    "detected, cloglog": ({"family": "binomial", "response": "detected", "link": "cloglog"}, 5.0),
}
FASTER_THAN_NEBULA = 0.1


def run(quick: bool) -> Section:
    sizes = {"S": (4_000, 20)} if quick else SIZES
    rows, aims = [], []
    for name, (n_cells, n_donors) in sizes.items():
        own_rows, own_aims = _one(name, cohort(n_cells, n_donors, 300 if quick else GENES), 2 if quick else 3)
        rows += own_rows
        aims += own_aims
    return Section(
        "q", f"counts, {N_JOBS} threads: {GENES:,} genes; S has 20,000 cells of 20 donors, M 100,000 of 50", rows, aims
    )


def cohort(n_cells: int, n_donors: int, n_genes: int) -> ad.AnnData:
    """Counts of three cell types in a layer, their logarithms in X, and a number that differs from cell to cell."""
    adata = dw.datasets.simulate_cohort(
        n_donors=n_donors, n_cells=n_cells, n_genes=n_genes, cell_types=["A", "B", "C"], seed=3
    )
    adata.obs["donor"] = adata.obs["donor_id"].astype("category")
    adata.obs["condition"] = adata.obs["condition"].cat.rename_categories(["control", "case"])
    adata.obs["score"] = np.random.default_rng(4).normal(size=n_cells)
    return adata


def _one(name: str, adata: ad.AnnData, repeats: int) -> tuple[list[dict[str, Any]], list[Aim]]:
    """Rows and aims of one size; NEBULA, and covariates of single cells, on the smaller one."""
    tasks: dict[str, Any] = {scanpy_t_test.NAME: partial(scanpy_t_test.run, adata, n_jobs=N_JOBS)}
    for family, (options, _) in FAMILIES.items():
        tasks[family] = partial(donorwise_glmm.run, adata, n_jobs=N_JOBS, **options)
    tasks["nb, by cell type"] = partial(donorwise_glmm.run, adata, n_jobs=N_JOBS, groupby="cell_type")
    seconds = interleave(tasks, repeats=repeats)
    test = seconds[scanpy_t_test.NAME]
    if name == "S":
        slow = {
            "nb, a covariate of cells": partial(
                donorwise_glmm.run, adata, n_jobs=1, formula="~ condition + score + (1 | donor)"
            )
        }
        if not missing(edgepython_nebula):
            slow[edgepython_nebula.NAME] = partial(edgepython_nebula.run, adata, n_jobs=1)
        seconds |= interleave(slow, repeats=1, warmup=0)
    rows = [{"": f"{name}: {task}"} | s.medians() | {"/ t-test": _share(s, test)} for task, s in seconds.items()]
    aims = [
        Aim(f"{name}: {family}, times scanpy's t-test", seconds[family].ratios(test)["median s"], limit)
        for family, (_, limit) in FAMILIES.items()
    ]
    nebula = seconds.get(edgepython_nebula.NAME)
    if nebula is not None:
        aims += [
            Aim(f"{name}: {task}, share of NEBULA's time", _share(seconds[task], nebula, "median CPU s"), limit)
            for task, limit in (("nb", FASTER_THAN_NEBULA), ("nb, a covariate of cells", 1.0))
        ]
    return rows, aims


def _share(own: Seconds, other: Seconds, of: str = "median s") -> float:
    """Of medians: slow tasks have fewer rounds."""
    return own.medians()[of] / other.medians()[of]
