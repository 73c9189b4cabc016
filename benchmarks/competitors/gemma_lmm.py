"""GEMMA -lmm 1: restricted maximum likelihood for every variant of one trait, and Wald's test, in one thread."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from mice import gemma, missing

if TYPE_CHECKING:
    from mice import Mice

__all__ = ["NAME", "Parts", "missing", "run"]

NAME = "GEMMA -lmm 1, one core"


class Parts(NamedTuple):
    """Seconds of GEMMA: of the process, on the clock and of the processor, and what it logs of its parts."""

    wall: float
    cpu: float
    eigen: float
    rotation: float
    optimisation: float


def run(mice: Mice) -> tuple[Parts, pd.DataFrame]:
    """The seconds, and the table of all variants."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    gemma(mice.folder, "-bfile", "mice", "-k", "output/k.cXX.txt", "-lmm", "1", "-o", "lmm")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    log = (mice.folder / "output" / "lmm.log.txt").read_text()
    parts = [
        _minutes(log, f"time on {what} = ") * 60 for what in ("eigen-decomposition", "calculating UtX", "optimization")
    ]
    return Parts(wall, cpu, *parts), pd.read_csv(mice.folder / "output" / "lmm.assoc.txt", sep="\t")


def _minutes(log: str, what: str) -> float:
    return float(log.split(what)[1].split()[0])
