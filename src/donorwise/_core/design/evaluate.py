"""Columns of X and Z from the terms of a formula, and what keeps coefficients from being told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from donorwise._core.design.design import varies
from donorwise._core.design.disguise import kept_as_text
from donorwise._core.design.independence import split_columns
from donorwise._core.design.kernel_checks import check_kernels
from donorwise._core.design.names import Label, labelled, shown, uncover
from donorwise._core.design.terms import (
    identifiers,
    is_categorical,
    is_column,
    is_intercept,
    is_rowwise,
    smooth_call,
    term_name,
    term_variables,
)
from donorwise._core.design.variances import check_random_size, check_replication, check_told_apart
from donorwise._core.wording import linear_combination
from donorwise._typing import FloatArray
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula

    from donorwise._core.design.design import Design
    from donorwise._core.design.names import StandIns
    from donorwise._typing import IntArray


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
    stand_ins: StandIns = field(default_factory=dict)


def evaluate(formula: SimpleFormula, rows: RowsInUse) -> Evaluated:
    """Evaluate a formula on one row per pattern; its cell-level columns on all rows."""
    if is_rowwise(formula, numeric=_numeric(rows.frame)):
        found = matrix(formula, rows.frame.iloc[rows.first], rows.stand_ins)
        values, spec = found.to_numpy(dtype=np.float64), found.model_spec
        by_row = _cell_level_columns(spec, rows)
    else:  # splines and scalings learn their state from all rows
        found = matrix(formula, rows.frame, rows.stand_ins)
        values, spec = found.iloc[rows.first].to_numpy(dtype=np.float64), found.model_spec
        by_row = {j: found.iloc[:, j].to_numpy(dtype=np.float64) for j in _cell_level_indices(spec, rows)}
    by_row = {j: v for j, v in by_row.items() if varies(v, rows.codes, rows.first)}
    names = coefficients(spec)
    _check_finite(names, values, by_row)
    terms = {term_name(t): tuple(i) for t, i in spec.term_indices.items() if not is_intercept(t)}
    return Evaluated(names, values, by_row, terms, spec)


def evaluate_rows(design: Design, frame: pd.DataFrame) -> FloatArray:
    """The fixed columns of a design on new rows of its variables, (n, p)."""
    return matrix(design.spec, frame, design.lost.stand_ins).to_numpy(dtype=np.float64)


def _numeric(frame: pd.DataFrame) -> frozenset[str]:
    return frozenset(name for name in frame.columns if not is_categorical(frame[name]))


def coefficients(spec: Any) -> tuple[str, ...]:
    """Names of the columns of an evaluated formula as the user reads them; raise where two have one name."""
    names = [shown(name) for own in spec.structure for name in own.columns]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DesignError(
            f"Two coefficients are called `{repeated}`; rename a level (as text `1` and 1 are the same) or a column."
        )
    return tuple(names)


def matrix(formula: Any, frame: pd.DataFrame, stand_ins: StandIns | None = None) -> pd.DataFrame:
    """Columns of a formula, or of one that was evaluated before, on rows of its variables; names are covered.

    `stand_ins` are levels that stand in for others (see `donorwise._core.design.lost.Lost`).
    """
    terms = formula.formula if hasattr(formula, "formula") else formula
    names = {i: uncover(i) for i in identifiers(terms)}
    own = {i: labelled(frame[n], (stand_ins or {}).get(n, {})) for i, n in names.items() if n in frame}
    data = pd.DataFrame(own, index=frame.index, copy=False)
    try:
        with np.errstate(all="ignore"):  # a thread's own, unlike filters of warnings
            return formula.get_model_matrix(data, context={"C": _coded}, na_action="ignore", output="pandas")
    except DesignError:
        raise
    except Exception as error:  # user functions of a formula fail in any way they like
        raise DesignError(f"The formula cannot be evaluated: {shown(str(error))}") from error


def _coded(data: Any, contrasts: Any = None, *, levels: Iterable[Any] | None = None, **options: Any) -> Any:
    """formulaic's ``C`` with the levels of the data in the order that a formula lists."""
    from formulaic.transforms import TRANSFORMS

    own = data if levels is None else _in_order(data, [Label(level) for level in levels])
    named = {Label(name): weights for name, weights in contrasts.items()} if isinstance(contrasts, dict) else contrasts
    return TRANSFORMS["C"](own, named, **options)


def _in_order(data: pd.Series, levels: Sequence[Label]) -> pd.Series:
    """Levels in another order. Those that no row has stay away, as without a list: formulaic would give them columns."""
    column = data if is_categorical(data) else data.astype("category")
    return column.cat.reorder_categories(sorted(column.cat.categories, key=levels.index))


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
        part = matrix(spec.subset(others), rows.frame, rows.stand_ins)
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


def check_design(design: Design, *, residual: bool = True) -> None:
    """Raise a DesignError that says why when the data cannot answer the formula.

    Numbers that are kept as text are the reason before any other. Without a `residual` of unknown size a random effect
    may have a single row.
    """
    try:
        _check_answerable(design, residual=residual)
    except DesignError as error:
        texts = list(kept_as_text(design))
        if not texts:
            raise
        raise DesignError(" ".join([*texts, "As labels they leave nothing to estimate."])) from error


def _check_answerable(design: Design, *, residual: bool) -> None:
    n, p = int(np.sum(design.codes >= 0)), len(design.fixed_names)
    for term in design.random_terms if residual else ():
        if not term.bar.cov:  # what relatives share is told from what is their own
            check_random_size(term, n, related=any(t.group == term.group and t.bar.cov for t in design.random_terms))
    if p >= n:
        raise DesignError(
            f"{p} fixed effects need more than {p} rows, and there are {n}; use a smaller formula or more rows."
        )
    X = np.vstack([design.X, _inside_patterns(design)])
    check_full_rank(X, design)
    for term in design.random_terms:
        check_replication(X, design.fixed_names, term)
    check_told_apart(design)
    check_kernels(design)


def _inside_patterns(design: Design) -> FloatArray:
    """Rows that stand for the variation inside patterns: the R factor of the deviations, as few rows as columns."""
    j = [i for i, k in enumerate(design.varying) if k >= 0]
    if not j:
        return np.zeros((0, len(design.fixed_names)))
    used = design.codes >= 0
    values = design.covariates[used][:, [design.varying[i] for i in j]]
    triangle = np.linalg.qr(values - design.X[:, j][design.codes[used]], mode="r")
    rows = np.zeros((len(triangle), len(design.fixed_names)))
    rows[:, j] = triangle
    return rows


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
    reads = design.reads
    reasons = []
    for j in aliased:
        term = next((t for t, columns in design.terms.items() if j in columns), "")
        before = [i for i in independent if i < j]
        reasons.append(
            _holds_intercept(term, design) or _categories(term, reads, design.frame) or _columns(X, j, before, names)
        )
    reasons = list(dict.fromkeys(reasons))
    more = f" And {len(reasons) - 4} more such columns." if len(reasons) > 4 else ""
    raise DesignError(f"The fixed effects cannot be told apart. {' '.join(reasons[:4])}{more}")


def _holds_intercept(name: str, design: Design) -> str:
    """Say that a smooth function has the intercept among its columns, and how it is written without."""
    term = next((t for t in design.spec.terms if term_name(t) == name), None)
    if term is None or "Intercept" not in design.fixed_names:
        return ""
    for factor in term.factors:
        call = smooth_call(factor)
        columns = [design.fixed_names.index("Intercept"), *design.terms[name]]
        if call and np.linalg.matrix_rank(design.X[:, columns]) < len(columns):
            return (
                f"`{call}` has the intercept among its columns: write `{call[:-1]}, constraints='center')`, or leave the intercept "
                "out, `~ 0 + ...`."
            )
    return ""


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
    factors = [v for v in variables.get(term, ()) if is_categorical(frame[v])]
    if len(factors) > 1:
        return _empty_combinations(term, frame[factors])
    if len(factors) != len(variables.get(term, ())) or not factors:
        return ""
    others = [v[0] for t, v in variables.items() if t != term and len(v) == 1 and is_categorical(frame[v[0]])]
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
