"""Kernels as a long table, and back: so they are kept beside the results that they gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.covariance import Kernel
from donorwise._core.design.kernel_checks import kernels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray


def kernel_table(designs: Sequence[Design]) -> pd.DataFrame:
    """Kernels of designs on the levels that any of them has: kernel, level1, level2, value.

    The lower triangle of every kernel, without zeros beside the diagonal.
    """
    found = kernels_of(designs)
    known = pd.Index(dict.fromkeys(level for _, levels in found for level in levels), dtype=object)
    frames = []
    for number, (kernel, levels) in enumerate(found):
        values, place = kernel.on(levels), known.get_indexer(pd.Index(levels, dtype=object))
        row, column = np.nonzero(np.tril(values != 0) | np.eye(len(values), dtype=bool))
        codes = {"kernel": np.full(row.size, number), "level1": place[row], "level2": place[column]}
        frames.append(pd.DataFrame(codes | {"value": values[row, column]}))
    table = pd.concat(frames, ignore_index=True)
    names = {"kernel": pd.Index([kernel.name for kernel, _ in found], dtype=object), "level1": known, "level2": known}
    return table.assign(**{name: pd.Categorical.from_codes(table[name], own) for name, own in names.items()})


def kernels_from(table: pd.DataFrame) -> dict[str, Kernel]:
    """The kernels of a table that :func:`kernel_table` made."""
    found = {}
    for name, own in table.groupby(table["kernel"].astype(str), sort=False):
        diagonal = own[own["level1"].astype(str) == own["level2"].astype(str)]
        levels = pd.Index(diagonal["level1"].astype(str))
        row, column = (levels.get_indexer(own[c].astype(str)) for c in ("level1", "level2"))
        found[str(name)] = Kernel(
            str(name), tuple(levels), _symmetric(row, column, own["value"].to_numpy(), len(levels))
        )
    return found


def _symmetric(row: FloatArray, column: FloatArray, value: FloatArray, n: int) -> FloatArray:
    values = np.zeros((n, n))
    values[row, column] = values[column, row] = value
    return values
