"""Names of columns and levels as formulaic gets to see them.

It reads names as code or as marks of its own (a level that begins with two underscores is left out, a column called ``1``
is the intercept, a Python keyword is a syntax error), and joins them to texts that two coefficients can share. So it gets
identifiers that spell the names out in hexadecimal digits, and what it returns is turned back.
"""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, Literal, TypeAlias

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

StandIns: TypeAlias = "dict[str, dict[Hashable, Hashable]]"
"""By variable, a level that there is, and the one that a formula names in its place."""
Place: TypeAlias = Literal["alone", "quoted", "bare"]
"""A column as a factor of its own; in backticks, or without, inside a function call."""

_CODE: dict[Place, str] = {"alone": "a", "quoted": "q", "bare": "b"}
_LEVEL = "l"
_COVER = "\u01c0"  # a letter to Python, and in no name that anybody writes
_COVERED = re.compile(f"{_COVER}([a-z])([0-9a-f]*){_COVER}")
# Names that coefficients and terms have already; a colon joins factors.
_OWN = frozenset({"", "1", "Intercept", "(Intercept)"})
KEYWORDS = frozenset(keyword.kwlist)
# Keywords that no expression has: without backticks they can only be columns.
STATEMENTS = KEYWORDS - {"and", "or", "not", "in", "is", "if", "else", "for", "lambda", "True", "False", "None"}

# Functions of one row at a time: evaluated on patterns they give what they give on all rows.
ROWWISE = frozenset({"C", "I", "log", "log2", "log10", "exp", "exp2", "exp10"})
CODINGS = frozenset({"Treatment", "Sum", "Helmert", "Diff", "Poly", "contr"})
# Functions that learn from the whole column, and so must see every row.
STATEFUL = frozenset({"bs", "cs", "cr", "cc", "poly", "scale", "standardize", "center"})
FUNCTIONS = ROWWISE | CODINGS | STATEFUL


def quote(name: str) -> str:
    """Put a column's name in backticks unless it is a plain name."""
    plain = re.fullmatch(r"[^\W\d][\w.]*", name) and name not in _OWN
    return name if plain else f"`{name}`"


def is_plain(name: str) -> bool:
    """Whether formulaic and Python take a name for nothing but the name of a column."""
    return name.isascii() and name.isidentifier() and name not in KEYWORDS | _OWN | FUNCTIONS | {"np"}


def cover(name: str, place: Place) -> str:
    """The identifier that stands for a column."""
    return _covered(_CODE[place], name)


def uncover(identifier: str) -> str:
    """The column that an identifier stands for."""
    found = _COVERED.fullmatch(identifier)
    return _text(found[2]) if found else identifier


def shown(text: str) -> str:
    """A text of formulaic with the names as the user writes them."""
    return _COVERED.sub(_shown, text)


def labelled(column: pd.Series, stand_ins: Mapping[Hashable, Hashable]) -> pd.Series:
    """A column as formulaic gets it: levels as labels, some of which stand in for others."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return column
    labels = pd.Index([Label(value, stand_ins.get(value)) for value in column.cat.categories], dtype=object)
    return pd.Series(pd.Categorical.from_codes(column.cat.codes, categories=labels), index=column.index)


class Label:
    """A level as formulaic gets it: it equals the value (or the one that it stands in for), and its text is covered."""

    __slots__ = ("equals", "value")

    def __init__(self, value: Hashable, equals: Hashable | None = None) -> None:
        self.value = value
        self.equals = value if equals is None else equals

    def __eq__(self, other: object) -> bool:
        return bool(self.equals == (other.equals if isinstance(other, Label) else other))

    def __hash__(self) -> int:
        return hash(self.equals)

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __str__(self) -> str:
        return _covered(_LEVEL, f"{self.value}")

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return str(self)

    def __reduce__(self) -> tuple[object, ...]:
        return Label, (self.value, self.equals)


def _covered(code: str, text: str) -> str:
    return f"{_COVER}{code}{text.encode('utf-8', 'surrogatepass').hex()}{_COVER}"


def _text(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-8", "surrogatepass")


def _shown(found: re.Match[str]) -> str:
    text = _text(found[2])
    if found[1] == _CODE["quoted"] or (found[1] == _CODE["alone"] and (text in _OWN or ":" in text)):
        return f"`{text}`"
    return text
