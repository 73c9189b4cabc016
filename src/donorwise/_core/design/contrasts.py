"""What a user writes as a contrast becomes rows of weights on the fixed effects."""

from __future__ import annotations

import numbers
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from donorwise._core.design.evaluate import evaluate_rows
from donorwise._core.design.names import quote
from donorwise._core.design.terms import column_factors, is_categorical, is_intercept, term_name
from donorwise._core.wording import linear_combination, listing, suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray


@dataclass(frozen=True, slots=True)
class Cond:
    """A weighted sum of conditions, made by :func:`cond`; it meets the data when it is tested.

    Attributes
    ----------
    parts
        Pairs of a weight and a condition, ``(1.0, (("disease", "MS"),))``.
    """

    parts: tuple[tuple[float, tuple[tuple[str, Hashable], ...]], ...]

    def __add__(self, other: object) -> Cond:
        return Cond((*self.parts, *other.parts)) if isinstance(other, Cond) else NotImplemented

    def __sub__(self, other: object) -> Cond:
        return self + -other if isinstance(other, Cond) else NotImplemented

    def __neg__(self) -> Cond:
        return self * -1.0

    def __mul__(self, factor: object) -> Cond:
        if not isinstance(factor, int | float | np.number):
            return NotImplemented
        return Cond(tuple((weight * float(factor), levels) for weight, levels in self.parts))

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Cond:
        return self * (1.0 / float(divisor)) if isinstance(divisor, int | float | np.number) else NotImplemented

    def __repr__(self) -> str:
        weights: dict[str, float] = {}
        for weight, levels in self.parts:
            name = f"({', '.join(f'{k}={v}' for k, v in levels) or 'average'})"
            weights[name] = weights.get(name, 0.0) + weight
        return linear_combination(weights)


ContrastLike: TypeAlias = (
    "str | tuple[str, Hashable, Hashable] | Mapping[str, float] | Cond | Sequence[float] | FloatArray"
)
ContrastsLike: TypeAlias = "ContrastLike | Mapping[str, ContrastLike] | Sequence[ContrastLike] | None"


def cond(levels: Mapping[str, Hashable] | None = None, /, **more: Hashable) -> Cond:
    """Name a condition by levels of variables, ``cond(disease="MS", cell_type="T")``.

    It stands for the expected response there: averaged over the levels (with equal weights) of the
    categorical variables that are not named, numeric variables at their mean unless a value is given.
    Conditions can be added, subtracted, and multiplied or divided by a number.

    Parameters
    ----------
    levels
        A mapping, for variables whose names are not Python names.
    more
        Levels by keyword.

    Returns
    -------
    A condition, to be passed as a contrast to :func:`donorwise.tl.lmm` or :meth:`donorwise.LMMFit.test`. Names and
    levels meet the data there: a ``DesignError`` says which it does not have.

    Examples
    --------
    >>> from donorwise import cond
    >>> cond(disease="MS", cell_type="T") - cond(disease="control", cell_type="T")
    (disease=MS, cell_type=T) - (disease=control, cell_type=T)
    """
    return Cond(((1.0, tuple({**(levels or {}), **more}.items())),))


def resolve_contrasts(design: Design, contrasts: ContrastsLike = None) -> tuple[tuple[str, ...], FloatArray]:
    """Turn contrasts into rows of weights.

    Parameters
    ----------
    design
        The design whose coefficients are contrasted.
    contrasts
        A coefficient's name; ``("disease", "MS", "control")``, the difference of two levels of a variable,
        averaged over the others; a dict of weights by coefficient; a difference of :func:`cond`; an array
        (p,) or (n, p); a list of these, or a dict that names them. None for each coefficient but the intercept.

    Returns
    -------
    Names of the n contrasts, and weights of shape (n, p).

    Raises
    ------
    DesignError
        When a name or a level is not in the design, or a contrast is zero.
    """
    rows = [row for item in _items(design, contrasts) for row in _resolve(design, *item)]
    names = [name for name, _ in rows]
    check_distinct(names)
    L = np.array([weights for _, weights in rows], dtype=np.float64).reshape(len(rows), len(design.fixed_names))
    _check_weights(names, L)
    L[np.abs(L) < 1e-14 * np.abs(L).max(axis=1, keepdims=True)] = 0.0  # averages of 1/3 leave rounding behind
    return tuple(names), L


def check_distinct(names: Sequence[str]) -> None:
    """Raise where two contrasts have one name."""
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated is not None:
        raise DesignError(f"Two contrasts are called `{repeated}`; name them with a dict, {{'name': contrast}}.")


def resolve_term(design: Design, term: str) -> FloatArray:
    """Return weights (q, p) that pick the q coefficients of a term, for a joint test.

    Parameters
    ----------
    term
        Such as ``"disease"`` or ``"disease:sex"``; the order of an interaction does not matter.
    """
    columns = _term_columns(design, term)
    if columns is None:
        raise DesignError(f"`{term}` is not a fixed term; {suggestion(term, design.terms, 'the terms are')}")
    return np.eye(len(design.fixed_names))[list(columns)]


def _term_columns(design: Design, text: str) -> tuple[int, ...] | None:
    """Columns of the term that a text names, if there is one."""
    if text in design.terms:
        return design.terms[text]
    wanted = sorted("".join(factor.split()) for factor in split_factors(text))
    for term in design.spec.terms:
        own = sorted("".join(factor.split()) for factor in column_factors(term))
        if own == wanted and not is_intercept(term):
            return design.terms[term_name(term)]
    return None


def split_factors(text: str) -> list[str]:
    """The factors of a term, split at the colons outside brackets and backticks, as `column_factors` has them."""
    parts, depth, quoted = [""], 0, False
    for char in text:
        quoted ^= char == "`"
        depth += 0 if quoted else (char in "[(") - (char in "])")
        if char == ":" and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    return [quote(part.strip()[1:-1]) if re.fullmatch(r"`[^`]*`", part.strip()) else part for part in parts]


def _items(design: Design, contrasts: Any) -> list[tuple[str | None, Any]]:
    """One (name or None, contrast) for each contrast asked for."""
    if contrasts is None:
        names = [n for n in design.fixed_names if n != "Intercept"]
        return [(n, n) for n in names or design.fixed_names]
    if isinstance(contrasts, list | Mapping) and not contrasts:
        raise DesignError("No contrast was given; leave contrasts out (None) to test each coefficient.")
    if isinstance(contrasts, Mapping):
        named = {k: v for k, v in contrasts.items() if not _is_number(v)}
        if named and len(named) < len(contrasts):
            raise DesignError(
                "A dict of contrasts holds either weights by coefficient, or contrasts by name; not both."
            )
        return list(named.items()) if named else [(None, contrasts)]
    if isinstance(contrasts, list) and not all(_is_number(c) for c in contrasts):
        return [item for c in contrasts for item in _items(design, c)]
    return [(None, contrasts)]


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real)


def _resolve(design: Design, name: str | None, contrast: Any) -> list[tuple[str, FloatArray]]:
    """Names and weights of one contrast (of several, for a matrix)."""
    if isinstance(contrast, str):
        return [(name or _coefficient(design, contrast), _unit(design, contrast))]
    if isinstance(contrast, Mapping):
        weights = sum((float(w) * _unit(design, c) for c, w in contrast.items()), np.zeros(len(design.fixed_names)))
        return [(name or linear_combination({k: float(v) for k, v in contrast.items()}), weights)]
    if isinstance(contrast, tuple) and not all(_is_number(c) for c in contrast):
        return [_difference(design, name, contrast)]
    if isinstance(contrast, Cond):
        weights = np.array([weight for weight, _ in contrast.parts])
        return [
            (name or repr(contrast), weights @ expected_rows(design, [dict(levels) for _, levels in contrast.parts]))
        ]
    return _matrix(design, name, contrast)


def _coefficient(design: Design, name: str) -> str:
    """Return the name of a coefficient as the design has it; explain when there is none."""
    name = "Intercept" if name == "(Intercept)" else name
    if name in design.fixed_names:
        return name
    columns = _term_columns(design, name)
    if columns is not None:
        own = listing(design.fixed_names[j] for j in columns)
        raise DesignError(
            f"`{name}` is a term, not a coefficient; its coefficients are {own}. (A joint test takes the term.)"
        )
    raise DesignError(f"`{name}` is not a coefficient; {suggestion(name, design.fixed_names, 'the coefficients are')}")


def _unit(design: Design, name: str) -> FloatArray:
    return np.eye(len(design.fixed_names))[design.fixed_names.index(_coefficient(design, name))]


def _difference(design: Design, name: str | None, contrast: tuple[object, ...]) -> tuple[str, FloatArray]:
    """Weights of ``(variable, level, other level)``."""
    if len(contrast) != 3:
        raise DesignError(f"A tuple is (variable, level, level to compare with), which {contrast!r} is not.")
    variable, level, other = contrast
    high, low = expected_rows(design, [{str(variable): level}, {str(variable): other}])
    return name or f"{variable}: {level} vs {other}", high - low


def _matrix(design: Design, name: str | None, contrast: object) -> list[tuple[str, FloatArray]]:
    p = len(design.fixed_names)
    try:
        L = np.atleast_2d(np.asarray(contrast, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise DesignError(
            f"{contrast!r} is not a contrast; give a name, a tuple, a dict, cond(...), or an array."
        ) from error
    if L.ndim != 2 or L.shape[1] != p:
        raise DesignError(
            f"A contrast has {p} weights, one for each of {listing(design.fixed_names)}; not {L.shape[-1]}."
        )
    if name is not None:
        return [(name if len(L) == 1 else f"{name}[{i + 1}]", row) for i, row in enumerate(L)]
    return [(linear_combination({n: w for n, w in zip(design.fixed_names, row, strict=True) if w}), row) for row in L]


def _check_weights(names: Sequence[str], L: FloatArray) -> None:
    for name, row in zip(names, L, strict=True):
        if not np.all(np.isfinite(row)):
            raise DesignError(f"The contrast `{name}` has a weight that is not a finite number.")
        if not np.any(np.abs(row) > 1e-12):
            raise DesignError(f"The contrast `{name}` is zero: both sides are the same in this model.")


def expected_rows(design: Design, conditions: Sequence[Mapping[str, object]]) -> FloatArray:
    """Return rows (n, p) of X at conditions: equal weights over what is not named, numbers at their mean.

    The average of a column over a full grid only involves the variables of its term, so each term gets
    the grid of its own variables, and all grids are evaluated at once.
    """
    variables = design.reads
    every = tuple(dict.fromkeys(v for names in variables.values() for v in names))
    checked = [_check_condition(design, condition, every) for condition in conditions]
    blocks = [_grid(design, condition, every, own) for condition in checked for own in variables.values()]
    stacked = {v: _column(design, v, [value for block in blocks for value in block[v]]) for v in every}
    sizes = [len(next(iter(block.values()))) if every else 1 for block in blocks]
    values = evaluate_rows(design, pd.DataFrame(stacked, index=range(sum(sizes))))
    averages = [part.mean(axis=0) for part in np.split(values, np.cumsum(sizes)[:-1])]
    rows = np.zeros((len(conditions), len(design.fixed_names)))
    for k, average in enumerate(averages):
        i, term = divmod(k, len(variables))
        own = design.spec.term_indices[design.spec.terms[term]]
        rows[i, own] = average[own]
    return rows


def _check_condition(design: Design, condition: Mapping[str, object], every: Iterable[str]) -> dict[str, object]:
    """Return a condition with each level as the data has it."""
    every = list(every)
    for name in condition:
        if name not in every:
            raise DesignError(
                f"`{name}` is not a variable of the fixed effects; {suggestion(name, every, 'these are')}"
            )
    return {name: _level(design, name, value) for name, value in condition.items()}


def _level(design: Design, name: str, value: object) -> object:
    column = design.frame[name]
    if not is_categorical(column):
        if _is_number(value) and np.isfinite(value):  # type: ignore[call-overload]
            return float(value)  # type: ignore[arg-type]
        raise DesignError(f"`{name}` is numeric: give a number, not {value!r}.")
    levels = list(column.cat.categories)
    match = next((x for x in levels if x == value), None)
    match = match if match is not None else next((x for x in levels if str(x) == str(value)), None)
    if match is None:
        raise DesignError(f"{value!r} is not a level of `{name}` in these rows; its levels are {listing(levels)}.")
    return match


def _grid(
    design: Design, condition: Mapping[str, object], every: Sequence[str], own: Sequence[str]
) -> dict[str, list[object]]:
    """All combinations of the levels of `own` variables that the condition leaves open; any one level of the rest."""
    choices = []
    for name in every:
        levels = [condition[name]] if name in condition else _levels(design, name)
        choices.append(levels if name in own else levels[:1])
    if not every:
        return {}
    combinations = list(product(*choices))
    return {name: [values[k] for values in combinations] for k, name in enumerate(every)}


def _levels(design: Design, name: str) -> list[object]:
    column = design.frame[name]
    return list(column.cat.categories) if is_categorical(column) else [design.numeric_means[name]]


def _column(design: Design, name: str, values: list[object]) -> object:
    column = design.frame[name]
    if is_categorical(column):
        return pd.Categorical(values, categories=column.cat.categories)
    return np.array(values, dtype=np.float64)
