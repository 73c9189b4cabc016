"""The form in which kernels come: a square table, named on both sides, whose attrs say what it is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd

from donorwise._core.wording import listing
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from donorwise._typing import FloatArray


def square(values: FloatArray, names: Sequence[str], attrs: dict[str, Any]) -> pd.DataFrame:
    """A kernel (n, n) as a table."""
    index = pd.Index(names, dtype=object)
    table = pd.DataFrame(values, index=index, columns=index)
    table.attrs.update(attrs)
    return table


def checked_names(names: Iterable[object], text: str, *, n: int | None = None, advice: str = "") -> tuple[str, ...]:
    """Names as text, one for each of `n` rows, none of them empty or twice.

    Raises
    ------
    DataError
        They are not; says which, and `advice`.
    """
    given = tuple("" if pd.isna(name) else str(name) for name in names)
    if n is not None and len(given) != n:
        raise DataError(f"{text} has {len(given):,} names for {n:,} donors.")
    if "" in given:
        raise DataError(f"{text} has no name for donor {given.index('') + 1:,}.")
    twice = [name for name, times in Counter(given).items() if times > 1]
    if twice:
        raise DataError(
            f"{text} has {len(twice):,} {'name' if len(twice) == 1 else 'names'} more than once: {listing(twice, 5)}. {advice}".rstrip()
        )
    return given
