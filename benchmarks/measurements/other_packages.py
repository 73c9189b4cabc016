"""Mixed models of other packages, gene by gene, on small counts: they take minutes where donorwise takes less than one."""

from __future__ import annotations

from functools import partial
from typing import Any

from competitors import donorwise_lmm, donorwise_moderated, edgepython_nebula, missing, r_lme4
from data import counts_cohort
from report import Section
from timing import Seconds, interleave

ALL = (donorwise_lmm, donorwise_moderated, edgepython_nebula, r_lme4)


def run(quick: bool) -> Section:
    n_cells, n_genes = (1_000, 100) if quick else (4_000, 200)
    adata = counts_cohort(n_cells, n_genes)
    there = [c for c in ALL if not missing(c)]
    seconds = interleave({c.NAME: partial(c.run, adata, n_jobs=1) for c in there}, repeats=1 if quick else 2)
    own = seconds[donorwise_lmm.NAME]
    rows = [_row(c.NAME, seconds[c.NAME], own, n_genes) for c in there]
    rows += [{"": f"{c.NAME}: needs {missing(c)}"} for c in ALL if missing(c)]
    return Section("o", f"other mixed models, one core: {n_cells:,} cells x {n_genes} genes, 20 donors", rows)


def _row(name: str, seconds: Seconds, own: Seconds, n_genes: int) -> dict[str, Any]:
    s = seconds.medians()["median s"]
    return {
        "": name,
        "median s": s,
        "ms per gene": 1e3 * s / n_genes,
        "/ Kenward-Roger": seconds.ratios(own)["median s"],
    }
