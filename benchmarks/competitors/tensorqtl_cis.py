"""tensorQTL on the processor, every gene on the variants of its window, into Parquet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyscript
from scan import Scanned

if TYPE_CHECKING:
    from scan import Study

NAME = "tensorQTL cis.map_nominal, float32"
_CODE = """
import time
from pathlib import Path
import numpy as np
import pandas as pd
from tensorqtl import cis

given = np.load("study.npz")
donors = [f"d{i}" for i in range(len(given["covariates"]))]
named = lambda name: pd.DataFrame(given[name], np.arange(len(given[name])).astype(str), donors)
genotypes, genes, covariates = named("genotypes"), named("expression"), pd.DataFrame(given["covariates"], donors)
chromosome = lambda name: (1 + given[name]).astype(str)
variants = pd.DataFrame({"chrom": chromosome("chromosome"), "pos": given["position"]}, genotypes.index)
starts = pd.DataFrame({"chr": chromosome("gene_chromosome"), "pos": given["gene_position"]}, genes.index)
genes, starts = (table.loc[starts.sort_values(["chr", "pos"]).index] for table in (genes, starts))

def run(n_genes, name):
    start = time.perf_counter(), time.process_time()
    cis.map_nominal(
        genotypes, variants, genes.iloc[:n_genes], starts.iloc[:n_genes], name, covariates_df=covariates, maf_threshold=0.01,
        window=WINDOW, verbose=False,
    )
    return time.perf_counter() - start[0], time.process_time() - start[1]

run(20, "warm")
wall, cpu = run(len(genes), "all")
table = pd.concat([pd.read_parquet(file) for file in sorted(Path().glob("all.*.parquet"))])
np.savez(
    "found.npz", gene=table["phenotype_id"].astype(int), variant=table["variant_id"].astype(int),
    t=table["slope"].astype(float) / table["slope_se"].astype(float), wall=wall, cpu=cpu,
)
"""


def missing() -> str:
    return pyscript.missing("tensorqtl")


def run(study: Study, *, n_jobs: int, window: int = 1_000_000) -> Scanned:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study.write(folder)
        pyscript.run(folder, _CODE.replace("WINDOW", repr(window)), n_jobs=n_jobs)
        return Scanned.read(folder / "found.npz")
