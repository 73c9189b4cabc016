"""How far numbers are from those of a reference, in units of what they may be apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Number = tuple[str, float, float, float]
"""Label, ours, expected, and how far apart the two may be."""


def worst(numbers: Iterable[Number]) -> list[tuple[float, str]]:
    """Every number as (deviation in units of its tolerance, text), the worst first."""
    out = []
    for label, own, expected, bound in numbers:
        deviation = abs(own - expected)
        ratio = deviation / bound if bound > 0 else (0.0 if deviation == 0 else np.inf)
        text = f"{label}: {own!r} instead of {expected!r}, off by {deviation:.3g} with {bound:.3g} allowed"
        out.append((np.inf if np.isnan(ratio) else ratio, text))
    return sorted(out, reverse=True)
