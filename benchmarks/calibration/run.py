"""Run the methods on the data sets, and keep every result in a file so that a run can be continued."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from benchmarks.calibration.methods import (
    edger_ql,
    glmm,
    limma_trend,
    lmm,
    nebula,
    pseudobulk,
    pydeseq2,
    scanpy_t_test,
    voom,
)
from benchmarks.calibration.metrics import measure
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from donorwise.errors import DonorwiseWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.calibration.methods import Method
    from benchmarks.calibration.scenarios import DataSet

METHODS: tuple[Method, ...] = tuple(
    method
    for module in (scanpy_t_test, lmm, pseudobulk, glmm, nebula, pydeseq2, edger_ql, limma_trend, voom)
    for method in module.METHODS
)


def run(
    data_sets: Sequence[DataSet], methods: Sequence[Method], cache: Path, *, file: Path | None, jobs: int
) -> pd.DataFrame:
    """Every method on every data set: one row per pair, with what :func:`measure` says."""
    work = (delayed(_one)(d, methods, cache / d.name, file) for d in data_sets)
    done = Parallel(jobs, return_as="generator_unordered")(work)
    rows = [row for rows in tqdm(done, total=len(data_sets), unit="data set") for row in rows]
    columns = ["scenario", "variant", "size", "replicate", "method"]
    return pd.DataFrame(rows).sort_values(columns, ignore_index=True)


def _one(data_set: DataSet, methods: Sequence[Method], folder: Path, file: Path | None) -> list[dict[str, object]]:
    """What the methods say of one data set; those that have not said it before are run."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [m for m in methods if not _file(folder, m).exists()]
    if missing:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", DonorwiseWarning)
            data = data_set.make(file)
            for method in missing:
                start = time.perf_counter()
                p = method.p_values(data) if method.applies(data) else np.empty(0)
                seconds = time.perf_counter() - start
                _write(_file(folder, method), p=p, truth=data.truth, counts=data.counts, seconds=seconds)
    rows = []
    for method in methods:
        with np.load(_file(folder, method)) as found:
            p, truth, counts, seconds = found["p"], found["truth"], found["counts"], float(found["seconds"])
        if p.size:
            about = {k: getattr(data_set, k) for k in ("scenario", "variant", "size", "replicate")}
            rows.append(about | {"method": method.name, "seconds": seconds} | measure(p, truth, counts))
    return rows


def _write(file: Path, **arrays: np.ndarray | float) -> None:
    """Write all or nothing: a run that is stopped leaves no half of a file behind."""
    part = file.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)
    part.rename(file)


def _file(folder: Path, method: Method) -> Path:
    return folder / f"{''.join(c if c.isalnum() else '_' for c in method.name)}.npz"


def forget(cache: Path, methods: Sequence[Method]) -> None:
    """Remove what some methods have said, so that they are run again."""
    for method in methods:
        for file in cache.glob(f"*/{_file(Path(), method).name}"):
            file.unlink()


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Mean, sd, smallest and largest value over the data sets, in long form."""
    keys = ["scenario", "variant", "size", "method"]
    measures = [c for c in results.columns if c not in (*keys, "replicate")]
    long = results.melt(keys, measures, var_name="measure").dropna(subset="value")
    table = long.groupby([*keys, "measure"], sort=False)["value"].agg(["mean", "std", "min", "max", "size"])
    return table.rename(columns={"std": "sd", "size": "n"}).reset_index()
