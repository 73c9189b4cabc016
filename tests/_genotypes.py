"""Genotypes of an AnnData in the files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd


def write_plink1(prefix: Path, genotypes: ad.AnnData, var: pd.DataFrame | None = None) -> Path:
    """As in the format's description: two bits a genotype from the lowest, 0 for two A1, 1 missing, 2 one, 3 none."""
    values, var = genotypes.X, genotypes.var if var is None else var
    codes = np.select([values == 2, values == 1, values == 0], [0, 2, 3], 1).T.astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, -genotypes.n_obs % 4))).reshape(len(codes), -1, 4)
    packed = (codes << np.array([0, 2, 4, 6], dtype=np.uint8)).sum(axis=2).astype(np.uint8)
    prefix.with_suffix(".bed").write_bytes(b"\x6c\x1b\x01" + packed.tobytes())
    rows = zip(var["chrom"], var.index, var["pos"], var["a1"], var["a0"], strict=True)
    prefix.with_suffix(".bim").write_text("".join(f"{c}\t{v}\t0\t{p}\t{a}\t{b}\n" for c, v, p, a, b in rows))
    prefix.with_suffix(".fam").write_text("".join(f"F {name} 0 0 0 -9\n" for name in genotypes.obs_names))
    return prefix.with_suffix(".bed")


def write_plink2(prefix: Path, genotypes: ad.AnnData) -> Path:
    """By pgenlib; the reference allele is a0."""
    from pgenlib import PgenWriter

    n, M = genotypes.shape
    name = str(prefix.with_suffix(".pgen")).encode()
    with PgenWriter(name, n, variant_ct=M, nonref_flags=False, dosage_present=True) as out:
        for row in genotypes.X.T.astype(np.float64):
            out.append_dosages(np.where(np.isnan(row), -9, row))
    rows = zip(
        genotypes.var["chrom"],
        genotypes.var["pos"],
        genotypes.var_names,
        genotypes.var["a0"],
        genotypes.var["a1"],
        strict=True,
    )
    lines = ["#CHROM\tPOS\tID\tREF\tALT", *("\t".join(map(str, row)) for row in rows)]
    prefix.with_suffix(".pvar").write_text("\n".join(lines) + "\n")
    prefix.with_suffix(".psam").write_text("#IID\tSEX\n" + "".join(f"{own}\tNA\n" for own in genotypes.obs_names))
    return prefix.with_suffix(".pgen")


def as_vcf(genotypes: ad.AnnData) -> Any:
    """An xarray Dataset named as VCF Zarr."""
    import xarray as xr

    X, var = genotypes.X.T, genotypes.var
    alleles = np.stack([X >= 1, X >= 2], axis=2).astype(np.int8)
    alleles[np.isnan(X)] = -1
    contigs, names = pd.factorize(var["chrom"].astype(str))
    return xr.Dataset(
        {
            "call_genotype": (("variants", "samples", "ploidy"), alleles),
            "sample_id": ("samples", genotypes.obs_names.to_numpy().astype(str)),
            "variant_contig": ("variants", contigs),
            "contig_id": ("contigs", np.array(names, dtype=str)),
            "variant_position": ("variants", var["pos"].to_numpy().astype(np.int32)),
            "variant_allele": (("variants", "alleles"), var[["a0", "a1"]].to_numpy().astype(str)),
            "variant_id": ("variants", genotypes.var_names.to_numpy().astype(str)),
        }
    )
