"""Genotypes as users give them: an AnnData, arrays, tables, or files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata.obs import as_frame, check_obs_columns, suggest
from donorwise._anndata.response import matrix_and_text
from donorwise._anndata.sources import as_stored, open_source
from donorwise._core.files import at_home
from donorwise._core.wording import listing
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._core.kinship.labels import VariantLabels
    from donorwise._typing import StrArray

CHROMOSOME_COLUMNS = ("chrom", "chromosome", "chr", "contig", "seqname", "seqnames", "seqid", "variant_contig")
"""Usual names of a column with the chromosome, in any case."""
_POSITION_COLUMNS = ("pos", "position", "bp", "ps", "base_pair_location", "variant_position")
_ALLELE_COLUMNS = (
    (("a0", "a2"), ("a1",)),
    (("allele0", "allele_0", "allele2", "allele_2"), ("allele1", "allele_1")),
    (("other_allele", "non_effect_allele", "noneffect_allele", "oa", "nea"), ("effect_allele", "counted_allele", "ea")),
    (("ref", "reference", "ref_allele", "reference_allele"), ("alt", "alternate", "alt_allele", "alternate_allele")),
)
"""Usual names of the columns of the other allele and of the counted one; both are taken from one of these lines."""
_ENDINGS = (".bed", ".pgen", ".vcz", ".h5ad", ".zarr")


def open_genotypes(
    given: Any,
    *,
    layer: str | None = None,
    donors: str | Sequence[str] | None = None,
    chrom: str | Sequence[Any] | None = None,
    variants: pd.DataFrame | None = None,
) -> Genotypes:
    """Genotypes wherever they are, unread.

    Parameters
    ----------
    given
        Donors x variants: an AnnData, an array, sparse matrix, dask array or DataFrame, an xarray Dataset named as VCF Zarr, or
        the path of a ``.bed``, ``.pgen``, ``.vcz``, ``.h5ad`` or ``.zarr``.
    layer
        Layer of an AnnData instead of X.
    donors, chrom
        Names of the donors and chromosomes of the variants: a column of obs, or of var (or of `variants`), or a sequence.
    variants
        Of arrays and DataFrames: a row for each variant, named by it, with columns chrom, pos, a0, a1, or usual other names.
        Rows of the columns of a DataFrame are found by name, those of an array are in its order.

    Raises
    ------
    DataError, DesignError
        Something is not there, cannot be read, or does not fit; a name of a donor is empty or there twice.
    """
    import anndata as ad

    from donorwise._core.kinship.genotypes import Genotypes

    source = _of_path(at_home(Path(given))) if isinstance(given, str | os.PathLike) else given
    column = chrom if isinstance(chrom, str) else None
    if isinstance(source, ad.AnnData):
        names = donors if isinstance(donors, str) else None
        found = _of_anndata(source, layer=layer, donors=names, chrom=column)
    elif isinstance(source, Genotypes) or _is_dataset(source):
        _check_no_columns(layer=layer, donors=donors, chrom=chrom)
        found = source if isinstance(source, Genotypes) else _of_dataset(source)
    else:
        _check_no_columns(layer=layer, donors=donors, chrom=chrom if variants is None else None)
        return _named(_of_matrix(source, variants, column), donors, chrom)
    if variants is not None:
        raise DataError(f"variants= goes with arrays and DataFrames; {found.text} has its variants' names with it.")
    return _named(found, donors, chrom)


def _of_path(path: Path) -> ad.AnnData | Genotypes:
    from donorwise._core.kinship.plink import of_bed, of_pgen
    from donorwise._core.kinship.vcf_zarr import is_vcf_zarr, of_vcf_zarr, open_vcf_zarr

    files = {".bed": of_bed, ".pgen": of_pgen}
    if path.suffix not in _ENDINGS:
        beside = [own for ending in files for own in (path.with_name(path.name + ending), path.with_suffix(ending))]
        there = next((own for own in beside if own.is_file()), None)
        raise DataError(
            f"{path}: genotypes are read from {', '.join(_ENDINGS[:-1])} and {_ENDINGS[-1]}"
            + (f"; did you mean {there}?" if there else "; PLINK 2 makes a .pgen of VCF and BGEN.")
        )
    if path.suffix in files:
        if not path.exists():
            raise DataError(f"There is no file {path}.")
        return files[path.suffix](path)
    return of_vcf_zarr(open_vcf_zarr(path)) if is_vcf_zarr(path) else open_source(path)


def _is_dataset(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "xarray" and hasattr(source, "data_vars")


def _of_dataset(source: Any) -> Genotypes:
    from donorwise._core.kinship.vcf_zarr import of_vcf_zarr

    return of_vcf_zarr(source)


def _check_no_columns(**given: Any) -> None:
    """Raise where the name of a column is given, and there are no columns."""
    named = [name for name, value in given.items() if isinstance(value, str)]
    if named:
        raise DataError(
            f"{named[0]}= names a part of an AnnData, and these genotypes are none: give a sequence, or leave it out."
        )


def _of_anndata(adata: ad.AnnData, *, layer: str | None, donors: str | None, chrom: str | None) -> Genotypes:
    """The genotypes in X or a layer; `donors` and `chrom` name columns of obs and var."""
    from donorwise._core.kinship.genotypes import of_matrix

    matrix, text = matrix_and_text(adata, layer)
    if donors is not None:
        check_obs_columns(adata, [donors])
    names = adata.obs_names if donors is None else as_frame(adata.obs[[donors]])[donors].astype(str)
    return of_matrix(
        matrix, tuple(map(str, names)), labels=_labels(adata.var, adata.var_names, chrom, "adata.var"), text=text
    )


def _labels(table: Any, names: Any, chrom: str | None, text: str) -> VariantLabels:
    """What the columns of a table (of a file, unread) say of its rows, the variants with these names."""
    from donorwise._core.kinship.labels import VariantLabels, chromosome_names, positions_of, texts

    if chrom is not None and chrom not in table.columns:
        raise DataError(f"chrom={chrom!r}: {text} has no such column. {suggest(chrom, table.columns)}")
    column, position = chrom or usual_column(table, CHROMOSOME_COLUMNS), usual_column(table, _POSITION_COLUMNS)
    alleles = [None if own is None else texts(column_of(table, own)) for own in _allele_columns(table)]
    return VariantLabels(
        texts(names),
        None if column is None else chromosome_names(column_of(table, column)),
        None if position is None else positions_of(column_of(table, position), f"{text}[{position!r}]"),
        *alleles,
    )


def usual_column(table: Any, names: Sequence[str]) -> str | None:
    """The column that has one of these names in any case; the first name that is there."""
    folded = {str(name).casefold(): name for name in reversed(list(table.columns))}
    return next((folded[name.casefold()] for name in names if name.casefold() in folded), None)


def column_of(table: Any, name: str) -> pd.Series:
    """A column in memory."""
    return as_frame(table[[name]])[name]


def _allele_columns(table: Any) -> tuple[str | None, str | None]:
    """Columns of the other and of the counted allele; one alone only where it is the counted one."""
    pairs = [tuple(usual_column(table, names) for names in line) for line in _ALLELE_COLUMNS]
    whole = next(((a0, a1) for a0, a1 in pairs if a0 is not None and a1 is not None), None)
    return whole or (None, next((a1 for _, a1 in pairs if a1 is not None), None))


def _of_matrix(source: Any, variants: pd.DataFrame | None, chrom: str | None) -> Genotypes:
    from donorwise._core.kinship.genotypes import of_matrix
    from donorwise._core.kinship.labels import VariantLabels, texts

    frame = source if isinstance(source, pd.DataFrame) else None
    matrix = np.asarray(source) if isinstance(source, list) else as_stored(source)
    n_donors, n_variants = (*getattr(matrix, "shape", ()), 0, 0)[:2]
    names = range(n_donors) if frame is None else frame.index
    labels = VariantLabels(None if frame is None else texts(frame.columns))
    if variants is not None:
        table = _table_of(variants, labels.variants, n_variants)
        labels = _labels(table, table.index, chrom, "The table in variants=")
    return of_matrix(matrix, [str(name) for name in names], labels=labels, text="`genotypes`")


def _table_of(variants: pd.DataFrame, names: StrArray | None, n_variants: int) -> pd.DataFrame:
    """The rows of variants with these names; of all, in their order, where they have none."""
    if not isinstance(variants, pd.DataFrame):
        raise DataError(
            f"variants= is a {type(variants).__name__}; it needs a DataFrame named by the variants, with columns chrom, pos, a0, a1."
        )
    if names is None:
        if len(variants) != n_variants:
            raise DataError(f"The table in variants= has {len(variants):,} rows for {n_variants:,} variants.")
        return variants
    own = pd.Index(variants.index.astype(str))
    if not own.is_unique:
        raise DataError(f"The table in variants= has rows of one name: {listing(own[own.duplicated()].unique(), 3)}.")
    at = own.get_indexer(pd.Index(names, dtype=object))
    if (at < 0).any():
        raise DataError(
            f"The table in variants= has no row for {(at < 0).sum():,} of {n_variants:,} variants: {listing(names[at < 0], 3)}; it "
            f"has {listing(own, 3)}."
        )
    return variants.set_axis(own).iloc[at]


def _named(source: Genotypes, donors: Any, chrom: Any) -> Genotypes:
    """With the names that were given, checked."""
    from donorwise._core.kinship.labels import chromosome_names
    from donorwise._core.kinship.square import checked_names

    advice = "Every donor needs a name of their own (in files of PLINK the IID); of a person who was genotyped twice keep one row."
    given = source.donors if donors is None or isinstance(donors, str) else donors
    names = checked_names(given, "donors" if given is donors else source.text, n=len(source.donors), advice=advice)
    source = replace(source, donors=names)
    if chrom is None or isinstance(chrom, str):
        return source
    chromosomes = chromosome_names(chrom)
    if len(chromosomes) != source.n_variants:
        raise DataError(f"chrom has {len(chromosomes):,} entries for {source.n_variants:,} variants.")
    return replace(source, chromosomes=chromosomes)
