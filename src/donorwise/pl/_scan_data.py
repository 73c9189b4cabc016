"""What plots ask of a scan, wherever it is: in an AnnData, in the folder of its output, or in a record of tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from donorwise._anndata import holds_tables, keys, suggest
from donorwise.errors import DataError, DonorwiseError
from donorwise.get._tests import choose, present

if TYPE_CHECKING:
    from donorwise._anndata import StoredScan, Symbols
    from donorwise._typing import Groups

_LETTERS = {"X": 1, "Y": 2, "XY": 3, "M": 4, "MT": 4}


def natural_order(name: str) -> tuple[int, int, str]:
    """Where a chromosome stands among others: numbers, then X, Y and MT, then others by name.

    Examples
    --------
    >>> sorted(["X", "10", "MT", "2", "scaffold_9", "Y"], key=natural_order)
    ['2', '10', 'X', 'Y', 'MT', 'scaffold_9']
    """
    if name.isdecimal():
        return 0, int(name), ""
    return (1, _LETTERS[name.upper()], "") if name.upper() in _LETTERS else (2, 0, name)


def is_scan(source: Any, key: str | None) -> bool:
    """Whether this is a scan, or an AnnData with one under `key`."""
    if hasattr(source, "uns"):
        return isinstance(key, str) and holds_tables(source, key, keys.SCAN_TABLES)
    return (isinstance(source, str | os.PathLike) and Path(source).is_dir()) or all(
        hasattr(source, name) for name in keys.SCAN_TABLES
    )


def groups_of(scan: StoredScan, wanted: Groups) -> list[str]:
    """Names of the groups that are wanted, None for all of them.

    Raises
    ------
    DataError
        There is no such group.
    """
    return present(choose(scan.results, "group", wanted), "group")


def genes_of(scan: StoredScan, symbols: Symbols, wanted: str) -> list[str]:
    """The genes that are meant by a name or symbol.

    Raises
    ------
    DataError
        There is none.
    """
    found = symbols.find(wanted)
    for gene in found:
        if gene not in scan.genes:
            raise DataError(f"There is no gene {gene!r} in this scan. {suggest(gene, scan.genes)}")
    return found


def threshold_of(threshold: object, default: float) -> float:
    """The threshold that was given, or what it is where none was.

    Raises
    ------
    DonorwiseError
        It is no p-value.
    """
    if threshold is None:
        return default
    if not (isinstance(threshold, int | float | np.number) and 0 < float(threshold) < 1):
        raise DonorwiseError(f"threshold={threshold!r} must be a p-value between 0 and 1, such as {default:g}.")
    return float(threshold)
