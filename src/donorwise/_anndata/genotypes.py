"""Genotypes in an AnnData of donors x variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from donorwise._anndata.obs import as_frame, check_obs_columns, suggest
from donorwise._anndata.response import matrix_and_text
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.kinship.genotypes import Genotypes

CHROMOSOME_COLUMNS = ("chrom", "chromosome", "chr", "contig", "variant_contig")
"""Usual names of the column of var with the chromosome, in any case."""


def genotypes_of(adata: ad.AnnData, *, layer: str | None, donors: str | None, chrom: str | None) -> Genotypes:
    """The genotypes in X or a layer, unread; `donors` and `chrom` name columns of obs and var.

    Raises
    ------
    DataError, DesignError
        The layer or a column is not there, or the matrix cannot be read.
    """
    from donorwise._core.kinship.genotypes import chromosome_names, of_matrix

    matrix, text = matrix_and_text(adata, layer)
    if donors is not None:
        check_obs_columns(adata, [donors])
    names = adata.obs_names if donors is None else as_frame(adata.obs[[donors]])[donors].astype(str)
    column = _chromosome_column(adata) if chrom is None else _known(adata, chrom)
    chromosomes = None if column is None else chromosome_names(as_frame(adata.var[[column]])[column])
    return of_matrix(
        matrix, tuple(map(str, names)), chromosomes=chromosomes, variants=list(map(str, adata.var_names)), text=text
    )


def _chromosome_column(adata: ad.AnnData) -> str | None:
    folded = {str(name).casefold(): name for name in reversed(list(adata.var.columns))}
    return next((folded[name] for name in CHROMOSOME_COLUMNS if name in folded), None)


def _known(adata: ad.AnnData, chrom: str) -> str:
    if chrom not in adata.var.columns:
        raise DataError(f"chrom={chrom!r}: adata.var has no such column. {suggest(chrom, adata.var.columns)}")
    return chrom
