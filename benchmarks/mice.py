"""Heterogeneous stock mice, the example of GEMMA (Debian's gemma-doc): genotypes, relatedness and traits for scans of relatives."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scan import Array

EXAMPLE = Path("/usr/share/doc/gemma/example")
_NAME = "mouse_hs1940"


def missing() -> str:
    """What must be installed for the mice; empty where all is there."""
    there = shutil.which("gemma") and (EXAMPLE / f"{_NAME}.bed.gz").exists()
    return "" if there else "gemma and gemma-doc"


def gemma(folder: Path, *options: str) -> None:
    """Run GEMMA in a folder, in one thread."""
    one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(["gemma", *options], cwd=folder, check=True, capture_output=True, env=one)


@dataclass(frozen=True)
class Mice:
    """The mice with a first trait: in `folder` their PLINK files, ``mice``, and all mice's relatedness by GEMMA.

    `names` (n,), `trait` (n,), `kernel` (n, n); `genotypes` (V, n) are those of the `variants` that GEMMA tests (names),
    the missing ones at the variant's mean.
    """

    folder: Path
    names: Array
    trait: Array
    kernel: pd.DataFrame
    variants: Array
    genotypes: Array

    @classmethod
    def of(cls, folder: Path) -> Mice:
        """Unpack them, and let GEMMA work out their relatedness."""
        for ending in ("bed", "bim", "fam"):
            (folder / f"mice.{ending}").write_bytes(gzip.decompress((EXAMPLE / f"{_NAME}.{ending}.gz").read_bytes()))
        gemma(folder, "-bfile", "mice", "-gk", "1", "-o", "k")
        fam = pd.read_csv(folder / "mice.fam", sep=r"\s+", header=None)
        seen = fam[5].notna().to_numpy()
        names = fam.loc[seen, 1].astype(str).to_numpy()
        K = np.loadtxt(folder / "output" / "k.cXX.txt")[np.ix_(seen, seen)]
        kernel = pd.DataFrame((K + K.T) / 2, names, names)
        bim = pd.read_csv(folder / "mice.bim", sep=r"\s+", header=None)
        variants, genotypes = _usable(bim[1].astype(str).to_numpy(), _read_bed(folder / "mice.bed", len(fam))[:, seen])
        return cls(folder, names, fam.loc[seen, 5].to_numpy(), kernel, variants, genotypes)

    def traits(self, n: int) -> Array:
        """The first trait, and others (mice, n) that are simulated: heritabilities from 0 to .8."""
        rng = np.random.default_rng(0)
        values, vectors = np.linalg.eigh(self.kernel.to_numpy() / np.diag(self.kernel).mean())
        u = (vectors * np.sqrt(np.clip(values, 0, None))) @ rng.normal(size=(len(values), n))
        h2 = rng.uniform(0, 0.8, n)
        out = np.sqrt(h2) * u + np.sqrt(1 - h2) * rng.normal(size=u.shape)
        out[:, 0] = self.trait
        return np.asarray(out)


def _read_bed(file: Path, n: int) -> Array:
    """Numbers of the first allele (V, n), NaN where missing."""
    packed = np.frombuffer(file.read_bytes(), dtype=np.uint8, offset=3).reshape(-1, (n + 3) // 4)
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
    return np.array([2.0, np.nan, 1.0, 0.0])[codes.reshape(len(packed), -1)[:, :n]]


def _usable(names: Array, genotypes: Array) -> tuple[Array, Array]:
    """Those that GEMMA tests: 5% missing at most, a frequency of 1% at least."""
    mean = np.nanmean(genotypes, axis=1)
    frequency = np.minimum(mean, 2 - mean) / 2
    kept = (np.isnan(genotypes).mean(axis=1) <= 0.05) & (frequency >= 0.01)
    genotypes, mean = genotypes[kept], mean[kept, None]
    return names[kept], np.where(np.isnan(genotypes), mean, genotypes)
