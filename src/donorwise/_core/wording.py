"""Small pieces of text that messages and names share."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names in backticks, cut after `limit`."""
    shown = [f"`{name}`" for name in names]
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")


_STEERS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of what follows."""


def printable(text: object, keep: str = "\n") -> str:
    r"""A text whose control characters are written as Python writes them, but for those to `keep`.

    A name must not move the cursor of a terminal, ring its bell or begin a line of a log.

    Examples
    --------
    >>> printable("a\x1b[31mred\r")
    'a\\x1b[31mred\\r'
    """
    return "".join(
        c.encode("unicode_escape").decode()
        if c not in keep and (c in _STEERS or unicodedata.category(c) in ("Cc", "Zl", "Zp"))
        else c
        for c in str(text)
    )


def one_line(text: object) -> str:
    r"""A text in one line: lines that are set in belong to a message and are joined, other breaks are of names.

    Examples
    --------
    >>> one_line("two groups:\n  A: why\n  B: why"), one_line("gene\n12:00:00 forged")
    ('two groups: A: why B: why', 'gene\\n12:00:00 forged')
    """
    return printable(re.sub(r"\n[ \t]+", " ", str(text)), keep="")


def markdown(text: object) -> str:
    r"""A name in one line of markdown, in which it makes no HTML and no link.

    Examples
    --------
    >>> markdown("[T.MS] <b> [x](http://y)")
    '[T.MS] &lt;b> [x]\\(http:\\//y)'
    """
    plain = re.sub(r"\\(?=[!-/:-@\[-`{-~])", r"\\\\", one_line(text))
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", plain).replace("<", "&lt;")
    plain = plain.replace("](", "]\\(").replace("://", ":\\//")
    return re.sub(r"\b(www)\.|(?<=\w)@(?=\w)", lambda found: f"{found[1]}\\." if found[1] else "\\@", plain)


def code(text: object) -> str:
    """A text in one line of markdown, as it is: between more backticks than it has in a row."""
    plain = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    inner = f" {plain} " if "`" in plain else plain
    return f"{fence}{inner}{fence}"


def suggestion(name: str, available: Iterable[str], otherwise: str) -> str:
    """Names that come close to a misspelt one; `otherwise` and all names when none does."""
    folded = {a.casefold(): a for a in available}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(f'`{folded[c]}`' for c in close)}?"
    return f"{otherwise} {listing(folded.values()) or 'none'}."


def near_names(missing: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Names that differ from missing ones in spaces, capitals, or how a number is written, by the missing one."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(_plain(name), name)
    return {name: plain[_plain(name)] for name in missing if _plain(name) in plain}


def _plain(name: str) -> str:
    """A name without what people get wrong: capitals, spaces, dashes and underscores, and zeros of numbers."""
    text = "".join(c for c in name.casefold() if not c.isspace() and c not in "-_.")
    number = name.strip().removesuffix(".0")
    return str(int(number)) if number.isdecimal() else text


def linear_combination(weights: Mapping[str, float], limit: int = 8) -> str:
    """Write a weighted sum of names as one writes it by hand; the name ``"1"`` stands for a constant."""
    parts = []
    for name, weight in list(weights.items())[:limit]:
        size = f"{abs(weight):.4g}"
        product = size if name == "1" else name if size == "1" else f"{size}*{name}"
        parts.append(f"{'-' if weight < 0 else '+'} {product}")
    text = " ".join(parts).removeprefix("+ ") + (" + ..." if len(weights) > limit else "")
    return "-" + text[2:] if text.startswith("- ") else text


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """What changed, a phrase each."""
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        numbers = [""] if len(now) == 1 else range(1, len(now) + 1)
        was, now = dict(zip(numbers, was, strict=True)), dict(zip(numbers, now, strict=True))
    if isinstance(was, dict) and isinstance(now, dict):
        found = [differences(was.get(k), now.get(k), f"{name} {k}".strip()) for k in dict.fromkeys([*was, *now])]
        return [text for texts in found for text in texts]
    return [] if was == now else [f"{name} was {_short(was)} and is {_short(now)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
