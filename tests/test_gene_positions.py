"""Where genes start, from the columns of var under the names that they usually have."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from donorwise._anndata.gene_positions import gene_positions, told_unplaced
from donorwise.errors import DataError

VARIANTS = np.array(["1", "1", "2", "X"])


def var(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"g{i}" for i in range(n)])


def test_the_start_is_the_end_on_the_minus_strand() -> None:
    found = gene_positions(
        var(
            chrom=["chr1", "2", "chrX", "1"], start=[10, 20, 30, 40], end=[15, 25, 35, 45], strand=["+", "-", ".", "-"]
        ),
        VARIANTS,
    )
    assert found.chrom.tolist() == ["1", "2", "X", "1"]
    assert found.tss.tolist() == [10, 25, 30, 45] and found.tss.dtype == np.int64


@pytest.mark.parametrize(
    "columns",
    [
        {"chrom": ["1", "2"], "tss": [10, 25]},
        {"Chromosome": ["chr1", "chr2"], "Start": [10, 20], "End": [15, 25], "Strand": [1, -1]},
        {"seqnames": ["CHR1", "2"], "gene_start": ["10", "20"], "gene_end": ["15", "25"], "strand": ["+", "-"]},
        {"chromosome_name": [1, 2], "start_position": [10.0, 20.0], "end_position": [15, 25], "strand": [1.0, -1.0]},
        {"chr": [1.0, 2.0], "TSS": [10, 25], "start": [1, 1]},
        {"chrom": pd.Categorical(["1", "2"]), "start": pd.array([10, 25], dtype="Int64")},
    ],
)
def test_usual_names(columns: dict[str, Any]) -> None:
    found = gene_positions(var(**columns), VARIANTS)
    assert found.chrom.tolist() == ["1", "2"] and found.tss.tolist() == [10, 25]


def test_genes_without_a_position() -> None:
    table = var(
        chrom=["1", None, "2", "", "1"],
        start=[10, 20, None, 40, 50],
        end=[15, 25, 35, 45, None],
        strand=["+", "+", "-", "-", "-"],
    )
    found = gene_positions(table, VARIANTS)
    assert found.chrom.tolist() == ["1", "", "2", "", ""]
    assert found.tss.tolist() == [10, -1, 35, -1, -1]
    assert told_unplaced(found, table.index) == [
        "3 of 5 genes have no position, and are tested with no variant: `g1`, `g3`, `g4`."
    ]
    assert told_unplaced(gene_positions(table[:1], VARIANTS), table.index) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n_cells": [1, 2]}, r"adata.var has no chromosome and no position of genes; it has `n_cells`. Add chrom, start and end"),
        ({"chrom": ["1", "2"], "end": [5, 6]}, r"adata.var has no position of genes; it has `chrom`, `end`. Add"),
        ({"start": [5, 6]}, r"adata.var has no chromosome of genes; it has `start`"),
        ({"chrom": ["1", "2"], "start": ["5", "p13"]}, r"adata.var\['start'\]: 1 of 2 positions are no numbers \(`p13`\)"),
        ({"chrom": ["1", "2"], "tss": [5, -6]}, r"adata.var\['tss'\]: 1 of 2 positions are negative \(`-6`\)"),
        ({"chrom": ["1", "2"], "tss": [5.25, 6]}, r"are no whole numbers; positions are base pairs"),
        ({"chrom": ["1", "2"], "start": [5, 9], "end": [7, 8]}, r"1 of 2 genes end before they start \(`g1`\)"),
        ({"chrom": ["1", "2"], "start": [5, 9], "strand": ["+", "-"]}, r"minus strand, such as `g1`, are transcribed from their end"),
        ({"chrom": ["1", None], "tss": [None, 5]}, r"no gene has a chromosome and a position"),
        (
            {"chrom": ["NC_000001", "NC_000002"], "tss": [5, 6]},
            r"var\['chrom'\]: no gene is on a chromosome that has variants. .*genes are `NC_000001`, `NC_000002`; .*`1`, `2`, `X`",
        ),
    ],
)  # fmt: skip
def test_what_is_no_position(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        gene_positions(var(**columns), VARIANTS)


def test_no_columns_at_all() -> None:
    with pytest.raises(DataError, match="it has no columns"):
        gene_positions(pd.DataFrame(index=["a"]), VARIANTS)


@pytest.mark.parametrize("theirs", [["chr1"], ["CHR1", "chrUn"], ["1"], ["2", "1"]])
def test_names_of_chromosomes_are_compared_without_chr(theirs: list[str]) -> None:
    for own in ("1", "chr1", "Chr1", 1, 1.0):
        assert gene_positions(var(chrom=[own], tss=[7]), np.array(theirs)).chrom.tolist() == ["1"]
    assert gene_positions(var(chrom=["chrM", "MT"], tss=[7, 8]), np.array(["MT"])).chrom.tolist() == ["M", "M"]


def test_lazy_var(tmp_path: Any) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("dask")
    table = var(chrom=["1", "2"], start=[10, 20], end=[15, 25], strand=["+", "-"])
    ad.AnnData(np.zeros((3, 2)), var=table).write_h5ad(tmp_path / "a.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "a.h5ad")
    assert gene_positions(lazy.var, VARIANTS).tss.tolist() == [10, 25]
