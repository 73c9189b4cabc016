"""Genotypes of donors wherever they are: matrices, PLINK files, and VCF Zarr through xarray."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from donorwise._core.cells.chunks import column_reader
from donorwise._core.cells.matrices import check_matrix, read_columns
from donorwise._core.cells.readers import READ_ERRORS, DenseFile, open_reader
from donorwise._core.cells.stored import Stored
from donorwise._core.kinship.tables import read_ids, read_table
from donorwise._typing import FloatArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._typing import StrArray

BLOCK_NUMBERS = 2**22
"""Genotypes are read in blocks of about this many."""
_PASS_NUMBERS = 2**25
"""And of this many where every block takes a pass over the whole file, because it is stored by donors."""
_NO_AUTOSOME = re.compile(r"(chr)?(x|y|z|w|xy|m|mt|par1|par2|x_?par.*)", re.IGNORECASE)
_VARIANT = re.compile(r"rs\d+|(chr)?(\d+|x|y|mt?)[:_]\d+.*", re.IGNORECASE)
"""What variants are called, and donors are not."""
_HUMAN_CODES = {"23": "X", "24": "Y", "25": "XY", "26": "MT"}
"""What PLINK writes for these chromosomes unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Genotypes:
    """Numbers of an allele, donors x variants.

    Attributes
    ----------
    donors
        Names of the n donors.
    n_variants
        Number of variants.
    read
        Reads the variants low..high-1: (n, high - low), NaN where a genotype is missing.
    text
        What holds them, for messages.
    chromosomes
        Shape (n_variants,); None where they are not known.
    variants
        Names of the variants; None where they have none.
    block_numbers
        How many genotypes to read together at least.
    """

    donors: tuple[str, ...]
    n_variants: int
    read: Callable[[int, int], FloatArray]
    text: str
    chromosomes: StrArray | None = None
    variants: Sequence[str] | None = None
    block_numbers: int = BLOCK_NUMBERS

    def variant(self, number: int) -> str:
        """How messages call a variant."""
        return f"variant {number + 1:,}" if self.variants is None else f"variant {str(self.variants[number])!r}"


def are_variants(names: Sequence[str]) -> bool:
    """Whether all names are such as variants have."""
    return all(_VARIANT.fullmatch(name) for name in names)


def is_autosome(chromosome: str) -> bool:
    """Whether all people have two of it, as far as its name tells."""
    return _NO_AUTOSOME.fullmatch(chromosome.strip()) is None


def of_matrix(
    matrix: Any, donors: Sequence[str], *, chromosomes: StrArray | None, variants: Sequence[str] | None, text: str
) -> Genotypes:
    """Genotypes in a matrix of donors x variants, in memory or not.

    Raises
    ------
    DataError
        It cannot be read, or does not hold numbers.
    """
    _, n_variants = check_matrix(matrix)
    read, numbers = _columns_of(matrix)
    return Genotypes(tuple(donors), n_variants, read, text, chromosomes, variants, numbers)


def _columns_of(matrix: Any) -> tuple[Callable[[int, int], FloatArray], int]:
    """How columns are read, and how many numbers at a time."""
    if isinstance(matrix, Stored):
        return _stored_columns(matrix)
    if sparse.issparse(matrix):
        by_column = matrix.tocsc()
        return lambda low, high: by_column[:, low:high].toarray().astype(np.float64), BLOCK_NUMBERS
    read = column_reader(matrix, np.arange(matrix.shape[1]))
    return lambda low, high: np.asarray(read(slice(low, high)), dtype=np.float64), BLOCK_NUMBERS


def _stored_columns(matrix: Stored) -> tuple[Callable[[int, int], FloatArray], int]:
    """Dense arrays can be cut anywhere; others are read along the side they are stored by."""
    reader = open_reader(matrix.matrix)
    kept = np.arange(matrix.shape[1]) if matrix.columns is None else matrix.columns
    if isinstance(reader, DenseFile) and (np.diff(kept) == 1).all():
        start = int(kept[0]) if len(kept) else 0
        return lambda low, high: _cut(matrix, reader.where, slice(start + low, start + high)), BLOCK_NUMBERS
    numbers = BLOCK_NUMBERS if reader.by_columns else _PASS_NUMBERS
    return lambda low, high: read_columns(matrix, np.arange(low, high)), numbers


def _cut(matrix: Stored, where: str, columns: slice) -> FloatArray:
    values = np.asarray(_read(where, lambda: matrix.matrix[:, columns]), dtype=np.float64)
    return values if matrix.rows is None else values[matrix.rows]


def of_bed(path: Path) -> Genotypes:
    """Genotypes of PLINK 1: ``.bed`` with ``.bim`` and ``.fam`` beside it.

    Raises
    ------
    DataError
        A file is missing or cannot be read, or the package bed-reader is not installed.
    """
    bed_reader = _optional("bed_reader", "bed-reader", path)
    fam, bim = (_beside(path, suffix) for suffix in (".fam", ".bim"))
    donors = read_ids(fam)
    table = read_table(bim, names=("chrom", "id"), columns=(0, 1))
    bed = _read(path, lambda: bed_reader.open_bed(path, iid_count=len(donors), sid_count=len(table)))
    return Genotypes(
        donors, len(table),
        lambda low, high: _read(path, lambda: bed.read(np.s_[:, low:high], dtype="float64")),
        str(path), plink_chromosomes(table["chrom"]), table["id"].tolist(),
    )  # fmt: skip


def of_pgen(path: Path) -> Genotypes:
    """Genotypes of PLINK 2: ``.pgen`` with ``.pvar`` (or ``.pvar.zst``) and ``.psam`` beside it.

    Raises
    ------
    DataError
        A file is missing or cannot be read, or the package pgenlib is not installed.
    """
    pgenlib = _optional("pgenlib", "pgenlib", path)
    donors = read_ids(_beside(path, ".psam", ".fam"))
    pvar_path = _beside(path, ".pvar", ".pvar.zst", ".bim")
    pvar = _read(pvar_path, lambda: pgenlib.PvarReader(str(pvar_path).encode()))
    numbers = range(pvar.get_variant_ct())
    chromosomes = pd.Series([_text(pvar.get_variant_chrom(i)) for i in numbers], dtype=str)
    names = [_text(pvar.get_variant_id(i)) for i in numbers]
    reader = _read(path, lambda: pgenlib.PgenReader(str(path).encode(), raw_sample_ct=len(donors), pvar=pvar))

    def read(low: int, high: int) -> FloatArray:
        values = np.empty((high - low, len(donors)))  # pgenlib reads by variant only
        _read(path, lambda: reader.read_dosages_range(low, high, values))
        return np.where(values < 0, np.nan, values).T

    return Genotypes(donors, len(names), read, str(path), plink_chromosomes(chromosomes), names)


def of_vcf_zarr(dataset: Any) -> Genotypes:
    """Genotypes of an xarray Dataset named as VCF Zarr (and sgkit) do: `call_dosage`, or else `call_genotype`.

    Of `call_genotype` alleles other than the reference are counted; one that is missing makes the genotype missing.

    Raises
    ------
    DataError
        It has neither of these, or no `sample_id`.
    """
    name = next((own for own in ("call_dosage", "call_genotype") if own in dataset), None)
    if name is None or "sample_id" not in dataset:
        there = ", ".join(map(repr, list(dataset)[:12])) or "nothing"
        raise DataError(
            "An xarray Dataset of genotypes needs `sample_id`, and `call_dosage` or `call_genotype`, as VCF Zarr and sgkit call "
            f"them; this one has {there}."
        )
    calls = dataset[name]
    order = ["samples", "variants", *(["ploidy"] if name == "call_genotype" else [])]
    if set(calls.dims) != set(order):
        raise DataError(
            f"`{name}` has the dimensions {', '.join(map(repr, calls.dims))}; it needs {', '.join(map(repr, order))}."
        )

    def read(low: int, high: int) -> FloatArray:
        values = np.asarray(calls.isel(variants=slice(low, high)).transpose(*order).values)
        if name == "call_dosage":
            return values.astype(np.float64)
        return np.where((values < 0).any(axis=2), np.nan, (values > 0).sum(axis=2))

    variants = [_text(v) for v in dataset["variant_id"].values] if "variant_id" in dataset else None
    donors = tuple(_text(sample) for sample in np.asarray(dataset["sample_id"].values).tolist())
    return Genotypes(donors, int(calls.sizes["variants"]), read, f"`{name}`", _contigs(dataset), variants)


def _contigs(dataset: Any) -> StrArray | None:
    """Chromosome of every variant; `variant_contig` numbers the names in `contig_id`."""
    if "variant_contig" not in dataset:
        return None
    numbers = np.asarray(dataset["variant_contig"].values)
    known = dataset["contig_id"].values if "contig_id" in dataset else dataset.attrs.get("contigs")
    if known is None:
        return numbers.astype(str)
    return np.array([_text(name) for name in known], dtype=str)[numbers]


def chromosome_names(column: Sequence[Any] | pd.Series) -> StrArray:
    """Names of chromosomes as text: whole numbers without a point, ``""`` where there is none."""
    given = pd.Series(column).astype(object)
    plain = given.map(lambda v: str(int(v)) if isinstance(v, float) and v.is_integer() else _text(v).strip())
    return plain.where(given.notna(), "").to_numpy(dtype=str)


def plink_chromosomes(codes: pd.Series) -> StrArray:
    """Names of chromosomes; the numbers 23 to 26 are X, Y, XY and MT where there are no higher ones."""
    names = codes.astype(str)
    numbers = pd.to_numeric(names, errors="coerce")
    human = numbers.max() <= len(_HUMAN_CODES) + 22
    return (names.replace(_HUMAN_CODES) if human else names).to_numpy(dtype=str)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _beside(path: Path, *suffixes: str) -> Path:
    """The first file that is there of those that belong to `path`."""
    names = [path.with_suffix(suffix) for suffix in suffixes]
    found = [name for name in names if name.is_file()]
    if not found:
        raise DataError(
            f"{path} comes with {' or '.join(name.name for name in names)} in the same folder, which is not there."
        )
    return found[0]


def _optional(module: str, package: str, path: Path) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"{path.name} is read by the package {package}, which is not installed: pip install 'donorwise[genetics]'."
        ) from error


def _read(path: Path | str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except READ_ERRORS as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise DataError(
            f"{path} cannot be read: {reason.rstrip('.')}. The file is truncated or corrupt, or of another study."
        ) from error
