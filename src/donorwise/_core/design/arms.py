"""What each coefficient compares: the donors and cells on either side of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from donorwise._core.design.cover import cover
from donorwise._core.design.design import changing, constant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from donorwise._core.design.design import Design
    from donorwise._core.design.replicates import Donors, Tally
    from donorwise._typing import BoolArray, FloatArray, IntArray

Kind: TypeAlias = Literal["between-donor", "between-donor (change)", "within-donor", "mixed", "unknown"]
CHANGE: Literal["between-donor (change)"] = "between-donor (change)"

# A number with more values than this per donor differs from cell to cell, and so does one with which more than half
# of the cells are alone; else it is a visit or a dose.
_MANY_VALUES = 20
_SAME = 1e-9  # of a column's largest value, for rounding


@dataclass(frozen=True, slots=True)
class Arms:
    """What one coefficient compares.

    Attributes
    ----------
    contrast, term
        Name of the coefficient and of its term.
    variables, within
        The variables of the term, and those of them that vary within donors.
    kind
        Whether it compares donors with each other, each donor with itself, or some of both; or donors with each
        other in what changes within them (the slopes of two arms).
    covered
        Whether the random terms let it differ from donor to donor (where it varies within donors).
    units
        The random term, if any, with levels inside donors in which the coefficient is constant: its samples or visits.
    donors, cells, depth
        Donors, cells and mean depth at the level and at the reference; empty for a numeric coefficient.
    n_both
        Donors on both sides.
    n_values
        Different means of a numeric coefficient among donors; 0 otherwise.
    cell_level
        Whether it is a number that differs from cell to cell.
    """

    contrast: str
    term: str
    variables: tuple[str, ...]
    within: tuple[str, ...]
    kind: Kind
    covered: bool
    units: str = ""
    donors: tuple[int, ...] = ()
    cells: tuple[int, ...] = ()
    depth: tuple[float, ...] = ()
    n_both: int = 0
    n_values: int = 0
    cell_level: bool = False


def describe(design: Design, donors: Donors) -> tuple[Arms, ...]:
    """Describe each coefficient but the intercept."""
    entries = donors.rows
    rows = entries.by_row() if max(design.varying, default=-1) >= 0 else entries
    reads = design.reads
    within = _varying_variables(design, reads, entries) if donors.name else set()
    arms = []
    for term, columns in design.terms.items():
        reference = _reference(design.X[entries.pattern][:, list(columns)], interaction=len(reads[term]) > 1)
        own = tuple(v for v in reads[term] if v in within)
        for j in columns:
            seen = entries if design.varying[j] < 0 else rows
            column = _column(design, j, seen)
            change = _change(design, j, reads, term, own, seen, donors)
            if change is not None:
                facts = _compare_changes(change, column, seen)
            else:
                facts = _compare(column, reference, len(reads[term]) > 1, seen, donors)
            covered, inside = cover(design, donors, j, column, own, seen) if donors.name else (False, "")
            free = covered or facts["kind"] == "between-donor"
            arms.append(Arms(design.fixed_names[j], term, reads[term], own, covered=free, units=inside, **facts))
    return tuple(arms)


def _column(design: Design, j: int, seen: Tally) -> FloatArray:
    k = design.varying[j]
    if k < 0:
        return design.X[seen.pattern, j]
    used = design.codes >= 0
    return design.covariates[:, k] if used.all() else design.covariates[used, k]


def _varying_variables(design: Design, reads: dict[str, tuple[str, ...]], entries: Tally) -> set[str]:
    """Variables that take several values within some donor."""
    n_donors = int(entries.donor.max()) + 1
    found = set()
    for name in dict.fromkeys(v for names in reads.values() for v in names):
        codes = pd.factorize(design.frame[name])[0]
        if not constant(codes[entries.pattern], entries.donor, n_donors):
            found.add(name)
    for term, columns in design.terms.items():  # a pattern shows one value of a variable that varies inside it
        if len(reads[term]) == 1 and any(design.varying[j] >= 0 for j in columns):
            found.update(reads[term])
    return found


def _reference(term: FloatArray, *, interaction: bool) -> BoolArray | None:
    """Units at the reference level of a treatment-coded factor; None where a column is compared with the rest."""
    if interaction or not np.all((term == 0) | (term == 1)):
        return None
    reference = ~np.any(term == 1, axis=1)
    return reference if reference.any() else None  # without an intercept no unit is at a reference


def _compare(
    column: FloatArray, reference: BoolArray | None, interaction: bool, seen: Tally, donors: Donors
) -> dict[str, Any]:
    """Facts about one coefficient, as fields of :class:`Arms`."""
    if not np.all((column == 0) | (column == 1)):
        return _spread(column, interaction, seen, donors)
    level = column == 1
    rest = ~level if reference is None or len(reference) != len(level) else reference
    facts: dict[str, Any] = {"kind": "unknown", "cells": (int(seen.n[level].sum()), int(seen.n[rest].sum()))}
    if seen.depths is not None:
        facts["depth"] = (seen.mean_depth(level), seen.mean_depth(rest))
    if not donors.name:
        return facts
    at_level, at_rest = (np.bincount(seen.donor[side], minlength=len(donors.levels)) > 0 for side in (level, rest))
    both = at_level & at_rest
    facts["kind"] = _kind(both, at_level if interaction else at_level | at_rest)
    if interaction and not at_level.all():  # the donors that could not have the level are what it is compared with
        at_rest = ~at_level
    return {**facts, "n_both": int(both.sum()), "donors": (int(at_level.sum()), int(at_rest.sum()))}


def _spread(column: FloatArray, interaction: bool, seen: Tally, donors: Donors) -> dict[str, Any]:
    """Facts about a numeric coefficient: it has values, not arms."""
    if not donors.name:
        return {"kind": "unknown", "n_values": len(np.unique(column))}
    n, donor = len(donors.levels), seen.donor
    several = changing(column, donor, n)
    could = np.bincount(donor[column != 0], minlength=n) > 0 if interaction else np.ones(n, dtype=bool)
    means = np.bincount(donor, weights=seen.n * column, minlength=n) / np.bincount(donor, weights=seen.n, minlength=n)
    return {
        "kind": _kind(several, could),
        "n_both": int(several.sum()),
        "n_values": len(np.unique(np.round(means, 10))),
        "cell_level": bool(several.any()) and _by_cell(column, interaction, seen, n),
    }


def _by_cell(column: FloatArray, interaction: bool, seen: Tally, n_donors: int) -> bool:
    """Whether a number differs from cell to cell, among the cells that an interaction gives one."""
    at = np.flatnonzero(column) if interaction else np.arange(len(column))
    donor = seen.donor[at]
    n_seen = len(pd.unique(donor))
    few = 2 * _MANY_VALUES * n_donors  # rows that are enough to show many values
    if len(at) > few and _n_pairs(column[at[:few]], donor[:few], n_donors) > _MANY_VALUES * n_seen:
        return True
    values = column[at]
    many = _n_pairs(values, donor, n_donors) > _MANY_VALUES * n_seen
    return many or 2 * len(pd.unique(values)) > int(seen.n[at].sum())


def _n_pairs(values: FloatArray, donor: IntArray, n_donors: int) -> int:
    """How many different values the donors have, all added up."""
    return len(pd.unique(pd.factorize(values)[0] * n_donors + donor))


def _kind(varies: BoolArray, could: BoolArray) -> Kind:
    """Sort a coefficient by the donors in which it varies, among those in which it could."""
    if not varies.any():
        return "between-donor"
    return "within-donor" if varies[could].all() else "mixed"


def _change(
    design: Design,
    j: int,
    reads: dict[str, tuple[str, ...]],
    term: str,
    within: tuple[str, ...],
    seen: Tally,
    donors: Donors,
) -> Change | None:
    """The comparison of donors in what changes within them that a column is, if it is one."""
    if not within or len(within) == len(reads[term]):
        return None
    parents = [k for t, columns in design.terms.items() if set(reads[t]) == set(within) for k in columns]
    inner = [_column(design, k, seen) for k in parents]
    siblings = [_column(design, k, seen) for k in design.terms[term] if k != j]
    return find_change(_column(design, j, seen), siblings, inner, seen.donor, len(donors.levels))


def _compare_changes(change: Change, column: FloatArray, seen: Tally) -> dict[str, Any]:
    """Facts about a coefficient that compares changes: the donors that show one."""
    n_donors = len(change.scale)
    facts: dict[str, Any] = {"kind": CHANGE, "cell_level": _by_cell(column, True, seen, n_donors)}
    if not change.has_arms:
        return {**facts, "n_values": len(np.unique(change.scale[change.shows]))}
    level = change.shows & (change.scale == 1)
    counted = change.inner == 1 if np.isin(change.inner, (0, 1)).all() else np.ones(len(column), dtype=bool)
    sides = [counted & arm[seen.donor] for arm in (level, change.reference)]
    facts["donors"] = (int(level.sum()), int(change.reference.sum()))
    facts["cells"] = tuple(int(seen.n[side].sum()) for side in sides)
    return facts if seen.depths is None else {**facts, "depth": tuple(seen.mean_depth(side) for side in sides)}


@dataclass(frozen=True, slots=True)
class Change:
    """A coefficient that is a column varying within donors times a number that each donor has.

    Attributes
    ----------
    inner
        Shape (n,). The column that varies within donors: time, or the indicator of a treatment.
    scale
        Shape (D,). The donor's number: 1 in the arm and 0 elsewhere, or an age.
    shows
        Shape (D,). Donors in which the inner column varies: those that can show a change.
    reference
        Shape (D,). Donors of the reference arm among them.
    """

    inner: FloatArray
    scale: FloatArray
    shows: BoolArray
    reference: BoolArray

    @property
    def has_arms(self) -> bool:
        """Whether the donors are in arms (they have 0 or 1)."""
        return bool(np.isin(self.scale, (0, 1)).all())


def find_change(
    column: FloatArray, siblings: Sequence[FloatArray], inner: Sequence[FloatArray], donor: IntArray, n_donors: int
) -> Change | None:
    """Factor the column of an interaction; None where it is not compared with donors that change by another coefficient.

    Parameters
    ----------
    column
        Shape (n,). The column of the coefficient.
    siblings
        The other columns of its term.
    inner
        Columns of the formula that vary within donors and may be the inner one. Where each arm has a slope of its
        own (``~ arm + arm:time``) there is none.
    donor
        Shape (n,). Donor of each row, 0 to `n_donors` - 1.
    """
    for z in inner:
        scale = _scale(column, z, donor, n_donors)
        if scale is None or not scale.any():
            continue
        example = np.zeros(n_donors)
        example[donor] = z
        shows = np.bincount(donor[z != example[donor]], minlength=n_donors) > 0
        others = [own for s in siblings if (own := _scale(s, z, donor, n_donors)) is not None]
        reference = shows & np.all([own == 0 for own in (scale, *others)], axis=0)
        return Change(z, scale, shows, reference)
    return None


def _scale(column: FloatArray, inner: FloatArray, donor: IntArray, n_donors: int) -> FloatArray | None:
    """The number of each donor with which `inner` gives `column`; None if there is no such number."""
    squares = np.bincount(donor, weights=inner * inner, minlength=n_donors)
    products = np.bincount(donor, weights=inner * column, minlength=n_donors)
    scale = products / np.where(squares > 0, squares, 1.0)
    error = np.abs(column - scale[donor] * inner).max(initial=0.0)
    return np.round(scale, 9) if error <= _SAME * np.abs(column).max(initial=1.0) else None
