"""Statistics that are larger than memory: a collapse to a file and its models, in a process with a limit."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from data import Size, cohort
from report import Aim, Section

import donorwise as dw
from measurements.memory import status

LIMIT_GB = 4.0


def run(quick: bool) -> Section:
    donors, types, genes = (100, 10, 2_000) if quick else (1_000, 30, 20_000)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "cells.h5ad", donors, types, genes)
        command = [sys.executable, "-c", f"from measurements import beyond_memory; beyond_memory.measure({folder!r})"]
        here = Path(__file__).resolve().parents[1]
        printed = subprocess.run(command, cwd=here, check=True, stdout=subprocess.PIPE, text=True).stdout
    row = json.loads(printed.splitlines()[-1])
    aims = [Aim("peak of the process", max(row["collapse peak GB"], row["lmm peak GB"]), LIMIT_GB, " GB")]
    return Section("j", f"{donors * types:,} patterns x {genes:,} genes with max_memory=2.5", [row], aims)


def write(path: Path, donors: int, types: int, genes: int) -> None:
    """Two cells of every donor and cell type, 400 genes seen in each at most."""
    n = 2 * donors * types
    adata = cohort(Size(cells=n, genes=genes, donors=donors, density=min(0.1, 400 / genes)))
    at = np.arange(n)
    adata.obs["donor"] = pd.Categorical([f"D{i:04d}" for i in at % donors])
    adata.obs["cell_type"] = pd.Categorical([f"T{i:02d}" for i in at // donors % types])
    adata.obs["condition"] = pd.Categorical(np.where(at % donors % 2, "case", "control"))
    adata.write_h5ad(path, compression="lzf")


def measure(folder: str) -> None:
    """Print seconds and peaks of both steps."""
    source, out = f"{folder}/cells.h5ad", f"{folder}/rows.zarr"
    start = time.perf_counter()
    rows = dw.pp.collapse(
        source, ["cell_type", "donor", "condition"], max_memory=2.5, out=out, progress=False, n_jobs=2
    )  # fmt: skip
    collapsed = time.perf_counter()
    peak = status("VmHWM") / 1e9
    Path("/proc/self/clear_refs").write_text("5")
    dw.tl.lmm(
        rows, "~ condition + (1 | donor)", groupby="cell_type", ddf="kenward-roger", progress=False, n_jobs=2
    )  # fmt: skip
    size = sum(f.stat().st_size for f in Path(out).rglob("*") if f.is_file()) / 1e9
    statistics = 8 * rows.n_obs * rows.n_vars * (1 + len(rows.layers)) / 1e9
    print(
        json.dumps(
            {
                "statistics GB": statistics,
                "on disk GB": size,
                "collapse s": collapsed - start,
                "collapse peak GB": peak,
                "lmm s": time.perf_counter() - collapsed,
                "lmm peak GB": status("VmHWM") / 1e9,
                "fits": len(dw.get.tests(rows)),
            }
        )
    )
