"""What a formula may say in Python, and its errors in words that point at the place."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import numpy as np

from donorwise._core.design.bounds import check_functions, check_numbers
from donorwise._core.design.names import FUNCTIONS, STATEFUL, shown
from donorwise._core.design.tokens import syntax_error
from donorwise.errors import FormulaError

if TYPE_CHECKING:
    from formulaic.parser.types import Factor

# A formula may come from a file or a web form, and formulaic hands it to `eval`, where Python's builtins
# are within reach: only arithmetic on columns and the functions above get that far.
_SYNTAX = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.Attribute,
    ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
    ast.Tuple, ast.List, ast.Dict,
)  # fmt: skip
_MARK = re.compile(r"⧛?\x1b\[1;31m(.*?)\x1b\[0m⧚?", re.DOTALL)


def parse_expression(expr: str) -> ast.Expression:
    """The tree of a factor that is Python."""
    return ast.parse(expr.strip(), mode="eval")


def calls_in(tree: ast.AST, name: str = "") -> list[ast.Call]:
    """Calls in an expression: all, or those of a function."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if not name or (isinstance(call.func, ast.Name) and call.func.id == name)]


def check_expression(factor: Factor, source: str) -> None:
    """Refuse Python that a formula has no need of."""
    if factor.eval_method.name != "PYTHON":
        return
    try:
        tree = parse_expression(factor.expr)
    except (RecursionError, MemoryError) as error:
        raise FormulaError(f"`{shown(factor.expr)[:60]}...` is nested too deeply to be read.") from error
    except SyntaxError as error:
        text = shown(factor.expr)
        raise _at(f"`{text}` is not a valid expression ({error.msg}).", text, source) from error
    check_numbers(tree, shown(factor.expr))
    check_functions([c for c in calls_in(tree) if ast.unparse(c.func) in STATEFUL], shown(factor.expr))
    for node in ast.walk(tree):
        if not isinstance(node, _SYNTAX):
            text = shown(ast.unparse(node) if isinstance(node, ast.expr) else factor.expr)
            raise _at(f"`{text}` is not allowed in a formula; compute it as a column of obs first.", text, source)
        if isinstance(node, ast.Attribute) and not _attribute_allowed(node):
            text = shown(ast.unparse(node))
            hint = "of numpy, element by element functions such as np.log1p are allowed; a column with a dot in its name goes in backticks"
            raise _at(f"`{text}` cannot be used in a formula ({hint}).", text, source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in FUNCTIONS:
            known = ", ".join(sorted(FUNCTIONS - {"contr"}))
            raise _at(f"`{node.func.id}` is not a function that formulas know ({known}, np.*).", node.func.id, source)
        if reference := _reference(node):
            raise _at(f"The reference level is written `{reference}`.", shown(factor.expr), source)
        if isinstance(node, ast.Call) and not isinstance(node.func, (ast.Name, ast.Attribute)):
            text = shown(factor.expr)
            raise _at(f"`{shown(ast.unparse(node))}` is not a plain function call.", text, source)


def _reference(node: ast.AST) -> str:
    """How a coding is written that names its reference by a keyword of another package; empty for other nodes."""
    function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    if not isinstance(node, ast.Call) or function not in ("C", "Treatment", "contr.treatment"):
        return ""
    named = next((k.value for k in node.keywords if k.arg in ("reference", "ref", "base")), None)
    if function != "C":
        return "" if named is None or node.keywords[0].arg == "base" else f"{function}({shown(ast.unparse(named))})"
    coding = node.args[1] if len(node.args) > 1 else named
    if isinstance(coding, ast.Name) and coding.id == "Treatment":
        coding = ast.Constant("reference")
    return (
        f"C({shown(ast.unparse(node.args[0]))}, Treatment({coding.value!r}))"
        if isinstance(coding, ast.Constant)
        else ""
    )


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


def located(error: Exception, text: str) -> Exception:
    """The error that formulaic has about a text before names are covered, where it stands; else the error itself."""
    from formulaic import SimpleFormula
    from formulaic.errors import FormulaicError

    try:
        SimpleFormula.from_spec(text)
    except (FormulaicError, SyntaxError) as own:
        return own
    return error


def translate(error: Exception, source: str) -> FormulaError:
    """Keep formulaic's words; turn its coloured mark into carets under the formula."""
    if isinstance(error, SyntaxError):
        return _at(
            f"`{(error.text or '').strip()}` is not a valid expression: {error.msg}.", error.text or source, source
        )
    message = shown(str(error))
    if message.startswith("The `.` operator"):
        return FormulaError(f"`.` for all columns is not allowed; name the columns.\n    {source}")
    summary = _MARK.sub(r"\1", message).split("\n\n")[0].strip()
    if summary.startswith("Missing operator"):
        summary += " A name with a space in it goes in backticks."
    mark = _MARK.search(message)
    if mark is None:
        return FormulaError(f"{summary}\n    {source}")
    start = mark.start() - (message.rfind("\n", 0, mark.start()) + 1)
    return syntax_error(summary, source, start, start + len(mark.group(1)))
