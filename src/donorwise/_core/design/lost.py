"""Levels that no row in use has, and the coefficients that would compare something else without them."""

from __future__ import annotations

import ast
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from donorwise._core.design.design import Lost
from donorwise._core.design.evaluate import coefficients, matrix
from donorwise._core.design.names import StandIns, shown
from donorwise._core.design.terms import (
    categorical_only,
    coded_variable,
    coding_call,
    factor_variables,
    is_categorical,
    read_column,
    variables,
)
from donorwise._core.wording import listing, suggestion
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula
    from formulaic.parser.types import Factor

    from donorwise._core.design.evaluate import RowsInUse
    from donorwise._core.design.formula import ParsedFormula

Levels: TypeAlias = "Mapping[str, Sequence[Hashable]]"
"""Levels of categorical variables, in their order."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How a factor codes the levels of its variable: against one of them, or against several."""

    variable: str
    against_one: bool = True
    base: Hashable = None
    listed: tuple[Hashable, ...] = ()

    def reference(self, levels: Sequence[Hashable]) -> Hashable:
        """The level that the others are compared with, of all that there are."""
        return (self.listed or levels)[0] if self.base is None else self.base


def coding(factor: Factor, categorical: Container[str]) -> Coding | None:
    """How a factor codes levels; None for a number."""
    if factor.eval_method.name == "LOOKUP":
        name = factor_variables(factor)[0]
        return Coding(name) if name in categorical else None
    call, variable = coding_call(factor), coded_variable(factor)
    if call is None or not variable:
        return None
    options = {k.arg: k.value for k in call.keywords}
    contrasts = call.args[1] if len(call.args) > 1 else options.get("contrasts")
    listed = _listed(options["levels"], factor) if "levels" in options else ()
    if contrasts is None:
        return Coding(variable, listed=listed)
    function = contrasts.func if isinstance(contrasts, ast.Call) else contrasts
    if ast.unparse(function) not in ("Treatment", "contr.treatment"):
        return Coding(variable, against_one=False, listed=listed)
    return Coding(variable, base=_base(contrasts), listed=listed)


def _listed(node: ast.expr, factor: Factor) -> tuple[Hashable, ...]:
    """The levels that ``C(column, levels=[...])`` names."""
    if not isinstance(node, ast.List | ast.Tuple) or not node.elts:
        raise DesignError(f"`levels=` in `{shown(factor.expr)}` is a list of levels, such as ['control', 'case'].")
    return tuple(ast.literal_eval(level) for level in node.elts)


def _base(contrasts: ast.expr) -> Hashable:
    """The base that ``Treatment(base)`` names, if it does."""
    if not isinstance(contrasts, ast.Call):
        return None
    named = next((k.value for k in contrasts.keywords if k.arg == "base"), None)
    node = contrasts.args[0] if contrasts.args else named
    return None if node is None else ast.literal_eval(node)


def read_as_labels(parsed: ParsedFormula) -> set[str]:
    """Variables that each part of a formula reads through ``C(...)`` or not at all."""
    names = set(parsed.variables)
    return names.intersection(*(categorical_only(part) | (names - set(variables(part))) for part in parsed.parts))


def levels_in_use(parsed: ParsedFormula, obs: pd.DataFrame) -> Levels:
    """Levels that some row of `obs` has, of the categorical variables and of what ``C(...)`` codes."""
    labels = read_as_labels(parsed)
    coded = {coded_variable(factor) for part in parsed.parts for term in part for factor in term.factors}
    columns = {name: read_column(obs[name], name, categorical=name in labels) for name in parsed.variables}
    return {name: levels_of(c) for name, c in columns.items() if is_categorical(c) or name in coded}


def levels_of(column: pd.Series) -> tuple[Hashable, ...]:
    """Levels that occur, in the order of the categories or of the values."""
    if not is_categorical(column):
        return tuple(sorted(column.dropna().unique()))
    counts = column.cat.codes.value_counts()
    return tuple(level for code, level in enumerate(column.cat.categories) if code in counts.index)


def check_bases(parts: Iterable[SimpleFormula], levels: Levels) -> None:
    """Raise where a formula names levels that its variable does not have, or lists some of them only."""
    for own, factor in _codings(parts, levels):
        known, text = levels[own.variable], shown(factor.expr)
        for level in own.listed:
            _check_level(level, known, own.variable, f"`{text}` lists")
        if own.base is not None:
            _check_level(own.base, known, own.variable, f"`{text}` compares with")
        left = [level for level in known if own.listed and level not in own.listed]
        if left:
            raise DesignError(
                f"`{text}` leaves {', '.join(map(repr, left))} of `{own.variable}` out, and rows of no level would count as "
                "rows of the reference: list every level, or take those rows out before."
            )


def _check_level(level: Hashable, known: Sequence[Hashable], variable: str, how: str) -> None:
    if level in known:
        return
    same = next((other for other in known if str(other) == str(level)), None)
    raise DesignError(
        f"{level!r}, which {how}, is not a level of `{variable}`; "
        + (
            f"write {same!r}, which is no text."
            if same is not None
            else suggestion(str(level), map(str, known), "its levels are")
        )
    )


def stand_ins(parts: Iterable[SimpleFormula], levels: Levels, present: Levels) -> StandIns:
    """By variable, the level that is to stand in for a reference that no row in use has, and that reference.

    With it the model is the one of the levels that are there; what its coefficients would be called, they are not.
    """
    found: StandIns = {}
    for own, _ in _codings(parts, levels):
        here = present[own.variable]
        if own.base is not None and own.base not in here:
            found[own.variable] = {here[0]: own.base}
    return found


def changed_terms(structure: Sequence[Any], levels: Levels, present: Levels) -> set[int]:
    """Numbers of the terms whose coefficients mean something else without the levels that no row in use has.

    These are the terms that code such a level against others, and those that are read at its reference (``sex`` in
    ``disease * sex``, and the intercept): an interaction holds all their factors, and the one that codes the level.

    Parameters
    ----------
    structure
        formulaic's encoded terms.
    levels, present
        All levels, and those in use.
    """
    changed, wider = set(), []
    for i, encoded in enumerate(structure):
        for scoped in encoded.scoped_terms:
            for factor in (f for f in scoped.factors if f.reduced):
                if _is_lost(coding(factor.factor.factor, levels), levels, present):
                    changed.add(i)
                    wider.append({f.factor.expr for f in scoped.factors} - {factor.factor.expr})
    for i, encoded in enumerate(structure):
        own = {f.expr for f in encoded.term.factors if f.eval_method.name != "LITERAL"}
        if any(own <= others for others in wider):
            changed.add(i)
    return changed


def _is_lost(own: Coding | None, levels: Levels, present: Levels) -> bool:
    """Whether a factor codes against a level that no row in use has."""
    if own is None or own.variable not in levels:
        return False
    here = set(present[own.variable])
    every = levels[own.variable]
    return own.reference(every) not in here if own.against_one else not here.issuperset(every)


def find_lost(
    terms: SimpleFormula, spec: Any, rows: RowsInUse, levels: Levels, present: Levels, missing: Sequence[str]
) -> Lost:
    """What a fixed part loses with the levels that no row in use has.

    Parameters
    ----------
    terms, spec
        The fixed part, and as it was evaluated.
    rows
        The rows in use.
    levels, present
        All levels, and those in use.
    missing
        Columns for lack of which rows were left out.
    """
    lost = {name: [x for x in every if x not in set(present[name])] for name, every in levels.items()}
    lost = {name: own for name, own in lost.items() if own and name in variables(terms)}
    if not lost:
        return Lost(stand_ins=rows.stand_ins)
    ends = np.cumsum([0, *(len(encoded.columns) for encoded in spec.structure)])
    names = coefficients(spec)
    changed = {
        name for i in changed_terms(spec.structure, levels, present) for name in names[ends[i] : ends[i + 1]]
    }  # fmt: skip
    frame = rows.frame.iloc[rows.first]
    whole = frame.assign(
        **{n: pd.Categorical(frame[n], categories=list(levels[n])) for n in lost if is_categorical(frame[n])}
    )
    expected = coefficients(matrix(terms, whole).model_spec)
    references = {
        (own.variable, own.reference(levels[own.variable])) for own, _ in _codings([terms], levels) if own.against_one
    }
    return Lost(frozenset(changed), expected, _reason(lost, references, bool(changed), missing), rows.stand_ins)


def _reason(lost: Levels, references: set[tuple[str, Hashable]], changed: bool, missing: Sequence[str]) -> str:
    """Which levels are lost, and what of it, in a sentence."""
    parts = []
    for name, own in lost.items():
        word = "reference level" if any((name, level) in references for level in own) else "level"
        more = f" and {len(own) - 5} more" if len(own) > 5 else ""
        parts.append(
            f"no cell here has the {word}{'' if len(own) == 1 else 's'} {', '.join(map(repr, own[:5]))}{more} of `{name}`"
        )
    text = "; ".join(parts)
    text += ": the coefficients that compare with it are not estimable" if changed else ""
    text += f" (rows that miss {listing(missing)} are left out)" if missing else ""
    return text[0].upper() + text[1:] + "."


def _codings(parts: Iterable[SimpleFormula], levels: Levels) -> Iterator[tuple[Coding, Factor]]:
    for part in parts:
        for factor in (f for term in part for f in term.factors):
            own = coding(factor, levels)
            if own is not None and own.variable in levels:
                yield own, factor
