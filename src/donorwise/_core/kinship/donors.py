"""Which donors of the data have genotypes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from donorwise._core.kinship.labels import are_variants, texts
from donorwise._core.kinship.square import checked_names
from donorwise._core.wording import listing, near_names
from donorwise._typing import BoolArray, IntArray
from donorwise.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from donorwise._core.kinship.genotypes import Genotypes

_FEWEST = 3
"""Donors that both sides need to have."""
_PARTS: dict[str, Callable[[str], str]] = {
    "behind its first `_`": lambda name: name.partition("_")[2],
    "before its first `_`": lambda name: name.partition("_")[0],
    "behind its last `_`": lambda name: name.rpartition("_")[2],
    "before its last `_`": lambda name: name.rpartition("_")[0],
    "before its first `-`": lambda name: name.partition("-")[0],
    "behind its last `-`": lambda name: name.rpartition("-")[2],
    "before its first `.`": lambda name: name.partition(".")[0],
    "behind its last `:`": lambda name: name.rpartition(":")[2],
}
"""What may be the name of a donor in a longer one, such as FID_IID, or one with the number of a sample."""


class Matched(NamedTuple):
    """Rows of the data and the genotypes of their donors.

    Attributes
    ----------
    rows
        Shape (N,). Row of the genotypes of each row's donor, -1 where there is none.
    n
        Donors that both sides have.
    without_genotypes
        Donors of the data that have no genotypes.
    without_data
        Donors with genotypes that are not in the data.
    """

    rows: IntArray
    n: int
    without_genotypes: tuple[str, ...]
    without_data: tuple[str, ...]

    @property
    def rows_used(self) -> BoolArray:
        """Shape (N,). Whether the donor of a row has genotypes."""
        return np.asarray(self.rows >= 0)


def matched(genotypes: Genotypes, names: Iterable[object]) -> Matched:
    """Find the donors of the rows of the data (N,), "" where a row has none, among those with genotypes, by name as text.

    Raises
    ------
    DataError
        A name is there twice among the genotypes, or fewer than three donors of the data have any; says what both sides look
        like.
    """
    donors = checked_names(genotypes.donors, genotypes.text, advice="Of a person who was genotyped twice keep one row.")
    which, known = pd.factorize(np.asarray(texts(names), dtype=object))
    at = pd.Index(donors, dtype=object).get_indexer(pd.Index(known, dtype=object))
    own = set(known.tolist())
    found = Matched(
        rows=at[which].astype(np.int64),
        n=int((at >= 0).sum()),
        without_genotypes=tuple(name for name in known[at < 0].tolist() if name),
        without_data=tuple(name for name in donors if name not in own),
    )
    if found.n < _FEWEST:
        own_names = [name for name in known.tolist() if name]
        raise DataError(f"{_too_few(found, genotypes, own_names)} {_advice(found, genotypes)}")
    return found


def told_unmatched(found: Matched) -> list[str]:
    """What is missing on either side, a sentence each."""
    lacking, more = found.without_genotypes, found.without_data
    told = []
    if lacking:
        hint = _spelling(lacking, more)
        told.append(
            f"{len(lacking):,} of {found.n + len(lacking):,} donors {'has' if len(lacking) == 1 else 'have'} no genotypes, so that "
            f"their rows are left out: {listing(lacking, 5)}.{f' {hint}' if hint else ''}"
        )
    if more:
        told.append(
            f"{len(more):,} of {found.n + len(more):,} donors with genotypes {'is' if len(more) == 1 else 'are'} not in the data: "
            f"{listing(more, 5)}."
        )
    return told


def _too_few(found: Matched, genotypes: Genotypes, names: Sequence[str]) -> str:
    return (
        f"{found.n or 'None'} of the {len(names):,} donors of the data ({listing(names, 3)}) {'have' if found.n > 1 else 'has'} "
        f"genotypes, which are of {listing(genotypes.donors, 3) or 'nobody'}; a scan needs {_FEWEST} or more."
    )


def _advice(found: Matched, genotypes: Genotypes) -> str:
    donors = genotypes.donors
    if not donors:
        return "There are no donors at all: rows are donors."
    if are_variants(donors):
        return "These are names of variants: rows are donors, so give its transpose."
    if donors == tuple(map(str, range(len(donors)))):
        return "These rows have no names: give a DataFrame with the names of the donors in its index."
    return _spelling(found.without_genotypes, found.without_data) or (
        "Names must be the same on both sides. Of PLINK's files it is the IID, without the family (not FID_IID); look for "
        "prefixes, and for a column of obs with these names (donor=)."
    )


def _spelling(names: Sequence[str], donors: Sequence[str]) -> str | None:
    """How names of the data are there in another form, in a sentence."""
    close = near_names(names, donors)
    if close:
        pairs = ", ".join(f"`{name}` is there as `{own}`" for name, own in list(close.items())[:3])
        return f"{pairs}: names must be the same, with spaces, zeros and capitals."
    for side, long, short in (("genotypes", donors, set(names)), ("data", names, set(donors))):
        pairs_of = {where: [n for n in long if part(n) in short and part(n)] for where, part in _PARTS.items()}
        where = max(_PARTS, key=lambda own: len(pairs_of[own]))
        if pairs_of[where]:
            name = pairs_of[where][0]
            return (
                f"`{name}` of the {side} has {where} the name `{_PARTS[where](name)}` of the other side: names must be the "
                "same on both sides."
            )
    return None
