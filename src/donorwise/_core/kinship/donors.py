"""Donors of genotypes and of data, matched by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from donorwise._core.kinship.genotypes import Genotypes
    from donorwise._typing import BoolArray, StrArray


class Match(NamedTuple):
    """Which rows (N,) are of donors with genotypes."""

    rows_used: BoolArray


def matched(genotypes: Genotypes, names: StrArray) -> Match:
    """Match the donors of rows (N,) by name."""
    return Match(np.isin(names.astype(str), np.array(genotypes.donors)))


def told_unmatched(genotypes: Genotypes, match: Match) -> list[str]:
    """Texts on donors that are on one side only."""
    return []
