"""Findings of an audit about the donors' names: labels that are no donors, and names that several people share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from donorwise._core.design.design import changing
from donorwise._core.wording import listing

if TYPE_CHECKING:
    from donorwise._typing import BoolArray, IntArray

# What demultiplexing and tables write where there is no donor, alone or with a number behind.
_NOBODY = re.compile(
    r"(doublets?|multiplets?|unassigned|ambig(uous)?|ambs?|unknown|undetermined|unmapped|negative|pool(ed)?|mixed|other|"
    r"na|n/a|nan|none|null|missing|dbl|-|\?*)([ _.-]*\d*)",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\s*[/+,;&|]\s*")  # between the donors of a doublet
_OF_PEOPLE = re.compile(
    r"(?<![a-z])(sex|gender|ethnicity|ancestry|race|birth|date_of_birth|year_of_birth|blood_type|age|age_years)(?![a-z])",
    re.I,
)
_AGE = re.compile(r"(?<![a-z])age(?![a-z])", re.IGNORECASE)
_TIME = re.compile(r"(?<![a-z])(time(point)?|date|day|week|month|year|visit)s?(?![a-z])", re.IGNORECASE)
_SOURCE = re.compile(r"(?<![a-z])(cohort|data_?set|study|site|cent(re|er)|project|batch)(?![a-z])", re.IGNORECASE)
_GROWN = 0.3  # of the range of ages, beyond which a donor's own ages are no follow-up
_MOST_SOURCES = 50


@dataclass(frozen=True, slots=True)
class Named:
    """The rows of a table by donor.

    Attributes
    ----------
    name, levels
        The donors' factor and its D levels.
    used, donor
        Shape (n,). Rows in use, and the donor of each.
    variables
        Columns that the formula reads as labels.
    """

    name: str
    levels: Sequence[object]
    used: IntArray
    donor: IntArray
    variables: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """The columns of the factor."""
        return self.name.split(":")

    def several(self, column: pd.Series) -> BoolArray:
        """Which donors have several values of a column of the table, missing ones left out, (D,)."""
        codes = pd.factorize(column.iloc[self.used])[0].astype(np.int64)
        rows = np.flatnonzero(codes >= 0)
        return changing(codes[rows], self.donor[rows], len(self.levels))


def about_names(obs: pd.DataFrame, donors: Named) -> list[str]:
    """What is odd about the donors' names, a sentence each."""
    return [*no_donors(donors), *shared_names(obs, donors)]


def no_donors(donors: Named) -> Iterator[str]:
    """Labels among the donors that say that there is none, with their cells; none where most are so."""
    labels, n = [str(level) for level in donors.levels], np.bincount(donors.donor, minlength=len(donors.levels))
    last = [label.split(":")[-1] for label in labels] if len(donors.columns) > 1 else labels
    known = set(last)
    odd = [k for k, label in enumerate(last) if _is_nobody(label, known)]
    if not odd or 2 * len(odd) >= len(labels):
        return
    column = donors.columns[-1]
    names = list(dict.fromkeys(last[k] for k in odd))
    told = ", ".join(f"{text!r} ({sum(int(n[k]) for k in odd if last[k] == text):,} cells)" for text in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    yield (
        f"`{column}` has labels that look like no donor: {told}{more}; each counts as a donor. If they are none, leave their cells "
        f'out: `adata = adata[~adata.obs["{column}"].isin({names[:20]})]`.'
    )


def shared_names(obs: pd.DataFrame, donors: Named) -> Iterator[str]:
    """Donors whose sex, birth or age is not one person's: names that start again, or errors."""
    people = [str(c) for c in obs.columns if c not in donors.columns and _OF_PEOPLE.search(str(c))]
    several = {column: donors.several(obs[column]) for column in people}
    differ = [c for c in people if several[c].any() and not (_AGE.search(c) and _followed(obs, c, donors))]
    if not differ:
        return
    at = np.flatnonzero(np.any([several[column] for column in differ], axis=0))
    names = ", ".join(repr(donors.levels[k]) for k in at[:3]) + (f" and {len(at) - 3} more" if len(at) > 3 else "")
    yield (
        f"{len(at):,} of {len(donors.levels):,} donors have several values of {listing(differ)} ({names}): people who share a "
        f"name count as one donor{_apart(obs, donors, differ)}; if they are not several people, these values are errors."
    )


def _is_nobody(label: str, known: set[str]) -> bool:
    parts = _JOINED.split(label.strip())
    return _NOBODY.fullmatch(label.strip()) is not None or (len(parts) > 1 and known.issuperset(parts))


def _followed(obs: pd.DataFrame, column: str, donors: Named) -> bool:
    """Whether the ages of a donor can be those of one who was followed: there are times, or they are close."""
    timed = [c for c in obs.columns if _TIME.search(str(c)) and not _OF_PEOPLE.search(str(c))]
    if any(donors.several(obs[name]).any() for name in timed):
        return True
    if not pd.api.types.is_numeric_dtype(obs[column]):
        return False
    ages = pd.Series(obs[column].to_numpy(dtype=np.float64, na_value=np.nan)[donors.used])
    own = ages.groupby(donors.donor).agg(["min", "max"])
    return bool((own["max"] - own["min"]).max() <= _GROWN * (ages.max() - ages.min()))


def _apart(obs: pd.DataFrame, donors: Named, differ: Sequence[str]) -> str:
    """The column within whose levels a donor is one person, as advice; empty for none."""
    candidates = [c for c in obs.columns if _SOURCE.search(str(c))] + list(donors.variables)
    own = donors.columns[-1]
    for name in (c for c in dict.fromkeys(candidates) if c not in (*differ, *donors.columns)):
        levels, labels = pd.factorize(obs[name].iloc[donors.used])
        if (levels < 0).any() or len(labels) > _MOST_SOURCES:
            continue
        joint = donors.donor * len(labels) + levels
        inside = replace(donors, levels=range(len(donors.levels) * len(labels)), donor=joint)
        if not any(inside.several(obs[column]).any() for column in differ):
            made = f'obs["{own}"] = obs["{name}"].astype(str) + "_" + obs["{own}"].astype(str)'
            return (
                f". Their names may start again in each `{name}`, where these values agree: make them unique, `{made}`"
            )
    return ""
