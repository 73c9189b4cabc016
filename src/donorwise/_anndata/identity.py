"""Whether two sources are the same cells, which would count twice: the file, the names of cells, what rows are made of."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._anndata.collapsed import read_cells, read_rows
from donorwise._anndata.obs import obs_frame
from donorwise._anndata.origin import Origin, read_origin
from donorwise.errors import DataError, DonorwiseWarning

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

    from donorwise._typing import IntArray

# Cells in common, of those of the smaller source, from which two sources may be parts of one.
_SOME = 0.05
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# Rows that are compared to tell whether two cohorts of older versions are one.
_ROWS_READ = 64


def check_files(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Raise where two of several files are one, by whatever names.

    Raises
    ------
    DataError
        The message names both.
    """
    for one, other in combinations(paths, 2):
        if os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other):
            names = f"{one} is given twice" if str(one) == str(other) else f"{one} and {other} are the same file"
            raise DataError(f"{names}: its cells would count twice. Leave one out.")


def hash_cells(adata: ad.AnnData, columns: Sequence[str]) -> NDArray[np.uint64]:
    """A number for every cell, shape (N,), from its name and its values of some columns, whatever their order."""
    frame = obs_frame(adata, sorted(columns))
    return _hash([pd.Series(frame.index.astype(str)), *(frame[name] for name in frame.columns)])


def _hash(columns: Sequence[pd.Series]) -> NDArray[np.uint64]:
    total = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        total = total * _FACTOR + _hash_column(column)
    return total


def _hash_column(column: pd.Series) -> NDArray[np.uint64]:
    """Numbers by their value, anything else by its text; the storage of either makes no difference."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        values: Any = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(pd.util.hash_array(values))
    codes, levels = pd.factorize(column)
    texts = np.array([str(level) for level in levels] + ["<missing>"], dtype=object)
    return np.asarray(pd.util.hash_array(texts))[codes]


def digest(hashes: NDArray[np.uint64]) -> str:
    """A text for a set of cells, whatever their order: their number and the sum of `hash_cells`."""
    return f"{len(hashes)}-{int(hashes.sum(dtype=np.uint64)):016x}"


def check_cells(names: Sequence[str], hashes: Sequence[NDArray[np.uint64]]) -> None:
    """Raise where all cells of one source are in another; warn where some are.

    Parameters
    ----------
    names
        What to call the sources.
    hashes
        What `hash_cells` gives for each, for the same columns.

    Raises
    ------
    DataError
        The message names both.
    """
    own = [np.unique(values) for values in hashes]
    for one, other, n in _shared(own):
        smaller, larger = sorted((other, one), key=lambda k: len(own[k]))
        what = (
            f"{n:,} of {len(own[smaller]):,} cells of {names[smaller]} have the name of a cell of {names[larger]} and its "
            "values of all columns in by="
        )
        if n == len(own[smaller]):
            raise DataError(
                f"{names[one]} and {names[other]} hold the same cells: {what}. They would count twice: leave one out."
            )
        if n >= _SOME * len(own[smaller]):
            warnings.warn(
                f"{what}: if they are the same cells, they count twice.", DonorwiseWarning, stacklevel=4,
            )  # fmt: skip


def _shared(own: Sequence[NDArray[np.uint64]]) -> list[tuple[int, int, int]]:
    """Sources with common values, and how many these are."""
    values, owner = np.concatenate(own), np.repeat(np.arange(len(own)), [len(v) for v in own])
    order = np.argsort(values, kind="stable")
    again = np.flatnonzero(values[order][1:] == values[order][:-1])
    pairs = np.stack([owner[order][again], owner[order][again + 1]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(int(a), int(b), int(n)) for (a, b), n in zip(found, counts, strict=True)]


def check_rows(cohorts: Sequence[ad.AnnData], names: Sequence[str]) -> None:
    """Raise where rows of two collapsed cohorts are made of the same cells.

    They are if their rows have values of the columns in common and a source as well. Cohorts of 0.1 do not say what they
    were made of: they are warned of if these rows have the same numbers of cells and the same means.

    Raises
    ------
    DataError
        The message says which cohorts, by their names.
    """
    origins = [read_origin(adata) for adata in cohorts]
    rows = [_hash([frame[name] for name in sorted(frame.columns)]) for frame in map(_labels, cohorts, origins)]
    for i, j in combinations(range(len(cohorts)), 2):
        _, a, b = np.intersect1d(rows[i], rows[j], return_indices=True)
        both = f"{names[i]} and {names[j]}"
        if len(a) and set(origins[i].cells) & set(origins[j].cells):
            raise DataError(
                f"{both} are made of the same cells, and have {len(a):,} rows with the same values of "
                f"{list(origins[i].by)}: their cells would count twice. Leave one out."
            )
        told = all(origins[k].cells for k in (i, j))
        if len(a) and not told and _same_means(cohorts[i], cohorts[j], a, b):
            warnings.warn(
                f"{both} have rows with the same numbers of cells and the same means: if they are made of the same cells, "
                "these count twice.", DonorwiseWarning, stacklevel=4,
            )  # fmt: skip


def _labels(adata: ad.AnnData, origin: Origin) -> pd.DataFrame:
    return obs_frame(adata, list(origin.by))


def _same_means(one: ad.AnnData, other: ad.AnnData, a: IntArray, b: IntArray) -> bool:
    """Whether rows `a` of one cohort and `b` of another have the same numbers of cells and means; zeros say nothing."""
    names = one.var_names.intersection(other.var_names)
    a, b = a[:_ROWS_READ], b[:_ROWS_READ]
    if not np.array_equal(read_cells(one).n_cells[a], read_cells(other).n_cells[b]):
        return False
    x, y = (
        read_rows(adata, (), abundance=False).read(rows, adata.var_names.get_indexer(names)).mean
        for adata, rows in ((one, a), (other, b))
    )
    return bool(x.any()) and np.allclose(x, y, rtol=1e-9, atol=0.0)
