"""Genotypes named as VCF Zarr (and sgkit) do, through xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._core.kinship.genotypes import Genotypes, optional, reading
from donorwise._core.kinship.labels import VariantLabels, positions_of, texts
from donorwise.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from donorwise._typing import FloatArray, StrArray

CALLS = ("call_dosage", "call_genotype")
"""What holds the genotypes; the first that is there is read."""
_NO_ALLELE = -2
"""Where a genotype has fewer alleles than others."""
_BLOCK = 2**18
"""Variants whose alleles are read together."""


def is_vcf_zarr(path: Path) -> bool:
    """Whether a path is that of a VCF Zarr store: by its ending, or by what is in it."""
    return path.suffix == ".vcz" or (path.suffix == ".zarr" and any((path / name).is_dir() for name in CALLS))


def open_vcf_zarr(path: Path) -> Any:
    """A store as an xarray Dataset, unread.

    Raises
    ------
    DataError
        It is not there or cannot be read, or the package xarray is not installed.
    """
    xarray = optional("xarray", "xarray", path)
    if not path.is_dir():
        raise DataError(f"There is no folder {path}.")
    # as it is stored: to decode it would make NaN of alleles that equal the fill value of the store
    return reading(path, lambda: xarray.open_zarr(path, chunks=None, consolidated=False, decode_cf=False))


def of_vcf_zarr(dataset: Any) -> Genotypes:
    """Genotypes of an xarray Dataset named as VCF Zarr (and sgkit) do: `call_dosage`, or else `call_genotype`.

    Of `call_genotype` alleles other than the reference are counted; one that is missing makes the genotype missing.

    Raises
    ------
    DataError
        It has neither of these, or no `sample_id`.
    """
    name = next((own for own in CALLS if own in dataset), None)
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
        block = calls.isel(variants=slice(low, high)).transpose(*order)
        values = np.asarray(reading(f"`{name}`", lambda: block.values))
        return values.astype(np.float64) if name == "call_dosage" else _counts(values)

    donors = tuple(texts(np.asarray(dataset["sample_id"].values)).tolist())
    return Genotypes(donors, int(calls.sizes["variants"]), read, f"`{name}`", **_labels(dataset)._asdict())


def _counts(alleles: Any) -> FloatArray:
    """Alleles other than the reference, of alleles (n, M, ploidy); NaN where one is missing."""
    none = alleles == _NO_ALLELE
    missing = (~(alleles >= 0) & ~none).any(axis=2) | none.all(axis=2)
    return np.where(missing, np.nan, (alleles > 0).sum(axis=2))


def _labels(dataset: Any) -> VariantLabels:
    a0, a1 = _alleles(dataset["variant_allele"]) if "variant_allele" in dataset else (None, None)
    position = dataset["variant_position"].values if "variant_position" in dataset else None
    return VariantLabels(
        texts(dataset["variant_id"].values) if "variant_id" in dataset else None,
        _contigs(dataset),
        None if position is None else positions_of(position, "`variant_position`"),
        a0,
        a1,
    ).all_named()


def _contigs(dataset: Any) -> StrArray | None:
    """Chromosome of every variant; `variant_contig` numbers the names in `contig_id`."""
    if "variant_contig" not in dataset:
        return None
    numbers = np.asarray(dataset["variant_contig"].values)
    known = dataset["contig_id"].values if "contig_id" in dataset else dataset.attrs.get("contigs")
    return texts(numbers) if known is None else texts(known)[numbers]


def _alleles(alleles: Any) -> tuple[StrArray, StrArray]:
    """The first allele of every variant and the others, joined by commas."""
    parts = []
    for low in range(0, alleles.sizes["variants"], _BLOCK):
        block = alleles.isel(variants=slice(low, low + _BLOCK)).transpose("variants", ...).values
        first, *others = (texts(column).astype(object) for column in block.T)
        parts.append((first, _joined(others, len(first))))
    a0, a1 = (texts(np.concatenate([*side, []])) for side in zip(*parts, strict=True)) if parts else (texts([]),) * 2
    return a0, a1


def _joined(columns: list[Any], n: int) -> Any:
    """Texts (n,) of several columns joined by commas; most have something in the first only."""
    out = columns[0].copy() if columns else np.full(n, "", dtype=object)
    for column in columns[1:]:
        more = np.flatnonzero(column != "")
        out[more] = [f"{a},{b}" for a, b in zip(out[more], column[more], strict=True)]
    return out
