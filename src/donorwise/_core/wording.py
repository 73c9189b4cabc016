"""Small pieces of text that messages and names share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def listing(names: Iterable[object], limit: int = 12) -> str:
    """Names in backticks, cut after `limit`."""
    shown = [f"`{name}`" for name in names]
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")


def suggestion(name: str, available: Iterable[str], otherwise: str) -> str:
    """Names that come close to a misspelt one; `otherwise` and all names when none does."""
    folded = {a.casefold(): a for a in available}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(f'`{folded[c]}`' for c in close)}?"
    return f"{otherwise} {listing(folded.values()) or 'none'}."


def linear_combination(weights: Mapping[str, float], limit: int = 8) -> str:
    """Write a weighted sum of names as one writes it by hand; the name ``"1"`` stands for a constant."""
    parts = []
    for name, weight in list(weights.items())[:limit]:
        size = f"{abs(weight):.4g}"
        product = size if name == "1" else name if size == "1" else f"{size}*{name}"
        parts.append(f"{'-' if weight < 0 else '+'} {product}")
    text = " ".join(parts).removeprefix("+ ") + (" + ..." if len(weights) > limit else "")
    return "-" + text[2:] if text.startswith("- ") else text
