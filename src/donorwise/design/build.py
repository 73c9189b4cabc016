"""A formula and a table of observations become a Design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._typing import BoolArray, FloatArray, IntArray
from donorwise.design.columns import check_finite, check_obs, read_column, used_rows
from donorwise.design.evaluate import Evaluated, Rows, evaluate
from donorwise.design.formula import Bar, ParsedFormula, parse
from donorwise.design.patterns import combine, find_patterns, first_rows
from donorwise.design.rank import check_full_rank, split_columns
from donorwise.design.structure import Design, RandomTerm
from donorwise.design.terms import categorical_only, parse_columns, variables
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula


@dataclass(frozen=True, slots=True)
class _Factor:
    """A grouping column of the rows in use."""

    codes: IntArray
    levels: tuple[str, ...]


def build_design(formula: str | ParsedFormula, obs: pd.DataFrame, *, rows: BoolArray | None = None) -> Design:
    """Apply a formula to observations and collapse them to patterns of equal rows.

    Parameters
    ----------
    formula
        Fixed and random effects, ``"~ disease + (1 | donor)"``.
    obs
        N rows. Columns that the formula does not name are not looked at.
    rows
        Shape (N,). Which rows to use; all when None.

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
    parsed = parse(formula) if isinstance(formula, str) else formula
    columns, factors, used, n_dropped = _read(parsed, obs, rows)
    data = _patterns(columns, factors)
    fixed = evaluate(parse_columns(parsed.fixed, parsed.source), data)
    slopes = [evaluate(_columns_of(bar, parsed.source, columns), data) for bar in parsed.bars]
    covariates, index = _covariates([fixed, *slopes], len(data.codes))
    X = _check_fixed(fixed, data, parsed)
    terms = tuple(
        _random_term(bar, slope, factors, data, index[k + 1]) for k, (bar, slope) in enumerate(zip(parsed.bars, slopes, strict=True))
    )
    _check_replication(X, fixed.names, terms)
    return Design(
        formula=parsed.source,
        codes=_scatter(data.codes.astype(np.int32), used, fill=-1),
        X=fixed.values,
        fixed_names=fixed.names,
        terms=fixed.terms,
        random_terms=terms,
        covariates=_scatter(covariates, used, fill=0.0),
        varying=index[0],
        frame=_frame(data, factors),
        spec=fixed.spec,
        n_dropped=n_dropped,
        numeric_means={n: float(c.mean()) for n, c in columns.items() if not _is_categorical(c)},
    )


def _read(
    parsed: ParsedFormula, obs: pd.DataFrame, rows: BoolArray | None
) -> tuple[pd.DataFrame, dict[str, _Factor], BoolArray, int]:
    """Read the columns the formula names, in the rows where none is missing."""
    fixed = parse_columns(parsed.fixed, parsed.source)
    parts = [fixed, *(parse_columns(bar.columns, parsed.source) for bar in parsed.bars)]
    names = list(dict.fromkeys(v for part in parts for v in variables(part)))
    groups = list(dict.fromkeys(g for bar in parsed.bars for g in bar.group))
    check_obs(obs, [*names, *groups], parsed.source)
    _check_rows(rows, len(obs))
    labels = set(names).intersection(*(categorical_only(p) | (set(names) - set(variables(p))) for p in parts))
    columns = {name: read_column(obs[name], name, categorical=name in labels) for name in names}
    factors = {name: read_column(obs[name], name, categorical=True) for name in groups}
    used = used_rows([*columns.values(), *factors.values()], rows, len(obs))
    n_asked = len(obs) if rows is None else int(np.sum(rows))
    if not used.any():
        raise DesignError(_nothing_left([*names, *groups], n_asked))
    frame = pd.DataFrame({name: _take(column, used) for name, column in columns.items()}, index=range(int(used.sum())))
    for name in names:
        _check_column(frame[name], name)
    return frame, {name: _factor(_take(f, used), name) for name, f in factors.items()}, used, n_asked - int(used.sum())


def _check_rows(rows: BoolArray | None, n_rows: int) -> None:
    if rows is not None and (np.asarray(rows).dtype != bool or np.shape(rows) != (n_rows,)):
        raise DesignError(f"rows must be a boolean mask of length {n_rows:,}.")


def _nothing_left(names: list[str], n_asked: int) -> str:
    if n_asked == 0:
        return "There are no rows to fit: the selection is empty."
    listed = ", ".join(f"`{n}`" for n in names)
    return f"No row is left: each of the {n_asked:,} rows misses a value in at least one of {listed}."


def _take(column: pd.Series, used: BoolArray) -> object:
    """Return the rows in use as an array; a category that no row has is gone."""
    values = column.array if used.all() else column.array[used]
    return values.remove_unused_categories() if _is_categorical(column) else np.asarray(values, dtype=np.float64)


def _is_categorical(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)


def _check_column(column: pd.Series, name: str) -> None:
    if not _is_categorical(column):
        check_finite(column.to_numpy(), name)
    elif len(column.cat.categories) == 1:
        raise DesignError(
            f"`{name}` has one level ({column.cat.categories[0]!r}) in these rows; there is nothing to compare it with. "
            "Leave it out of the formula, or include rows of another level."
        )


def _factor(values: pd.Categorical, name: str) -> _Factor:
    levels = tuple(str(level) for level in values.categories)
    if len(levels) == 1:
        raise DesignError(
            f"The grouping factor `{name}` has one level ({levels[0]!r}) in these rows; a random effect needs at least two, "
            "and a comparison between its levels needs several in each arm."
        )
    return _Factor(values.codes.astype(np.int64), levels)


def _patterns(columns: pd.DataFrame, factors: dict[str, _Factor]) -> Rows:
    """Find the patterns; key order is grouping factors, categories, then numbers."""
    keys = [(f.codes, len(f.levels)) for f in factors.values()]
    labelled = [n for n in columns if _is_categorical(columns[n])]
    keys += [(columns[n].cat.codes.to_numpy(dtype=np.int64), len(columns[n].cat.categories)) for n in labelled]
    numeric = {n: columns[n].to_numpy() for n in columns if n not in labelled}
    codes, size, cell_level = find_patterns(keys, numeric, len(columns))
    return Rows(columns, codes, first_rows(codes, size), frozenset(cell_level))


def _columns_of(bar: Bar, source: str, columns: pd.DataFrame) -> SimpleFormula:
    formula = parse_columns(bar.columns, source)
    for name in variables(formula) if bar.uncorrelated else ():
        if _is_categorical(columns[name]):
            raise DesignError(
                f"`{name}` in `{bar.text}` is categorical; `||` separates numeric columns only. "
                f"Write `(1 | {':'.join(bar.group)}) + (1 | {':'.join(bar.group)}:{name})`, or one bar."
            )
    return formula


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


def _check_fixed(fixed: Evaluated, data: Rows, parsed: ParsedFormula) -> FloatArray:
    """Return rows that span the fixed effects (patterns, then what varies inside them), once their rank is full."""
    n, p = len(data.codes), len(fixed.names)
    if p == 0:
        raise DesignError(f"The formula has no fixed effect, not even an intercept: {parsed.source}")
    if p >= n:
        raise DesignError(f"{p} fixed effects need more than {p} rows, and there are {n}; use a smaller formula or more rows.")
    X = np.vstack([fixed.values, _inside_patterns(fixed, data)])
    check_full_rank(X, fixed.names, fixed.terms, fixed.variables, data.frame.iloc[data.first])
    return X


def _inside_patterns(fixed: Evaluated, data: Rows) -> FloatArray:
    """Rows that stand for the variation inside patterns: the R factor of the deviations, as few rows as columns."""
    j = sorted(fixed.by_row)
    if not j:
        return np.zeros((0, len(fixed.names)))
    deviations = np.stack([fixed.by_row[c] - fixed.values[data.codes, c] for c in j], axis=1)
    triangle = np.linalg.qr(deviations, mode="r")
    rows = np.zeros((len(triangle), len(fixed.names)))
    rows[:, j] = triangle
    return rows


def _random_term(bar: Bar, slope: Evaluated, factors: dict[str, _Factor], data: Rows, varying: tuple[int, ...]) -> RandomTerm:
    own = [factors[name] for name in bar.group]
    codes, n_levels = combine([(f.codes[data.first], len(f.levels)) for f in own], len(data.first))
    first = first_rows(codes, n_levels)
    levels = tuple(":".join(f.levels[c] for f, c in zip(own, row, strict=True)) for row in _labels(own, data, first))
    term = RandomTerm(
        group=":".join(bar.group),
        levels=levels,
        codes=codes,
        columns=tuple("(Intercept)" if name == "Intercept" else name for name in slope.names),
        Z=slope.values,
        varying=varying,
    )
    _check_random(term, len(data.codes))
    return term


def _labels(own: list[_Factor], data: Rows, first: IntArray) -> IntArray:
    return np.stack([f.codes[data.first[first]] for f in own], axis=1)


def _check_random(term: RandomTerm, n: int) -> None:
    n_effects = len(term.levels) * len(term.columns)
    if len(term.levels) == n:
        raise DesignError(
            f"`{term.label}` has one level per row ({n:,} of each), so it cannot be told from the residual. "
            "A grouping factor has several rows per level: donors or samples, not cells."
        )
    if n_effects >= n:
        raise DesignError(
            f"`{term.label}` has {n_effects:,} random effects ({len(term.levels):,} levels x {len(term.columns)}) "
            f"for {n:,} rows: they cannot be told from the residual. Use fewer slopes or a coarser grouping factor."
        )


def _check_replication(X: FloatArray, names: tuple[str, ...], terms: tuple[RandomTerm, ...]) -> None:
    """Raise when the fixed effects fit every level of a random intercept, so that its variance has no data left."""
    for term in terms:
        if term.columns != ("(Intercept)",) or len(term.levels) > len(names):
            continue
        indicators = np.zeros((len(X), len(term.levels)))
        indicators[np.arange(len(term.codes)), term.codes] = 1.0
        _, aliased = split_columns(np.hstack([X, indicators]), names)
        if len(aliased) == len(term.levels):
            raise DesignError(
                f"The fixed effects already fit each of the {len(term.levels)} levels of `{term.group}` exactly, so nothing is "
                f"left to estimate `{term.label}` from, and no comparison between levels of `{term.group}` has replicates. "
                f"Use more levels of `{term.group}`, or fewer fixed effects that are constant within them."
            )


def _frame(data: Rows, factors: dict[str, _Factor]) -> pd.DataFrame:
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
