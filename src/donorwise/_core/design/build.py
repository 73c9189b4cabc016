"""A formula and a table of observations become a Design."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import Design, RandomTerm, combine, find_patterns, first_rows
from donorwise._core.design.evaluate import Evaluated, RowsInUse, check_design, evaluate
from donorwise._core.design.formula import Bar, ParsedFormula, parse
from donorwise._core.design.lost import (
    Levels,
    check_bases,
    find_lost,
    levels_in_use,
    levels_of,
    read_as_labels,
    stand_ins,
)
from donorwise._core.design.terms import (
    check_finite,
    check_obs,
    column_terms,
    complete_rows,
    is_categorical,
    read_column,
    term_name,
    term_variables,
    used_categories,
    variables,
)
from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.errors import DesignError

if TYPE_CHECKING:
    pass


_MOST_FIXED = 1_000
_MOST_CORRELATED = 50


def build_design(
    formula: str | ParsedFormula,
    obs: pd.DataFrame,
    *,
    rows: BoolArray | None = None,
    levels: Levels | None = None,
    residual: bool = True,
    rows_each: int = 0,
) -> Design:
    """Apply a formula to observations and collapse them to patterns of equal rows.

    Parameters
    ----------
    formula
        Fixed and random effects, ``"~ disease + (1 | donor)"``.
    obs
        N rows. Columns that the formula does not name are not looked at.
    rows
        Shape (N,). Which rows to use; all when None.
    levels
        Levels of the variables, in use or not, where they are known; by default those of all rows of `obs`.
    residual
        Whether rows have a residual of unknown size, which a random effect for each row could not be told from.
    rows_each
        Numbers whose values would leave fewer rows than this for a pattern, on average, vary inside patterns; 0 for
        those with very many values.

    Returns
    -------
    Design
        ``codes`` has length N and is -1 in rows that are not used.

    Raises
    ------
    FormulaError
        When the formula does not parse.
    DesignError
        When a column is missing or unusable, or when the data cannot answer the formula.
    """
    design = assemble_design(formula, obs, rows=rows, levels=levels, rows_each=rows_each)
    check_design(design, residual=residual)
    return design


def assemble_design(
    formula: str | ParsedFormula,
    obs: pd.DataFrame,
    *,
    rows: BoolArray | None = None,
    levels: Levels | None = None,
    rows_each: int = 0,
) -> Design:
    """Do what :func:`build_design` does, without asking whether the data can answer the formula."""
    parsed = parse(formula)
    columns, factors, used, n_dropped = _read(parsed, obs, rows)
    _check_size(parsed, columns)
    every = levels_in_use(parsed, obs) if levels is None else levels
    present = {name: levels_of(columns[name]) for name in every}
    check_bases(parsed.parts, every)
    data = replace(_patterns(columns, factors, rows_each), stand_ins=stand_ins(parsed.parts, every, present))
    fixed = evaluate(parsed.terms, data)
    if not fixed.names:
        raise DesignError(f"The formula has no fixed effect, not even an intercept: {parsed.source}")
    slopes = [_evaluate_bar(bar, data) for bar in parsed.bars]
    covariates, index = _covariates([fixed, *slopes], len(data.codes))
    return Design(
        parsed=parsed,
        codes=_scatter(data.codes.astype(np.int32), used, fill=-1),
        X=fixed.values,
        fixed_names=fixed.names,
        terms=fixed.terms,
        random_terms=tuple(
            random_term(bar, slope, varying, at, factors, data)
            for bar, slope, varying in zip(parsed.bars, slopes, index[1:], strict=True)
            for at in _correlated(bar, slope, data)
        ),
        covariates=_scatter(covariates, used, fill=0.0),
        varying=index[0],
        frame=_frame(data, factors),
        spec=fixed.spec,
        n_dropped=n_dropped,
        numeric_means={n: float(c.mean()) for n, c in columns.items() if not is_categorical(c)},
        lost=find_lost(
            parsed.terms, fixed.spec, data, every, present, _missing(parsed, obs, rows) if n_dropped else []
        ),
        levels={name: tuple(own) for name, own in every.items() if is_categorical(columns[name])},
    )


def _read(
    parsed: ParsedFormula, obs: pd.DataFrame, rows: BoolArray | None
) -> tuple[pd.DataFrame, dict[str, Factor], BoolArray, int]:
    """Read the columns the formula names, in the rows where none is missing."""
    names, groups = parsed.variables, parsed.groups
    check_obs(obs, [*names, *groups], parsed.source)
    if rows is not None and (np.asarray(rows).dtype != bool or np.shape(rows) != (len(obs),)):
        raise DesignError(f"rows must be a boolean mask of length {len(obs):,}.")
    asked = np.ones(len(obs), dtype=bool) if rows is None else np.asarray(rows)
    labels = read_as_labels(parsed)
    columns = {name: read_column(_select(obs[name], asked), name, categorical=name in labels) for name in names}
    factors = {name: read_column(_select(obs[name], asked), name, categorical=True) for name in groups}
    n_asked = int(asked.sum())
    complete = complete_rows([*columns.values(), *factors.values()], n_asked)
    n = int(complete.sum())
    if n == 0:
        raise DesignError(_nothing_left([*names, *groups], n_asked))
    frame = pd.DataFrame({name: _take(column, complete) for name, column in columns.items()}, index=range(n))
    for name in names:
        _check_column(frame[name], name)
    used = asked.copy()
    used[asked] = complete
    return frame, {name: read_factor(_take(f, complete), name) for name, f in factors.items()}, used, n_asked - n


def _missing(parsed: ParsedFormula, obs: pd.DataFrame, rows: BoolArray | None) -> list[str]:
    """Columns of the formula that miss values in the rows that were asked for."""
    return [name for name in parsed.columns if (obs[name] if rows is None else obs[name][rows]).isna().any()]


def _check_size(parsed: ParsedFormula, columns: pd.DataFrame) -> None:
    """Raise, before anything is evaluated, where categories make more columns than a model can have."""
    levels = {name: len(columns[name].cat.categories) for name in columns if is_categorical(columns[name])}
    for part, most in zip(parsed.parts, [_MOST_FIXED, *[_MOST_CORRELATED] * len(parsed.bars)], strict=True):
        sizes = {term_name(t): math.prod(max(levels.get(v, 2) - 1, 1) for v in term_variables(t)) for t in part}
        if sum(sizes.values()) > most:
            worst = max(sizes, key=lambda name: sizes[name])
            what = (
                "coefficients"
                if part is parsed.terms
                else "correlated random effects for each level of a grouping factor"
            )
            raise DesignError(
                f"`{worst}` alone stands for {sizes[worst]:,} of {sum(sizes.values()):,} {what}, for {len(columns):,} rows; "
                f"{most:,} are the most. A factor with many levels is a random effect, such as `(1 | {worst})`; or join levels."
            )


def _select(column: pd.Series, rows: BoolArray) -> pd.Series:
    return column if rows.all() else pd.Series(column.array[rows])


def _nothing_left(names: list[str], n_asked: int) -> str:
    if n_asked == 0:
        return "There are no rows to fit: the selection is empty."
    listed = ", ".join(f"`{n}`" for n in names)
    return f"No row is left: each of the {n_asked:,} rows misses a value in at least one of {listed}."


def _take(column: pd.Series, rows: BoolArray) -> pd.Categorical | FloatArray:
    """Return the rows in use as an array; a category that no row has is gone."""
    values = column.array if rows.all() else column.array[rows]
    return used_categories(values) if is_categorical(column) else np.asarray(values, dtype=np.float64)


def _check_column(column: pd.Series, name: str) -> None:
    if not is_categorical(column):
        check_finite(column.to_numpy(), name)
    elif len(column.cat.categories) == 1:
        raise DesignError(
            f"`{name}` has one level ({str(column.cat.categories[0])!r}) in these rows; there is nothing to compare "
            "it with. Leave it out of the formula, or include rows of another level."
        )


def _patterns(columns: pd.DataFrame, factors: dict[str, Factor], rows_each: int) -> RowsInUse:
    """Find the patterns; key order is grouping factors, categories, then numbers."""
    keys = [(f.codes, len(f.levels)) for f in factors.values()]
    labelled = [n for n in columns if is_categorical(columns[n])]
    keys += [(columns[n].cat.codes.to_numpy(dtype=np.int64), len(columns[n].cat.categories)) for n in labelled]
    numeric = {n: columns[n].to_numpy() for n in columns if n not in labelled}
    codes, size, cell_level = find_patterns(
        keys, numeric, len(columns), len(columns) // rows_each if rows_each else None
    )
    return RowsInUse(columns, codes, first_rows(codes, size), frozenset(cell_level))


def _evaluate_bar(bar: Bar, data: RowsInUse) -> Evaluated:
    if column_terms(bar.terms) == ("1",):
        return Evaluated(("Intercept",), np.ones((len(data.first), 1)), {}, {}, None)
    return evaluate(bar.terms, data)


def _correlated(bar: Bar, columns: Evaluated, data: RowsInUse) -> list[tuple[int, ...]]:
    """Columns of a bar by the terms that they make: ``||`` gives every level of a category a variance of its own."""
    every = range(len(columns.names))
    if bar.uncorrelated and any(is_categorical(data.frame[name]) for name in variables(bar.terms)):
        return [(j,) for j in every]
    return [tuple(every)]


def _covariates(parts: list[Evaluated], n: int) -> tuple[FloatArray, list[tuple[int, ...]]]:
    """Gather the columns that vary inside patterns, each once, and where each part finds its own."""
    kept: list[FloatArray] = []
    index = []
    for part in parts:
        own = [-1] * len(part.names)
        for j, values in part.by_row.items():
            same = (k for k, other in enumerate(kept) if np.array_equal(other, values))
            own[j] = next(same, len(kept))
            if own[j] == len(kept):
                kept.append(values)
        index.append(tuple(own))
    return np.stack(kept, axis=1) if kept else np.zeros((n, 0)), index


def _frame(data: RowsInUse, factors: dict[str, Factor]) -> pd.DataFrame:
    """Variables of the formula, one row per pattern."""
    frame = data.frame.iloc[data.first].reset_index(drop=True)
    for name, factor in factors.items():
        if name not in frame:
            frame[name] = pd.Categorical.from_codes(factor.codes[data.first], categories=list(factor.levels))
    return frame


def _scatter(values: np.ndarray, used: BoolArray, *, fill: float) -> np.ndarray:
    """Put values of the rows in use back among all rows."""
    if used.all():
        return values
    full = np.full((len(used), *values.shape[1:]), fill, dtype=values.dtype)
    full[used] = values
    return full


@dataclass(frozen=True, slots=True)
class Factor:
    """A grouping column of the n rows in use: level of each row, names of the levels."""

    codes: IntArray
    levels: tuple[str, ...]


def read_factor(values: pd.Categorical, name: str) -> Factor:
    """Turn a grouping column into codes; raise when there is only one level."""
    levels = tuple(str(level) for level in values.categories)
    if len(levels) == 1:
        raise DesignError(
            f"The grouping factor `{name}` has one level ({levels[0]!r}) in these rows; a random effect needs at least two, "
            "and a comparison between its levels needs several in each arm."
        )
    return Factor(values.codes.astype(np.int64), levels)


def random_term(
    bar: Bar,
    columns: Evaluated,
    varying: tuple[int, ...],
    at: tuple[int, ...],
    factors: Mapping[str, Factor],
    rows: RowsInUse,
) -> RandomTerm:
    """Build one term from those of a bar's evaluated columns that stand `at` some places, and its grouping columns."""
    own = [factors[name] for name in bar.group]
    codes, n_levels = combine([(f.codes[rows.first], len(f.levels)) for f in own], len(rows.first))
    example = rows.first[first_rows(codes, n_levels)]
    labels = np.stack([f.codes[example] for f in own], axis=1)
    return RandomTerm(
        group=":".join(bar.group),
        levels=tuple(":".join(f.levels[c] for f, c in zip(own, row, strict=True)) for row in labels),
        codes=codes,
        columns=tuple("(Intercept)" if columns.names[j] == "Intercept" else columns.names[j] for j in at),
        Z=columns.values[:, list(at)],
        varying=tuple(varying[j] for j in at),
        bar=bar,
        at=at,
    )
