"""Tests of genes and variants chosen from a table, in memory or in files of which no more is read than is wanted."""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from donorwise._core.kinship.labels import bare
from donorwise._typing import BoolArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow.dataset as ds

    StoredTests: TypeAlias = pd.DataFrame | ds.Dataset


def _spellings(chrom: str) -> list[str]:
    """How files may call a chromosome, of which a filter has to be told one by one."""
    own = {bare(chrom), "MT"} if bare(chrom) == "M" else {bare(chrom)}
    names = sorted({spelt for name in own for spelt in (name, name.lower(), name.capitalize())})
    return [prefix + name for prefix in ("", "chr", "Chr", "CHR") for name in names]


def _is_in(column: Any, names: list[str]) -> Any:
    return column.isin(names)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tests are wanted; None is all of them.

    Attributes
    ----------
    gene, group, variant
        Names.
    chrom
        Names of chromosomes, in any of their spellings.
    low, high
        First and last position.
    p_max
        Largest p-value.
    """

    gene: tuple[str, ...] | None = None
    group: tuple[str, ...] | None = None
    variant: tuple[str, ...] | None = None
    chrom: tuple[str, ...] | None = None
    low: int | None = None
    high: int | None = None
    p_max: float | None = None

    def _conditions(self) -> Iterator[tuple[str, Callable[[Any, Any], Any], Any]]:
        """Column, comparison and what it is compared with, for columns in memory and in files."""
        for name in ("gene", "group", "variant"):
            if (names := getattr(self, name)) is not None:
                yield name, _is_in, list(names)
        if self.chrom is not None:
            yield "chrom", _is_in, [spelling for name in self.chrom for spelling in _spellings(name)]
        for column, how, bound in (("pos", operator.ge, self.low), ("pos", operator.le, self.high)):
            if bound is not None:
                yield column, how, bound
        if self.p_max is not None:
            yield "p_value", operator.le, self.p_max

    def mask(self, table: pd.DataFrame) -> BoolArray:
        """Which rows of a table are wanted."""
        found = np.ones(len(table), dtype=bool)
        for column, how, value in self._conditions():
            found &= np.asarray(how(table[column], value), dtype=bool)
        return found

    def expression(self) -> ds.Expression | None:
        """What is wanted as a filter of files, which skips the parts of them whose statistics exclude it."""
        import pyarrow as pa
        import pyarrow.dataset as ds

        whole = None
        for column, how, value in self._conditions():
            one = how(ds.field(column), pa.array(value, pa.string()) if isinstance(value, list) else value)
            whole = one if whole is None else whole & one
        return whole

    def with_only(self, **names: Sequence[str]) -> Wanted:
        """What is wanted and has one of these names as well."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        for column, allowed in names.items():
            wanted, known = own[column], set(allowed)
            own[column] = tuple(allowed) if wanted is None else tuple(name for name in wanted if name in known)
        return Wanted(**own)


def read_wanted(tests: StoredTests, wanted: Wanted, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The tests that are wanted, as one table in their own order; text is categorical.

    Parameters
    ----------
    tests
        A table, or a dataset of files.
    wanted
        Which rows.
    columns
        Which columns; None for all.
    """
    if isinstance(tests, pd.DataFrame):
        table = tests.loc[wanted.mask(tests), tests.columns if columns is None else list(columns)]
        return table.reset_index(drop=True)
    found = tests.to_table(filter=wanted.expression(), columns=None if columns is None else list(columns))
    return with_known_text(found.to_pandas(strings_to_categorical=True))


def wanted_blocks(tests: StoredTests, wanted: Wanted, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """As `read_wanted`, in blocks of rows of which one is in memory at a time."""
    if isinstance(tests, pd.DataFrame):
        yield read_wanted(tests, wanted, columns)
        return
    batches = tests.to_batches(filter=wanted.expression(), columns=None if columns is None else list(columns))
    for batch in batches:
        if batch.num_rows:
            yield with_known_text(batch.to_pandas(strings_to_categorical=True))


def with_known_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table in which text is categorical and text that is not known, as an allele without a name, is empty."""
    return pd.DataFrame({name: _text(column) for name, column in table.items()}, copy=False)


def _text(column: pd.Series) -> pd.Series:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        if pd.api.types.is_numeric_dtype(column.dtype):
            return column
        codes, names = pd.factorize(column)  # first seen first
        column = pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(names)), index=column.index)
    known = column.cat.categories
    if known.dtype != known.astype(str).dtype:
        column = column.cat.rename_categories(known.astype(str))
    if not column.hasnans:
        return column
    return (column if "" in known else column.cat.add_categories("")).fillna("")
