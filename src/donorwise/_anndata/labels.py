"""The kinds of cells that a column of obs tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from donorwise._anndata.obs import obs_frame
from donorwise._core.design.terms import read_column, used_categories
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._typing import IntArray

_FEW = 100  # labels up to which it says nothing against them that they have few cells


class Labels(NamedTuple):
    """Names of the labels that occur, in their order, and which of them each row of obs has, -1 for none."""

    names: tuple[str, ...]
    codes: IntArray


def read_labels(adata: ad.AnnData, column: str) -> Labels:
    """Read the labels of cells, or of collapsed rows of them.

    Raises
    ------
    DesignError
        There is no such column.
    DataError
        It has one label, labels with the same name, or hardly two rows with the same.
    """
    values = read_column(obs_frame(adata, [column])[column], column, categorical=True)
    known = values.notna().to_numpy()
    used = used_categories(values.array[known])
    names, n = tuple(map(str, used.categories)), int(known.sum())
    if len(names) < 2:
        found = f"one label, {names[0]!r}" if names else "no label at all"
        raise DataError(f"obs[{column!r}] has {found}: shares need two kinds of cells or more.")
    if len(set(names)) < len(names):
        raise DataError(f"obs[{column!r}] has labels with the same name as text, such as 1 and '1'; rename them.")
    if len(names) > max(_FEW, n // 2):
        raise DataError(
            f"obs[{column!r}] has {len(names):,} different values in {n:,} rows: it holds no kinds of cells."
        )
    codes = np.full(known.size, -1, dtype=np.int64)
    codes[known] = used.codes
    return Labels(names, codes)
