"""MatrixEQTL in Python: least squares of all genes on all variants."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyscript
from scan import Scanned

if TYPE_CHECKING:
    from scan import Study

NAME = "pymatrixeqtl, slices of 1,000 variants"
_CODE = """
import time
import numpy as np
from pymatrixeqtl import SlicedData, eqtl

given = np.load("study.npz")
genotypes, genes, covariates = (given[name] for name in ("genotypes", "expression", "covariates"))

def run(n_genes, n_variants):
    start = time.perf_counter(), time.process_time()
    variants = SlicedData(genotypes[:n_variants]).reslice_combined(1000)
    table = eqtl(variants, genes[:n_genes], np.ascontiguousarray(covariates.T), pv_threshold=P_MAX).all
    return table, time.perf_counter() - start[0], time.process_time() - start[1]

run(100, 1000)
table, wall, cpu = run(len(genes), len(genotypes))
name = lambda column: table[column].str.extract(r"(\\d+)$")[0].astype(int).to_numpy() - 1
np.savez("found.npz", gene=name("gene"), variant=name("snps"), t=table["statistic"], wall=wall, cpu=cpu)
"""


def missing() -> str:
    return pyscript.missing("pymatrixeqtl")


def run(study: Study, *, n_jobs: int, p_max: float = 1e-5) -> Scanned:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study.write(folder)
        pyscript.run(folder, _CODE.replace("P_MAX", repr(p_max)), n_jobs=n_jobs)
        return Scanned.read(folder / "found.npz")
