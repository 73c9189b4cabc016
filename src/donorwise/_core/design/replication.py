"""Who is replicated: the donors and cells on either side of each coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from donorwise._core.design.changes import Change, find_change
from donorwise._core.design.columns import read_column
from donorwise._core.design.design import combine, first_rows
from donorwise._core.design.terms import term_variables, variables
from donorwise.errors import DesignError

if TYPE_CHECKING:
    from donorwise._core.design.design import Design
    from donorwise._typing import BoolArray, FloatArray, IntArray

Kind: TypeAlias = Literal["between-donor", "between-donor (change)", "within-donor", "mixed", "unknown"]
CHANGE: Literal["between-donor (change)"] = "between-donor (change)"

_REPLICATES = ("donor", "patient", "subject", "individual", "participant", "person", "animal", "mouse")
# A number with more values than this per donor differs from cell to cell, and so does one with which more than half
# of the cells are alone; else it is a visit or a dose.
_MANY_VALUES = 20


@dataclass(frozen=True, slots=True)
class Donors:
    """The replicates: name of the factor, level of each row in use, names of the levels."""

    name: str
    codes: IntArray
    levels: tuple[str, ...]


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


@dataclass(frozen=True, slots=True)
class _Units:
    """Rows that agree in pattern and donor, counted once: pattern, donor, rows, and their depth (sum and rows with one)."""

    pattern: IntArray
    donor: IntArray
    n: IntArray
    depth: FloatArray
    n_depth: IntArray

    def mean_depth(self, side: BoolArray) -> float:
        """Mean depth of the rows on one side."""
        n = int(self.n_depth[side].sum())
        return float(self.depth[side].sum() / n) if n else float("nan")


def find_donors(design: Design, obs: pd.DataFrame, donor: str | None) -> Donors | None:
    """Return the replicates: the column `donor`, or the grouping factor that looks like it, or None."""
    used = design.codes >= 0
    terms = {t.group: t for t in design.random_terms}
    name = donor or replicate(tuple(terms))
    if name in terms:
        return Donors(name, terms[name].codes[design.codes[used]], terms[name].levels)
    if name is None:
        return None
    column = read_column(obs[name], name, categorical=True)[used]
    if column.isna().any():
        raise DesignError(f"`{name}` is missing in {int(column.isna().sum()):,} of the rows in use.")
    column = column.cat.remove_unused_categories()
    return Donors(name, column.cat.codes.to_numpy(dtype=np.int64), tuple(map(str, column.cat.categories)))


def describe(design: Design, donors: Donors | None, depth: FloatArray | None) -> tuple[Arms, ...]:
    """Describe each coefficient but the intercept; `depth` has a value per row in use."""
    units = _units(design, donors, depth, by_row=False)
    rows = _units(design, donors, depth, by_row=True) if max(design.varying, default=-1) >= 0 else units
    reads = {str(t): term_variables(t) for t in design.spec.terms}
    within = _varying_variables(design, reads, units) if donors else set()
    arms = []
    for term, columns in design.terms.items():
        reference = _reference(design.X[units.pattern][:, list(columns)], interaction=len(reads[term]) > 1)
        own = tuple(v for v in reads[term] if v in within)
        for j in columns:
            seen = units if design.varying[j] < 0 else rows
            column = _column(design, j, seen)
            change = _change(design, j, reads, term, own, seen, donors)
            if change is not None:
                facts = _compare_changes(change, column, seen, with_depth=depth is not None)
            else:
                facts = _compare(column, reference, len(reads[term]) > 1, seen, donors, with_depth=depth is not None)
            inside = _term_inside(design, donors, column, seen)
            free = facts["kind"] == "between-donor" or _is_covered(design, donors, column, own, seen, inside)
            arms.append(Arms(design.fixed_names[j], term, reads[term], own, covered=free, units=inside, **facts))
    return tuple(arms)


def random_levels(design: Design, donors: Donors) -> bool:
    """Whether some random intercept has the donors as its levels."""
    rows = design.codes[design.codes >= 0]
    return any(
        "(Intercept)" in t.columns
        and len(t.levels) == len(donors.levels)
        and _constant(donors.codes, t.codes[rows], len(t.levels))
        for t in design.random_terms
    )


def is_fixed(design: Design, donors: Donors) -> bool:
    """Whether the donors are a fixed effect of their own."""
    return any(term_variables(term) == (donors.name,) for term in design.spec.terms)


def leaves_out(groups: Sequence[Sequence[str]], obs: pd.DataFrame, donor: str) -> bool:
    """Whether no grouping factor holds the column `donor`, or has levels that all lie inside one donor."""
    if obs[donor].isna().any() or obs[donor].nunique() == len(obs) or any(donor in group for group in groups):
        return False
    for group in groups:
        pairs = obs[[*group, donor]].dropna().drop_duplicates()
        if not pairs.duplicated(list(group)).any():
            return False
    return True


def replicate(groups: Sequence[str], donor: str = "") -> str | None:
    """Name the grouping factor that is the replicate.

    The declared `donor` decides, or else a name such as donor or patient, alone or as the last part of a
    nested factor (site:donor); else the first factor, or a coarser one made of its columns (batch for
    batch:cask). A batch that happens to nest the donors is not a donor.
    """
    ordered = sorted(groups, key=lambda g: g.count(":"))
    declared = [g for g in ordered if donor and g.split(":")[-1] == donor]
    named = [g for g in ordered if any(word in g.split(":")[-1].lower() for word in _REPLICATES)]
    if declared or named or not groups:
        return next(iter([*declared, *named]), None)
    first = set(groups[0].split(":"))
    return min((g for g in groups if set(g.split(":")) <= first), key=lambda g: len(g.split(":")))


def _units(design: Design, donors: Donors | None, depth: FloatArray | None, *, by_row: bool) -> _Units:
    codes = design.codes[design.codes >= 0].astype(np.int64)
    donor = donors.codes if donors else np.zeros(len(codes), dtype=np.int64)
    usable = np.zeros(len(codes), dtype=bool) if depth is None else np.isfinite(depth) & (depth > 0)
    value = np.zeros(len(codes)) if depth is None else np.where(usable, depth, 0.0)
    if by_row:
        return _Units(codes, donor, np.ones_like(codes), value, usable.astype(np.int64))
    unit, size = combine([(codes, design.n_patterns), (donor, int(donor.max()) + 1)], len(codes))
    first = first_rows(unit, size)
    n = np.bincount(unit, minlength=size)
    n_depth = np.bincount(unit[usable], minlength=size)
    total = np.bincount(unit, weights=value, minlength=size).astype(np.float64)
    return _Units(codes[first], donor[first], n, total, n_depth)


def _column(design: Design, j: int, units: _Units) -> FloatArray:
    k = design.varying[j]
    return design.X[units.pattern, j] if k < 0 else design.covariates[design.codes >= 0, k]


def _varying_variables(design: Design, reads: dict[str, tuple[str, ...]], units: _Units) -> set[str]:
    """Variables that take several values within some donor."""
    found = set()
    for name in dict.fromkeys(v for names in reads.values() for v in names):
        pairs = pd.DataFrame({"donor": units.donor, "value": design.frame[name].array[units.pattern]}).drop_duplicates()
        if pairs["donor"].duplicated().any():
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
    column: FloatArray,
    reference: BoolArray | None,
    interaction: bool,
    units: _Units,
    donors: Donors | None,
    *,
    with_depth: bool,
) -> dict[str, Any]:
    """Facts about one coefficient, as fields of :class:`Arms`."""
    if not np.all((column == 0) | (column == 1)):
        return _spread(column, interaction, units, donors)
    level = column == 1
    rest = ~level if reference is None or len(reference) != len(level) else reference
    facts: dict[str, Any] = {"kind": "unknown", "cells": (int(units.n[level].sum()), int(units.n[rest].sum()))}
    if with_depth:
        facts["depth"] = (units.mean_depth(level), units.mean_depth(rest))
    if donors is None:
        return facts
    at_level, at_rest = (np.bincount(units.donor[side], minlength=len(donors.levels)) > 0 for side in (level, rest))
    both = at_level & at_rest
    facts["kind"] = _kind(both, at_level if interaction else at_level | at_rest)
    if interaction and not at_level.all():  # the donors that could not have the level are what it is compared with
        at_rest = ~at_level
    return {**facts, "n_both": int(both.sum()), "donors": (int(at_level.sum()), int(at_rest.sum()))}


def _spread(column: FloatArray, interaction: bool, units: _Units, donors: Donors | None) -> dict[str, Any]:
    """Facts about a numeric coefficient: it has values, not arms."""
    if donors is None:
        return {"kind": "unknown", "n_values": len(np.unique(column))}
    n, donor = len(donors.levels), units.donor
    example = np.zeros(n)
    example[donor] = column
    changing = np.bincount(donor[column != example[donor]], minlength=n) > 0
    could = np.bincount(donor[column != 0], minlength=n) > 0 if interaction else np.ones(n, dtype=bool)
    means = np.bincount(donor, weights=units.n * column, minlength=n) / np.bincount(donor, weights=units.n, minlength=n)
    return {
        "kind": _kind(changing, could),
        "n_both": int(changing.sum()),
        "n_values": len(np.unique(np.round(means, 10))),
        "cell_level": bool(changing.any()) and _by_cell(column, interaction, units, n),
    }


def _by_cell(column: FloatArray, interaction: bool, units: _Units, n_donors: int) -> bool:
    """Whether a number differs from cell to cell, among the cells that an interaction gives one."""
    seen = column != 0 if interaction else np.ones(len(column), dtype=bool)
    values, donor = pd.factorize(column[seen])[0], units.donor[seen]
    n_pairs = len(pd.unique(values * n_donors + donor))
    return n_pairs > _MANY_VALUES * len(pd.unique(donor)) or 2 * len(pd.unique(values)) > int(units.n[seen].sum())


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
    units: _Units,
    donors: Donors | None,
) -> Change | None:
    """The comparison of donors in what changes within them that a column is, if it is one."""
    if donors is None or not within or len(within) == len(reads[term]):
        return None
    parents = [k for t, columns in design.terms.items() if set(reads[t]) == set(within) for k in columns]
    inner = [_column(design, k, units) for k in parents]
    siblings = [_column(design, k, units) for k in design.terms[term] if k != j]
    return find_change(_column(design, j, units), siblings, inner, units.donor, len(donors.levels))


def _compare_changes(change: Change, column: FloatArray, units: _Units, *, with_depth: bool) -> dict[str, Any]:
    """Facts about a coefficient that compares changes: the donors that show one."""
    n_donors = len(change.scale)
    facts: dict[str, Any] = {"kind": CHANGE, "cell_level": _by_cell(column, True, units, n_donors)}
    if not change.has_arms:
        return {**facts, "n_values": len(np.unique(change.scale[change.shows]))}
    level = change.shows & (change.scale == 1)
    counted = change.inner == 1 if np.isin(change.inner, (0, 1)).all() else np.ones(len(column), dtype=bool)
    sides = [counted & arm[units.donor] for arm in (level, change.reference)]
    facts["donors"] = (int(level.sum()), int(change.reference.sum()))
    facts["cells"] = tuple(int(units.n[side].sum()) for side in sides)
    return {**facts, "depth": tuple(units.mean_depth(side) for side in sides)} if with_depth else facts


def _term_inside(design: Design, donors: Donors | None, column: FloatArray, units: _Units) -> str:
    """The first random intercept with levels inside donors in which a column is constant; empty for none."""
    for term in design.random_terms if donors is not None else ():
        codes, n_levels = term.codes[units.pattern], len(term.levels)
        inside = donors is not None and term.group != donors.name and _constant(units.donor, codes, n_levels)
        if inside and "(Intercept)" in term.columns and _constant(column, codes, n_levels):
            return term.label
    return ""


def _is_covered(
    design: Design,
    donors: Donors | None,
    column: FloatArray,
    within: tuple[str, ...],
    units: _Units,
    inside: str,
) -> bool:
    """Whether a slope, or a grouping factor `inside` donors, takes up how a coefficient differs between donors.

    Visits do not take up how donors differ in a slope over three of them or more: they would be its replicates.
    """
    if donors is None:
        return False
    for bar, term in zip(design.parsed.bars, design.random_terms, strict=True):
        if _constant(units.donor, term.codes[units.pattern], len(term.levels)):
            slopes = set(variables(bar.terms))
            if within and slopes.issuperset(within):
                return True
    values = pd.DataFrame({"donor": units.donor, "value": column}).drop_duplicates()
    return bool(inside) and int(values["donor"].value_counts().max()) <= 2


def _constant(values: FloatArray | IntArray, codes: IntArray, n_levels: int) -> bool:
    """Whether values are the same in all units of a level, for every level."""
    example = np.zeros(n_levels, dtype=values.dtype)
    example[codes] = values
    return bool(np.all(values == example[codes]))
