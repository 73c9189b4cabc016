"""The tokens of a formula, as a tree of brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from donorwise._core.design.names import CODINGS, FUNCTIONS, STATEMENTS, cover, is_plain
from donorwise.errors import FormulaError

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    | (?P<tick>`[^`]*`)
    | (?P<brace>\{[^{}]*\})
    | (?P<name>[\w.]+)
    | (?P<op>%[^%]*%|\|\||\*\*|.)""",
    re.VERBOSE,
)
_BRACKET = re.compile(r"[()\[\]{}`]")
_TICK = re.compile("`([^`]*)`")
_DEEPEST = 51  # levels of brackets, the outermost without any
_CLOSING = {"(": ")", "[": "]"}
_UNTERMINATED = {'"': "string", "'": "string", "`": "backtick name", "{": "brace"}


def syntax_error(message: str, source: str, start: int, end: int | None = None) -> FormulaError:
    """Build an error whose second line is the formula and whose third points at ``source[start:end]``."""
    return FormulaError(message + pointer(source, start, end))


def pointer(source: str, start: int, end: int | None = None) -> str:
    """Two lines, the formula and carets under ``source[start:end]``."""
    width = max(1, (end if end is not None else start + 1) - start)
    return f"\n    {source}\n    {' ' * start}{'^' * width}"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a formula: what it is, and where it stands."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Group:
    """Something in brackets; `called` when it belongs to a function call or an index."""

    items: tuple[Token | Group, ...]
    start: int
    end: int
    called: bool


Items: TypeAlias = "tuple[Token | Group, ...]"


def _tokenize(source: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(source):
        kind, text = str(match.lastgroup), match.group()
        if kind == "op" and text in _UNTERMINATED:
            raise syntax_error(f"This {_UNTERMINATED[text]} is not closed.", source, match.start())
        if kind != "space":
            yield Token(kind, text, match.start(), match.end())


def nest(source: str) -> Items:
    """Turn the flat tokens into a tree of brackets."""
    stack: list[tuple[Token | None, bool, list[Token | Group]]] = [(None, False, [])]
    for token in _tokenize(source):
        items = stack[-1][2]
        if token.text in _CLOSING:
            stack.append((token, _is_call(items, token), []))
            if len(stack) > _DEEPEST:
                raise FormulaError(
                    f"More than {_DEEPEST - 1} brackets are open at once in {source[:40]!r}...; write fewer."
                )
        elif token.text in _CLOSING.values():
            opening, called, inner = stack.pop()
            if opening is None or _CLOSING[opening.text] != token.text:
                raise syntax_error(f"This `{token.text}` closes nothing.", source, token.start)
            if not inner and not called:
                raise syntax_error("Nothing stands in these parentheses.", source, opening.start, token.end)
            stack[-1][2].append(Group(tuple(inner), opening.start, token.end, called))
        else:
            items.append(token)
    if stack[-1][0] is not None:
        raise syntax_error(f"This `{stack[-1][0].text}` is not closed.", source, stack[-1][0].start)
    return tuple(stack[0][2])


def _is_call(before: list[Token | Group], opening: Token) -> bool:
    if opening.text == "[":
        return True
    return bool(before) and before[-1].end == opening.start and not is_operator(before[-1])


def is_operator(item: Token | Group) -> bool:
    """Whether an item is an operator."""
    return isinstance(item, Token) and item.kind == "op"


def is_one(item: Token | Group, *texts: str) -> bool:
    """Whether an item is one of some operators."""
    return is_operator(item) and item.text in texts  # type: ignore[union-attr]


def covered(text: str, items: Items) -> str:
    """A formula without bars as formulaic gets it: names that it could take for something else are covered."""
    out, end = [], 0
    for start, stop, name in _covers(items, called=False):
        out += [text[end:start], name]
        end = stop
    return "".join([*out, text[end:]])


def _covers(items: Items, *, called: bool) -> Iterator[tuple[int, int, str]]:
    """Where names stand, and what stands for them; `called` inside a function call."""
    for item, after in zip_longest(items, items[1:]):
        if isinstance(item, Group):
            yield from _covers(item.items, called=called or item.called)
        elif item.kind == "tick":
            name = item.text[1:-1]
            yield (
                item.start,
                item.end,
                cover(name, "quoted") if called else name if is_plain(name) else cover(name, "alone"),
            )
        elif item.kind == "string" and called and not _is_balanced(item.text):
            yield item.start, item.end, _BRACKET.sub(lambda found: f"\\x{ord(found[0]):02x}", item.text)
        elif item.kind == "brace":
            yield item.start, item.end, _TICK.sub(lambda found: cover(found[1], "quoted"), item.text)
        elif item.kind == "name" and not item.text[0].isdigit() and item.text[0] != ".":
            function = isinstance(after, Group) and after.called and after.start == item.end
            if not function and (name := _bare(item.text, called=called)) != item.text:
                yield item.start, item.end, name


def _is_balanced(text: str) -> bool:
    """Whether a string inside a call can be left to formulaic, to which its brackets are brackets."""
    stack = []
    for char in _BRACKET.findall(text):
        if char in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[char])
        elif not stack or stack.pop() != char:
            return False
    return not stack


def _bare(name: str, *, called: bool) -> str:
    """What stands for a name without backticks."""
    if not called:
        return name if is_plain(name) else cover(name, "alone")
    if name in STATEMENTS:
        return cover(name, "quoted")
    function = name in FUNCTIONS - CODINGS or name == "np"
    return cover(name, "bare") if function or not name.isascii() else name
