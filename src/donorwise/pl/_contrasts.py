"""What contrasts are about: labels or numbers, the question or what it is adjusted for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from donorwise._anndata import read_settings
from donorwise._core.design.contrasts import split_factors
from donorwise._core.design.formula import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata as ad

_SLOPE = re.compile(r"slope of (.+?)( \| .+[=:].+)?")
_OF_LEVELS = re.compile(r": .+ vs .+$")
_LEVELS = re.compile(rf"\[[^\]]*\]|{_OF_LEVELS.pattern}")
"""What a contrast says of levels."""


def slopes(contrast: str, formula: str) -> list[str]:
    """The numbers (columns, or functions of them) that a coefficient is a slope over; none for labels alone.

    Examples
    --------
    >>> slopes("disease[T.MS]:age", "~ disease * age + (1 | donor)"), slopes("disease[T.MS]", "~ disease + (1 | donor)")
    (['age'], [])
    >>> slopes("slope of age | age=40, disease=MS", "~ disease * age + (1 | donor)")
    ['age']
    """
    if own := _SLOPE.fullmatch(contrast):
        return [own[1]]
    if not formula or _OF_LEVELS.search(contrast):  # a table that stands alone does not say its formula
        return []
    factors = {_plain(f.expr) for part in parse(formula).parts for term in part for f in term.factors}
    found = []
    for part in split_factors(contrast):
        expression, level, _ = part.partition("[") if "(" not in part else (*part.rpartition(")")[:2], "")
        whole = expression + level if level == ")" else expression
        is_function = level == ")" and not whole.startswith("C(")
        if _plain(whole) in factors and (is_function or "[" not in part):
            found.append(part)
    return found


def _plain(expression: str) -> str:
    return "".join(expression.replace("`", "").split())


def per_unit(contrast: str, formula: str) -> str:
    """What an estimate is per unit of, as the end of the name of an axis; empty for a difference of levels."""
    numbers = slopes(contrast, formula)
    return f" per unit of {' x '.join(numbers)}" if numbers else ""


def _variables(contrast: str, formula: str) -> set[str]:
    """Columns of the formula that a contrast is about."""
    if not formula:
        return set()
    text = _LEVELS.sub("", contrast)
    return {v for v in parse(formula).variables if re.search(rf"(?<![\w.]){re.escape(v)}(?![\w.])", text)}


def of_interest(adata: ad.AnnData, contrasts: Sequence[str], formula: str) -> list[str]:
    """The contrasts that answer a question: those of the declared condition, else of labels that are no batch.

    What a model is adjusted for is left out: slopes over numbers (not in an interaction with labels), and labels that
    are declared as batch or sample. Where nothing else is there, that is what the model is about.
    """
    roles = read_settings(adata)
    asked = [c for c in contrasts if roles.get("condition") in _variables(c, formula)]
    if asked:
        return asked
    nuisance = {roles.get("batch"), roles.get("sample")}
    kept = []
    for contrast in contrasts:
        variables = _variables(contrast, formula)
        only_numbers = len(slopes(contrast, formula)) == len(split_factors(contrast))
        if not only_numbers and not (variables and variables <= nuisance):
            kept.append(contrast)
    return kept or list(contrasts)
