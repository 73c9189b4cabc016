"""Scans over variants: put into ``uns``, and read from there, from the folder that one wrote, or from a result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._anndata import keys
from donorwise._anndata.obs import suggest
from donorwise._anndata.read import (
    aligned_to_var,
    check_format,
    check_is_anndata,
    check_text,
    holds_tables,
    plain,
    still_there,
)
from donorwise._anndata.write import write_tables
from donorwise._core.engine.scan_folder import COUNTS, LEAD, check_folder, open_tests, read_params, read_table
from donorwise._core.engine.wanted import Wanted, read_wanted, wanted_blocks, with_known_text
from donorwise._core.files import at_home
from donorwise.errors import DataError

if TYPE_CHECKING:
    import anndata as ad

    from donorwise._core.engine.wanted import StoredTests

_RUN = ("formula", "groupby", "mode", "n_tests")
"""Params by which a folder is known to be of the scan that names it."""


@dataclass(frozen=True, slots=True)
class StoredScan:
    """A scan over variants, restricted to the genes that are still in the AnnData.

    Attributes
    ----------
    results
        The lead variant of every gene and group, with the columns ``keys.SCAN_COLUMNS``.
    counts
        How many tests there were by size of the statistic, with the columns ``keys.COUNT_COLUMNS``.
    params
        Formula, options and counts; what was None is absent.
    kept
        Where the tests are: a table, the folder that holds them, or None where they were not kept.
    complete
        Whether all genes of the scan are still there.
    name
        What messages call it.
    """

    results: pd.DataFrame
    counts: pd.DataFrame
    params: dict[str, Any]
    kept: pd.DataFrame | Path | None
    complete: bool = True
    name: str = "scan"

    @property
    def genes(self) -> list[str]:
        """Names of the genes, in their order."""
        return list(self.results["gene"].cat.categories)

    @property
    def groups(self) -> list[str]:
        """Names of the groups, in their order."""
        return list(self.results["group"].cat.categories)

    @property
    def in_cis(self) -> bool:
        """Whether genes were tested against the variants near them."""
        return bool(self.params.get("mode") == "cis")

    def lead(self, gene: str, group: str) -> pd.Series:
        """The row of a gene in a group; without numbers where there is none."""
        rows = self.results[(self.results["gene"] == gene) & (self.results["group"] == group)]
        empty = pd.Series({"gene": gene, "group": group}, dtype=object).reindex(self.results.columns)
        return rows.iloc[0] if len(rows) else empty

    @property
    def tests(self) -> StoredTests:
        """The tests: a table with the columns ``keys.TEST_COLUMNS``, or a pyarrow dataset of which nothing has been read.

        Raises
        ------
        DataError
            They were not kept, are not where they were, or pyarrow is not installed.
        """
        if self.kept is None:
            raise DataError(f"The tests of {self.name} were not kept; only the lead variants are there (level='gene').")
        if isinstance(self.kept, pd.DataFrame):
            return self.kept
        _check_place(self.kept, self)
        return open_tests(self.kept, self.groups)

    def table(self, wanted: Wanted, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The tests that are wanted, of genes that are still there; of files no more is read than these need.

        Genes and groups are categories in their order in `results`, other text in that of the rows, wherever the tests are.
        """
        found = read_wanted(self.tests, self._present(wanted), columns)
        orders = {"gene": self.genes, "group": self.groups}
        return pd.DataFrame(
            {name: _in_order(column, orders.get(str(name))) for name, column in found.items()}, copy=False
        )

    def blocks(self, wanted: Wanted, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """As `table`, in blocks of rows of which one is in memory at a time."""
        return wanted_blocks(self.tests, self._present(wanted), columns)

    def _present(self, wanted: Wanted) -> Wanted:
        return wanted if self.complete else wanted.with_only(gene=self.genes)


def write_scan(
    adata: ad.AnnData,
    key: str,
    *,
    params: Mapping[str, Any],
    results: pd.DataFrame,
    counts: pd.DataFrame,
    tests: pd.DataFrame | None = None,
) -> None:
    """Store a scan as ``adata.uns[key]``, replacing what was there.

    Parameters
    ----------
    adata
        Changed in place, and only once everything is known to be storable.
    key
        Entry of ``uns``.
    params
        Formula, options and counts, as for :func:`donorwise._anndata.write.write_results`; None is left out.
    results
        One row per gene x group with the columns ``keys.SCAN_COLUMNS``; further ones are kept behind them.
    counts
        With the columns ``keys.COUNT_COLUMNS``.
    tests
        One row per test that is kept, with the columns ``keys.TEST_COLUMNS`` (without groups none of group) and further
        ones; None where they are in a folder, ``params["out"]``, or were not kept.

    Raises
    ------
    DataError
        A column is missing, or `key` or a value cannot be stored.
    """
    tables = {
        keys.RESULTS: _checked(results, keys.SCAN_COLUMNS, "lead variants"),
        keys.COUNTS: _checked(counts, keys.COUNT_COLUMNS, "counts of tests"),
    }
    if tests is not None:
        tables[keys.TESTS] = _checked(_grouped(tests, results), keys.TEST_COLUMNS, "tests")
    write_tables(adata, key, tables=tables, params={k: v for k, v in params.items() if v is not None})


def read_scan(source: Any, key: str = keys.SCAN) -> StoredScan:
    """Read a scan.

    Parameters
    ----------
    source
        An AnnData that holds one, the folder that one wrote with ``out=``, or an object with its tables as the attributes
        results, counts, params and tests.
    key
        Entry of ``uns`` of an AnnData.

    Raises
    ------
    DataError
        There is no such scan; the message names those there are.
    """
    if isinstance(source, StoredScan):
        return source
    if isinstance(source, str | os.PathLike):
        return _of_folder(at_home(Path(source)))
    if all(hasattr(source, name) for name in (keys.RESULTS, keys.COUNTS, keys.PARAMS)):
        return _made(source.results, source.counts, source.params, getattr(source, keys.TESTS, None), "the scan")
    return _of_anndata(source, key)


def _of_anndata(adata: ad.AnnData, key: str) -> StoredScan:
    check_is_anndata(adata)
    check_text(key)
    _check_scan(adata, key)
    entry = adata.uns[key]
    check_format(entry, key)
    params = {str(name): plain(value) for name, value in entry[keys.PARAMS].items()}
    scan = _made(entry[keys.RESULTS], entry[keys.COUNTS], params, entry.get(keys.TESTS), repr(key))
    if not aligned_to_var({keys.RESPONSE: keys.RESPONSE_X} | params):
        return scan
    left = still_there(scan.results, adata.var_names, key, "gene")
    if len(left) == len(scan.results):
        return scan
    kept = scan.kept
    if isinstance(kept, pd.DataFrame):
        kept = read_wanted(kept, Wanted(gene=tuple(left["gene"].cat.categories)))
    return replace(scan, results=left.reset_index(drop=True), kept=kept, complete=False)


def _check_scan(adata: ad.AnnData, key: str) -> None:
    if holds_tables(adata, key, keys.SCAN_TABLES):
        return
    if holds_tables(adata, key, keys.TABLES):
        raise DataError(
            f"adata.uns[{key!r}] is the result of a model, not of a scan: dw.get.tests(adata, key={key!r})."
        )
    present = [str(name) for name in adata.uns if holds_tables(adata, name, keys.SCAN_TABLES)]
    there = suggest(key, present) if present else "There are none in this AnnData: run dw.tl.scan first."
    raise DataError(f"adata.uns has no scan {key!r}. {there}")


def _of_folder(folder: Path) -> StoredScan:
    check_folder(folder)
    params = read_params(folder)
    check_format(params, folder.name, place=str(folder))
    return _made(read_table(folder, LEAD), read_table(folder, COUNTS), params, folder, str(folder))


def _made(results: Any, counts: Any, params: Mapping[str, Any], tests: Any, name: str) -> StoredScan:
    """The record of a scan, with what it is known by in its usual form."""
    lead = with_known_text(pd.DataFrame(results)).reset_index(drop=True)
    known = {str(k): v for k, v in params.items() if v is not None and k != keys.FORMAT}
    kept = tests
    if tests is None and known.get(keys.OUT):
        kept = Path(str(known[keys.OUT]))
    elif tests is not None and not isinstance(tests, Path):
        kept = with_known_text(_grouped(pd.DataFrame(tests), lead))
    return StoredScan(lead, with_known_text(pd.DataFrame(counts)), known, kept, name=name)


def _in_order(column: pd.Series, known: list[str] | None) -> pd.Series:
    """A categorical column with the categories `known`, or those that occur, first seen first."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return column
    if known is not None:
        return column.cat.set_categories(known)
    return column.cat.set_categories(column.cat.categories[pd.unique(column.cat.codes)])


def _grouped(tests: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Tests with the group beside their gene, also where there is only one group."""
    if "group" in tests:
        return tests
    only = pd.Categorical.from_codes([0] * len(tests), categories=results["group"].astype(str).unique()[:1])
    table = pd.DataFrame(tests, copy=False)
    return pd.concat([table.iloc[:, :1], pd.Series(only, index=table.index, name="group"), table.iloc[:, 1:]], axis=1)


def _checked(table: pd.DataFrame, columns: Sequence[str], what: str) -> pd.DataFrame:
    """A table with `columns` first and further ones behind, text as text."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"The {what} of a scan lack the columns {', '.join(missing)}.")
    further = [name for name in table.columns if name not in columns]
    return with_known_text(table[[*columns, *further]])


def _check_place(folder: Path, scan: StoredScan) -> None:
    """Raise unless the tests of a scan are where it left them, and its own."""
    if not folder.is_dir():
        raise DataError(
            f"The tests of {scan.name} were written to {folder}, and there is no such folder (any more). If it was moved, "
            "give its new place instead of the AnnData: dw.get.scan('new/place')."
        )
    check_folder(folder)
    other = read_params(folder)
    differ = [k for k in _RUN if k in other and k in scan.params and other[k] != scan.params[k]]
    if differ:
        raise DataError(
            f"The folder {folder} has the tests of another scan than {scan.name}, which named it: {differ[0]} is "
            f"{other[differ[0]]!r} there and {scan.params[differ[0]]!r} here. Run the scan again with another out=."
        )
