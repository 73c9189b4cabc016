"""Columns of X and Z from the terms of a formula, and whether they are independent."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.design import Design, varies
from donorwise._core.design.terms import is_rowwise, term_variables
from donorwise._core.wording import linear_combination
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
class Rows:
    """The variables of the n rows in use, and how the rows fall into K patterns."""

    frame: pd.DataFrame
    codes: IntArray
    first: IntArray
    cell_level: frozenset[str]


def evaluate(formula: SimpleFormula, rows: Rows) -> Evaluated:
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


def _cell_level_indices(spec: Any, rows: Rows) -> list[int]:
    return [j for term, columns in spec.term_indices.items() if _is_cell_level(term, rows) for j in columns]


def _is_cell_level(term: Any, rows: Rows) -> bool:
    return not rows.cell_level.isdisjoint(term_variables(term))


def _cell_level_columns(spec: Any, rows: Rows) -> dict[int, FloatArray]:
    """Evaluate on all rows the terms that hold a cell-level variable, and only those."""
    indices = _cell_level_indices(spec, rows)
    if not indices:
        return {}
    part = _matrix(spec.subset([t for t in spec.terms if _is_cell_level(t, rows)]), rows.frame)
    where = {name: j for j, name in enumerate(spec.column_names)}
    return {where[name]: part[name].to_numpy(dtype=np.float64) for name in part.columns}


def _check_finite(names: tuple[str, ...], values: FloatArray, by_row: dict[int, FloatArray]) -> None:
    for j, name in enumerate(names):
        if not np.all(np.isfinite(by_row.get(j, values[:, j]))):
            raise DesignError(
                f"`{name}` is not finite in some rows (a logarithm of zero or of a negative number?); "
                "repair its variable, or make these values missing."
            )


# Columns are centred and scaled to length 1 first, so this is the share of a column that the others
# do not explain: rounding leaves 1e-13 or so of an aliased one, a year beside an intercept keeps all.
_TOLERANCE = 1e-9


def check_full_rank(X: FloatArray, design: Design) -> None:
    """Raise when fixed effects are aliased, and say with what.

    Parameters
    ----------
    X
        Shape (n, p), with the row space of the rows in use: the patterns, then what varies inside them.
    design
        Names, terms and variables, for the explanation.
    """
    names = design.fixed_names
    independent, aliased = split_columns(X, names)
    if not aliased:
        return
    variables = {str(t): term_variables(t) for t in design.spec.terms}
    reasons = []
    for j in aliased:
        term = next((t for t, columns in design.terms.items() if j in columns), "")
        before = [i for i in independent if i < j]
        reasons.append(_categories(term, variables, design.frame) or _columns(X, j, before, names))
    reasons = list(dict.fromkeys(reasons))
    more = f" And {len(reasons) - 4} more such columns." if len(reasons) > 4 else ""
    raise DesignError(f"The fixed effects cannot be told apart. {' '.join(reasons[:4])}{more}")


def split_columns(X: FloatArray, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Split columns, from left to right, into independent ones and ones the columns before them give."""
    scaled = _scale(X, names.index("Intercept") if "Intercept" in names else None)
    basis = np.empty_like(scaled)
    independent: list[int] = []
    aliased: list[int] = []
    for j in range(X.shape[1]):
        q = basis[:, : len(independent)]
        rest = scaled[:, j] - q @ (q.T @ scaled[:, j])
        rest -= q @ (q.T @ rest)  # once more: one pass of Gram-Schmidt leaves rounding behind
        length = float(np.linalg.norm(rest))
        if length <= _TOLERANCE:
            aliased.append(j)
            continue
        basis[:, len(independent)] = rest / length
        independent.append(j)
    return independent, aliased


def _scale(X: FloatArray, intercept: int | None) -> FloatArray:
    """Take the intercept out of the other columns, and scale all to length 1 (to 0 where only rounding is left)."""
    largest = np.abs(X).max(axis=0, initial=0.0)
    unit = X / np.where(largest > 0, largest, 1.0)
    if intercept is not None:
        one = unit[:, intercept].copy()
        unit = unit - np.outer(one, one @ unit / (one @ one))
        unit[:, intercept] = one
    length = np.linalg.norm(unit, axis=0)
    return unit / np.where(length > 1e-14 * np.sqrt(len(X)), length, np.inf)


def _columns(X: FloatArray, j: int, before: list[int], names: Sequence[str]) -> str:
    """Say which columns before it give column j."""
    if not X[:, j].any():
        return f"`{names[j]}` is zero in every cell: leave it out."
    weights = {i: w for i, w in zip(before, _solve(X[:, before], X[:, j]), strict=True) if w}
    others = [i for i in weights if names[i] != "Intercept"]
    if not others:
        return f"`{names[j]}` has the same value in every cell: leave it out."
    indicators = all(set(np.unique(X[:, i])) <= {0.0, 1.0} for i in (j, others[0]))
    if indicators and list(weights.values()) == [1.0]:
        return f"`{names[j]}` is the same cells as `{names[others[0]]}`: leave one of the two out, and read the other as both."
    if indicators and len(others) == 1 and len(weights) == 2 and weights[others[0]] == -1.0:
        return f"`{names[j]}` is exactly the cells outside `{names[others[0]]}`: leave one of the two out, and read the other as both."
    text = linear_combination({"1" if names[i] == "Intercept" else names[i]: w for i, w in weights.items()})
    return f"`{names[j]}` = {text}: leave one of them out."


def _solve(A: FloatArray, b: FloatArray) -> FloatArray:
    """Weights with A w = b, rounded where they are nearly whole numbers."""
    scale = np.abs(A).max(axis=0)
    weights = np.linalg.lstsq(A / scale, b, rcond=None)[0] / scale
    relative = np.abs(weights) * scale / np.abs(b).max()
    rounded = np.where(np.abs(weights - np.round(weights)) < 1e-6, np.round(weights), weights)
    return np.where(relative < 1e-7, 0.0, rounded)


def _categories(term: str, variables: Mapping[str, tuple[str, ...]], frame: pd.DataFrame) -> str:
    """Explain an aliased term by the categories of its variables, where they are the reason."""
    factors = [v for v in variables.get(term, ()) if _is_categorical(frame[v])]
    if len(factors) > 1:
        return _empty_combinations(term, frame[factors])
    if len(factors) != len(variables.get(term, ())) or not factors:
        return ""
    others = [v[0] for t, v in variables.items() if t != term and len(v) == 1 and _is_categorical(frame[v[0]])]
    return next(filter(None, (_nested(factors[0], other, frame) for other in others)), "")


def _nested(a: str, b: str, frame: pd.DataFrame) -> str:
    """Say that one factor is constant within the levels of a finer one."""
    coarse, fine = sorted((a, b), key=lambda v: len(frame[v].cat.categories))
    pairs = frame[[coarse, fine]].drop_duplicates()
    if len(frame[coarse].cat.categories) == len(frame[fine].cat.categories) or pairs[fine].duplicated().any():
        return ""
    return (
        f"`{coarse}` never varies within a level of `{fine}`, so `{fine}` already says all that `{coarse}` says: "
        f"leave one of them out, or make `{fine}` a random effect, `(1 | {fine})`."
    )


def _is_categorical(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)


def _empty_combinations(term: str, frame: pd.DataFrame) -> str:
    """Say which combinations of an interaction's categories no cell has."""
    present = set(frame.drop_duplicates().itertuples(index=False, name=None))
    every = pd.MultiIndex.from_product([frame[v].cat.categories for v in frame])
    absent = [
        " and ".join(f"{v}={x}" for v, x in zip(frame, levels, strict=True))
        for levels in every
        if levels not in present
    ]
    if not absent:
        return ""
    listed = ", or ".join(absent[:3]) + (f" (and {len(absent) - 3} more combinations)" if len(absent) > 3 else "")
    return f"No cell has {listed}, which `{term}` needs: leave the interaction or the level out."
