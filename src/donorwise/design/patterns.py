"""Rows with equal variables are one pattern: mixed-radix codes, never a loop over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from donorwise._typing import FloatArray, IntArray


def find_patterns(
    categorical: Sequence[tuple[IntArray, int]], numeric: Mapping[str, FloatArray], n_rows: int
) -> tuple[IntArray, int, tuple[str, ...]]:
    """Number the unique combinations of the variables, leaving out numbers that differ in nearly every row.

    Parameters
    ----------
    categorical
        Codes (n,) and number of levels of each grouping factor and categorical variable, in key order.
    numeric
        Values (n,) of each numeric variable.
    n_rows
        n.

    Returns
    -------
    Pattern of each row (numbered in the order of the keys, so that it does not depend on the
    order of the rows), number of patterns, and the numeric variables that vary inside patterns.
    """
    codes, size = combine(categorical, n_rows)
    limit = max(2000, n_rows // 20)
    cell_level = []
    labelled = {name: pd.factorize(values) for name, values in numeric.items()}
    for name in sorted(labelled, key=lambda n: (len(labelled[n][1]), n)):
        if not varies(numeric[name], codes, first_rows(codes, size)):
            continue
        labels, uniques = labelled[name]
        rank = np.empty(len(uniques), dtype=np.int64)
        rank[np.argsort(uniques)] = np.arange(len(uniques))
        finer = combine([(codes, size), (rank[labels], len(uniques))], n_rows) if len(uniques) <= limit else None
        if finer is not None and finer[1] <= limit:
            codes, size = finer
        else:
            cell_level.append(name)
    return codes, size, tuple(cell_level)


def combine(factors: Sequence[tuple[IntArray, int]], n_rows: int) -> tuple[IntArray, int]:
    """Number the combinations of factors that occur, in the order of the first factor, then the second ..."""
    codes, size = np.zeros(n_rows, dtype=np.int64), 1
    for labels, n_levels in factors:
        codes, size = _compress(codes * n_levels + labels, size * n_levels)
    return codes, size


def first_rows(codes: IntArray, size: int) -> IntArray:
    """Return the first row of each pattern."""
    first = np.empty(size, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return first


def varies(values: FloatArray, codes: IntArray, first: IntArray) -> bool:
    """Whether a column takes several values inside some pattern."""
    return bool(np.any(values != values[first][codes]))


def _compress(codes: IntArray, size: int) -> tuple[IntArray, int]:
    """Renumber codes without gaps, in the same order."""
    if size > max(4 * len(codes), 1_000_000):  # a table of that size would cost more than sorting
        uniques, dense = np.unique(codes, return_inverse=True)
        return dense.reshape(-1), len(uniques)
    seen = np.zeros(size, dtype=bool)
    seen[codes] = True
    return (np.cumsum(seen) - 1)[codes], int(seen.sum())
