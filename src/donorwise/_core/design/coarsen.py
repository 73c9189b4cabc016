"""Formulas on rows that stand for many cells: what they may ask of these, and patterns without the covariates."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import combine, first_rows, varies
from donorwise._core.design.names import uncover
from donorwise._core.design.terms import factor_variables, is_categorical, label_codes, term_name
from donorwise._core.wording import listing
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from formulaic.parser.types import Factor

    from donorwise._core.design.design import Design
    from donorwise._core.design.formula import ParsedFormula
    from donorwise._typing import FloatArray

# Functions that give a linear function of their first argument; mean and variance are all they learn from cells.
_LINEAR = frozenset({"I", "scale", "center", "standardize"})

_ONLY_MOMENTS = (
    "`{0}` differs between the cells of a row, and its mean and cross-products, which these rows have, do not tell how counts, "
    "or yes and no, depend on it. Leave it out (depth is the exposure of counts already), collapse the cells again with it, in "
    "classes, in by=, or fit the cells."
)


def check_formula(
    parsed: ParsedFormula, labels: Sequence[str], by: Sequence[str], covariates: Sequence[str], *, moments: bool = True
) -> list[str]:
    """Columns that a formula and `labels` read, if collapsed rows can answer for them.

    Parameters
    ----------
    parsed
        Fixed and random effects.
    labels
        Further columns that are read as labels, such as a group.
    by, covariates
        What the rows were collapsed by, and the covariates they have moments of.
    moments
        Whether these are all that the model needs of a covariate.

    Raises
    ------
    DesignError
        A column was collapsed away, or more is asked of a covariate than moments can tell.
    """
    for label in labels:
        if not isinstance(label, str):
            raise DesignError(f"A group, donor or sample is the name of one column of obs, not {label!r}.")
    numbers = parsed.variables
    groups = list(dict.fromkeys([*parsed.groups, *labels]))
    have = f"by={list(by)}" + (f" and covariates={list(covariates)}" if covariates else "")
    also = " (or in covariates=, if it is a number that differs from cell to cell)" if moments else ""
    for name in dict.fromkeys([*numbers, *groups]):
        if name not in by and name not in covariates:
            raise DesignError(
                f"`{name}` was collapsed away: these rows were made with {have}. Collapse the cells again with {name!r} "
                f"in by={also}."
            )
        if name in covariates and not moments:
            raise DesignError(_ONLY_MOMENTS.format(name))
        if name in groups and name in covariates:
            raise DesignError(f"`{name}` was collapsed as a covariate; to group by it, collapse with it in by=.")
    _check_linear(parsed, covariates)
    return list(dict.fromkeys([*numbers, *groups]))


def _check_linear(parsed: ParsedFormula, covariates: Sequence[str]) -> None:
    for part in parsed.parts:
        for term in part:
            used = [v for factor in term.factors for v in factor_variables(factor) if v in covariates]
            if used and sum(_degree(factor, covariates) for factor in term.factors) > 1:
                raise DesignError(
                    f"`{term_name(term)}` is not linear in {listing(dict.fromkeys(used))}, of which collapsed rows have means and "
                    "cross-products only. Compute it as a column of obs before collapsing, and name that column in "
                    "covariates=."
                )


def _degree(factor: Factor, covariates: Sequence[str]) -> float:
    """Degree of a factor in the covariates; infinite where it is no polynomial."""
    if factor.eval_method.name != "PYTHON":
        return float(not set(factor_variables(factor)).isdisjoint(covariates))
    return _node_degree(ast.parse(factor.expr.strip(), mode="eval").body, covariates)


def _node_degree(node: ast.AST, covariates: Sequence[str]) -> float:
    if not any(isinstance(n, ast.Name) and uncover(n.id) in covariates for n in ast.walk(node)):
        return 0.0
    if isinstance(node, ast.Name):
        return 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return _node_degree(node.operand, covariates)
    if isinstance(node, ast.BinOp):
        left, right = _node_degree(node.left, covariates), _node_degree(node.right, covariates)
        if isinstance(node.op, ast.Add | ast.Sub):
            return max(left, right)
        if isinstance(node.op, ast.Mult) or (isinstance(node.op, ast.Div) and right == 0):
            return left + right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _LINEAR:
        options = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
        if all(_node_degree(option, covariates) == 0 for option in options):
            return _node_degree(node.args[0], covariates)
    return np.inf


def coarsen(design: Design, covariates: Sequence[str]) -> Design:
    """The design with patterns of what is not a covariate; columns that read covariates vary inside them."""
    kept = design.frame.drop(columns=design.frame.columns.intersection(list(covariates)))
    coarse, size = combine([label_codes(kept[name]) for name in _key_order(design, kept)], design.n_patterns)
    if size == design.n_patterns:
        return design
    first, used = first_rows(coarse, size), design.codes >= 0
    columns = list(design.covariates.T)

    def index(values: FloatArray, varying: Sequence[int]) -> tuple[int, ...]:
        found = list(varying)
        for j, before in enumerate(varying):
            if before < 0 and varies(values[:, j], coarse, first):
                own = np.where(used, values[design.codes, j], 0.0)
                found[j] = next((i for i, other in enumerate(columns) if np.array_equal(other, own)), len(columns))
                if found[j] == len(columns):
                    columns.append(own)
        return tuple(found)

    varying = index(design.X, design.varying)
    terms = tuple(
        replace(t, codes=t.codes[first], Z=t.Z[first], varying=index(t.Z, t.varying)) for t in design.random_terms
    )
    return replace(
        design,
        codes=np.where(used, coarse[design.codes], -1).astype(np.int32),
        X=design.X[first],
        random_terms=terms,
        covariates=np.stack(columns, axis=1) if columns else design.covariates,
        varying=varying,
        frame=design.frame.iloc[first].reset_index(drop=True),
    )


def _key_order(design: Design, frame: pd.DataFrame) -> list[str]:
    """Columns in the order in which patterns are numbered: grouping factors, categories, numbers."""
    groups = design.parsed.groups
    others = [name for name in frame.columns if name not in groups]
    labels = [name for name in others if is_categorical(frame[name])]
    numbers = sorted(frame.columns.difference([*groups, *labels]), key=lambda name: (frame[name].nunique(), name))
    return [*groups, *labels, *numbers]
