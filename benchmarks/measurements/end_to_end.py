"""Mixed models of all genes against scanpy's t-test of the same matrix."""

from __future__ import annotations

from functools import partial

from competitors import donorwise_lmm, donorwise_moderated, scanpy_t_test
from data import Size, cohort
from report import Aim, Section
from timing import interleave

N_JOBS = 2


def run(quick: bool) -> Section:
    size = Size(cells=20_000, genes=500) if quick else Size()
    return compare("a", size, {donorwise_lmm: 1 / 3, donorwise_moderated: 2 / 3}, repeats=5 if quick else 15)


def compare(key: str, size: Size, limits: dict, repeats: int) -> Section:
    """Rows of seconds, then of shares of scanpy's; `limits` are those of each competitor's share."""
    adata = cohort(size)
    tasks = {c.NAME: partial(c.run, adata, n_jobs=N_JOBS) for c in (*limits, scanpy_t_test)}
    seconds = interleave(tasks, repeats=repeats, warmup=2)
    rows = [{"": name} | s.medians() for name, s in seconds.items()]
    shares = {c: seconds[c.NAME].ratios(seconds[scanpy_t_test.NAME]) for c in limits}
    rows += [{"": f"share of scanpy's: {c.NAME}"} | share for c, share in shares.items()]
    aims = [Aim(f"share of scanpy's time, {c.NAME}", shares[c]["median s"], limit) for c, limit in limits.items()]
    return Section(key, f"end to end, {N_JOBS} threads: {size}", rows, aims)
