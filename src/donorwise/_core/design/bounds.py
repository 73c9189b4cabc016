"""How large a formula may be, asked before anything is expanded: a bound and a message for each way to be too large."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from math import comb

from donorwise._core.design.tokens import Group, Items, Token, is_one, is_operator, syntax_error
from donorwise.errors import FormulaError

MOST_CHARACTERS = 10_000
MOST_TERMS = 1_000
MOST_STEPS = 100_000
MOST_FUNCTIONS = 50  # columns that a spline or a polynomial may have
LARGEST = 1e15  # whole numbers up to here are exact


def check_length(formula: str) -> None:
    """Raise where a formula is too long to be one."""
    if len(formula) > MOST_CHARACTERS:
        raise FormulaError(
            f"The formula has {len(formula):,} characters, and {MOST_CHARACTERS:,} are the most; shorten the names of columns, or "
            f"compute what it says as columns of obs. It begins: {formula[:60]!r}."
        )


def check_terms(items: Items, source: str) -> None:
    """Raise where a formula without bars stands for too many terms."""
    n, steps = _terms(items)
    if max(n / MOST_TERMS, steps / MOST_STEPS) > 1:
        count = f"{n:,.0f}" if n < 1e9 else "a billion or more"
        what = (
            f"stands for {count} terms, and {MOST_TERMS:,} are the most"
            if n > MOST_TERMS
            else "takes too long to expand"
        )
        message = f"This {what}; write the main effects and the interactions that you need."
        raise syntax_error(message, source, items[0].start, items[-1].end)


def check_numbers(tree: ast.AST, text: str) -> None:
    """Raise where an expression computes a number, a text or a list that is too large, without looking at the data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and any(
            isinstance(n, ast.List | ast.Tuple) or _is_text(n) for n in (node.left, node.right)
        ):
            raise FormulaError(f"`{text}` calculates with texts or lists, which a formula cannot.")
        if abs(_value(node)) > LARGEST:
            raise FormulaError(f"`{text}` holds a number above {LARGEST:.0e}; compute it as a column of obs first.")


def check_functions(calls: Sequence[ast.Call], text: str) -> None:
    """Raise where a spline or a polynomial has too many columns."""
    for call in calls:
        sizes = [_value(n) for n in (*call.args[1:], *(k.value for k in call.keywords if k.arg in ("df", "degree")))]
        if any(size > MOST_FUNCTIONS for size in sizes):
            raise FormulaError(
                f"`{text}` has more than {MOST_FUNCTIONS} columns, which are the most that a smooth function can have."
            )


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _value(node: ast.AST) -> float:
    """What an expression of constants comes to, infinite where it is too large; NaN where it reads columns."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value) if abs(node.value) <= LARGEST else math.inf
    if isinstance(node, ast.UnaryOp):
        return _value(node.operand)
    if not isinstance(node, ast.BinOp):
        return math.nan
    left, right = _value(node.left), _value(node.right)
    try:
        return abs(_OPERATORS[type(node.op)](abs(left), abs(right)))
    except OverflowError:
        return math.inf
    except (KeyError, ZeroDivisionError):
        return math.nan


_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a + b,
    ast.Mult: lambda a, b: a * b,
    ast.Pow: lambda a, b: max(a, 1.0) ** b if b > 1 else a,
    ast.LShift: lambda a, b: a * 2.0**b,
}


def _terms(items: Items) -> tuple[float, float]:
    """How many terms a formula stands for, and how many steps it takes to find them, both at most."""
    return _sum(_product(part) for part in _split(items, "+", "-", "~") if part)


def _product(items: Items) -> tuple[float, float]:
    n, steps = 0.0, 0.0
    for part in _split(items, "*", "/"):
        own, its_steps = _interaction(part)
        n, steps = n + own * (1 + n), max(steps, its_steps)
    return n, max(n, steps)


def _interaction(items: Items) -> tuple[float, float]:
    n, steps = 1.0, 0.0
    for part in _split(items, ":"):
        own, its_steps = _power(part)
        n, steps = n * own, max(steps, its_steps)
    return n, max(n, steps)


def _power(items: Items) -> tuple[float, float]:
    base, *exponents = _split(items, "**", "^")
    inner = [item for item in base if isinstance(item, Group) and not item.called]
    n, steps = _sum(_terms(group.items) for group in inner) if inner else (1.0, 1.0)
    for exponent in exponents:
        power = _whole(exponent)
        if n <= 1:  # the power of one term is that term, found by as many multiplications
            steps = max(steps, float(power))
        else:
            steps = max(steps, math.inf if power > 50 else n**power)
            n = (
                float(sum(comb(int(n), k) for k in range(1, power + 1)))
                if power <= 50 and n <= MOST_TERMS
                else math.inf
            )
    return n, steps


def _sum(counts: object) -> tuple[float, float]:
    pairs = list(counts)  # type: ignore[call-overload]
    return sum(n for n, _ in pairs), sum(steps for _, steps in pairs)


def _whole(items: Items) -> int:
    """The exponent of a power, as formulas have it."""
    if len(items) == 1 and isinstance(items[0], Group):
        return _whole(items[0].items)
    text = items[0].text if len(items) == 1 and isinstance(items[0], Token) else ""
    return int(text) if text.isdecimal() and len(text) < 10 else 10**9


def _split(items: Items, *operators: str) -> list[Items]:
    parts: list[list[Token | Group]] = [[]]
    for item in items:
        if is_operator(item) and is_one(item, *operators):
            parts.append([])
        else:
            parts[-1].append(item)
    return [tuple(part) for part in parts]
