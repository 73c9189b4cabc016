"""Columns of X and Z: terms of a formula evaluated on one row per pattern, and row by row where they vary inside patterns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.patterns import varies
from donorwise._core.design.terms import is_column, is_rowwise, term_variables
from donorwise._typing import FloatArray
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula

    from donorwise._typing import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Columns of a formula without bars.

    Attributes
    ----------
    names
        Names of the p columns.
    values
        Shape (K, p). First row of each pattern.
    by_row
        Values (n,) of the columns that vary inside patterns, by column number.
    terms
        Columns of each term, the intercept left out.
    spec
        formulaic's model spec.
    """

    names: tuple[str, ...]
    values: FloatArray
    by_row: dict[int, FloatArray]
    terms: dict[str, tuple[int, ...]]
    spec: Any


@dataclass(frozen=True, slots=True)
class RowsInUse:
    """The variables of the n rows in use, and how the rows fall into K patterns."""

    frame: pd.DataFrame
    codes: IntArray
    first: IntArray
    cell_level: frozenset[str]


def evaluate(formula: SimpleFormula, rows: RowsInUse) -> Evaluated:
    """Evaluate a formula on one row per pattern; its cell-level columns on all rows."""
    if is_rowwise(formula, numeric=_numeric(rows.frame)):
        matrix = _matrix(formula, rows.frame.iloc[rows.first])
        values = matrix.to_numpy(dtype=np.float64)
        spec = matrix.model_spec
        by_row = _cell_level_columns(spec, rows)
    else:  # splines and scalings learn their state from all rows
        matrix = _matrix(formula, rows.frame)
        values = matrix.iloc[rows.first].to_numpy(dtype=np.float64)
        spec = matrix.model_spec
        by_row = {j: matrix.iloc[:, j].to_numpy(dtype=np.float64) for j in _cell_level_indices(spec, rows)}
    by_row = {j: v for j, v in by_row.items() if varies(v, rows.codes, rows.first)}
    names = tuple(spec.column_names)
    _check_finite(names, values, by_row)
    terms = {str(t): tuple(i) for t, i in spec.term_indices.items() if str(t) != "1"}
    return Evaluated(names, values, by_row, terms, spec)


def evaluate_spec(spec: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Evaluate a model spec on new rows."""
    return _matrix(spec, frame)


def _numeric(frame: pd.DataFrame) -> frozenset[str]:
    return frozenset(name for name in frame.columns if not isinstance(frame[name].dtype, pd.CategoricalDtype))


def _matrix(formula: Any, frame: pd.DataFrame) -> pd.DataFrame:
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return formula.get_model_matrix(frame, context={}, na_action="ignore", output="pandas")
    except DesignError:
        raise
    except Exception as error:  # user functions of a formula fail in any way they like
        raise DesignError(f"The formula cannot be evaluated: {error}") from error


def _cell_level_indices(spec: Any, rows: RowsInUse) -> list[int]:
    return [j for term, columns in spec.term_indices.items() if _is_cell_level(term, rows) for j in columns]


def _is_cell_level(term: Any, rows: RowsInUse) -> bool:
    return not rows.cell_level.isdisjoint(term_variables(term))


def _cell_level_columns(spec: Any, rows: RowsInUse) -> dict[int, FloatArray]:
    """Evaluate on all rows the terms that hold a cell-level variable, and only those."""
    found: dict[int, FloatArray] = {}
    others = []
    for term, columns in spec.term_indices.items():
        if not _is_cell_level(term, rows):
            continue
        if is_column(term):
            found[columns[0]] = rows.frame[term_variables(term)[0]].to_numpy(dtype=np.float64)
        else:
            others.append(term)
    if others:
        part = _matrix(spec.subset(others), rows.frame)
        where = {name: j for j, name in enumerate(spec.column_names)}
        found |= {where[name]: part[name].to_numpy(dtype=np.float64) for name in part.columns}
    return found


def _check_finite(names: tuple[str, ...], values: FloatArray, by_row: dict[int, FloatArray]) -> None:
    for j, name in enumerate(names):
        if not np.all(np.isfinite(by_row.get(j, values[:, j]))):
            raise DesignError(
                f"`{name}` is not finite in some rows (a logarithm of zero or of a negative number?); "
                "repair its variable, or make these values missing."
            )
