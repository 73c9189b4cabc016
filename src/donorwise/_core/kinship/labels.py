"""What is known of variants beside their genotypes: names, chromosomes, positions and alleles, in arrays that stay small."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.wording import listing
from donorwise._typing import IntArray, StrArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NO_AUTOSOME = re.compile(r"(chr)?(x|y|z|w|xy|m|mt|par1|par2|x_?par.*)", re.IGNORECASE)
_VARIANT = re.compile(r"rs\d+|chr(\d+|x|y|mt?)[:_]\d+.*|(\d{1,2}|x|y|mt?)(:\d+.*|_\d+_[acgtn<].*)", re.IGNORECASE)
"""What variants are called, and donors are not (who are called 691_692 where family and person are joined)."""
_HUMAN_CODES = {"23": "X", "24": "Y", "25": "XY", "26": "MT"}
"""What PLINK writes for these chromosomes unless it is told otherwise."""
_SHORT = 16
"""Texts of up to so many characters take less memory side by side than as objects."""
UNKNOWN = -1
"""The position of what has none."""


class VariantLabels(NamedTuple):
    """What is known of M variants, (M,) each; None what is not known of any.

    Attributes
    ----------
    variants
        Names.
    chromosomes
        Names of their chromosomes, "" where there is none.
    positions
        In base pairs, -1 where there is none.
    a0, a1
        The other allele, and the one that is counted (several that are counted together: joined by commas).
    """

    variants: StrArray | None = None
    chromosomes: StrArray | None = None
    positions: IntArray | None = None
    a0: StrArray | None = None
    a1: StrArray | None = None

    def all_named(self) -> VariantLabels:
        """With a name, chromosome:position:a0:a1, for variants that have none or one of a dot only."""
        nameless = None if self.variants is None else np.flatnonzero(np.isin(self.variants, [".", ""]))
        if self.chromosomes is None or self.positions is None or (nameless is not None and not nameless.size):
            return self
        at = np.arange(len(self.positions)) if nameless is None else nameless
        at = at[self.positions[at] >= 0]
        names = (
            np.full(len(self.positions), ".", dtype=object) if self.variants is None else self.variants.astype(object)
        )
        parts = [p[at].tolist() for p in (self.chromosomes, self.positions, self.a0, self.a1) if p is not None]
        names[at] = [":".join(map(str, part)) for part in zip(*parts, strict=True)]
        return self._replace(variants=texts(names))


def texts(values: Iterable[Any]) -> StrArray:
    """Texts as an array: side by side where all are short, else objects, of which equal ones are one; "" for nothing."""
    return _each(values, _text)


def chromosome_names(column: Iterable[Any]) -> StrArray:
    """Names of chromosomes as text: whole numbers without a point, ``""`` where there is none."""
    return _each(column, lambda v: str(int(v)) if isinstance(v, float) and v.is_integer() else _text(v).strip())


def plink_chromosomes(codes: Iterable[Any]) -> StrArray:
    """Names of chromosomes; the numbers 23 to 26 are X, Y, XY and MT where there are no higher ones."""
    names = texts(codes)
    known = pd.unique(names)
    numbers = pd.to_numeric(pd.Series(known, dtype=object), errors="coerce")
    human = numbers.max() <= len(_HUMAN_CODES) + 22
    return _each(names, lambda name: _HUMAN_CODES.get(name, name)) if human else names


def bare_chromosomes(names: StrArray) -> StrArray:
    """Names by which chromosomes of two sources are compared: without "chr", in capitals, M for MT."""
    return _each(names, bare)


def bare(name: object) -> str:
    """As `bare_chromosomes`, of one.

    Examples
    --------
    >>> bare("chr1"), bare("ChrX"), bare(22), bare("MT")
    ('1', 'X', '22', 'M')
    """
    own = str(name).strip().upper().removeprefix("CHR")
    return "M" if own == "MT" else own


def _each(values: Iterable[Any], text: Callable[[Any], str]) -> StrArray:
    """A text for every value, made once for equal ones."""
    given = values if isinstance(values, np.ndarray | pd.Series | pd.Index) else list(values)
    which, known = pd.factorize(np.asarray(given, dtype=object))
    names = np.empty(len(known) + 1, dtype=object)  # the last is that of nothing, which is number -1
    names[:] = [*(text(value) for value in known), ""]
    width = max(map(len, names.tolist()))
    return (names.astype(str) if width <= _SHORT else names)[which]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def positions_of(column: Sequence[Any] | pd.Series, text: str) -> IntArray:
    """Positions in base pairs, -1 where there is none.

    Raises
    ------
    DataError
        There are texts that are no numbers, negative numbers, or parts of base pairs; `text` says of what.
    """
    given = pd.Series(column).reset_index(drop=True)
    given = given.mask(given.isin(["", "."])) if given.dtype.kind not in "iuf" else given
    known = given.notna().to_numpy()
    numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    reasons = (
        (np.isnan(numbers), "are no numbers"),
        (numbers < 0, "are negative"),
        (
            ~np.isfinite(numbers) | (np.floor(numbers) != numbers),
            "are no whole numbers; positions are base pairs, not thousands or millions of them",
        ),
    )
    for bad, reason in reasons:
        at = np.flatnonzero(known & bad)
        if at.size:
            examples = listing(given.iloc[at[:3]].tolist())
            raise DataError(f"{text}: {at.size:,} of {len(given):,} positions {reason} ({examples}).")
    return np.where(known, numbers, UNKNOWN).astype(np.int64)


def are_variants(names: Sequence[str]) -> bool:
    """Whether all names are such as variants have."""
    return all(_VARIANT.fullmatch(name) for name in names)


def is_autosome(chromosome: str) -> bool:
    """Whether all people have two of it, as far as its name tells."""
    return _NO_AUTOSOME.fullmatch(chromosome.strip()) is None
