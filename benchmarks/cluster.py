"""Rates behind the plan for 100 million cells in docs/cluster.md: what a worker reads, collapses and merges per second.

    python benchmarks/cluster.py --cells 100000 --genes 20000 --per-cell 1000

Rates are in CPU seconds of one core, so that other work on the machine does not count; the runs on a LocalCluster are in
seconds. Files are written to a temporary folder that is removed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster, SchedulerPlugin
from scipy import sparse

import donorwise as dw
from donorwise._anndata import open_source
from donorwise._core.cells import cluster
from donorwise._core.cells.collapse import MOMENTS, measure_cells
from donorwise._core.cells.moments import DETECTED
from donorwise._core.cells.readers import open_reader
from donorwise._core.cells.remote import Share, cut_rows, merge, read
from donorwise._core.cells.segments import CodedCells
from donorwise._core.cells.threads import BUDGET


class Results(SchedulerPlugin):
    """Number and bytes of the results of tasks, by kind."""

    def __init__(self, scheduler) -> None:
        self.scheduler, self.found = scheduler, {}
        scheduler.add_plugin(self, name="results")

    def transition(self, key, start, finish, *args, **kwargs) -> None:
        if finish == "memory" and str(key).startswith("donorwise-"):
            self.found.setdefault(str(key).split("-")[1], []).append(self.scheduler.tasks[key].nbytes)


def simulate(n_cells: int, n_genes: int, per_cell: int, n_patterns: int) -> ad.AnnData:
    """Log-normalised values of cells that are sorted by pattern, a few genes of which have most of the counts."""
    rng = np.random.default_rng(0)
    n_block, p = 10_000, rng.dirichlet(np.full(n_genes, 0.3))
    blocks = []
    for low in range(0, n_cells, n_block):
        n = min(n_block, n_cells - low)
        rows = np.repeat(np.arange(n), 2 * per_cell)
        counts = sparse.coo_array((np.ones(rows.size, np.float32), (rows, rng.choice(n_genes, rows.size, p=p)))).tocsr()
        counts.resize(n, n_genes)
        depth = np.repeat(rng.lognormal(0, 0.5, n), np.diff(counts.indptr))  # no two cells have the same values
        counts.data = np.log1p(counts.data / depth).astype(np.float32)
        blocks.append(counts)
    obs = pd.DataFrame({"pattern": pd.Categorical(np.sort(np.arange(n_cells) % n_patterns).astype(str))})
    obs.index = obs.index.astype(str)
    return ad.AnnData(sparse.csr_matrix(sparse.vstack(blocks, format="csr")), obs=obs)


def cpu_seconds(function, *args):
    """Result and CPU seconds of the second of two calls."""
    function(*args)
    start = time.process_time()
    found = function(*args)
    return found, time.process_time() - start


def one_core(path: Path, codes: np.ndarray) -> None:
    """Rates of the steps of one task."""
    reader = open_reader(open_source(path).X)
    high = int(np.searchsorted(np.cumsum(reader.cost(0, reader.shape[0])), BUDGET.range_bytes))
    matrix, seconds = cpu_seconds(read, cut_rows(reader, 0, high))
    size = (matrix.data.nbytes + matrix.indices.nbytes) / 1e6
    patterns, own = np.unique(codes[:high], return_inverse=True)
    cells, columns = CodedCells(own.astype(np.int32), patterns.size), np.arange(matrix.shape[1])
    task = partial(measure_cells, measures=(MOMENTS, DETECTED))
    results, measured = cpu_seconds(task, matrix, cells, columns)
    share = Share(np.arange(patterns.size), results)
    _, merged = cpu_seconds(merge, [share] * cluster.FAN_IN)
    total = share.__sizeof__() / 1e6
    print(
        f"{path.name}: {high:,} cells, {size:.0f} MB, {patterns.size} patterns ({total:.0f} MB). Read "
        f"{size / seconds:.0f} MB/s, collapse {size / measured:.0f} MB/s, "
        f"merge {cluster.FAN_IN * total / merged:.0f} MB/s"
    )


def on_workers(path: Path, n_workers: int) -> None:
    """Seconds of a run, and what its tasks returned."""
    with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None) as local, Client(local) as c:
        dw.pp.collapse(path, "pattern", client=c, progress=False)  # imports and compiled loops
        results, start = Results(local.scheduler), time.perf_counter()
        dw.pp.collapse(path, "pattern", client=c, progress=False)
        seconds = time.perf_counter() - start
        kinds = ", ".join(f"{len(v)} {k} (at most {max(v) / 1e6:.0f} MB)" for k, v in results.found.items())
        print(f"{path.name}, {n_workers} workers: {seconds:.1f} s; {kinds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("cells", 100_000), ("genes", 20_000), ("per-cell", 1_000), ("patterns", 500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        adata = simulate(asked.cells, asked.genes, asked.per_cell, asked.patterns)
        print(f"{asked.cells:,} cells x {asked.genes:,} genes, {adata.X.nnz / asked.cells:.0f} values a cell")
        paths = [Path(folder) / "cells.h5ad", Path(folder) / "cells.zarr"]
        adata.write_h5ad(paths[0], compression="gzip")
        adata.write_zarr(paths[1])
        for path in paths:
            one_core(path, np.unique(adata.obs["pattern"], return_inverse=True)[1])
        for n_workers in (1, 2):
            on_workers(paths[0], n_workers)


if __name__ == "__main__":
    main()
