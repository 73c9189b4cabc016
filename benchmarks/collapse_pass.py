"""The collapse of a CSR matrix, and counts for generalised models, against the floor: a bare pass over data and indices.

Run as a script, or call `run` from a larger benchmark. Every time is the smallest of several
rounds, in which the contestants take turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from scipy import sparse

from donorwise._core.cells.collapse import collapse
from donorwise._core.cells.counts import count_cells
from donorwise._core.cells.nodes import choose_nodes
from donorwise._core.cells.tails import choose_tails

DEPTHS = (1_000, 20_000)  # of the cells: 20 nodes


def make_matrix(n_cells, n_genes, density, rng):
    """CSR of float32 as from log1p counts: genes differ in how often they are seen."""
    frequency = rng.beta(0.5, 0.5 * (1 - density) / density, n_genes)
    rows = [np.flatnonzero(rng.random(n_genes, dtype=np.float32) < frequency) for _ in range(n_cells)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    data = rng.gamma(2.0, 0.5, indptr[-1]).astype(np.float32)
    return sparse.csr_matrix((data, np.concatenate(rows).astype(np.int32), indptr), shape=(n_cells, n_genes))


def make_counts(matrix, rng):
    """Counts in the places of a matrix, a few of them large."""
    counts = matrix.copy()
    counts.data = (1 + rng.negative_binomial(0.3, 0.2, matrix.nnz)).astype(np.float32)
    return counts


@njit(nogil=True)
def _bare_range(data, indices, first, last):
    values, columns = 0.0, 0
    for p in range(first, last):
        values += data[p]
        columns += indices[p]
    return values, columns


def bare_pass(matrix, n_threads):
    """Sum of the data and of the indices."""
    cuts = np.linspace(0, matrix.nnz, n_threads + 1).astype(np.int64)
    with ThreadPoolExecutor(n_threads) as pool:
        return list(
            pool.map(lambda i: _bare_range(matrix.data, matrix.indices, cuts[i], cuts[i + 1]), range(n_threads))
        )


def best_times(contestants, n_rounds):
    """Smallest wall time and smallest processor time of each, in seconds; the first round, which compiles, is left out."""
    best = dict.fromkeys(contestants, (np.inf, np.inf))
    for i in range(n_rounds + 1):
        for name, function in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = (min(best[name][0], spent[0]), min(best[name][1], spent[1])) if i else best[name]
    return best


def run(*, n_cells=100_000, n_genes=2_000, density=0.08, n_patterns=20, threads=(1, 2), n_rounds=15, seed=0) -> dict:
    """Wall times in seconds, processor times, and both relative to the bare pass; dicts by (threads, name).

    Processor times are summed over threads; they alone mean something on a machine that does other work.
    """
    rng = np.random.default_rng(seed)
    matrix = make_matrix(n_cells, n_genes, density, rng)
    mixed = rng.integers(0, n_patterns, n_cells).astype(np.int32)
    blocks = np.sort(mixed)
    by_column = matrix.tocsc()
    weights, covariates = rng.uniform(0.5, 2, n_cells), rng.normal(size=(n_cells, 1))
    counts, counts_by_column = make_counts(matrix, rng), make_counts(by_column, rng)
    exposure = np.exp(rng.uniform(np.log(DEPTHS[0]), np.log(DEPTHS[1]), n_cells))
    nodes, tails = choose_nodes(*np.log(DEPTHS).tolist(), "nb"), choose_tails(float(counts.data.max()))

    def count(given, n, **kept):
        return count_cells(given, mixed, n_patterns, exposure=exposure, n_jobs=n, **kept)

    contestants = {}
    for n in threads:
        contestants |= {
            (n, "bare pass"): lambda n=n: bare_pass(matrix, n),
            (n, "collapse, cells in blocks"): lambda n=n: collapse(matrix, blocks, n_patterns, n_jobs=n),
            (n, "collapse, cells mixed"): lambda n=n: collapse(matrix, mixed, n_patterns, n_jobs=n),
            (n, "  + weights"): lambda n=n: collapse(matrix, mixed, n_patterns, weights=weights, n_jobs=n),
            (n, "  + one covariate"): lambda n=n: collapse(matrix, mixed, n_patterns, covariates=covariates, n_jobs=n),
            (n, "  CSC"): lambda n=n: collapse(by_column, mixed, n_patterns, n_jobs=n),
            (n, "counts, sums alone"): lambda n=n: count(counts, n),
            (n, f"  + {len(nodes.at)} nodes"): lambda n=n: count(counts, n, nodes=nodes),
            (n, f"  + {len(tails.values)} tails"): lambda n=n: count(counts, n, nodes=nodes, tails=tails),
            (n, "  CSC "): lambda n=n: count(counts_by_column, n, nodes=nodes, tails=tails),
        }
    best = best_times(contestants, n_rounds)
    times, cpu_times = ({key: both[i] for key, both in best.items()} for i in (0, 1))
    size = {"n_cells": n_cells, "n_genes": n_genes, "n_stored": matrix.nnz, "n_patterns": n_patterns}
    ratios, cpu_ratios = relative(times), relative(cpu_times)
    return {"size": size, "times": times, "ratios": ratios, "cpu_times": cpu_times, "cpu_ratios": cpu_ratios}


def relative(times):
    """Each time over that of the bare pass on as many threads."""
    return {(n, name): seconds / times[n, "bare pass"] for (n, name), seconds in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--density", type=float, default=0.08)
    parser.add_argument("--patterns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    result = run(
        n_cells=args.cells, n_genes=args.genes, density=args.density, n_patterns=args.patterns, n_rounds=args.rounds
    )
    size = result["size"]
    print("{n_cells:,} cells x {n_genes:,} genes, {n_stored:,} stored float32, {n_patterns} patterns".format(**size))
    print(f"{'':34}  {'wall':^15}  {'processor':^15}")
    print(f"{'threads':>7}  {'pass':<25}  {'ms':>7} {'x bare':>7}  {'ms':>7} {'x bare':>7}")
    for (n, name), wall in result["times"].items():
        wall_ratio, cpu, cpu_ratio = (result[kind][n, name] for kind in ("ratios", "cpu_times", "cpu_ratios"))
        print(f"{n:>7}  {name:<25}  {1e3 * wall:>7.1f} {wall_ratio:>7.2f}  {1e3 * cpu:>7.1f} {cpu_ratio:>7.2f}")


if __name__ == "__main__":
    main()
