"""tensorQTL on the processor, all genes on all variants: least squares in single precision, by torch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyscript
from scan import Scanned

if TYPE_CHECKING:
    from scan import Study

NAME = "tensorQTL map_trans, float32"
_CODE = """
import time
import numpy as np
import pandas as pd
from tensorqtl import trans

given = np.load("study.npz")
donors = [f"d{i}" for i in range(len(given["covariates"]))]
named = lambda name: pd.DataFrame(given[name], np.arange(len(given[name])), donors)
genotypes, genes, covariates = named("genotypes"), named("expression"), pd.DataFrame(given["covariates"], donors)

def run(n_genes, n_variants):
    start = time.perf_counter(), time.process_time()
    table = trans.map_trans(
        genotypes.iloc[:n_variants], genes.iloc[:n_genes], covariates, pval_threshold=P_MAX, maf_threshold=0.01,
        batch_size=1_000, verbose=False,
    )
    return table, time.perf_counter() - start[0], time.process_time() - start[1]

run(100, 1000)
table, wall, cpu = run(len(genes), len(genotypes))
np.savez(
    "found.npz", gene=table["phenotype_id"].astype(int), variant=table["variant_id"].astype(int),
    t=table["b"].astype(float) / table["b_se"].astype(float), wall=wall, cpu=cpu,
)
"""


def missing() -> str:
    return pyscript.missing("tensorqtl")


def run(study: Study, *, n_jobs: int, p_max: float = 1e-5) -> Scanned:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study.write(folder)
        pyscript.run(folder, _CODE.replace("P_MAX", repr(p_max)), n_jobs=n_jobs)
        return Scanned.read(folder / "found.npz")
