"""FaST-LMM single_snp with several traits: variances at the null model, one eigendecomposition and rotation for all traits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyscript
from scan import Scanned

if TYPE_CHECKING:
    from mice import Mice
    from scan import Array

NAME = "FaST-LMM single_snp, one core"
_CODE = """
import time
import numpy as np
from fastlmm.association import single_snp
from pysnptools.kernelreader import KernelData
from pysnptools.snpreader import SnpData

given = np.load("mice.npz")
genotypes, traits = given["genotypes"].T, given["traits"]
n, V = genotypes.shape
iid = [("F", str(i)) for i in range(n)]
position = np.column_stack([np.ones(V), np.arange(V), np.arange(V)])
variants = SnpData(iid, [str(v) for v in range(V)], genotypes, pos=position)

def run(T):
    start = time.perf_counter(), time.process_time()
    table = single_snp(
        variants, SnpData(iid, [str(t) for t in range(T)], traits[:, :T].copy()), K0=KernelData(iid=iid, val=given["kernel"].copy()),
        leave_out_one_chrom=False, pvalue_threshold=P_MAX, count_A1=True,
    )
    return table, time.perf_counter() - start[0], time.process_time() - start[1]

run(2)
table, wall, cpu = run(traits.shape[1])
np.savez(
    "found.npz", gene=table["Pheno"].astype(int), variant=table["SNP"].astype(int),
    t=table["SnpWeight"].astype(float) / table["SnpWeightSE"].astype(float), wall=wall, cpu=cpu,
)
"""


def missing() -> str:
    return pyscript.missing("fastlmm")


def run(mice: Mice, traits: Array, *, p_max: float = 1e-3) -> Scanned:
    """Scan traits (mice, T)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "mice.npz", genotypes=mice.genotypes, traits=traits, kernel=mice.kernel.to_numpy())
        pyscript.run(folder, _CODE.replace("P_MAX", repr(p_max)))
        return Scanned.read(folder / "found.npz")
