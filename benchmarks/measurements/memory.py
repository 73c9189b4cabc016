"""Peak memory beyond the input while the mixed models run, in a process of their own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from data import Size, cohort
from report import Aim, Section


def run(quick: bool) -> Section:
    size = Size(cells=20_000) if quick else Size()
    if not Path("/proc/self/clear_refs").exists():
        return Section("d", "peak memory: needs Linux's /proc", [])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cohort.h5ad"
        cohort(size).write_h5ad(file)
        command = [sys.executable, "-c", f"from measurements import memory; memory.measure({str(file)!r})"]
        here = Path(__file__).resolve().parents[1]
        printed = subprocess.run(command, cwd=here, check=True, stdout=subprocess.PIPE, text=True).stdout
    row = json.loads(printed.splitlines()[-1])
    share = row["peak beyond input MB"] / row["matrix MB"]
    aims = [Aim("peak beyond the input as a share of the matrix", share, 0.2)]
    return Section("d", f"peak memory of tl.lmm, 2 threads: {size}", [row | {"share": share}], aims)


def measure(file: str) -> None:
    """Print the peak resident memory of tl.lmm above what was resident before, after a warm-up on a few cells."""
    import anndata as ad
    from competitors import donorwise_lmm

    adata = ad.read_h5ad(file)
    donorwise_lmm.run(adata[: len(adata) // 50].copy(), n_jobs=2)
    adata.X.data.sum(), adata.X.indices.sum()  # every page of the input is resident
    before = reset_peak()
    donorwise_lmm.run(adata, n_jobs=2)
    matrix = sum(a.nbytes for a in (adata.X.data, adata.X.indices, adata.X.indptr))
    print(json.dumps({"matrix MB": matrix / 1e6, "peak beyond input MB": (status("VmHWM") - before) / 1e6}))


def reset_peak() -> float:
    """Set the kernel's record of the peak to what is resident now (see proc(5), clear_refs); return it.

    Memory that was freed but not given back would hide as much of the peak, so it is given back first.
    """
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
