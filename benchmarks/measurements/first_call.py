"""What a new installation waits for: the first call compiles, later processes load what it compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Aim, Section

import donorwise

CALL = """
import time
start = time.perf_counter()
import donorwise as dw
adata = dw.datasets.simulate_cohort(n_cells=600, n_genes=50, seed=0)
imported = time.perf_counter()
dw.tl.lmm(adata, "~ condition + (1 | donor_id)", n_jobs=2, progress=False)
print(imported - start, time.perf_counter() - imported)
"""


def run(quick: bool) -> Section:
    source = str(Path(donorwise.__file__).parents[1])
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": source}
        for name in ("empty cache", "filled cache"):
            command = [sys.executable, "-c", CALL]
            printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            imports, call = map(float, printed.split()[-2:])
            rows.append({"": name, "imports and data s": imports, "tl.lmm s": call})
    aims = [Aim("first call, nothing compiled", rows[0]["tl.lmm s"], 15.0, " s")]
    return Section("g", "the first tl.lmm of a process", rows, aims)
