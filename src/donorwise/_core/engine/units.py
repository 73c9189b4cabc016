"""Which cells are one unit of a pseudobulk analysis: a donor (or sample of one), as the formula splits it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.cells.collapsed_rows import merge_rows
from donorwise._core.design.design import RandomTerm, combine, first_rows
from donorwise._core.design.formula import Bar, ParsedFormula
from donorwise._core.design.lost import Levels, levels_in_use
from donorwise._core.design.terms import check_column, check_obs, read_column
from donorwise._core.models.lograte.units import Depths
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.cells.measures import Collapsed
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray, IntArray

logger = logging.getLogger("donorwise")

# A number with more values than this per donor differs from cell to cell; with fewer it is a visit or a dose.
_MANY_VALUES = 20


@dataclass(frozen=True, slots=True)
class Units:
    """U units of N cells.

    Attributes
    ----------
    table
        U rows: donor, sample, group and the variables of the formula.
    codes
        Shape (N,). Unit of every cell; -1 where a variable is missing.
    donor
        Column of the donors.
    columns
        The columns whose combinations are the units, the group left out.
    formula
        The formula for `table`: random terms whose levels are the units are left to the variance between units.
    levels
        Levels of its variables among the cells, those without a unit too.
    sample
        Column of the samples that may tell units of a donor apart; empty where they do not.
    """

    table: pd.DataFrame
    codes: IntArray
    donor: str
    columns: tuple[str, ...]
    formula: ParsedFormula
    levels: Levels
    sample: str

    @property
    def name(self) -> str:
        """What a unit is called, such as ``"donor"`` or ``"donor:stimulus"``."""
        return ":".join(self.columns)

    def labels(self, units: IntArray) -> list[str]:
        """Names of some of the units, such as ``"D01"`` or ``"D01:stimulated"``."""
        parts = [self.table[column].astype(str).iloc[units] for column in self.columns]
        return [":".join(own) for own in zip(*parts, strict=True)]

    def n_donors(self, units: IntArray) -> int:
        """Number of donors among some of the units."""
        return int(self.table[self.donor].iloc[units].nunique())


def find_units(
    parsed: ParsedFormula,
    obs: pd.DataFrame,
    *,
    donor: str,
    sample: str | None,
    groupby: Sequence[str],
    explicit: bool,
) -> Units:
    """Divide cells into units.

    Parameters
    ----------
    parsed
        The formula; its variables split donors where they vary within them.
    obs
        N cells.
    donor, sample, groupby
        Columns of `obs`; those of the groups may be none.
    explicit
        Whether the user asked for `sample`; otherwise samples are units only where the formula has
        a term for the donor, without which samples of a donor would pass for replicates, and where they do not
        split what the formula tells apart within donors: the donor's response would have no variance of its own.

    Raises
    ------
    DesignError
        A column is missing, or a number in the formula differs from cell to cell.
    """
    read, grouping = parsed.variables, parsed.groups
    by_donor = donor in parsed.columns
    outer = [donor, *groupby]
    samples = [sample] if sample is not None and (explicit or by_donor) else []
    labels = [*outer, *samples, *grouping]
    for argument, name in (("donor", donor), ("sample", sample), *(("groupby", name) for name in groupby)):
        if name is not None:
            check_column(obs, argument, name)
    check_obs(obs, [*labels, *read], parsed.source)
    columns = {
        name: read_column(obs[name], name, categorical=name in labels) for name in dict.fromkeys([*labels, *read])
    }
    codes, table, splitting = _split(columns, outer)
    if samples and not explicit and sample not in (*read, *grouping):
        without = _split({name: column for name, column in columns.items() if name != sample}, outer)
        if len(outer) < len(without[2]) and len(without[1]) < len(table):
            logger.info(
                "Samples (%s) of a donor with the same %s are one unit.", sample, listing(without[2][len(outer) :])
            )
            (codes, table, splitting), samples = without, []
    _check_cell_level(columns, splitting, codes, table, donor)
    unit_columns = tuple(c for c in splitting if c not in groupby)
    kept = _without_units(parsed, table, groupby)
    return Units(table, codes, donor, unit_columns, kept, levels_in_use(kept, obs), "".join(samples))


def with_units(design: Design, units: Units) -> Design:
    """The design of units, a pattern each, with the variance between units as one more random intercept."""
    used = np.flatnonzero(design.codes >= 0)
    parsed = design.parsed.with_intercept(units.columns)
    term = RandomTerm(
        group=units.name,
        levels=tuple(units.labels(used)),
        codes=design.codes[used].astype(np.int64),
        columns=("(Intercept)",),
        Z=np.ones((used.size, 1)),
        varying=(-1,),
        bar=parsed.bars[-1],
        at=(0,),
    )
    return replace(design, parsed=parsed, random_terms=(*design.random_terms, term))


def merge_units(values: Collapsed, cubes: FloatArray, codes: IntArray, n: int) -> tuple[Collapsed, Depths]:
    """Statistics of counts and depths of n units, from those of K collapsed rows that lie in one unit each.

    Parameters
    ----------
    values
        Of the rows; their covariate is the depth.
    cubes
        Shape (K,). Sums of the depths' cubes.
    codes
        Shape (K,). Unit of each row; -1 for rows that are left out.
    """
    used = np.flatnonzero(codes >= 0)
    merged = merge_rows(values.take(used), codes[used], n)
    total = merged.n_obs * merged.covariate_mean[:, 0]
    squares = merged.covariate_ss[:, 0, 0] + total * merged.covariate_mean[:, 0]
    third = np.asarray(np.bincount(codes[used], weights=cubes[used], minlength=n), dtype=np.float64)
    return merged, Depths(merged.n_obs, total, squares, third)


def _split(columns: dict[str, pd.Series], outer: list[str]) -> tuple[IntArray, pd.DataFrame, list[str]]:
    """Codes of the units, their table, and the columns that tell them apart, `outer` first."""
    n = len(next(iter(columns.values())))
    labels = {name: pd.factorize(column, sort=True) for name, column in columns.items()}
    complete = np.all([codes >= 0 for codes, _ in labels.values()], axis=0)
    if not complete.any():
        raise DesignError(f"No cell is left: each misses a value in at least one of {', '.join(map(repr, columns))}.")
    own, size = combine([(labels[name][0][complete], len(labels[name][1])) for name in outer], int(complete.sum()))
    splitting = list(outer)
    for name in (name for name in columns if name not in outer):
        finer, finer_size = combine([(own, size), (labels[name][0][complete], len(labels[name][1]))], own.size)
        if finer_size > size:
            own, size = finer, finer_size
            splitting.append(name)
    codes = np.full(n, -1, dtype=np.int64)
    codes[complete] = own
    rows = np.flatnonzero(complete)[first_rows(own, size)]
    table = pd.DataFrame({name: column.array[rows] for name, column in columns.items()}, index=range(size))
    return codes, table, splitting


def _check_cell_level(
    columns: dict[str, pd.Series], splitting: list[str], codes: IntArray, table: pd.DataFrame, donor: str
) -> None:
    """Raise where a number splits donors into single cells, or nearly."""
    numeric = [c for c in splitting if not isinstance(columns[c].dtype, pd.CategoricalDtype)]
    if not numeric:
        return
    rest = [c for c in splitting if c not in numeric]
    per_donor = len(table) / len(table[rest].drop_duplicates())
    cells = int((codes >= 0).sum())
    if per_donor > _MANY_VALUES or 2 * len(table) > cells:
        raise DesignError(
            f"{', '.join(f'`{c}`' for c in numeric)} differs from cell to cell ({per_donor:.0f} values per {donor}), and "
            "counts are summed over the cells of a unit before they are modelled. Sequencing depth is accounted for "
            "already; leave other such covariates out, use their mean per donor, or fit dw.tl.lmm."
        )


def _check_random(parsed: ParsedFormula, kept: list[Bar]) -> None:
    if len(kept) <= 1 and all(bar.columns.strip() == "1" for bar in kept):
        return
    raise DesignError(
        "The model of counts takes one random intercept, such as (1 | donor), besides the variance between units; "
        f"{parsed.source!r} has {' and '.join(dict.fromkeys(bar.text for bar in kept))}. Use fixed effects instead, or "
        "fit log-normalised values with dw.tl.lmm."
    )


def _without_units(parsed: ParsedFormula, table: pd.DataFrame, groupby: Sequence[str]) -> ParsedFormula:
    """The formula without random intercepts whose levels are the units themselves."""
    kept = []
    for bar in parsed.bars:
        by = [*bar.group, *groupby]
        if bar.columns.strip() == "1" and len(table[by].drop_duplicates()) == len(table):
            logger.info("%s is the variance between units, which the model always has.", bar.text)
        else:
            kept.append(bar)
    _check_random(parsed, kept)
    return parsed.keep(kept)
