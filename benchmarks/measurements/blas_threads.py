"""Moderated tests with the threads of BLAS left as they are and limited to one, on idle and on busy cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from competitors import donorwise_moderated
from data import Size, cohort
from report import Aim, Section
from threadpoolctl import threadpool_limits
from timing import Seconds, interleave


def run(quick: bool) -> Section:
    adata = cohort(Size(cells=20_000, genes=500) if quick else Size())
    test = partial(donorwise_moderated.run, adata, n_jobs=1)

    def limited() -> None:
        with threadpool_limits(1, user_api="blas"):
            test()

    rows, aims = [], []
    for name, n_busy in (("idle", 0), ("busy", os.cpu_count() or 1)):
        load = os.getloadavg()[0]
        with busy(n_busy):
            free, one = interleave({"free": test, "one": limited}, repeats=3 if quick else 9).values()
        rows.append({"cores": name, "other load before": load} | _row(free, one))
        aims.append(Aim(f"threads left as they are over one, {name} cores", rows[-1]["as they are/one"], 1.1))
    return Section("n", "tl.lmm, moderated, and the threads of BLAS", rows, aims)


def _row(free: Seconds, one: Seconds) -> dict[str, float]:
    return {
        "as they are s": free.medians()["median s"],
        "one s": one.medians()["median s"],
        "as they are/one": free.ratios(one)["median s"],
        "as they are/one, CPU": free.ratios(one)["median CPU s"],
    }


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Processes that do nothing but take a core each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
