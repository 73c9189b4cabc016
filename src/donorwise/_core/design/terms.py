"""What a formula without bars means: its terms, its variables, and which Python it may run."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import numpy as np

from donorwise.errors import FormulaError

if TYPE_CHECKING:
    from formulaic.formula import SimpleFormula
    from formulaic.parser.types import Factor, Term

# Functions of one row at a time: evaluated on patterns they give what they give on all rows.
_ROWWISE = frozenset({"C", "I", "log", "log2", "log10", "exp", "exp2", "exp10"})
_CODINGS = frozenset({"Treatment", "Sum", "Helmert", "Diff", "Poly", "contr"})
# Functions that learn from the whole column, and so must see every row.
_STATEFUL = frozenset({"bs", "cs", "cr", "cc", "poly", "scale", "standardize", "center"})
FUNCTIONS = _ROWWISE | _CODINGS | _STATEFUL

# A formula may come from a file or a web form, and formulaic hands it to `eval`, where Python's builtins
# are within reach: only arithmetic on columns and the functions above get that far.
_SYNTAX = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.Attribute,
    ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
    ast.Tuple, ast.List, ast.Dict,
)  # fmt: skip
_MARK = re.compile(r"⧛?\x1b\[1;31m(.*?)\x1b\[0m⧚?", re.DOTALL)


def syntax_error(message: str, source: str, start: int, end: int | None = None) -> FormulaError:
    """Build an error whose second line is the formula and whose third points at ``source[start:end]``."""
    return FormulaError(message + pointer(source, start, end))


def pointer(source: str, start: int, end: int | None = None) -> str:
    """Two lines, the formula and carets under ``source[start:end]``."""
    width = max(1, (end if end is not None else start + 1) - start)
    return f"\n    {source}\n    {' ' * start}{'^' * width}"


def quote(name: str) -> str:
    """Put a column's name in backticks unless it is a plain name."""
    return name if re.fullmatch(r"[^\W\d][\w.]*", name) else f"`{name}`"


def parse_columns(text: str, source: str) -> SimpleFormula:
    """Parse a formula without bars and check what its Python may do.

    Parameters
    ----------
    text
        The part to parse; where it is padded with spaces, positions in it are positions in `source`.
    source
        The whole formula, for messages.
    """
    from formulaic import SimpleFormula
    from formulaic.errors import FormulaicError

    try:
        formula = SimpleFormula.from_spec(text)
    except (FormulaicError, SyntaxError) as error:
        raise _translate(error, source) from error
    if not isinstance(formula, SimpleFormula):
        raise FormulaError(f"The formula has several parts where one is expected: {source}")
    for term in formula:
        for factor in term.factors:
            _check(factor, source)
    return formula


def column_terms(formula: SimpleFormula) -> tuple[str, ...]:
    """Terms as text that parses again, the intercept as ``"1"``."""
    return tuple(":".join(_factor_text(f) for f in term.factors) for term in formula)


def variables(formula: SimpleFormula) -> tuple[str, ...]:
    """Names of the columns that a formula reads, in order of appearance."""
    return tuple(dict.fromkeys(v for term in formula for v in term_variables(term)))


def term_variables(term: Term) -> tuple[str, ...]:
    """Names of the columns that one term reads."""
    return tuple(dict.fromkeys(v for factor in term.factors for v in factor_variables(factor)))


def factor_variables(factor: Factor) -> tuple[str, ...]:
    """Names of the columns that one factor reads; formulaic's own list misses those inside calls."""
    method = factor.eval_method.name
    if method == "LITERAL":
        return ()
    if method == "LOOKUP":
        return (factor.expr,)
    tree, aliases = _tree(factor.expr)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    owners = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called | owners]
    found = [aliases.get(n.id, n.id) for n in sorted(names, key=lambda n: n.col_offset)]
    return tuple(dict.fromkeys(n for n in found if n not in _CODINGS))


def is_column(term: Term) -> bool:
    """Whether a term is a column as it stands."""
    return [factor.eval_method.name for factor in term.factors] == ["LOOKUP"]


def is_rowwise(formula: SimpleFormula, numeric: frozenset[str]) -> bool:
    """Whether every factor of a row depends on that row alone.

    Splines and scalings learn from the whole column; so does ``C(...)`` of a `numeric` variable, its levels.
    """
    for factor in (f for term in formula for f in term.factors if f.eval_method.name == "PYTHON"):
        calls = _calls(_tree(factor.expr)[0])
        if not _STATEFUL.isdisjoint(calls) or ("C" in calls and not numeric.isdisjoint(factor_variables(factor))):
            return False
    return True


def categorical_only(formula: SimpleFormula) -> set[str]:
    """Columns that are read through ``C(...)`` and in no other way."""
    wrapped: set[str] = set()
    bare: set[str] = set()
    for factor in (f for term in formula for f in term.factors):
        names = factor_variables(factor)
        (wrapped if re.match(r"C\(\s*(`[^`]*`|[\w.]+)\s*[,)]", factor.expr) else bare).update(names)
    return wrapped - bare


def _factor_text(factor: Factor) -> str:
    return quote(factor.expr) if factor.eval_method.name == "LOOKUP" else factor.expr


def _tree(expr: str) -> tuple[ast.Expression, dict[str, str]]:
    """Parse a Python factor just as formulaic will evaluate it; also what its placeholders stand for."""
    from formulaic.utils.code import sanitize_variable_names

    aliases: dict[str, str] = {}
    return ast.parse(sanitize_variable_names(expr, {}, aliases), mode="eval"), aliases


def _calls(tree: ast.AST) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _check(factor: Factor, source: str) -> None:
    """Refuse Python that a formula has no need of."""
    if factor.eval_method.name != "PYTHON":
        return
    try:
        tree, _ = _tree(factor.expr)
    except SyntaxError as error:
        raise _at(f"`{factor.expr}` is not a valid expression ({error.msg}).", factor.expr, source) from error
    for node in ast.walk(tree):
        if not isinstance(node, _SYNTAX):
            text = ast.unparse(node) if isinstance(node, ast.expr) else factor.expr
            raise _at(f"`{text}` is not allowed in a formula; compute it as a column of obs first.", text, source)
        if isinstance(node, ast.Attribute) and not _attribute_allowed(node):
            text = ast.unparse(node)
            hint = "of numpy, element by element functions such as np.log1p are allowed; a column with a dot in its name goes in backticks"
            raise _at(f"`{text}` cannot be used in a formula ({hint}).", text, source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in FUNCTIONS:
            known = ", ".join(sorted(FUNCTIONS - {"contr"}))
            raise _at(f"`{node.func.id}` is not a function that formulas know ({known}, np.*).", node.func.id, source)
        if isinstance(node, ast.Call) and not isinstance(node.func, (ast.Name, ast.Attribute)):
            raise _at(f"`{ast.unparse(node)}` is not a plain function call.", factor.expr, source)


def _attribute_allowed(node: ast.Attribute) -> bool:
    if not isinstance(node.value, ast.Name):
        return False
    if node.value.id == "contr":
        return node.attr in {"treatment", "sum", "helmert", "diff", "poly"}
    return node.value.id == "np" and isinstance(getattr(np, node.attr, None), np.ufunc | float)


def _at(message: str, text: str, source: str) -> FormulaError:
    """Point at the first place where `text` stands, if it stands there as it is."""
    start = source.find(text)
    return (
        FormulaError(f"{message}\n    {source}")
        if start < 0
        else syntax_error(message, source, start, start + len(text))
    )


def _translate(error: Exception, source: str) -> FormulaError:
    """Keep formulaic's words; turn its coloured mark into carets under the formula."""
    if isinstance(error, SyntaxError):
        return _at(
            f"`{(error.text or '').strip()}` is not a valid expression: {error.msg}.", error.text or source, source
        )
    message = str(error)
    if message.startswith("The `.` operator"):
        return FormulaError(f"`.` for all columns is not allowed; name the columns.\n    {source}")
    summary = _MARK.sub(r"\1", message).split("\n\n")[0].strip()
    mark = _MARK.search(message)
    if mark is None:
        return FormulaError(f"{summary}\n    {source}")
    start = mark.start() - (message.rfind("\n", 0, mark.start()) + 1)
    return syntax_error(summary, source, start, start + len(mark.group(1)))
