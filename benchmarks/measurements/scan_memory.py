"""Peak memory of a trans scan of a .bed file as its variants get more, and the seconds of 20,000 genes from a part of the variants."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report import Aim, Section
from scan import relatedness

import donorwise as dw
from measurements.memory import reset_peak, status

N_DONORS, P_MAX = 200, 1e-7
LARGE = 20_000, 1_000_000  # genes and variants of the scan that is extrapolated


def run(quick: bool) -> Section:
    if not Path("/proc/self/clear_refs").exists():
        return Section("v", "peak memory of a scan: needs Linux's /proc", [])
    n_genes, sizes = (100, (2_000, 20_000)) if quick else (200, (10_000, 100_000, 1_000_000))
    with tempfile.TemporaryDirectory() as folder:
        rows = [_apart(Path(folder), n_genes, size) for size in sizes]
        rows.append(_apart(Path(folder), 500 if quick else LARGE[0], sizes[1]))
    part = rows[-1]
    hours = part["s"] / part["variants"] * LARGE[1] / 3600
    rows.append({"genes": LARGE[0], "variants": LARGE[1], "extrapolated hours": hours})
    growth = rows[len(sizes) - 1]["peak MB"] / rows[1]["peak MB"]  # the fewest variants are not a block's
    aims = [Aim(f"peak with {sizes[-1]:,} variants, times with {sizes[1]:,}", growth, 1.5)]
    return Section("v", f"trans scan of a .bed file, 2 threads, one kernel: {N_DONORS} donors", rows, aims)


def _apart(folder: Path, n_genes: int, n_variants: int) -> dict[str, Any]:
    """In a process of its own."""
    write_bed(folder / "panel", n_variants)
    code = f"from measurements import scan_memory; scan_memory.measure({str(folder)!r}, {n_genes}, {n_variants})"
    here = Path(__file__).resolve().parents[1]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=here, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return dict(json.loads(printed.splitlines()[-1]))


def write_bed(stem: Path, n_variants: int) -> None:
    """Random genotypes without missing ones, as PLINK 1 files."""
    rng = np.random.default_rng(0)
    codes = np.array([0, 2, 2, 3], dtype=np.uint8)[rng.integers(0, 4, (n_variants, N_DONORS), dtype=np.uint8)]
    packed = (codes.reshape(n_variants, -1, 4) << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    stem.with_suffix(".bed").write_bytes(b"\x6c\x1b\x01" + packed.tobytes())
    lines = (f"{1 + i * 22 // n_variants}\trs{i}\t0\t{i + 1}\tG\tA\n" for i in range(n_variants))
    with stem.with_suffix(".bim").open("w") as file:
        file.writelines(lines)
    stem.with_suffix(".fam").write_text("".join(f"d{d} d{d} 0 0 0 -9\n" for d in range(N_DONORS)))


def measure(folder: str, n_genes: int, n_variants: int) -> None:
    """Print the seconds and the peak beyond what was resident before, after a warm-up with few genes."""
    rng = np.random.default_rng(1)
    names = [f"d{d}" for d in range(N_DONORS)]
    obs = pd.DataFrame({"donor": names})
    kernel = pd.DataFrame(relatedness(rng.binomial(2, 0.4, (1_000, N_DONORS)).astype(float)), names, names)
    Y = rng.normal(size=(N_DONORS, n_genes))

    def scan(Y: np.ndarray, out: str, **options: Any) -> None:
        dw.scan_variants(
            Y, obs, Path(folder) / "panel.bed", "~ 1 + (1 | gr(donor, cov=G))", kernels={"G": kernel}, mode="trans", refit="none",
            p_max=P_MAX, donor="donor", n_jobs=2, progress=False, out=f"{folder}/{out}{n_variants}", **options,
        )  # fmt: skip

    before = reset_peak()
    start = time.perf_counter()
    scan(Y, f"all{n_genes}_")
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {"genes": n_genes, "variants": n_variants, "s": seconds, "peak MB": (status("VmHWM") - before) / 1e6}
        )
    )
