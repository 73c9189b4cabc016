"""Genotypes in the files of PLINK 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.kinship.genotypes import Genotypes, optional, reading
from donorwise._core.kinship.labels import UNKNOWN, VariantLabels, plink_chromosomes, texts
from donorwise._core.kinship.tables import read_ids, read_table
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from donorwise._typing import FloatArray

_BIM = {"chrom": "category", "id": str, "pos": np.int64, "a1": "category", "a0": "category"}


def of_bed(path: Path) -> Genotypes:
    """Genotypes of PLINK 1: ``.bed`` with ``.bim`` and ``.fam`` beside it. The counted allele is A1, the first of the ``.bim``.

    Raises
    ------
    DataError
        A file is missing or cannot be read, or the package bed-reader is not installed.
    """
    bed_reader = optional("bed_reader", "bed-reader", path)
    fam, bim = (_beside(path, suffix) for suffix in (".fam", ".bim"))
    donors = read_ids(fam)
    table = read_table(bim, names=tuple(_BIM), columns=(0, 1, 3, 4, 5), dtype=_BIM)
    bed = reading(path, lambda: bed_reader.open_bed(path, iid_count=len(donors), sid_count=len(table)))

    def read(low: int, high: int) -> FloatArray:
        return np.asarray(reading(path, lambda: bed.read(np.s_[:, low:high], dtype="float64")))

    return Genotypes(donors, len(table), read, str(path), **_of_bim(table)._asdict())


def _of_bim(table: pd.DataFrame) -> VariantLabels:
    positions = table["pos"].to_numpy().clip(UNKNOWN)  # what is negative says that PLINK is to leave the variant out
    return VariantLabels(
        texts(table["id"]), plink_chromosomes(table["chrom"]), positions, texts(table["a0"]), texts(table["a1"])
    ).all_named()


def of_pgen(path: Path) -> Genotypes:
    """Genotypes of PLINK 2: ``.pgen`` with ``.pvar`` (or ``.pvar.zst``) and ``.psam`` beside it. Counted are all alleles but REF.

    Raises
    ------
    DataError
        A file is missing or cannot be read, or the package pgenlib is not installed.
    """
    pgenlib = optional("pgenlib", "pgenlib", path)
    donors = read_ids(_beside(path, ".psam", ".fam"))
    pvar_path = _beside(path, ".pvar", ".pvar.zst", ".bim")
    pvar = reading(pvar_path, lambda: pgenlib.PvarReader(str(pvar_path).encode()))
    reader = reading(path, lambda: pgenlib.PgenReader(str(path).encode(), raw_sample_ct=len(donors), pvar=pvar))

    def read(low: int, high: int) -> FloatArray:
        reference = np.empty((high - low, len(donors)))  # pgenlib reads by variant only
        reading(path, lambda: reader.read_dosages_range(low, high, reference, allele_idx=0))
        return np.where(reference < 0, np.nan, 2 - reference).T

    return Genotypes(donors, pvar.get_variant_ct(), read, str(path), **_of_pvar(pvar)._asdict())


def _of_pvar(pvar: Any) -> VariantLabels:
    n = pvar.get_variant_ct()

    def each(get: Callable[[int], Any], dtype: Any = object) -> Any:
        return np.fromiter((get(i) for i in range(n)), dtype=dtype, count=n)

    def counted(i: int) -> bytes:
        return b",".join(pvar.get_allele_code(i, own) for own in range(1, pvar.get_allele_ct(i)))

    return VariantLabels(
        texts(each(pvar.get_variant_id)),
        plink_chromosomes(each(pvar.get_variant_chrom)),
        each(pvar.get_variant_pos, np.int64).clip(UNKNOWN),
        texts(each(lambda i: pvar.get_allele_code(i, 0))),
        texts(each(counted)),
    ).all_named()


def _beside(path: Path, *suffixes: str) -> Path:
    """The first file that is there of those that belong to `path`."""
    names = [path.with_suffix(suffix) for suffix in suffixes]
    found = [name for name in names if name.is_file()]
    if not found:
        raise DataError(
            f"{path} comes with {' or '.join(name.name for name in names)} in the same folder, which is not there."
        )
    return found[0]
