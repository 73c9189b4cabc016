"""What formulas of R and of other packages write otherwise, and what to write here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from donorwise._core.design.names import FUNCTIONS
from donorwise._core.design.tokens import Group, Items, Token, is_one, syntax_error

_SPLINE = "`cr({0}, constraints='center')`, a natural cubic spline"
_FUNCTIONS = {
    **dict.fromkeys(("ns", "rcs", "s", "te", "cspline"), _SPLINE),
    **dict.fromkeys(
        ("factor", "as.factor", "as.character", "as_factor", "ordered"), "`C({0})`: labels, whatever the column holds"
    ),
    **dict.fromkeys(("as.numeric", "as.integer"), "the column itself; make it a number in obs with .astype(float)"),
    **dict.fromkeys(("relevel", "fct_relevel"), "`C(column, Treatment('reference'))`"),
    **{
        name: f"`np.{name}({{0}})`"
        for name in ("sqrt", "abs", "log1p", "expm1", "sin", "cos", "tan", "floor", "ceil", "sign")
    },
    "offset": "nothing for counts, whose depth `dw.tl.pseudobulk(depth=)` takes; for other values subtract it from them first",
}


def check_functions_of_others(items: Items, source: str) -> None:
    """Raise where a formula calls a function of R, and say what it is called here.

    Raises
    ------
    FormulaError
        The message points at the function.
    """
    for name, call in _calls(items):
        inside = source[call.start + 1 : call.end - 1].strip()
        if name.text in _FUNCTIONS and name.text not in FUNCTIONS:
            advice = _FUNCTIONS[name.text].format(inside)
            if _FUNCTIONS[name.text] is _SPLINE:
                advice = _smooth(inside)
            raise syntax_error(
                f"`{name.text}` is not a function that formulas know; write {advice}.", source, name.start, name.end
            )
        power = next(_powers(call.items), None)
        if power is not None:
            own = source[name.start : call.end]
            at = power.start - name.start
            raise syntax_error(
                f"Inside a function a power is `**`: write `{own[:at]}**{own[at + 1 :]}`.",
                source,
                power.start,
                power.end,
            )


def _smooth(inside: str) -> str:
    """What stands here for a smooth term of mgcv or splines."""
    column, *rest = (part.strip() for part in inside.split(","))
    if any(re.fullmatch(r"bs\s*=\s*['\"]re['\"]", part) for part in rest):
        return f"`(1 | {column})`, a random effect"
    size = next((m[2] for part in rest if (m := re.fullmatch(r"((?:k|df)\s*=\s*)?(\d+)", part))), "4")
    return _SPLINE.format(f"{column}, df={size}")


def check_powers(items: Items, source: str) -> None:
    """Raise where a single column has a power, which is the column itself and no square.

    Raises
    ------
    FormulaError
        The message points at the power.
    """
    for name, power, exponent in zip(items, items[1:], items[2:], strict=False):
        if isinstance(name, Token) and name.kind in ("name", "tick") and is_one(power, "**", "^"):
            text = source[name.start : name.end]
            number = source[exponent.start : exponent.end]
            raise syntax_error(
                f"A power of one term is that term, so this is `{text}` itself; for numbers write `I({text}**{number})`.",
                source,
                name.start,
                exponent.end,
            )


def _calls(items: Items) -> Iterator[tuple[Token, Group]]:
    """Names of functions and what they are called with, at any depth."""
    for item, after in zip(items, [*items[1:], None], strict=True) if items else ():
        if isinstance(item, Group):
            yield from _calls(item.items)
        elif item.kind == "name" and isinstance(after, Group) and after.called and after.start == item.end:
            yield item, after


def _powers(items: Items) -> Iterator[Token]:
    for item in items:
        if isinstance(item, Group):
            yield from _powers(item.items)
        elif is_one(item, "^"):
            yield item
