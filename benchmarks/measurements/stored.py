"""The pass over files: against reading and decompressing the same chunks and nothing else, and its peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median
from typing import Any

import anndata as ad
import numpy as np
from data import Size, cohort
from report import Aim, Section

from donorwise._anndata import open_source
from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.stream import cut_ranges
from measurements.memory import reset_peak, status

_BLOCK = 50_000
KINDS = ("h5ad gzip", "h5ad plain", "zarr")


def run(quick: bool) -> Section:
    size = Size(cells=50_000) if quick else Size(cells=400_000)
    rows = [speed(kind, size, repeats=1 if quick else 3) for kind in KINDS]
    cells = (25_000, 50_000, 100_000) if quick else (100_000, 400_000, 1_600_000)
    peaks = [peak(n) for n in cells]
    growth = peaks[-1]["allocated MB"] / peaks[-2]["allocated MB"]
    aims = [
        Aim(
            "seconds of the pass over seconds of bare reading, the slowest", max(r["pass/reading"] for r in rows), 1.11
        ),
        Aim("seconds of two workers over seconds of one, gzip", rows[0]["2 workers/1"], 0.625),
        Aim("peak of what is allocated, over that with a quarter of the cells", growth, 1.1),
    ]
    return Section(
        "i", f"matrices in files: {size}; peak memory beyond the input for other sizes", [*rows, *peaks], aims
    )


def speed(kind: str, size: Size, repeats: int) -> dict[str, Any]:
    """Seconds of reading, of the pass, and of the pass with two workers, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(write(Path(folder), kind, size))
        matrix = open_source(path).X
        codes = np.random.default_rng(0).integers(0, 200, size.cells)
        tasks = {
            "reading": lambda: read(matrix),
            "pass": lambda: collapse(matrix, codes, 200),
            "2 workers": lambda: collapse(matrix, codes, 200, n_jobs=2),
        }
        tasks["2 workers"]()  # processes start, kernels compile
        rounds = [{name: _seconds(task) for name, task in tasks.items()} for _ in range(repeats)]
        mb = cut_ranges(open_reader(matrix), _all)[1] / 1e6
    seconds = {name: median(r[name] for r in rounds) for name in tasks}
    return (
        {"kind": kind, "MB": mb}
        | {f"{k} s": v for k, v in seconds.items()}
        | {
            "pass/reading": median(r["pass"] / r["reading"] for r in rounds),
            "2 workers/1": median(r["2 workers"] / r["pass"] for r in rounds),
        }
    )


def read(matrix: Any) -> None:
    """Read and decompress the chunks that the pass reads."""
    reader = open_reader(matrix)
    for low, high in cut_ranges(reader, _all)[0]:
        reader.load(low, high)


def _all(low: int, high: int) -> Any:
    return np.ones(high - low, dtype=bool)


def write(folder: Path, kind: str, size: Size) -> Path:
    """A cohort in a file; large ones in blocks of cells, which memory does not have to hold together."""
    path = folder / ("cohort.zarr" if kind == "zarr" else "cohort.h5ad")
    blocks = [
        Size(min(_BLOCK, size.cells - low), size.genes, size.donors, size.density)
        for low in range(0, size.cells, _BLOCK)
    ]
    options = {"compression": "gzip"} if kind == "h5ad gzip" else {}
    if len(blocks) == 1 or size.cells <= 400_000:
        adata = cohort(size)
        adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path, **options)
        return path
    _append(path, blocks)
    return path


def _append(path: Path, blocks: list[Size]) -> None:
    import h5py
    import pandas as pd
    from anndata.io import sparse_dataset, write_elem

    first = cohort(blocks[0])
    n = sum(b.cells for b in blocks)
    obs = pd.DataFrame(index=pd.RangeIndex(n).astype(str))
    ad.AnnData(obs=obs, var=first.var).write_h5ad(path)
    first.X.indptr = first.X.indptr.astype(np.int64)
    with h5py.File(path, "r+") as file:
        file.pop("X", None)
        write_elem(file, "X", first.X)
        stored = sparse_dataset(file["X"])
        for i, block in enumerate(blocks[1:], 1):
            stored.append(cohort(block, seed=i).X)


def peak(cells: int) -> dict[str, Any]:
    """Peak memory beyond what is resident before the pass, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "h5ad plain", Size(cells=cells, genes=500, density=0.05))
        disk = path.stat().st_size / 1e6
        command = [sys.executable, "-c", f"from measurements import stored; stored.measure({str(path)!r})"]
        here = Path(__file__).resolve().parents[1]
        printed = subprocess.run(command, cwd=here, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"kind": "h5ad plain", "cells": cells, "MB on disk": disk} | json.loads(printed.splitlines()[-1])


def measure(path: str) -> None:
    """Print the peak of the pass over a file; the pattern of every cell is in memory before."""
    matrix = open_source(path).X
    codes = np.random.default_rng(0).integers(0, 200, matrix.shape[0], dtype=np.int32)
    collapse(matrix, np.where(np.arange(codes.size) < 1000, codes, -1), 200)
    before = reset_peak()
    collapse(matrix, codes, 200)
    resident = (status("VmHWM") - before) / 1e6
    tracemalloc.start()
    collapse(matrix, codes, 200)
    print(json.dumps({"peak MB": resident, "allocated MB": tracemalloc.get_traced_memory()[1] / 1e6}))


def _seconds(task: Any) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start
