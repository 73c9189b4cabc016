"""How the variance of every feature divides over the terms of a model, and what is read of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.models.fixed_part import divided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.models.lmm.model import LMM
    from donorwise._typing import FixedShares, FloatArray

FIXED, RESIDUAL = SHARES = ("fixed", "Residual")
"""What has a share of the variance and is no term."""
KINDS = FIXED_PART, FIXED_TERM, RANDOM_TERM, REST = ("fixed part", "fixed term", "random term", "residual")
"""What a share is of: the fixed effects together, and each of their terms, which add up to that."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Shares of the variance of G features.

    Attributes
    ----------
    variables
        Names of the features.
    fixed, random
        Names of the terms.
    shares
        Shape (G, 1 + random + 1). The fixed part, random terms, and what is left; they add up to one.
    own
        Shape (G, fixed). Variances of the fixed terms' own parts, which say how they divide the share of the fixed part.
    """

    variables: tuple[str, ...]
    fixed: tuple[str, ...]
    random: tuple[str, ...]
    shares: FloatArray
    own: FloatArray

    def wide(self, fixed: FixedShares) -> pd.DataFrame:
        """A row per feature, a column per share."""
        table = self.long()
        values = read_shares(table, fixed)["fraction"].to_numpy().reshape(-1, len(self.variables)).T
        names = [*(self.fixed if fixed == "each" and self.fixed else [FIXED]), *self.random, RESIDUAL]
        return pd.DataFrame(values, index=pd.Index(self.variables, name="variable"), columns=names)

    def long(self) -> pd.DataFrame:
        """The stored table, share under share: variable, term, kind, fraction."""
        values = np.hstack([self.shares[:, :1], divided(self.shares[:, 0], self.own), self.shares[:, 1:]])
        return long_shares(self.variables, named_shares(self.fixed, self.random), values, "fraction")

    def icc(self) -> pd.DataFrame:
        """Intraclass correlations: variable, term, icc."""
        random = self.shares[:, 1:]
        with np.errstate(invalid="ignore"):
            shares = random[:, :-1] / np.nansum(random, axis=1, keepdims=True)
        return long_values(self.variables, self.random, shares, "icc")


def partition_of(variables: tuple[str, ...], design: Design, models: Sequence[LMM]) -> Partition:
    """The partition of Gaussian models."""
    random = term_labels(design)
    shares = np.full((len(variables), len(random) + 2), np.nan)
    own = np.full((len(variables), len(design.terms)), np.nan)
    for model in models:
        values = model.variances()
        with np.errstate(invalid="ignore"):  # of features without a fit
            shares[model.features] = values / np.nansum(values, axis=1, keepdims=True)
        own[model.features] = model.fixed_variances()
    return Partition(variables, fixed_labels(design), tuple(random), shares, own)


def named_shares(fixed: Sequence[str], random: Sequence[str]) -> list[tuple[str, str]]:
    """Name and kind of every share, in the order of the stored table."""
    terms = [*((name, FIXED_TERM) for name in fixed), *((name, RANDOM_TERM) for name in random)]
    return [(FIXED, FIXED_PART), *terms, (RESIDUAL, REST)]


def long_shares(
    variables: Sequence[str], named: Sequence[tuple[str, str]], values: FloatArray, value: str
) -> pd.DataFrame:
    """Values (G, shares) as a long table, share under share: variable, term, kind, and the value."""
    table = long_values(variables, [name for name, _ in named], values, value)
    kinds = np.repeat(np.array([kind for _, kind in named], dtype=object), len(variables))
    table.insert(2, "kind", pd.Categorical(kinds, categories=list(KINDS)))
    return table


def long_values(variables: Sequence[str], terms: Sequence[str], values: FloatArray, value: str) -> pd.DataFrame:
    """Values (G, terms) as a long table, term under term: variable, term, and the value."""
    variable = np.tile(np.array(variables, dtype=object), len(terms))
    term = np.repeat(np.array(terms, dtype=object), len(variables))
    return pd.DataFrame({"variable": variable, "term": term, value: values.T.ravel()})


def term_labels(design: Design) -> list[str]:
    """The grouping factor of each term; the whole term where something else is called like it."""
    names = [t.name for t in design.random_terms]
    taken = {*SHARES, *design.terms}
    return [t.name if names.count(t.name) == 1 and t.name not in taken else t.label for t in design.random_terms]


def fixed_labels(design: Design) -> tuple[str, ...]:
    """Names of the fixed terms; quoted, as a formula may have them, where they are called as a share of ours."""
    return tuple(f"`{name}`" if name in SHARES else name for name in design.terms)


def read_shares(table: pd.DataFrame, fixed: FixedShares) -> pd.DataFrame:
    """Rows of a stored table that add up to one: with each term of the fixed part, or with that together.

    Tables of earlier versions have it together, and no kinds; a group without fixed terms has nothing else.
    """
    if "kind" not in table:
        return table
    each = (table["kind"] == FIXED_TERM).to_numpy()
    if fixed == "together":
        return table[~each]
    groups = table["group"] if "group" in table else pd.Series("", index=table.index)
    divided_there = groups.isin(groups[each].unique()).to_numpy()
    return table[~((table["kind"] == FIXED_PART).to_numpy() & divided_there)]


def kinds_of(table: pd.DataFrame) -> dict[str, str]:
    """The kind of every term of a table, which tables of earlier versions do not say."""
    terms = table["term"].astype(str)
    if "kind" in table:
        return dict(zip(terms, table["kind"].astype(str), strict=True))
    return {term: {FIXED: FIXED_PART, RESIDUAL: REST}.get(term, RANDOM_TERM) for term in dict.fromkeys(terms)}


def with_intervals(shares: pd.DataFrame, intervals: pd.DataFrame) -> pd.DataFrame:
    """Shares with the ends of their intervals, NaN where there are none."""
    by, ends = ["variable", "group", "term"], ["ci_low", "ci_high"]
    rows, known = (pd.MultiIndex.from_frame(table[by].astype(str)) for table in (shares, intervals))
    own = intervals[ends].set_axis(known).reindex(rows).to_numpy()
    own[shares["fraction"].isna()] = np.nan
    return shares.assign(ci_low=own[:, 0], ci_high=own[:, 1])
