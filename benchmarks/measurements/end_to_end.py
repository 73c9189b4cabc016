"""Mixed models of all genes against scanpy's t-test of the same matrix."""

from __future__ import annotations

from functools import partial
from statistics import median

from competitors import donorwise_lmm, scanpy_t_test
from data import Size, cohort
from report import Aim, Section
from timing import interleave, ratio

N_JOBS = 2


def run(quick: bool) -> Section:
    return compare("a", Size(cells=20_000, genes=500) if quick else Size(), 1 / 3, repeats=5 if quick else 15)


def compare(key: str, size: Size, aim: float, repeats: int) -> Section:
    adata = cohort(size)
    tasks = {c.NAME: partial(c.run, adata, n_jobs=N_JOBS) for c in (donorwise_lmm, scanpy_t_test)}
    seconds = interleave(tasks, repeats=repeats, warmup=2)
    own, other = seconds.values()
    rows = [{"": name, "median s": median(s), "min s": min(s), "max s": max(s)} for name, s in seconds.items()]
    rows.append({"": "ratio, by pairs", "median s": ratio(own, other), "min s": min(own) / min(other)})
    aims = [Aim("time of the mixed models as a share of scanpy's", ratio(own, other), aim)]
    return Section(key, f"end to end, {N_JOBS} threads: {size}", rows, aims)
