"""What a user writes as a contrast becomes rows of weights on the fixed effects."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from donorwise._core.design.comparisons import Comparison, SlopeOf, spread
from donorwise._core.design.cond import Cond
from donorwise._core.design.conditions import expected_rows, is_number
from donorwise._core.design.names import quote
from donorwise._core.design.terms import column_factors, is_intercept, term_name
from donorwise._core.wording import linear_combination, listing, suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import FloatArray

ContrastLike: TypeAlias = (
    "str | tuple[str, Hashable, Hashable] | Mapping[str, float] | Cond | Comparison | Sequence[float] | FloatArray"
)
ContrastsLike: TypeAlias = "ContrastLike | Mapping[str, ContrastLike] | Sequence[ContrastLike] | None"


def resolve_contrasts(design: Design, contrasts: ContrastsLike = None) -> tuple[tuple[str, ...], FloatArray]:
    """Turn contrasts into rows of weights.

    Parameters
    ----------
    design
        The design whose coefficients are contrasted.
    contrasts
        A coefficient's name; ``("disease", "MS", "control")``, the difference of two levels of a variable,
        averaged over the others; a dict of weights by coefficient; a difference of :func:`cond`; what
        :func:`pairwise` and :func:`slope` make; an array (p,) or (n, p); a list of these, or a dict that names them. None for each coefficient but the intercept.

    Returns
    -------
    Names of the n contrasts, and weights of shape (n, p).

    Raises
    ------
    DesignError
        When a name or a level is not in the design, or a contrast is zero.
    """
    rows = [row for item in _items(design, spread(contrasts, [design])) for row in _resolve(design, *item)]
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
        named = {k: v for k, v in contrasts.items() if not is_number(v)}
        if named and len(named) < len(contrasts):
            raise DesignError(
                "A dict of contrasts holds either weights by coefficient, or contrasts by name; not both."
            )
        return list(named.items()) if named else [(None, contrasts)]
    if isinstance(contrasts, list) and not all(is_number(c) for c in contrasts):
        return [item for c in contrasts for item in _items(design, c)]
    return [(None, contrasts)]


def _resolve(design: Design, name: str | None, contrast: Any) -> list[tuple[str, FloatArray]]:
    """Names and weights of one contrast (of several, for a matrix)."""
    if isinstance(contrast, str):
        return [(name or _coefficient(design, contrast), _unit(design, contrast))]
    if isinstance(contrast, Mapping):
        weights = sum((float(w) * _unit(design, c) for c, w in contrast.items()), np.zeros(len(design.fixed_names)))
        return [(name or linear_combination({k: float(v) for k, v in contrast.items()}), weights)]
    if isinstance(contrast, tuple) and not all(is_number(c) for c in contrast):
        return [_difference(design, name, contrast)]
    if isinstance(contrast, Cond):
        weights = np.array([weight for weight, _ in contrast.parts])
        return [
            (name or repr(contrast), weights @ expected_rows(design, [dict(levels) for _, levels in contrast.parts]))
        ]
    if isinstance(contrast, SlopeOf):
        return [(name or f"slope of {contrast.variable}", contrast.row(design))]
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
            f"{contrast!r} is not a contrast; give a name, a tuple, a dict, cond(...), pairwise(...), slope(...), or an array."
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
